"""Which law a solver follows: what `law=` takes, made into the law of one problem."""

from typing import Any

import numpy as np

from stepwise import _check
from stepwise.laws.barlow_twins import BarlowTwins
from stepwise.laws.base import Law, LawOf
from stepwise.types import Whole

DEFAULT = BarlowTwins.of
"""The law of a problem where no other is asked for: Barlow Twins, as the theory has it."""


def law_of(law: LawOf, problem: Any, d: Whole) -> Law:
    """The law of this problem in d dimensions.

    Args:
        law: a function (problem, d) -> Law, the class of a law that needs the problem alone, a law
            itself, or None for `DEFAULT`.
        problem: a `Problem`, or `Modes` where there is none.
        d: dimension of the embedding.

    Raises:
        ValueError: that is no law, or has another number of modes; or the problem was cut to its
            largest modes, and this law's modes do not grow in that order.
    """
    found: Any
    if isinstance(law, Law):
        found = law
    elif isinstance(law, type):
        own: Any = law
        _check.require(issubclass(own, Law), "law", "the class of a Law", own.__name__)
        found = own.of(problem, d)
    else:
        make = DEFAULT if law is None else law
        _check.require(callable(make), "law", "a function (problem, d) -> Law", _named(law))
        found = make(problem, d)
    _check.require(isinstance(found, Law), "law", "a function (problem, d) -> Law", _named(found))
    assert isinstance(found, Law)
    modes, own = problem.gamma, found.unit()
    _check.require(
        np.shape(own) == np.shape(modes),
        "law",
        f"one of {np.size(modes)} modes as the problem",
        own,
    )
    if not found.follows_gamma:
        _require_whole(problem, type(found).__name__)
    return found


def _named(value: Any) -> str:
    return f"a {type(value).__name__}"


def _require_whole(problem: Any, name: str) -> None:
    """Refuse a problem without its smallest mode: a law in another order may need what was cut
    off.
    """
    if problem.lowest is None or _check.is_traced(problem.gamma, problem.lowest):
        return
    lowest, last = float(problem.lowest), float(np.min(problem.gamma))
    kept = lowest >= last - 1e-6 * float(np.max(np.abs(problem.gamma)))
    _check.require(
        kept,
        "problem",
        f"all of its modes, since {name} does not follow the order of γ",
        f"one cut to its {np.size(problem.gamma)} largest",
    )
