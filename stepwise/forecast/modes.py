"""The modes of features: those that the head has learned, and what is left for the next ones."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from stepwise import _check, eigen
from stepwise.forecast.recursion import LEVEL, Moments
from stepwise.types import Numbers

ROWS = 3
"""Number of rows that are not learned yet and are followed, the largest ones."""
DIRECTIONS = 16
"""Number of directions of the features that are followed besides those rows, the fastest ones."""
LEAST = 0.3
"""Smallest eigenvalue of a learned mode. On other images it may be learned while here it is not."""


@dataclass(frozen=True)
class Modes:
    """What a head has learned of the features, and the moments of the rest.

    Attributes:
        eigenvalues: of C of the embedding of the pairs [d], descending.
        learned: number k of modes at the level or above on the probe.
        learned_rows: the head's rows along the learned modes [k, f].
        rows: the head's next rows on the basis [ROWS or fewer, p].
        basis: orthonormal directions of the features [f, p]: the fastest ones outside the learned
            modes, and the span of `rows`.
        pair: the centred features of both views [n, f].
        probe: those of the images on which C is measured [n', f]; by default the same.
        rotation: the eigenvectors of C [d, d] as columns.
        on_probe: eigenvalues of C of the embedding of the probe [d], descending.
        mean: of the features of both views [f].
    """

    eigenvalues: Float[np.ndarray, " d"]
    learned: int
    learned_rows: Float[np.ndarray, "k f"]
    rows: Float[np.ndarray, "j p"]
    basis: Float[np.ndarray, "f p"]
    pair: tuple[np.ndarray, np.ndarray]
    probe: tuple[np.ndarray, np.ndarray]
    rotation: Float[np.ndarray, "d d"]
    on_probe: Float[np.ndarray, " d"]
    mean: Float[np.ndarray, " f"]

    @cached_property
    def on_basis(self) -> tuple[np.ndarray, np.ndarray]:
        """The features of both views on the basis [n, p]."""
        return self.pair[0] @ self.basis, self.pair[1] @ self.basis

    @cached_property
    def learned_embeddings(self) -> tuple[np.ndarray, np.ndarray]:
        """The embeddings of both views along the learned modes [n, k]."""
        return self.pair[0] @ self.learned_rows.T, self.pair[1] @ self.learned_rows.T

    def moments(self, weights: Numbers) -> Moments:
        """Return the moments under weights of the pairs.

        Args:
            weights: one or several rows of weights with sum 1 [..., n].
        """
        w = np.asarray(weights, np.float64)[..., None]
        (a, b), (y, y2) = self.on_basis, self.learned_embeddings
        cross = _transpose(a) @ (w * b)
        cross = (cross + _transpose(cross)) / 2
        single = (_transpose(a) @ (w * a) + _transpose(b) @ (w * b)) / 2
        mixed = (_transpose(a) @ (w * y2) + _transpose(b) @ (w * y)) / 2
        values = np.maximum(self.eigenvalues[: self.learned], LEAST)
        deflated = cross - (mixed / values) @ _transpose(mixed)
        traces = np.sum(w * y * y2, axis=(-2, -1)), np.sum(w * (y**2 + y2**2), axis=(-2, -1)) / 2
        return Moments(deflated, cross, single, *traces)


def split(
    features1: Numbers,
    features2: Numbers,
    head: Numbers,
    probe: tuple[Numbers, Numbers] | None = None,
    level: Numbers = LEVEL,
) -> Modes:
    """Split the modes of a head into those that it has learned and the rest.

    Args:
        features1, features2: features of both views before the last linear layer [n, f].
        head: the weights of that layer [d, f], z = φ headᵀ.
        probe: features of both views of other images, which then decide how many modes are learned.
        level: eigenvalue of C from which a mode counts as learned, one for all or one each [d].

    Raises:
        ValueError: if the features differ in shape, the head does not have f columns, or a number
            is not finite.
    """
    a, b, mean = _pair("features1", features1, "features2", features2)
    H: Any = np.asarray(_check.real_array("head", head, ndim=2), np.float64)
    fits = H.shape[1] == a.shape[1]
    _check.require(fits, "head", f"{a.shape[1]} columns, one for each feature", H)
    cross = _cross_moment(a, b)
    values, rotation = eigen.eigh_descending(H @ cross @ H.T)
    a2, b2 = (a, b) if probe is None else _pair("probe[0]", probe[0], "probe[1]", probe[1])[:2]
    fits = a2.shape[1] == a.shape[1]
    _check.require(fits, "probe", f"{a.shape[1]} features, as the others", a2)
    known = values if probe is None else eigen.eigh_descending(H @ _cross_moment(a2, b2) @ H.T)[0]
    rows, learned = rotation.T @ H, int(np.cumprod(known >= np.asarray(level)).sum())
    top, following = rows[:learned], rows[learned : learned + ROWS]
    mixed = cross @ top.T
    deflated = cross - (mixed / np.maximum(values[:learned], LEAST)) @ mixed.T
    directions = eigen.eigh_descending(deflated)[1][:, :DIRECTIONS]
    basis = np.linalg.qr(np.concatenate([directions, following.T], axis=1))[0]
    return Modes(
        values,
        learned,
        top,
        following @ basis,
        basis,
        (a, b),
        (a2, b2),
        rotation,
        known,
        mean,
    )


def _pair(name: str, first: Numbers, name2: str, second: Numbers) -> tuple[np.ndarray, ...]:
    """Return both views' features, centred at their pooled mean, and this mean."""
    a, b = (
        np.asarray(_check.real_array(each, values, ndim=2), np.float64)
        for each, values in ((name, first), (name2, second))
    )
    _check.require(a.shape == b.shape, name2, f"shape {list(a.shape)} as {name}", b)
    _check.require(len(a) > 1, name, "at least two pairs", a)
    mean = (a.mean(axis=0) + b.mean(axis=0)) / 2
    return a - mean, b - mean, mean


def _cross_moment(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a.T @ b + b.T @ a) / (2 * len(a))


def _transpose(matrix: np.ndarray) -> np.ndarray:
    return np.swapaxes(matrix, -1, -2)
