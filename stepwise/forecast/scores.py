"""How good forecasts were."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from stepwise.forecast.history import Entry
from stepwise.types import Real

LEAST = 5
"""Steps before the crossing from which a snapshot no longer counts."""


def factor(predicted: Real, actual: Real, now: Real) -> float:
    """Return exp |ln((predicted − now)/(actual − now))|; infinite if predicted is not later."""
    if not (np.isfinite(predicted) and predicted > now):
        return float("inf")
    return float(np.exp(abs(np.log((predicted - now) / (actual - now)))))


def summarise(entries: Sequence[Entry]) -> dict[str, Any]:
    """Return how good the forecasts of a run were, as JSON values.

    Snapshots count if the mode came, at least `LEAST` steps later. A forecast that none is coming
    counts with the extrapolation, and as not covered.

    Returns:
        A dict that JSON can hold:

        - forecasts: one dictionary for each snapshot (`Entry.summary`).
        - counted: number of snapshots that count.
        - median_factor, within_1_5: of the remaining time, `factor`.
        - median_relative_error: |predicted/actual − 1| of the step itself.
        - coverage: share of the 80% intervals that hold the actual step.
        - width: median of (high − now)/(low − now).
        - extrapolation_median_factor: of the extrapolation.
        - refusals: share of forecasts that none is coming.
        - none_after_last: share of the snapshots after the run's last step that say so, or None.
        - direction, direction_null: medians.
    """
    counted = [e for e in entries if np.isfinite(e.actual) and e.actual - e.step >= LEAST]
    after = [e for e in entries if not np.isfinite(e.actual)]
    said = [e.forecast.step if e.forecast.coming else e.extrapolated for e in counted]
    factors = [factor(p, e.actual, e.step) for p, e in zip(said, counted, strict=True)]
    lines = [factor(e.extrapolated, e.actual, e.step) for e in counted]
    errors = [abs(p / e.actual - 1) for p, e in zip(said, counted, strict=True)]
    covered = [e.forecast.low <= e.actual <= e.forecast.high for e in counted]
    widths = [
        (e.forecast.high - e.step) / (e.forecast.low - e.step) for e in counted if e.forecast.coming
    ]
    coming = [not e.forecast.coming for e in counted]
    pairs = [(e.direction, e.null) for e in counted if np.isfinite(e.direction)]
    return {
        "forecasts": [e.summary() for e in entries],
        "counted": len(counted),
        "median_factor": _median(factors),
        "within_1_5": _mean([value <= 1.5 for value in factors]),
        "median_relative_error": _median(errors),
        "coverage": _mean(covered),
        "width": _median(widths),
        "extrapolation_median_factor": _median(lines),
        "refusals": _mean(coming),
        "none_after_last": _mean([not e.forecast.coming for e in after]),
        "direction": _median([pair[0] for pair in pairs]),
        "direction_null": _median([pair[1] for pair in pairs]),
    }


def growth(pairs: np.ndarray) -> dict[str, float | None]:
    """Return how well growth was forecast, as JSON values.

    Args:
        pairs: forecast and real change of ln λ of each snapshot [k, 2] (`history.growth`).

    Returns:
        growth_correlation, and growth_median_error beside growth_median_change; None without two
        snapshots.
    """
    many = len(pairs) > 1
    correlation = float(np.corrcoef(pairs.T)[0, 1]) if many else np.nan
    return {
        "growth_correlation": correlation if np.isfinite(correlation) else None,
        "growth_median_error": float(np.median(np.abs(pairs[:, 0] - pairs[:, 1])))
        if many
        else None,
        "growth_median_change": float(np.median(np.abs(pairs[:, 1]))) if many else None,
    }


def _median(values: Sequence[float]) -> float | None:
    value = float(np.median(values)) if values else float("nan")
    return value if np.isfinite(value) else None


def _mean(values: Sequence[Any]) -> float | None:
    return float(np.mean(values)) if values else None
