"""The learning problem: a spectrum γ with mode coordinates, built from views, from a kernel, from a
Gram matrix, or from products with one.
"""

from stepwise.problem.gram import from_gram, from_kernel, from_products
from stepwise.problem.linear import from_views
from stepwise.problem.problem import Problem

__all__ = ["Problem", "from_gram", "from_kernel", "from_products", "from_views"]
