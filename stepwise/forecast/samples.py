"""The samples of a monitored run: embeddings of any framework, and their eigenvalues so far."""

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from stepwise import _check, spectra
from stepwise.types import Numbers

LARGEST = 1e60
"""Entries beyond this count as infinite, because their moments overflow."""
CONSTANT = 1e-6
"""Standard deviation, relative to the largest entry, up to which a dimension is dead."""


@dataclass
class Samples:
    """The samples so far.

    Attributes:
        level: eigenvalue of C from which a mode counts as learned.
        steps: training steps.
        eigenvalues: of C [d] at these steps, NaN where the embedding was not finite.
        losses: NaN where none was given.
        crossings: step at which each mode first crossed the level [d], infinite if it has not;
            None before the first sample.
    """

    level: float
    steps: list[int] = field(default_factory=list)
    eigenvalues: list[np.ndarray] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    crossings: np.ndarray | None = None

    def add(self, step: int, values: np.ndarray, loss: float) -> None:
        """Add a sample."""
        self.crossings = self.crossed(step, values)
        self.steps.append(step)
        self.eigenvalues.append(values)
        self.losses.append(loss)

    def crossed(self, step: int, values: np.ndarray) -> np.ndarray:
        """Return when each mode first crossed the level, if these values were added [d]."""
        before = np.full(len(values), np.inf) if self.crossings is None else self.crossings
        whole = (i for i in reversed(range(len(self.steps))) if finite(self.eigenvalues[i]))
        last = next(whole, None)
        if last is None or not finite(values):
            return before.copy()
        pair = np.stack([self.eigenvalues[last], values])
        return np.minimum(before, spectra.step_times([self.steps[last], step], pair, self.level))

    def curves(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the steps [T], eigenvalues [T, d] and losses [T] of samples that are finite."""
        kept = [i for i, values in enumerate(self.eigenvalues) if finite(values)]
        d = len(self.eigenvalues[0]) if self.eigenvalues else 0
        values = np.array([self.eigenvalues[i] for i in kept]).reshape(len(kept), d)
        steps, losses = np.array(self.steps, np.float64), np.array(self.losses, np.float64)
        return steps[kept], values, losses[kept]

    def continued(self, step: int, values: np.ndarray, mode: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the steps [T] and one eigenvalue [T] of finite samples, if these were added."""
        steps, curves, _ = self.curves()
        past = curves[:, mode] if len(steps) else np.zeros(0)
        return np.append(steps, step), np.append(past, values[mode])


def matrix(name: str, value: Numbers) -> Float[np.ndarray, "n m"]:
    """Return an array of real numbers, which need not be finite, in float64.

    Raises:
        ValueError: if it is no matrix of real numbers.
    """
    array: Any = _check.as_array(name, value)
    half = array.dtype.name == "bfloat16"
    _check.require(half or array.dtype.kind in "fiu", name, "real numbers", array)
    _check.require(array.ndim == 2, name, "an array of rank 2", array)
    return array.astype(np.float64)


def number(name: str, value: Any) -> float:
    """Return one real number, which need not be finite.

    Raises:
        ValueError: if it is something else.
    """
    array: Any = _check.as_array(name, value)
    fits = array.size == 1 and array.dtype.kind in "fiu"
    _check.require(fits, name, "one real number", array)
    return float(array.reshape(()))


def finite(array: np.ndarray) -> bool:
    """Return whether all entries are finite, and small enough for their moments to be."""
    return bool(np.isfinite(array).all() and np.abs(array).max(initial=0) < LARGEST)


def eigenvalues(a: np.ndarray, b: np.ndarray, *, center: bool = True) -> Float[np.ndarray, " d"]:
    """Return the eigenvalues of C in float64 [d] (`spectra.eigenvalues`)."""
    with jax.enable_x64(True):
        return np.asarray(spectra.eigenvalues(a, b, center=center))


def count_dead(a: np.ndarray, b: np.ndarray) -> int:
    """Return the number of dimensions that are the same for all images in both views."""
    both = np.concatenate([a, b])
    return int(np.sum(both.std(axis=0) <= CONSTANT * np.abs(both).max(axis=0)))
