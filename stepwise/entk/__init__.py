"""The empirical NTK of a network: the kernel of its linearisation at given parameters."""

from stepwise.entk.full import full_kernel
from stepwise.entk.gram import gram

__all__ = ["full_kernel", "gram"]
