"""The forecasts of all kept snapshots of a run, against what then happened."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stepwise.forecast.answer import Forecast
from stepwise.forecast.recursion import LEVEL, TAKEOFF
from stepwise.forecast.saved import Network, forecast_at, levels
from stepwise.training import runs
from stepwise.trajectory import Trajectory
from stepwise.types import Real


@dataclass(frozen=True)
class Entry:
    """The forecast of one snapshot, and what happened.

    Attributes:
        step: of the snapshot.
        forecast: what it said.
        actual: step at which the next eigenvalue of C on the run's probe next crossed 1/2,
            interpolated linearly between two samples; infinite if it did not.
        extrapolated: the extrapolation of that eigenvalue from its last samples.
        direction: squared correlation of the predicted scores with those of the mode that was then
            learned, on the probe; NaN if it did not come.
        null: the same for the largest direction of the features' covariance outside the learned
            modes.
        level: eigenvalue at which the next mode counts as learned, which is the 1/2 of the above
            for a method without the theory's law.
    """

    step: int
    forecast: Forecast
    actual: Real
    extrapolated: Real
    direction: Real
    null: Real
    level: Real = LEVEL

    def summary(self) -> dict[str, Any]:
        """Return the entry as JSON values; a step that is not finite is None."""
        said = self.forecast
        steps = {
            "predicted": said.step,
            "low": said.low,
            "high": said.high,
            "actual": self.actual,
            "extrapolated": self.extrapolated,
            "amplitude": said.amplitude,
            "rate": said.rate,
            "direction": self.direction,
            "null": self.null,
            "level": self.level,
        }
        numbers = {name: float(v) if np.isfinite(v) else None for name, v in steps.items()}
        return {"step": self.step, "learned": said.learned, **numbers, "reason": said.reason}


def run_forecasts(
    network: Network, trajectory: Trajectory, progress: Callable[[int], None] | None = None
) -> list[Entry]:
    """Return the forecasts of all kept snapshots of a run, with what then happened.

    Args:
        network: of the run.
        trajectory: of the run.
        progress: called with each step before its forecast.
    """
    config = network.config
    measured = np.asarray(trajectory.stats["step"], np.float64)
    curves = np.asarray(trajectory.eigenvalues, np.float64)
    goals = levels(config, trajectory)
    entries, kept = [], sorted({0, *runs.snapshot_steps(config)})
    for step in kept:
        if progress is not None:
            progress(step)
        said = forecast_at(network, trajectory, step)
        k, actual, line = said.learned, np.inf, np.inf
        direction = null = np.nan
        level = float(goals[min(k, len(goals) - 1)])
        if k < len(goals):
            actual = next_crossing(measured, curves[:, k], step, level)
            line = said.extrapolated
        if np.isfinite(actual) and said.weights is not None:
            later = next((s for s in kept if s >= actual), None)
            if later is not None:
                features1, features2, z1, z2 = network.probe_of(step)
                after = np.concatenate(network.probe_of(later)[2:])
                here = np.concatenate([z1, z2]), np.concatenate([features1, features2])
                direction, null = directions(said.weights, *here, after, k)
        entries.append(Entry(int(step), said, actual, line, direction, null, level))
    return entries


def drawn(entries: Sequence[Entry], most: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Return the forecasts to draw with `plotting.fans`.

    They are those of modes that have not taken off, at most `most` of them, evenly chosen.

    Returns:
        Rows (step, eigenvalue, level, low, high) [k, 5], and paths, NaN after their end [k, 2, P].
    """
    said = [e for e in entries if e.forecast.path is not None and np.isfinite(e.forecast.low)]
    early = [e for e in said if e.forecast.amplitude < TAKEOFF]
    chosen = np.unique(np.linspace(0, len(early) - 1, min(most, len(early))).round().astype(int))
    picked = [early[i] for i in chosen]
    rows = [
        (e.step, e.forecast.amplitude, e.level, e.forecast.low, e.forecast.high) for e in picked
    ]
    return np.array(rows, float).reshape(-1, 5), joined([e.forecast.path for e in picked])


def joined(paths: Sequence[np.ndarray]) -> np.ndarray:
    """Return paths of different lengths as one array, NaN after their end [k, 2, P]."""
    longest = max((path.shape[1] for path in paths), default=0)
    full = np.full((len(paths), 2, longest), np.nan)
    for row, path in zip(full, paths, strict=True):
        row[:, : path.shape[1]] = path
    return full


def growth(
    entries: Sequence[Entry], trajectory: Trajectory, ahead: Real = 0.3, least: Real = 20
) -> np.ndarray:
    """Return the growth of the next eigenvalue, as forecast and as it came [k, 2].

    It is the change of ln λ over the next `ahead` · step steps, or over `least` if that is more, of
    each snapshot whose forecast reaches so far.
    """
    measured = np.asarray(trajectory.stats["step"], np.float64)
    curves = np.log(np.maximum(np.asarray(trajectory.eigenvalues, np.float64), 1e-300))
    pairs = []
    for entry in entries:
        end, path = entry.step + max(float(least), ahead * entry.step), entry.forecast.path
        if path is None or end > min(path[0, -1], measured[-1]):
            continue
        said = np.interp([entry.step, end], path[0], np.log(path[1]))
        came = np.interp([entry.step, end], measured, curves[:, entry.forecast.learned])
        pairs.append((said[1] - said[0], came[1] - came[0]))
    return np.array(pairs, float).reshape(-1, 2)


def next_crossing(steps: np.ndarray, curve: np.ndarray, after: Real, level: Real = LEVEL) -> float:
    """Return when a curve next rises through a level after a step, or infinity."""
    for i in np.flatnonzero((curve[:-1] < level) & (curve[1:] >= level)):
        share = (level - curve[i]) / (curve[i + 1] - curve[i])
        crossing = float(steps[i] + share * (steps[i + 1] - steps[i]))
        if crossing > after:
            return crossing
    return float("inf")


def directions(
    weights: np.ndarray, z: np.ndarray, features: np.ndarray, later: np.ndarray, learned: int
) -> tuple[float, float]:
    """Compare a predicted direction with the mode that was learned, and its null likewise.

    Args:
        weights: the predicted direction in the features [f].
        z: embeddings of the views at the snapshot [2n, d].
        features: their features [2n, f].
        later: embeddings of the same views after the step [2n, d].
        learned: number k of modes learned at the snapshot.

    Returns:
        The squared correlation, outside the modes learned at the snapshot, of the scores
        `features @ weights` with the learned mode; and of the largest direction of the features'
        covariance outside those modes.
    """
    z, features, later = (each - each.mean(axis=0) for each in (z, features, later))
    known = _top(z, learned)

    def outside(values: np.ndarray) -> np.ndarray:
        return values - known @ (known.T @ values)

    mode = np.linalg.svd(outside(_top(later, learned + 1)), full_matrices=False)[0][:, 0]
    largest = np.linalg.svd(outside(features), full_matrices=False)[0][:, 0]
    scores = outside(features @ weights)
    return float(mode @ scores) ** 2 / float(scores @ scores), float(mode @ largest) ** 2


def _top(z: np.ndarray, count: int) -> np.ndarray:
    """Return orthonormal scores of the leading eigenvectors of C [2n, count]."""
    n = len(z) // 2
    cross = z[:n].T @ z[n:]
    vectors = np.linalg.eigh((cross + cross.T) / (2 * n))[1][:, ::-1]
    return np.linalg.qr(z @ vectors[:, :count])[0]
