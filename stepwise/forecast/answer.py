"""What a forecast says."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from stepwise.types import Real, Whole

UNKNOWN = "one sample is too few"
"""How a reason begins that only says that it is too early to tell."""


@dataclass(frozen=True)
class Forecast:
    """What a snapshot says of the next mode.

    Attributes:
        learned: number of modes learned, with an eigenvalue of C of at least 1/2 (or the level of a
            method without the theory's law).
        amplitude: the next eigenvalue of C, NaN if all d modes are learned.
        rate: growth rate d ln λ of that eigenvalue per training step, under the optimiser, at this
            batch size, and beside the learned modes. NaN if it does not grow.
        step: training step at which it crosses 1/2; infinite if none is coming.
        low, high: 80% interval of `step`.
        direction: score of each image along the next mode [n], the mean of both views, with mean 0
            and norm 1; None if none is coming.
        weights: the same direction in the features [f], so that scores are features @ weights; None
            under a kernel.
        reason: why none is coming, or why the step is an extrapolation; empty otherwise.
        extrapolated: step at which the curve so far, continued in ln λ, crosses 1/2; NaN without a
            history.
        path: the forecast of that eigenvalue from now until it is learned: training steps in the
            first row, eigenvalues in the second [2, T]. Under a method without the theory's law, as
            far as was simulated. None without features or if none is coming by theory.
    """

    learned: int
    amplitude: Real
    rate: Real
    step: Real
    low: Real
    high: Real
    direction: Float[np.ndarray, " n"] | None
    weights: Float[np.ndarray, " f"] | None
    reason: str = ""
    extrapolated: Real = float("nan")
    path: Float[np.ndarray, "2 T"] | None = None

    @property
    def coming(self) -> bool:
        """Whether a next mode is coming."""
        return bool(np.isfinite(self.step))

    def __str__(self) -> str:
        """Say the forecast in one line."""
        known = f"{self.learned} mode{'' if self.learned == 1 else 's'} learned"
        if not self.coming:
            return f"{known}; {refusal(self.reason)}"
        when = f"step {self.step:,.0f}"
        if np.isfinite(self.low):  # an extrapolation has no interval
            when += f" (80%: {self.low:,.0f} to {self.high:,.0f})"
        reason = f"; {self.reason}" if self.reason else ""
        return f"{known}; the next one is expected at {when}{reason}"


def refusal(reason: str) -> str:
    """Say that no step is forecast, and why."""
    if reason.startswith(UNKNOWN):
        return f"not known yet: {reason}"
    return reason if reason.startswith("none ") else f"none is coming: {reason}"


def none_coming(
    learned: Whole,
    reason: str,
    amplitude: Real = float("nan"),
    extrapolated: Real = float("nan"),
) -> Forecast:
    """Return a forecast that no mode is coming, with its reason."""
    inf, nan = float("inf"), float("nan")
    return Forecast(int(learned), amplitude, nan, inf, inf, inf, None, None, reason, extrapolated)
