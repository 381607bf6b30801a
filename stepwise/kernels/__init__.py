"""Kernels, as functions of two inputs and as matrices of many.

linear, rbf, polynomial and infinite_width (the NTK or NNGP of a stack of stax layers) make a
kernel; `gram` evaluates one on many inputs, in symmetric tiles, in memory or in a file.
"""

from stepwise.kernels.functions import Kernel, infinite_width, linear, polynomial, rbf
from stepwise.kernels.tiles import gram

__all__ = ["Kernel", "gram", "infinite_width", "linear", "polynomial", "rbf"]
