"""The forecasts of all kept snapshots of a run, against what then happened."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stepwise import _check, _random, models, spectra, views
from stepwise.data import Images
from stepwise.forecast.backbone import from_gradient, mode_moment
from stepwise.forecast.recursion import LEVEL, TAKEOFF
from stepwise.forecast.snapshot import Forecast, next_step, require_law
from stepwise.training import runs, snapshots
from stepwise.trajectory import Trajectory
from stepwise.types import Real, Whole

PAIRS = 1024
"""Number of images whose features a forecast uses by default."""
GRADIENT_PAIRS = 256
"""Number of those that the sensitivity of the backbone uses."""


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
    """

    step: int
    forecast: Forecast
    actual: Real
    extrapolated: Real
    direction: Real
    null: Real

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
        }
        numbers = {name: float(v) if np.isfinite(v) else None for name, v in steps.items()}
        return {"step": self.step, "learned": said.learned, **numbers, "reason": said.reason}


def require_supported(config: runs.Config) -> None:
    """Raise unless a run can be forecast.

    Raises:
        ValueError: if its method, optimiser or head is another than the forecast knows; the message
            names the setting.
    """
    require_law(config.method)
    optimiser, decay = config.optimiser, config.weight_decay
    _check.require(
        optimiser == "sgd", "optimiser", "sgd, whose steps the forecast knows", optimiser
    )
    layers, expected = (
        len(config.head),
        "one linear layer, before which are the backbone's features",
    )
    _check.require(layers == 1, "head", expected, f"{layers} layers")
    _check.require(decay == 0, "weight_decay", "0, because decay is not in the forecast", decay)


class Network:
    """The network of a run at its snapshots: its features, its probe, and its forecasts.

    Args:
        config: the configuration of the run.
        images: its images.
        folder: its folder.
        n_pairs: number of images with two fresh views each; all images if there are fewer.
    """

    def __init__(
        self,
        config: runs.Config,
        images: Images,
        folder: str | os.PathLike[str],
        n_pairs: Whole = PAIRS,
    ) -> None:
        _check.whole("n_pairs", n_pairs, 2)
        self.config, self.folder = config, Path(folder)
        self.encoder = runs.encoder(config, images.pixels.shape[-1])
        self.start = models.stateful(self.encoder)[1:]
        self.forward = models.stateful(self.encoder)[0]
        everywhere = len(images.pixels) - 1
        rows = np.unique(np.linspace(0, everywhere, min(n_pairs, everywhere + 1)).astype(int))
        # in random order, so that each batch is like one of training
        rows = np.random.default_rng(config.seed).permutation(rows)
        key = _random.key(config.seed)
        self.views = self._views(images.pixels[rows], jax.random.fold_in(key, 3))
        probe = np.unique(np.linspace(0, everywhere, min(config.probe, everywhere + 1)).astype(int))
        self.probe = self._views(images.pixels[probe], jax.random.fold_in(key, 1))
        self._evaluate: Callable[..., Any] = jax.jit(self._apply)
        self._slopes: Any = jax.jit(jax.value_and_grad(self._mode_moment))
        self._loaded: tuple[Any, Any] = (None, None)

    def _views(self, pixels: np.ndarray, key: Any) -> tuple[np.ndarray, np.ndarray]:
        first, second = views.positive_pairs(pixels, key, self.config.recipe)
        return np.asarray(first), np.asarray(second)

    def at(self, step: Whole) -> tuple[Any, Any]:
        """Return the parameters and statistics at a snapshot."""
        if step == 0:
            return self.start
        if step != self._loaded[0]:
            snapshots.load(self.encoder, self.folder, step)
            self._loaded = step, models.stateful(self.encoder)[1:]
        return self._loaded[1]

    def _apply(self, params: Any, stats: Any, first: Any, second: Any) -> tuple[Any, ...]:
        """Return features and embeddings of both views, normalised as in training."""
        stacked = jnp.stack([first, second], axis=1).reshape(-1, *first.shape[1:])
        z, hidden, _ = self.forward(params, stats, stacked, True, dropout=False)
        features = list(hidden.values())[-1]
        return features[0::2], features[1::2], z[0::2], z[1::2]

    def features(self, step: Whole) -> tuple[np.ndarray, np.ndarray]:
        """Return the features of both views of the fresh pairs, in batches as in training."""
        state, size = self.at(step), min(self.config.batch_size, len(self.views[0]))
        starts = range(0, len(self.views[0]) - size + 1, size)
        parts = [
            self._evaluate(*state, *(view[i : i + size] for view in self.views))[:2] for i in starts
        ]
        first, second = (
            np.concatenate(list(map(np.asarray, each))) for each in zip(*parts, strict=True)
        )
        return first, second

    def probe_of(self, step: Whole) -> tuple[np.ndarray, ...]:
        """Return features and embeddings of both views of the run's probe."""
        return tuple(map(np.asarray, self._evaluate(*self.at(step), *self.probe)))

    def head(self, step: Whole) -> np.ndarray:
        """Return the weights of the last layer [d, f]."""
        layers = self.at(step)[0]["head"]["layers"]
        return np.asarray(layers[max(layers)]["kernel"]).T

    def sensitivity(self, step: Whole, weights: np.ndarray, learned: np.ndarray) -> float:
        """Return the sensitivity of the backbone along a direction (`forecast.sensitivity`)."""
        params, stats = self.at(step)
        rest = {name: part for name, part in params.items() if name != "backbone"}
        rows = np.zeros((self.config.head[-1], weights.size), np.float32)
        rows[: len(learned)] = learned  # in one shape, so that one program serves all snapshots
        direction = weights.astype(np.float32)
        pair = (view[:GRADIENT_PAIRS] for view in self.views)
        gamma, slopes = self._slopes(params["backbone"], rest, stats, *pair, direction, rows)
        return from_gradient(gamma, slopes)

    def _mode_moment(
        self, backbone: Any, rest: Any, stats: Any, first: Any, second: Any, w: Any, rows: Any
    ) -> Any:
        a, b, *_ = self._apply(rest | {"backbone": backbone}, stats, first, second)
        return mode_moment(a, b, w, rows)

    def forecast(self, step: Whole, history: tuple[np.ndarray, np.ndarray]) -> Forecast:
        """Return the forecast of a snapshot.

        Args:
            step: of the snapshot.
            history: steps [T] and eigenvalues of C on the probe [T, d] until then.
        """
        config = self.config
        first, second = self.features(step)
        head, (a, b, *_) = self.head(step), self.probe_of(step)
        probe = a, b
        options: dict[str, Any] = {
            "step": int(step),
            "lr": runs.plan(config).lr,
            "momentum": config.momentum,
            "batch_size": config.batch_size,
            "method": config.method,
            "probe": probe,
        }
        steps, values = history
        learned = int(np.sum(values[-1] >= LEVEL))
        if learned < values.shape[1]:
            options["history"] = steps, values[:, learned]

        def strength(weights: np.ndarray, rows: np.ndarray) -> float:
            return self.sensitivity(step, weights, rows)

        return next_step(first, second, head, sensitivity=strength, **options)


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
    entries, kept = [], sorted({0, *runs.snapshot_steps(config)})
    for step in kept:
        if progress is not None:
            progress(step)
        features1, features2, z1, z2 = network.probe_of(step)
        now = np.asarray(spectra.eigenvalues(z1, z2, center=True), np.float64)
        past = measured < step
        history = np.append(measured[past], step), np.concatenate([curves[past], now[None]])
        said = network.forecast(step, history)
        k, actual, line = said.learned, np.inf, np.inf
        direction = null = np.nan
        if k < len(now):
            actual = next_crossing(measured, curves[:, k], step)
            line = said.extrapolated
        if np.isfinite(actual) and said.weights is not None:
            later = next((s for s in kept if s >= actual), None)
            if later is not None:
                after = np.concatenate(network.probe_of(later)[2:])
                here = np.concatenate([z1, z2]), np.concatenate([features1, features2])
                direction, null = directions(said.weights, *here, after, k)
        entries.append(Entry(int(step), said, actual, line, direction, null))
    return entries


def rows(entries: Sequence[Entry], most: int = 10) -> np.ndarray:
    """Return (step, eigenvalue, forecast, low, high) of forecasts to draw [k, 5].

    They are those of modes that have not taken off, at most `most` of them, evenly chosen.
    """
    said = [(e.step, e.forecast) for e in entries if e.forecast.coming]
    drawn = [
        (step, f.amplitude, f.step, f.low, f.high) for step, f in said if f.amplitude < TAKEOFF
    ]
    chosen = np.unique(np.linspace(0, len(drawn) - 1, min(most, len(drawn))).round().astype(int))
    return np.array(drawn)[chosen] if drawn else np.zeros((0, 5))


def next_crossing(steps: np.ndarray, curve: np.ndarray, after: Real) -> float:
    """Return when a curve next rises through 1/2 after a step, or infinity."""
    for i in np.flatnonzero((curve[:-1] < LEVEL) & (curve[1:] >= LEVEL)):
        share = (LEVEL - curve[i]) / (curve[i + 1] - curve[i])
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
