"""Extrapolation of a growing eigenvalue: the forecast that needs no theory."""

import numpy as np

from stepwise.forecast.answer import UNKNOWN, Forecast, none_coming
from stepwise.forecast.recursion import LEVEL
from stepwise.types import Numbers, Real, Whole

SAMPLES = 4
"""Number of last samples through which the line is drawn."""


def extrapolate(steps: Numbers, amplitudes: Numbers, level: Real = LEVEL) -> float:
    """Return the step at which ln λ, continued along a line, crosses ln(level).

    The line is the least-squares line through the last `SAMPLES` samples.

    Args:
        steps: increasing [T].
        amplitudes: λ at these steps [T].
        level: the crossing.

    Returns:
        The step; infinite if there are fewer than two samples, one is not positive, or the line
        does not rise.
    """
    x, y = (np.asarray(values, np.float64)[-SAMPLES:] for values in (steps, amplitudes))
    if len(x) < 2 or not (y > 0).all():
        return float("inf")
    slope, offset = np.polyfit(x - x[-1], np.log(y), 1)
    return float(x[-1] + (np.log(level) - offset) / slope) if slope > 0 else float("inf")


def extrapolated(
    past: tuple[Numbers, Numbers], learned: Whole, level: Real, reason: str
) -> Forecast:
    """Return the forecast that ln λ of the next mode continues along a line.

    Args:
        past: steps [T] and amplitudes [T] of that mode so far.
        learned: number of modes learned.
        level: the crossing.
        reason: why there is no other forecast.

    Returns:
        A forecast without an interval and a direction.
    """
    steps, amplitudes = (np.asarray(part, np.float64) for part in past)
    at, now = extrapolate(steps, amplitudes, level), float(amplitudes[-1])
    if not np.isfinite(at):
        few = len(steps) < 2
        why = f"{UNKNOWN} for a line" if few else "the next eigenvalue does not grow"
        return none_coming(learned, f"{why} ({reason})", now)
    rate = 1 / (at - extrapolate(steps, amplitudes, level / np.e))
    nan, when = float("nan"), max(at, float(steps[-1]))
    return Forecast(int(learned), now, float(rate), when, nan, nan, None, None, reason, when)
