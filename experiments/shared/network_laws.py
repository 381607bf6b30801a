"""The law of a method laid over a network: descent of its head on the features at the start.

A law speaks of a linear model. The head of a network is one, on the features that the backbone has
at the start, for as long as the backbone stands still: until the first mode is learned.
"""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.contract import Progress
from stepwise import laws, models, problem, spectra
from stepwise.forecast import saved
from stepwise.laws import Law
from stepwise.methods import Method, find
from stepwise.methods.theory import growth_factor
from stepwise.problem import Problem
from stepwise.training import runs
from stepwise.training.loop import Trained
from stepwise.trajectory import Trajectory

CURVES = {"C": "eigenvalues", "covariance": "covariance_eigenvalues"}
"""Which recorded curves a law's observable is."""
HORIZON = 4
"""Number of runs' lengths over which a law is followed."""
LONGER = 1.6
"""A run that is only to learn its first mode has this many times the steps that the law says."""


@dataclass(frozen=True)
class First:
    """The law of a training run on the features that its network starts with.

    Attributes:
        config: of the run.
        network: at its snapshots, of which step 0 always exists.
        pairs: features of both views at the start [n, f].
        linear: the linear problem on these features.
        law: the law.
        lam0: the observable of each mode at the start [k], in the order of growth.
        level: half of the largest value of the first mode, at which it counts as learned.
        step: the training step at which it crosses this level.
        direction: its direction in the features [f].
        widest, steadiest: the features' directions of the largest variance and the largest γ [f].
        agreement: its agreement γ/σ.
        unit: the time t of the flow in one training step (`time_of_step`).
    """

    config: runs.Config
    network: saved.Network
    pairs: tuple[np.ndarray, np.ndarray]
    linear: Problem
    law: Law
    lam0: np.ndarray
    level: float
    step: float
    direction: np.ndarray
    widest: np.ndarray
    steadiest: np.ndarray
    agreement: float
    unit: float

    def curves(self, steps: np.ndarray) -> np.ndarray:
        """Return the observable of the law's modes at training steps [T, k]."""
        with jax.enable_x64(True):
            return np.asarray(self.law.eigenvalues(np.asarray(steps) * self.unit, self.lam0))

    def growth(self, config: runs.Config) -> float:
        """Return the largest growth of a variance in a step, by another run's law, on the features.

        Args:
            config: of the other run.
        """
        with jax.enable_x64(True):
            law = law_of(find(config.method), self.linear, config)
            rate = float(np.asarray(law.growth()).max())
        return rate * time_of_step(config.lr, config.momentum, rate)


def time_of_step(lr: float, momentum: float, growth: float) -> float:
    """Return the time t of the flow in one step of SGD with momentum, while a mode grows.

    It is lr/(1 − momentum) for slow growth. An amplitude that grows at the rate r = growth/2 is
    multiplied in each step by the root z of z² − (1 + β + lr r) z + β = 0, with the momentum β, so
    the time is ln z/r.

    Args:
        lr: learning rate.
        momentum: β.
        growth: rate of the mode's variance.
    """
    rate = max(growth, 1e-9) / 2
    return float(np.log(growth_factor(lr, momentum, rate)) / rate)


def law_of(row: Method, linear: Problem, config: runs.Config) -> Law:
    """Return the law of a run on a problem."""
    if row.law_of_run is not None:
        return row.law_of_run(linear, config)
    return laws.law_of(row.require_law(), linear, config.head[-1])


def first(config: runs.Config, runs_dir: str, n_pairs: int) -> First:
    """Return the law of a run on the features at its start, in float64."""
    images = runs.load(config)
    with jax.enable_x64(False):
        folder = runs.folder(config, images, runs_dir)
        network = saved.Network(config, images, folder, n_pairs)
        pairs, (head, _) = network.features(0), network.head(0)
    with jax.enable_x64(True):
        a, b = (np.asarray(view, np.float64) for view in pairs)
        linear = problem.from_views(a, b, center="pooled")
        basis, sigma = np.asarray(linear.basis), np.asarray(linear.sigma)
        law = law_of(find(config.method), linear, config)
        lam0 = np.asarray(law.generic_start(head.astype(np.float64) @ basis))
        fastest = int(law.order[0])
        growth = float(np.asarray(law.growth())[fastest])
        unit = time_of_step(config.lr, config.momentum, growth)
        steps = np.geomspace(1, HORIZON * config.steps, 500)
        curve = np.asarray(law.eigenvalues(steps * unit, lam0))[:, 0]
        level = float(curve.max()) / 2
        step = float(spectra.step_times(steps, curve[:, None] / (2 * level))[0])
        mode = np.asarray(law.from_modes(jnp.eye(len(sigma))[fastest][None]))[0]
    agreement = float((mode * np.asarray(linear.gamma)) @ mode / (mode @ sigma @ mode))
    widest = basis @ np.linalg.eigh(sigma)[1][:, -1]
    shown = (level, step, basis @ mode, widest, basis[:, 0], agreement, unit)
    return First(config, network, pairs, linear, law, lam0, *shown)


def grows_without_agreement(config: runs.Config) -> bool:
    """Return whether a mode whose views do not agree at all grows under the law of a run."""
    alone: Any = SimpleNamespace(
        gamma=np.zeros(1), sigma=np.eye(1), n_pairs=config.batch_size, lowest=None
    )
    with jax.enable_x64(True):
        return bool(law_of(find(config.method), alone, config).grows()[0])


def observed(law: Law, trajectory: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """Return the training steps [T] and the law's observable [T, d] of a run."""
    values = np.asarray(getattr(trajectory, CURVES[law.observable]), np.float64)
    steps, good = np.asarray(trajectory.stats["step"]), np.isfinite(values).all(axis=1)
    return steps[good], values[good]


def crossing(law: Law, trajectory: Trajectory, level: float) -> float:
    """Return the training step at which the first mode of a run crosses a level, or infinity."""
    steps, values = observed(law, trajectory)
    return float(spectra.step_times(steps, values[:, :1] / (2 * level))[0])


def until_first(begin: First, runs_dir: str, progress: Progress, what: str) -> Trained:
    """Train a run until its first mode should be learned, by `LONGER` times its law."""
    until = int(np.clip(np.ceil(LONGER * begin.step), 2, begin.config.steps))
    return until_step(begin.config, until, runs_dir, progress, what)


def until_step(
    config: runs.Config, until: int, runs_dir: str, progress: Progress, what: str
) -> Trained:
    """Train a run until a step, or load it.

    Raises:
        KeyboardInterrupt: if training was interrupted; a later call resumes it.
    """
    progress(f"{find(config.method).title}, {what}, {until} steps")
    with jax.enable_x64(False):
        run = runs.train(config, root=runs_dir, until=until)
    measured = np.asarray(run.trajectory.stats["step"])
    reached = run.finished or measured[-1] >= until or _next(config, measured) > until
    if not reached:
        raise KeyboardInterrupt
    return run


def _next(config: runs.Config, measured: np.ndarray) -> int:
    """Return the first step to measure after those that were."""
    samples = runs.plan(config).samples()
    return int(min(samples[samples > measured[-1]], default=config.steps))


def smaller(config: runs.Config, factor: float) -> runs.Config:
    """Return a run with a start as many times as large: of the head, and of its predictor."""
    changes: dict[str, Any] = {"start_scale": config.start_scale * factor}
    if config.predictor_start > 0:
        changes["predictor_start"] = config.predictor_start * factor
    return replace(config, **changes)


def embeddings(begin: First, trained: Trained) -> np.ndarray:
    """Return a trained network's embeddings of both views of the pairs [2n, d]."""
    return np.concatenate(begin.network.outputs(models.stateful(trained.encoder)[1:])[2:])


def correlation(scores: np.ndarray, other: np.ndarray) -> float:
    """Return the squared correlation of two vectors of scores."""
    return float(np.corrcoef(scores, other)[0, 1] ** 2)
