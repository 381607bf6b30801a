"""Steps of update rules as functions of matrices, and optax transformations that need moments."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from stepwise import _check
from stepwise.types import Numbers


def polar(G: Numbers) -> Float[Array, "d m"]:
    """Return the polar factor U Vᵀ of a matrix G = U S Vᵀ, without its null directions.

    Raises:
        ValueError: if G is not a matrix.
    """
    G = jnp.asarray(G)
    _check.require(G.ndim == 2, "update", "a gradient that is a matrix", G)
    U, s, Vt = jnp.linalg.svd(G, full_matrices=False)
    kept = s > max(G.shape) * jnp.finfo(G.dtype).eps * s[0]
    return (U * kept[None]) @ Vt


def with_moments(
    name: str, step: Any, bound: Any, *, needs_gamma: bool = True
) -> optax.GradientTransformationExtraArgs:
    """Return a transformation whose step is step(G, W, Γ, C), for parameters that are matrices.

    Γ is `bound`, or the extra argument `gamma`. C is the extra argument `C`, or W Γ Wᵀ. Without
    `needs_gamma`, Γ may be missing if C is given.
    """

    def update(
        gradients: Any,
        state: Any,
        parameters: Any = None,
        *,
        gamma: Any = None,
        C: Any = None,
        **_: Any,
    ) -> tuple[Any, Any]:
        given = bound if gamma is None else gamma
        complete = given is not None or (C is not None and not needs_gamma)
        _check.require(complete, "gamma", f"the moment Γ, which {name} needs", "None")
        _check.require(parameters is not None, "params", f"weights, which {name} needs", "None")

        def one(G: Any, W: Any) -> Array:
            G, W = jnp.asarray(G), jnp.asarray(W)
            _check.require(W.ndim == 2, "params", "matrices [d, m]", W)
            if given is None:
                return step(G, W, None, jnp.asarray(C))
            moment, m = jnp.asarray(given, W.dtype), W.shape[1]
            what = f"shape [{m}] or [{m}, {m}], as W has {m} columns"
            _check.require(moment.shape in ((m,), (m, m)), "gamma", what, moment)
            return step(G, W, moment, times(W, moment) @ W.T if C is None else jnp.asarray(C))

        return jax.tree.map(one, gradients, parameters), state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


def times(W: Array, moment: Array) -> Array:
    """Return W Γ of a moment Γ, which is a matrix or the diagonal of one."""
    return W * moment[None] if moment.ndim == 1 else W @ moment
