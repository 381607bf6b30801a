"""The empirical NTK of a network: the kernel of its linearisation at given parameters."""

from stepwise.entk.estimate import Estimate, estimate
from stepwise.entk.full import full_kernel
from stepwise.entk.gram import gram

__all__ = ["Estimate", "estimate", "full_kernel", "gram"]
