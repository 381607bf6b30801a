"""The empirical NTK of a network: the kernel of its linearisation at given parameters."""

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
