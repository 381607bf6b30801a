"""How one mode grows: closed forms, step times, fixed points and stability limits.

A law depends only on the modes of a problem and on the initial eigenvalues λ_j(0). The data enter
through their moments, and W(0) through λ_j(0). `Law` is the interface between laws and solvers.
Every `law=` argument accepts a function (problem, d) -> Law and defaults to `DEFAULT`.
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
