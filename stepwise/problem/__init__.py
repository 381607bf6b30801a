"""The learning problem: a spectrum γ with mode coordinates, from views, from a kernel or from a
Gram matrix.
"""

from stepwise.problem.gram import from_gram, from_kernel, from_products
from stepwise.problem.linear import from_views
from stepwise.problem.problem import Problem

__all__ = ["Problem", "from_gram", "from_kernel", "from_products", "from_views"]
