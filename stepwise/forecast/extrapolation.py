"""Extrapolation of a growing eigenvalue: the forecast that needs no theory."""

import numpy as np

from stepwise.forecast.recursion import LEVEL
from stepwise.types import Numbers, Real

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
