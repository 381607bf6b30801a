"""Checks and normalisations of embeddings that several losses share."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stepwise import _check
from stepwise.types import Numbers, Real

Scalar = Float[Array, ""]


def check_embeddings(name: str, z: Numbers, rows: int = 1) -> Array:
    """Return embeddings [n, d] in float32 or higher precision, with n at least `rows`."""
    z = jnp.asarray(z)
    _check.require(jnp.issubdtype(z.dtype, jnp.floating), name, "real floating embeddings", z)
    fits = z.ndim == 2 and z.shape[0] >= rows and z.shape[1] > 0
    _check.require(fits, name, f"embeddings [n, d] with n at least {rows}", z)
    return z.astype(jnp.promote_types(z.dtype, jnp.float32))


def check_all(names: Sequence[str], embeddings: Sequence[Numbers], rows: int = 1) -> list[Array]:
    """Return embeddings as `check_embeddings` does; all must have the shape of the first."""
    arrays = [check_embeddings(name, z, rows) for name, z in zip(names, embeddings, strict=True)]
    expected = f"shape {list(arrays[0].shape)} as {names[0]}"
    for name, array, received in zip(names, arrays, embeddings, strict=True):
        _check.require(array.shape == arrays[0].shape, name, expected, received)
    return arrays


def check_pair(z1: Numbers, z2: Numbers, rows: int = 1) -> tuple[Array, Array]:
    """Return two views of the same shape as `check_embeddings` does."""
    z1, z2 = check_all(("z1", "z2"), (z1, z2), rows)
    return z1, z2


def check_targets(
    online: tuple[Array, Array],
    targets: tuple[Numbers | None, Numbers | None],
    names: tuple[str, str, str],
) -> tuple[Array, Array]:
    """Return the targets of two views with their gradients stopped; by default `online`.

    The names are those of the two targets and of the first online embedding, whose shape they must
    have.
    """
    arrays = []
    expected = f"shape {list(online[0].shape)} as {names[2]}"
    for name, target, default in zip(names[:2], targets, online, strict=True):
        given = default if target is None else target
        _check.require(jnp.shape(given) == online[0].shape, name, expected, given)
        arrays.append(jax.lax.stop_gradient(check_embeddings(name, given)))
    return arrays[0], arrays[1]


def require_positive(name: str, value: Real) -> None:
    """Raise ValueError unless the value is positive. A traced value is not checked."""
    if not _check.is_traced(value):
        _check.require(value > 0, name, "a positive number", value)


def unit(z: Array, eps: Real) -> Array:
    """Return the rows z/max(‖z‖, √eps)."""
    return z * jax.lax.rsqrt(jnp.maximum(jnp.sum(z**2, axis=1, keepdims=True), eps))
