"""Moments of the data that must be diagonal in the modes of a law."""

import jax.numpy as jnp
from jaxtyping import Array

from stepwise import _check
from stepwise.laws.pencil import as_moment
from stepwise.types import Numbers


def common_values(name: str, value: Numbers, gamma: Array) -> Array:
    """Return the diagonal [r] of a moment that shares its eigenbasis with Γ.

    Args:
        name: name of the moment, for errors.
        value: the diagonal itself [r], or a matrix [r, r] that is diagonal up to rounding. The
            entries of a traced matrix are not checked.
        gamma: one number for each mode [r].

    Raises:
        ValueError: if the shape is neither [r] nor [r, r], the matrix is not diagonal, or a
            diagonal entry is not positive.
    """
    moment = as_moment(name, value, gamma)
    if moment.ndim == 2:
        _check.require(
            _check.is_traced(moment),
            name,
            "a moment that is diagonal in the modes (Σ and Γ with a common eigenbasis); to neglect "
            "its other entries, pass the diagonal",
            f"a matrix {list(moment.shape)} with other entries",
        )
        moment = jnp.diagonal(moment)
    if not _check.is_traced(moment):
        least = float(jnp.min(moment, initial=jnp.inf))
        _check.require(least > 0, name, "positive second moments", f"a smallest value of {least}")
    return moment
