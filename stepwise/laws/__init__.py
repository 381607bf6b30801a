"""How one mode grows: closed forms, step times, fixed points and stability limits.

A law speaks of the modes of a problem alone. What the data are, and how W starts, enters through
their moments and λ_j(0) only. `base.Law` is the contract that every solver keeps to; whatever takes
`law=` takes a function (problem, d) -> Law, and uses `DEFAULT` without one.
"""

from stepwise.laws.barlow_twins import BarlowTwins
from stepwise.laws.base import Law, LawOf, Modes, NotKnownError, cast
from stepwise.laws.choice import DEFAULT, law_of
from stepwise.laws.start import effective_start, expected_start
from stepwise.laws.supervised import Supervised

__all__ = [
    "DEFAULT",
    "BarlowTwins",
    "Law",
    "LawOf",
    "Modes",
    "NotKnownError",
    "Supervised",
    "cast",
    "effective_start",
    "expected_start",
    "law_of",
]
