"""Gaussian averages of the softmax of logits (−y, 0, …, 0, y), for the law of DINO."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stepwise.types import Numbers, Whole

POINTS, MANY = 128, 1024
"""Numbers of intervals of the quadrature over half of a Gaussian variable."""


class Curvatures(NamedTuple):
    """Eigenvalues of J̄ = E[diag p − ppᵀ], p the softmax of logits (−y, 0, …, 0, y).

    Attributes:
        contrast: along (−1, 0, …, 0, 1)/√2.
        pair: along the sum of the two prototypes against the others; 0 if there are none.
        others: along differences of the other prototypes; 0 if there are less than two.
    """

    contrast: Any
    pair: Any
    others: Any


def curvatures(size: Numbers, prototypes: Whole) -> Curvatures:
    """Return the eigenvalues of J̄ for logits s g (−1, 0, …, 0, 1)/√2, g a standard Gaussian.

    The expectation is a trapezoidal sum, whose error is of the order of rounding for every s, as
    its interval shrinks with the width of the softmax.

    Args:
        size: s of any shape.
        prototypes: K, at least 2.
    """
    s = jnp.abs(jnp.asarray(size))[..., None] / jnp.sqrt(2.0).astype(jnp.asarray(size).dtype)
    m = prototypes - 2
    # beyond this the Gaussian times the decay e^{-|y|} of the curvature is below rounding
    top = jnp.sqrt(s**2 + 2 * (37 + np.log(prototypes))) - s
    y, weights = _nodes(s, top, POINTS)
    decay = jnp.exp(-y)
    whole = 1 + decay**2 + m * decay  # the sum of e^{s_k} over e^{y}
    contrast = decay * (2 * decay + m * (1 + decay**2) / 2) / whole**2
    both, rest = (1 + decay**2) / whole, m * decay / whole
    pair = both * rest * ((m + 2) / (2 * m) if m else 0)
    single = decay / whole if m > 1 else 0 * decay
    return Curvatures(*(jnp.sum(weights * part, axis=-1) for part in (contrast, pair, single)))


def log_partition(size: Array, prototypes: Whole) -> Array:
    """Return E ln(2 cosh y + K − 2), y = s g/√2 with a standard Gaussian g."""
    s = jnp.abs(size)[..., None] / np.sqrt(2)
    y, weights = _nodes(s, jnp.full_like(s, 9), MANY)
    decay = jnp.exp(-y)
    return jnp.sum(weights * (y + jnp.log1p(decay**2 + (prototypes - 2) * decay)), axis=-1)


def _nodes(s: Array, top: Array, points: int) -> tuple[Array, Array]:
    """Return y = s g at g in [0, top], and weights of an expectation of an even function of g."""
    grid = jnp.linspace(0, 1, points + 1, dtype=s.dtype)
    ends = np.full(points + 1, 1 / points)
    ends[0] = ends[-1] = 0.5 / points
    g = top * grid.reshape((1,) * (s.ndim - 1) + (-1,))
    density = jnp.exp(-(g**2) / 2) * np.sqrt(2 / np.pi)
    return s * g, top * density * jnp.asarray(ends, s.dtype).reshape((1,) * (s.ndim - 1) + (-1,))
