"""The hyper-parameters of a training run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from stepwise import _check, views

Schedule = Callable[[Any], Any]


@dataclass(frozen=True)
class Plan:
    """The hyper-parameters of a training run.

    Attributes:
        steps: number of training steps.
        batch_size: number of images in each step. Each epoch draws images without replacement and
            drops the last, partial batch.
        lr: learning rate, or an optax schedule of the step.
        optimiser: a function from a learning rate or schedule to an optax transformation, such as
            partial(optax.sgd, momentum=0.9), or a transformation. The learning rate of a
            transformation is its own; `lr` then only defines the time Σ lr of the curves, and
            should equal it.
        recipe: the augmentations that make the views, or their name in `views.RECIPES`.
        seed: seed of the batches and the views.
        probe: number of images on which everything is measured (all images, if there are fewer).
            They are spaced evenly over the set, and their views do not change during the run.
        records: number of steps in the default geometric grid of measured steps.
        record_at: steps to measure, to which the first and the last are added; by default, a
            geometric grid of `records` steps.
        snapshot_at: steps whose parameters and batch statistics are saved in the folder
            (`snapshots.load`).
        dispatch: largest number of steps that run before the loop next updates the progress bar and
            handles signals.
        checkpoint_every: number of steps between two checkpoints.
        covariance: largest number of covariance eigenvalues that are recorded of each hidden
            representation.
    """

    steps: int
    batch_size: int
    lr: float | Schedule
    optimiser: Callable[[Any], optax.GradientTransformation] | optax.GradientTransformation
    recipe: views.Recipe | str
    seed: int = 0
    probe: int = 256
    records: int = 120
    record_at: Sequence[int] | None = None
    snapshot_at: Sequence[int] = ()
    dispatch: int = 10
    checkpoint_every: int = 200
    covariance: int = 64

    def require(self) -> None:
        """Check the numbers of the plan.

        Raises:
            ValueError: if a number is not a positive whole number, or a learning rate is negative
                or not finite, or all are 0.
        """
        for name in (
            "steps",
            "batch_size",
            "probe",
            "records",
            "dispatch",
            "checkpoint_every",
            "covariance",
        ):
            _check.whole(name, getattr(self, name))
        outside = [step for step in self.snapshot_at if not 0 <= step <= self.steps]
        _check.require(not outside, "snapshot_at", f"steps in 0 ... {self.steps}", f"{outside[:3]}")
        rates = self.rates()
        fits = bool(np.isfinite(rates).all() and (rates >= 0).all() and rates.max() > 0)
        _check.require(fits, "lr", "positive learning rates", f"{rates[:3]}")

    def samples(self) -> np.ndarray:
        """Return the steps to measure [T], ascending from 0.

        A step is left out if Σ lr has not grown since the step before it in the list, as in a
        warm-up from zero.
        """
        if self.record_at is None:
            steps = np.geomspace(1, self.steps, self.records).round().astype(int)
        else:
            steps = np.asarray(self.record_at, int)
        inside = steps[(steps >= 0) & (steps <= self.steps)]
        steps = np.unique(np.concatenate([[0], inside, [self.steps]]))
        return steps[np.diff(self.times()[steps], prepend=-1) > 0]

    def times(self) -> np.ndarray:
        """Return the time Σ lr before every step and after the last one [steps + 1]."""
        return np.concatenate([[0], np.cumsum(self.rates())])

    def rates(self) -> np.ndarray:
        """Return the learning rate of every step [steps]."""
        if not callable(self.lr):
            fits = np.ndim(self.lr) == 0 and np.asarray(self.lr).dtype.kind in "iuf"
            _check.require(fits, "lr", "a number or an optax schedule", repr(self.lr))
            return np.full(self.steps, float(self.lr))
        try:
            rates = jax.vmap(self.lr)(jnp.arange(self.steps))
        except jax.errors.ConcretizationTypeError as error:
            expected = "a number or a schedule that JAX can trace (jnp.where instead of if)"
            raise ValueError(f"lr: expected {expected}, received {self.lr!r}") from error
        return np.asarray(rates, np.float64)
