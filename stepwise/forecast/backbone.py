"""How much a backbone strengthens a mode while the head learns it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stepwise import _check
from stepwise.types import Numbers


def sensitivity(
    features: Callable[[Any], tuple[Any, Any]],
    params: Any,
    weights: Numbers,
    learned: Numbers | None = None,
) -> float:
    r"""Compute ¼ ‖∇ ln γ‖², with γ = wᵀ D w and the gradient over the backbone's parameters.

    While the head's row a = |a| w is small, its loss is −2 |a|² γ. Gradient flow moves the backbone
    by 2 |a|² ∇γ and the row by 4 γ a, so γ grows by the factor 1 + κ (|a|² − |a(0)|²) to first
    order: d ln γ/d|a|² = ‖∇γ‖²/(4 γ²) = κ.

    Args:
        features: params -> (φ, φ'), the features of both views [n, f] as in training, as a JAX
            function of the parameters of the backbone.
        params: a pytree of them.
        weights: the direction w in the features [f] (`Forecast.weights`).
        learned: the head's rows that are learned [k, f], which D leaves out; by default none.

    Returns:
        κ, one number; 0 if the mode does not exist on these features.

    Raises:
        ValueError: if weights do not fit the features.
    """
    w = jnp.asarray(_check.real_array("weights", weights, ndim=1))
    w = w / jnp.linalg.norm(w)
    rows = np.zeros((0, w.size)) if learned is None else np.asarray(learned)
    size = jax.eval_shape(features, params)[0].shape[-1]
    _check.require(w.size == size, "weights", f"{size} numbers, one for each feature", w)
    outside = jnp.asarray(rows, w.dtype)
    value, slopes = jax.value_and_grad(lambda params: mode_moment(*features(params), w, outside))(
        params
    )
    return from_gradient(value, slopes)


def from_gradient(gamma: Any, slopes: Any) -> float:
    """Return ‖∇γ‖²/(4 γ²), or 0 if γ is not positive."""
    if not float(gamma) > 0:
        return 0.0
    square = sum(float(jnp.sum(jnp.square(leaf))) for leaf in jax.tree.leaves(slopes))
    return square / (4 * float(gamma) ** 2)


def mode_moment(first: Array, second: Array, w: Array, rows: Array) -> Array:
    """Return wᵀ D w of features [n, f], with D outside the learned rows [k, f].

    Rows of zeros count as none.
    """
    mean = (first.mean(axis=0) + second.mean(axis=0)) / 2
    first, second = first - mean[None], second - mean[None]
    n = first.shape[0]
    u, v, y, y2 = first @ w, second @ w, first @ rows.T, second @ rows.T
    gamma = jnp.mean(u * v)
    if rows.shape[0] == 0:
        return gamma
    mixed = (y.T @ v + y2.T @ u) / (2 * n)
    C = (y.T @ y2 + y2.T @ y) / (2 * n)
    empty = jnp.all(rows == 0, axis=1)
    C = C + jnp.diag(empty.astype(C.dtype))
    return gamma - mixed @ jnp.linalg.solve(C, mixed)
