"""Kernel functions k(a, b), and kernel matrices of many inputs.

`linear`, `rbf`, `polynomial` and `infinite_width` (the NTK or NNGP of a stack of stax layers)
return a kernel function. `gram` evaluates a kernel function on all pairs of inputs, tile by tile,
in memory or in a file.
"""

from stepwise.kernels.functions import Kernel, infinite_width, linear, polynomial, rbf
from stepwise.kernels.tiles import gram

__all__ = ["Kernel", "gram", "infinite_width", "linear", "polynomial", "rbf"]
