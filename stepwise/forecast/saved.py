"""The networks that a run saved: their features, and the forecast of each."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stepwise import _check, _random, methods, models, spectra, staircase, views
from stepwise.data import Images
from stepwise.forecast import rates, simulated, simulation
from stepwise.forecast.answer import Forecast, none_coming
from stepwise.forecast.backbone import from_gradient, mode_moment
from stepwise.forecast.modes import split
from stepwise.forecast.recursion import LEVEL
from stepwise.forecast.snapshot import has_theory, next_step
from stepwise.training import runs, snapshots
from stepwise.trajectory import Trajectory
from stepwise.types import Whole

PAIRS = 1024
"""Number of images whose features a forecast uses by default."""
GRADIENT_PAIRS = 256
"""Number of those that the sensitivity of the backbone uses."""


def require_supported(config: runs.Config) -> None:
    """Raise unless a run can be forecast.

    Raises:
        ValueError: if its optimiser is another than SGD, its method has state that a snapshot does
            not hold, its head has prototypes, or its loss is the theory's form with other
            arguments; the message names the setting.
    """
    simulated.require_plain(methods.find(config.method).name, runs.objective(config))
    expected = "none, as the forecast follows a last layer of dense weights"
    _check.require(config.prototypes == 0, "prototypes", expected, config.prototypes)
    fits = not (config.loss_options and has_theory(config.method))
    expected = "none for this method, whose forecast is that of the theory's form"
    _check.require(fits, "loss_options", expected, config.loss_options)
    optimiser, decay = config.optimiser, config.weight_decay
    _check.require(
        optimiser == "sgd", "optimiser", "sgd, whose steps the forecast knows", optimiser
    )
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
        head, _, stats = models.stateful(self.encoder.head)
        self._head = lambda params, features: head(params, stats, features, True, dropout=False)[0]
        row = methods.find(config.method)
        self.row = replace(row, objective=runs.objective(config))
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
        first, second, *_ = self.outputs(self.at(step))
        return first, second

    def outputs(self, state: tuple[Any, Any]) -> tuple[np.ndarray, ...]:
        """Return features and embeddings of both views of the fresh pairs, in batches.

        Args:
            state: parameters and statistics of the network.
        """
        size = min(self.config.batch_size, len(self.views[0]))
        starts = range(0, len(self.views[0]) - size + 1, size)
        parts = [
            self._evaluate(*state, *(view[i : i + size] for view in self.views)) for i in starts
        ]
        return tuple(
            np.concatenate(list(map(np.asarray, each))) for each in zip(*parts, strict=True)
        )

    def probe_of(self, step: Whole) -> tuple[np.ndarray, ...]:
        """Return features and embeddings of both views of the run's probe."""
        return tuple(map(np.asarray, self._evaluate(*self.at(step), *self.probe)))

    def head(self, step: Whole) -> tuple[np.ndarray, np.ndarray]:
        """Return the weights [d, f] and the bias [d] of the last layer."""
        layers = self.at(step)[0]["head"]["layers"]
        last = layers[max(layers)]
        weights = np.asarray(last["kernel"]).T
        return weights, np.asarray(last.get("bias", np.zeros(len(weights))))

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

    def forecast(
        self, step: Whole, past: tuple[np.ndarray, np.ndarray], levels: np.ndarray
    ) -> Forecast:
        """Return the forecast of a snapshot.

        Args:
            step: of the snapshot.
            past: steps [T] and eigenvalues of C on the probe [T, d] until then.
            levels: eigenvalue at which each mode counts as learned [d].
        """
        config, (steps, values) = self.config, past
        learned = int(np.cumprod(values[-1] >= levels).sum())
        if learned == len(levels):
            return none_coming(learned, f"all {learned} dimensions are learned")
        schedule = runs.plan(config).lr
        options: dict[str, Any] = {"momentum": config.momentum, "batch_size": config.batch_size}
        history = steps, values[:, learned]
        first, second = self.features(step)
        on_probe, on_probe2, *_ = self.probe_of(step)
        probe = on_probe, on_probe2

        def strength(weights: np.ndarray, rows: np.ndarray) -> float:
            return self.sensitivity(step, weights, rows)

        linear = len(config.head) == 1
        if linear and has_theory(config.method):
            weights, options = self.head(step)[0], options | {"lr": schedule, "history": history}
            options |= {"method": config.method, "step": int(step), "sensitivity": strength}
            return next_step(first, second, weights, probe=probe, **options)
        options |= {"rates": rates.coming(schedule, step), "past": history, "step": int(step)}
        options["level"] = float(levels[learned])
        if linear:
            weights, bias = self.head(step)
            modes = split(first, second, weights, probe, levels)
            return simulated.from_features(self.row, modes, weights, bias, strength, **options)
        params = self.at(step)[0]["head"]
        still, moving = (jax.tree.map(make, params) for make in (np.zeros_like, np.ones_like))
        head = simulation.Head(self._head, params, still, moving)
        pairs = first, second
        return simulated.forecast(head, self.row, pairs, probe, learned=learned, **options)


def levels(config: runs.Config, trajectory: Trajectory) -> np.ndarray:
    """Return the eigenvalue of C at which each mode counts as learned [d].

    It is 1/2 under Barlow Twins in the theory's form, and otherwise half of the final value, or of
    `staircase.LEARNED` times the largest one if that is more.
    """
    curves = np.asarray(trajectory.eigenvalues, np.float64)
    if has_theory(config.method):
        return np.full(curves.shape[1], LEVEL)
    final = curves[np.isfinite(curves).all(axis=1)][-3:].mean(axis=0)
    return np.maximum(final, staircase.LEARNED * final[0]) / 2


def forecast_at(network: Network, trajectory: Trajectory, step: Whole) -> Forecast:
    """Return the forecast of one kept snapshot of a run, from what was known at its step.

    Only the levels that define a step are those of the whole run.
    """
    z1, z2 = network.probe_of(step)[2:]
    now = np.asarray(spectra.eigenvalues(z1, z2, center=True), np.float64)
    measured = np.asarray(trajectory.stats["step"], np.float64)
    past, curves = measured < step, np.asarray(trajectory.eigenvalues, np.float64)
    history = np.append(measured[past], step), np.concatenate([curves[past], now[None]])
    return network.forecast(step, history, levels(network.config, trajectory))


def first_of_each_mode(network: Network, trajectory: Trajectory) -> list[int]:
    """Return the first kept snapshot of each plateau: those at which a further mode is learned."""
    measured = np.asarray(trajectory.stats["step"], np.float64)
    curves = np.asarray(trajectory.eigenvalues, np.float64)
    known: dict[int, int] = {}
    for step in sorted({0, *runs.snapshot_steps(network.config)}):
        now = [np.interp(step, measured, curve) for curve in curves.T]
        known.setdefault(int(np.sum(np.array(now) >= LEVEL)), step)
    return [step for count, step in sorted(known.items()) if count < curves.shape[1]]
