"""Resolution of `law=` arguments into the law of one problem."""

from typing import Any

import numpy as np

from stepwise import _check
from stepwise.laws.barlow_twins import BarlowTwins
from stepwise.laws.base import Law, LawOf, NotKnownError
from stepwise.types import Whole

DEFAULT = BarlowTwins.from_problem
"""The law used by default: Barlow Twins with the loss ‖C − I‖², as in the paper."""


def law_of(law: LawOf, problem: Any, d: Whole) -> Law:
    """Return the law of this problem in d dimensions.

    Args:
        law: a function (problem, d) -> Law, a subclass of `Law` with `from_problem`, a law itself,
            or None for `DEFAULT`.
        problem: a `Problem`, or `Modes` if there is no problem.
        d: dimension of the embedding.

    Raises:
        ValueError: if `law` is none of these, or has a different number of modes than the problem;
            if the law needs centred views and those of the problem have a mean;
            if its modes do not grow in the order of γ and the problem was truncated to its largest
            modes.
    """
    resolved: Any
    if isinstance(law, Law):
        resolved = law
    elif isinstance(law, type):
        law_class: Any = law
        _check.require(issubclass(law_class, Law), "law", "a subclass of Law", law_class.__name__)
        resolved = law_class.from_problem(problem, d)
    else:
        build = DEFAULT if law is None else law
        _check.require(callable(build), "law", "a function (problem, d) -> Law", _type_name(law))
        resolved = build(problem, d)
    expected = "a function (problem, d) -> Law"
    _check.require(isinstance(resolved, Law), "law", expected, _type_name(resolved))
    assert isinstance(resolved, Law)
    modes, unit = problem.gamma, resolved.unit()
    _check.require(
        np.shape(unit) == np.shape(modes),
        "law",
        f"a law of {np.size(modes)} modes, as many as the problem has",
        unit,
    )
    if not type(resolved).__module__.startswith("stepwise."):
        _require_modes(resolved, np.shape(modes))
    if resolved.centred:
        _require_centred(problem, type(resolved).__name__)
    if resolved.follows_gamma:
        _require_sorted(unit)
    else:
        _require_whole(problem, type(resolved).__name__)
    return resolved


def _require_modes(law: Law, shape: tuple[int, ...]) -> None:
    """Raise unless a user's law returns one finite number for each mode."""
    for name in ("unit", "growth", "rest"):
        try:
            values = getattr(law, name)()
        except NotKnownError:
            continue
        what = f"{type(law).__name__}.{name}()"
        expected = f"{shape[0]} numbers, one for each mode"
        _check.require(np.shape(values) == shape, what, expected, values)
        if not _check.is_traced(values):
            bad = int(np.size(values) - np.isfinite(np.asarray(values)).sum())
            _check.require(bad == 0, what, "finite numbers", f"{bad} non-finite")


def _require_centred(problem: Any, name: str) -> None:
    """Raise if the views of a problem have a mean of more than a tenth of their norm."""
    if getattr(problem, "center", None) != "none" or _check.is_traced(problem.features):
        return
    views = np.asarray(problem.features, np.float64)
    share = float(np.sum(views.mean(axis=0) ** 2) / np.mean(np.sum(views**2, axis=1)))
    _check.require(
        share <= 0.01,
        "problem",
        f"views without a mean, as {name} assumes; pass center='pooled' to from_views "
        "(--center pooled)",
        f"views whose mean has {share:.0%} of their squared norm",
    )


def _require_sorted(unit: Any) -> None:
    """Raise unless the modes are in descending order, which `follows_gamma` relies on."""
    if not _check.is_traced(unit):
        sizes = np.asarray(unit)
        ordered = bool((np.diff(sizes) <= 1e-6 * np.abs(sizes).max(initial=0)).all())
        _check.require(ordered, "gamma", "modes in descending order", "another order")


def _type_name(value: Any) -> str:
    return f"a value of type {type(value).__name__}"


def _require_whole(problem: Any, name: str) -> None:
    """Raise if the problem was truncated.

    A law whose modes grow in another order than γ may need the modes that were left out.
    """
    if problem.lowest is None or _check.is_traced(problem.gamma, problem.lowest):
        return
    gamma, lowest = np.asarray(problem.gamma), float(np.asarray(problem.lowest))
    complete = lowest >= float(gamma.min()) - 1e-6 * float(np.abs(gamma).max())
    _check.require(
        complete,
        "problem",
        f"a problem with all of its modes, because {name} does not follow the order of γ",
        f"one truncated to its {np.size(problem.gamma)} largest",
    )
