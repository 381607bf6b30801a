"""The loss of LeJEPA, which makes embeddings isotropic and Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stepwise import _check, _random
from stepwise.losses._pairs import Scalar, check_all
from stepwise.types import Numbers, Real, Whole

KNOTS = np.linspace(0, 3, 17)
"""Frequencies t_k at which SIGReg compares characteristic functions."""

GAUSSIAN = np.exp(-(KNOTS**2) / 2)
"""Characteristic function φ_k of a standard normal variable at the knots."""

WEIGHTS = (KNOTS[1] - KNOTS[0]) * np.array([1, *[2] * 15, 1]) * GAUSSIAN
"""Weights w_k of the knots: the trapezoidal rule on [−3, 3], times φ_k."""


def lejepa(
    *views: Numbers, weight: Real = 0.02, slices: Numbers = 256, key: Array | None = None
) -> Scalar:
    """Compute weight · SIGReg + (1 − weight) · mean (z̄ − z_v)², with z̄ the mean over views v.

    SIGReg is the mean over views and directions a of
    n Σ_k w_k [(mean_i cos t_k a·z_i − φ_k)² + (mean_i sin t_k a·z_i)²], with 17 knots t_k on
    [0, 3], φ_k = exp(−t_k²/2) and trapezoidal weights w_k (`WEIGHTS`). It is 0 for embeddings whose
    characteristic function is that of a standard normal vector.

    Balestriero & LeCun (2025), as in their minimal code (MINIMAL.md of rbalestr-lab/lejepa), where
    the batch size n is a factor of SIGReg. The loss is 0.4020 · weight · n if all embeddings are 0,
    and more if they all are another vector. In a linear model z = W x of two centred views in d
    dimensions, small weights follow W' = (2/d) W [weight · n · 1.546 Σ − (1 − weight)(Σ − Γ)/2],
    averaged over the directions.

    Args:
        views: embeddings of two or more views, each [n, d].
        weight: weight λ of SIGReg, in [0, 1].
        slices: number of random directions, uniform on the sphere; or the directions themselves
            [k, d], which are divided by their norms.
        key: random key from which the directions are drawn; required if `slices` is a number.

    Raises:
        ValueError: if the embeddings are not two or more matrices of the same shape; `weight` is
            not in [0, 1]; `slices` is neither a positive whole number nor a matrix [k, d] of
            non-zero rows; or a number is given without a key.
    """
    _check.require(len(views) >= 2, "views", "embeddings of two or more views", f"{len(views)}")
    z = jnp.stack(check_all([f"z{i + 1}" for i in range(len(views))], views))
    if not _check.is_traced(weight):
        _check.require(0 <= weight <= 1, "weight", "a number in [0, 1]", weight)
    directions = _directions(slices, key, z.shape[2]).astype(z.dtype)
    alike = jnp.mean((jnp.mean(z, axis=0, keepdims=True) - z) ** 2)
    return weight * _distance_from_gaussian(z, directions) + (1 - weight) * alike


def lejepa_with_drawn_slices(
    *views: Numbers, state: dict[str, Array]
) -> tuple[Scalar, dict[str, Array]]:
    """Compute `lejepa` with new random directions at every step, and the next state.

    The directions depend only on the number of steps so far, so every run has the same ones.

    Args:
        views: embeddings of two or more views, each [n, d].
        state: {"step": the number of steps so far}, at first `lejepa_step`.

    Returns:
        The loss and the next state.

    Raises:
        ValueError: as in `lejepa`.
    """
    key = jax.random.fold_in(_random.key(0), state["step"])
    return lejepa(*views, key=key), {"step": state["step"] + 1}


def lejepa_step(d: Whole) -> dict[str, Array]:
    """Return the first state of `lejepa_with_drawn_slices`: no step so far, for any d."""
    return {"step": jnp.zeros((), jnp.int32)}


def _directions(slices: Numbers, key: Array | None, d: int) -> Array:
    """Return the directions [k, d] of norm 1, given or drawn."""
    if np.ndim(slices) == 0:
        _check.whole("slices", slices)
        if key is None:
            raise ValueError(
                "key: expected a random key, because slices is a number, received None"
            )
        # float32 also if jax_enable_x64 is on, so that a key has the same directions in both cases
        a = jax.random.normal(_random.threefry(key), (int(slices), d), jnp.float32)
    else:
        a = jnp.asarray(_check.real_array("slices", slices))
        fits = a.ndim == 2 and a.shape[1] == d and a.shape[0] > 0
        _check.require(fits, "slices", f"a number, or directions [k, {d}]", a)
    norms = jnp.linalg.norm(a, axis=1, keepdims=True)
    if not _check.is_traced(norms):
        _check.require(bool(jnp.all(norms > 0)), "slices", "rows that are not zero", a)
    return a / norms


def _distance_from_gaussian(z: Array, directions: Array) -> Scalar:
    """Return SIGReg of the views z [v, n, d], the mean over views and directions [k, d]."""
    t, phi, weights = (jnp.asarray(values, z.dtype) for values in (KNOTS, GAUSSIAN, WEIGHTS))
    phases = (z @ directions.T)[..., None] * t[None, None, None]
    cosine, sine = jnp.mean(jnp.cos(phases), axis=1), jnp.mean(jnp.sin(phases), axis=1)
    gaps = (cosine - phi[None, None]) ** 2 + sine**2
    return z.shape[1] * jnp.mean(gaps @ weights)
