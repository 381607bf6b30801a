"""The empirical neural tangent kernel (eNTK) of a network at given parameters.

It is the kernel of the network's linearisation, Θ(x, x') = ∂f(x)/∂θ · (∂f(x')/∂θ)ᵀ.
"""

from stepwise.entk.estimate import Estimate, estimate
from stepwise.entk.full import full_kernel
from stepwise.entk.gram import gram
from stepwise.entk.products import products
from stepwise.entk.score import Score, drift, predict, score

__all__ = [
    "Estimate",
    "Score",
    "drift",
    "estimate",
    "full_kernel",
    "gram",
    "predict",
    "products",
    "score",
]
