"""How one mode grows: closed forms, step times, fixed points and stability limits.

A law speaks of the modes γ_j alone. What the data are, and how W starts, enters through γ and
λ_j(0) only.
"""

from stepwise.laws.barlow_twins import BarlowTwins
from stepwise.laws.start import effective_start, expected_start
from stepwise.laws.supervised import Supervised

__all__ = ["BarlowTwins", "Supervised", "effective_start", "expected_start"]
