"""How a training run proceeds."""

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
    """How to train.

    Attributes:
        steps, batch_size: of pairs; images are drawn without replacement in each epoch, the partial
            batch dropped.
        lr: learning rate, or an optax schedule of the step.
        optimiser: from a schedule to an optax transformation, such as partial(optax.sgd,
            momentum=0.9).
        recipe: of the views, or its name.
        seed: of batches and views.
        probe: so many images of the set, spread evenly, with views of a key of their own, are what
            is measured.
        record_at: steps that are measured; by default 0 and a geometric grid of `records`.
        snapshot_at: steps at which parameters and batch statistics are kept in the folder
            (`snapshots.load`).
        dispatch: at most so many steps run between two looks at the clock and at signals.
        checkpoint_every: steps.
        covariance: at most so many eigenvalues of each representation are kept.
    """

    steps: int
    batch_size: int
    lr: float | Schedule
    optimiser: Callable[[Any], optax.GradientTransformation]
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
        """Refuse what no run could use.

        Raises:
            ValueError: names the number.
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
        rates = self.rates()
        fits = bool(np.isfinite(rates).all() and (rates >= 0).all() and rates.max() > 0)
        _check.require(fits, "lr", "positive learning rates", f"{rates[:3]}")

    def samples(self) -> np.ndarray:
        """The steps that are measured, from 0 on; without those at which Σ lr has not grown (a
        warm-up from zero).
        """
        if self.record_at is None:
            at = np.geomspace(1, self.steps, self.records).round().astype(int)
        else:
            at = np.asarray(self.record_at, int)
        at = np.unique(np.concatenate([[0], at[(at >= 0) & (at <= self.steps)], [self.steps]]))
        return at[np.diff(self.times()[at], prepend=-1) > 0]

    def times(self) -> np.ndarray:
        """Σ lr before every step and after the last [steps + 1]."""
        return np.concatenate([[0], np.cumsum(self.rates())])

    def rates(self) -> np.ndarray:
        """The learning rate of every step [steps]."""
        if not callable(self.lr):
            return np.full(self.steps, float(self.lr))
        return np.asarray(jax.vmap(self.lr)(jnp.arange(self.steps)), np.float64)
