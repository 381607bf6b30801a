"""Diagnosis by number: the state of an embedding that a flat loss reveals.

Many losses rest at a value that depends only on the number of pairs n, the dimension d, and the
number of learned modes. A run that sits there is collapsed, or on a plateau between two modes.
"""

import math

from stepwise import _check, methods
from stepwise.methods.plateaus import COLLAPSE
from stepwise.methods.row import Level, Method
from stepwise.types import Numbers, Real, Whole

TOLERANCE = 0.02
"""Distance to a level, relative to its size, within which a loss sits at it."""
SHARE = 0.25
"""Largest distance relative to that between two levels."""
DIVERGED = (
    "the run has diverged: divide the learning rate by 3 and restart from a checkpoint before it."
)
COLLAPSED = (
    "wait if the largest eigenvalue of C grows, as at the start of training; otherwise the views "
    "do not agree on anything that the network sees, or the learning rate is too small, or it was "
    "once too large."
)
LEAST = (
    "if RankMe is about 1 and no eigenvalue of C grows, it has collapsed and will not recover: "
    "check that the gradient of the target is stopped and that the predictor is used and trained, "
    "then restart."
)


def levels(
    method: str, n: Whole, d: Whole, eigenvalues: Numbers | None = None
) -> tuple[Level, ...]:
    """Return the known levels of a method's loss, total collapse first.

    Args:
        method: a name in `methods.METHODS`, or FILE.py:NAME; empty for the default.
        n: number of pairs over which the loss is computed: the whole batch, of all devices.
        d: dimension of the embedding; the number of prototypes for a loss of assignments.
        eigenvalues: of C about zero (`spectra.eigenvalues`) [d], for losses whose levels depend on
            how much the views agree.

    Returns:
        The levels, each with a name, a value, a meaning and advice; none if no level is known.

    Raises:
        ValueError: if the method is unknown, or n or d is not a positive whole number.
    """
    row = methods.find(method)
    _check.whole("n", n)
    _check.whole("d", d)
    known = [] if row.levels is None else list(row.levels(int(n), int(d), eigenvalues))
    described = any(level.name == COLLAPSE for level in known)
    if row.collapse is not None and not described:
        known.insert(0, _collapse(row, int(n), int(d)))
    return tuple(known)


def nearest(
    known: tuple[Level, ...], loss: Real, *, learned: Whole | None = None, tolerance: Real
) -> Level | None:
    """Return the level at which a loss sits, or None.

    A loss L sits at the nearest level v if |L − v| ≤ tolerance · max(|v|, 1), and if |L − v| is at
    most a quarter of the distance from v to the next level.

    Args:
        known: from `levels`.
        loss: its value.
        learned: number of modes that are learned. Levels that count other numbers are left out.
        tolerance: relative to the level.
    """
    fitting = [each for each in known if learned is None or each.learned in (None, learned)]
    if not fitting:
        return None
    first = min(fitting, key=lambda level: abs(level.value - float(loss)))
    gaps = [abs(each.value - first.value) for each in known]
    room = min((gap for gap in gaps if gap > 0), default=math.inf)
    within = min(float(tolerance) * max(abs(first.value), 1.0), SHARE * room)
    return first if abs(first.value - float(loss)) <= within else None


def diagnose(
    method: str,
    loss: Real,
    *,
    n: Whole,
    d: Whole,
    learned: Whole | None = None,
    eigenvalues: Numbers | None = None,
    tolerance: Real = TOLERANCE,
) -> str:
    """Say which known level a flat loss sits at, and what to change.

    Args:
        method: a name in `methods.METHODS`, or FILE.py:NAME; empty for the default.
        loss: its value, the mean over some batches if it is noisy.
        n: number of pairs over which the loss is computed: the whole batch, of all devices.
        d: dimension of the embedding; the number of prototypes for a loss of assignments.
        learned: number of modes that are learned, if it is known, which decides between levels that
            count modes.
        eigenvalues: of C about zero (`spectra.eigenvalues`) [d]; see `levels`.
        tolerance: distance to a level relative to its size (`nearest`).

    Returns:
        One or two sentences.

    Raises:
        ValueError: if the method is unknown, n or d is not a positive whole number, `learned` is
            not in 0 ... d, or the tolerance is not a positive number.
    """
    row = methods.find(method)
    fits = math.isfinite(tolerance) and tolerance > 0
    _check.require(fits, "tolerance", "a positive number", tolerance)
    if learned is not None:
        _check.whole("learned", learned, 0, int(d))
    known = levels(method, n, d, eigenvalues)
    if not math.isfinite(loss):
        return f"loss {float(loss)}: {DIVERGED}"
    if not known:
        return f"loss {float(loss):.4g}: no level of {row.title} is known."
    level = nearest(known, loss, learned=learned, tolerance=tolerance)
    if level is not None:
        return f"loss {float(loss):.4g} is at {level.value:.4g}: {level.meaning}; {level.advice}"
    other = nearest(known, loss, tolerance=tolerance)
    if other is not None:
        return (
            f"loss {float(loss):.4g} is at {other.value:.4g} ({other.name}), but the number of "
            f"modes learned is {learned} by the eigenvalues of C: a mode is crossing, or method, n "
            "and d are not those of this loss."
        )
    return f"loss {float(loss):.4g} is at no known level of {row.title}{_list(known)}."


def _collapse(row: Method, n: int, d: int) -> Level:
    """Return the level of total collapse."""
    assert row.collapse is not None
    value = float(row.collapse(n, d))
    meaning = (
        "no embedding has a smaller loss, which means perfect predictions, or a collapsed embedding"
        if row.collapse_is_least
        else "no mode is learned yet, or the embedding has collapsed and is the same for all images"
    )
    learned = None if row.collapse_is_least else 0
    advice = LEAST if row.collapse_is_least else COLLAPSED
    return Level(COLLAPSE, value, meaning, advice, learned)


def _list(known: tuple[Level, ...], most: int = 3) -> str:
    """Return the first levels in parentheses."""
    named = ", ".join(f"{each.name} {each.value:.4g}" for each in known[:most])
    return f" ({named}{', ...' if len(known) > most else ''})"
