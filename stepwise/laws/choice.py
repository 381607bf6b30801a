"""Which law a solver follows: what `law=` takes, made into the law of one problem."""

from typing import Any

import numpy as np

from stepwise import _check
from stepwise.laws.barlow_twins import BarlowTwins
from stepwise.laws.base import Law, LawOf, NotKnownError
from stepwise.types import Whole

DEFAULT = BarlowTwins.from_problem
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
        found = own.from_problem(problem, d)
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
    if not type(found).__module__.startswith("stepwise."):
        _require_modes(found, np.shape(modes))
    if found.follows_gamma:
        _require_sorted(own)
    else:
        _require_whole(problem, type(found).__name__)
    return found


def _require_modes(law: Law, shape: tuple[int, ...]) -> None:
    """Refuse a law of the user's own whose rates or ends are no numbers, one a mode."""
    for name in ("unit", "growth", "rest"):
        try:
            values = getattr(law, name)()
        except NotKnownError:
            continue
        what = f"{type(law).__name__}.{name}()"
        _check.require(np.shape(values) == shape, what, f"{shape[0]} numbers, one a mode", values)
        if not _check.is_traced(values):
            bad = int(np.size(values) - np.isfinite(np.asarray(values)).sum())
            _check.require(bad == 0, what, "finite numbers", f"{bad} that are not")


def _require_sorted(own: Any) -> None:
    """Refuse modes that do not descend, for a law that takes their order for granted."""
    if not _check.is_traced(own):
        sizes = np.asarray(own)
        ordered = bool((np.diff(sizes) <= 1e-6 * np.abs(sizes).max(initial=0)).all())
        _check.require(ordered, "gamma", "modes from the largest down", "another order")


def _named(value: Any) -> str:
    return f"a {type(value).__name__}"


def _require_whole(problem: Any, name: str) -> None:
    """Refuse a problem without its smallest mode: a law in another order may need what was cut
    off.
    """
    if problem.lowest is None or _check.is_traced(problem.gamma, problem.lowest):
        return
    gamma, lowest = np.asarray(problem.gamma), float(np.asarray(problem.lowest))
    kept = lowest >= float(gamma.min()) - 1e-6 * float(np.abs(gamma).max())
    _check.require(
        kept,
        "problem",
        f"all of its modes, since {name} does not follow the order of γ",
        f"one cut to its {np.size(problem.gamma)} largest",
    )
