"""Rows of an embedding whose dimensions the loss normalises, as official Barlow Twins does.

The flow of one row w is w' = (4/r²)(1 − C)(Γ − C Σ) w with r² = wᵀΣw + eps and C = wᵀΓw/r².
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stepwise.laws import lag, scalar
from stepwise.types import Real, Whole


class Parts(NamedTuple):
    """Rows w_i of an embedding and their correlations.

    Attributes:
        unit: w_i/r_i [d, r].
        spread: Σ w_i/r_i [d, r].
        C: the correlation matrix [d, d], w_i Γ w_j/(r_i r_j).
        size: r_i = √(w_i Σ w_i + eps) [d].
    """

    unit: Array
    spread: Array
    C: Array
    size: Array


def parts(A: Array, gamma: Array, sigma: Array, eps: Real) -> Parts:
    """Return the parts of mode coordinates A [d, r]; sigma is a vector [r] or a matrix [r, r]."""
    spread = A * sigma[None] if sigma.ndim == 1 else A @ sigma
    size = jnp.sqrt(jnp.sum(spread * A, axis=1) + eps)
    unit = A / size[:, None]
    return Parts(unit, spread / size[:, None], (unit * gamma[None]) @ unit.T, size)


def speed(x: Float[Array, "..."], rho: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return x' = (1 − u)² (1 − ρu) of a row along one mode, in units of 8γ/eps.

    x = ln(σs²/eps) = ln(u/(1 − u)), where s is the row's only entry and u = C/ρ.
    """
    u = jax.nn.sigmoid(x)
    return jax.nn.sigmoid(-x) ** 2 * (1 - rho * u)


@jax.jit
def follow(
    x0: Float[Array, " d"], rate: Float[Array, " d"], rho: Float[Array, " d"], times: Array
) -> Float[Array, "T d"]:
    """Integrate x' = rate · speed(x) of d rows from x0; return x at the times [T]."""

    def one(x0: Array, rate: Array, rho: Array) -> Array:
        return scalar.integrate(lambda x: rate * speed(x, rho), x0, times)

    return jax.vmap(one, out_axes=1)(x0, rate, rho)


@jax.jit
def duration(first: Array, last: Array, rho: Array) -> Float[Array, " d"]:
    """Return ∫ dx/speed(x) from first [d] to last [d], by Gauss's rule on 64 parts."""
    nodes, weights = np.polynomial.legendre.leggauss(12)
    places = jnp.asarray(((np.arange(64)[:, None] + (nodes + 1)[None] / 2) / 64).ravel())
    x = first[None] + (last - first)[None] * places[:, None].astype(first.dtype)
    total = jnp.sum(jnp.tile(jnp.asarray(weights), 64)[:, None] / speed(x, rho[None]), axis=0)
    return total * (last - first) / 128


@jax.jit
def rotate(
    gamma: Float[Array, " r"],
    sigma: Float[Array, " r"],
    eps: Float[Array, ""],
    start: Float[Array, " r"],
    times: Array,
) -> Float[Array, "T r"]:
    """Return the entries s_k of a row along several modes at the times [T].

    s_k² = s_k(0)² e^{γ_k θ − σ_k φ}; θ' = 8 (1 − C)/r² and φ' = C θ' are integrated.
    """

    def grown(y: Array) -> Array:
        return start * jnp.exp((gamma * y[0] - sigma * y[1]) / 2)

    def slope(t: Any, y: Array, args: Any) -> Array:
        square = grown(y[0]) ** 2
        size = square @ sigma + eps
        C = square @ gamma / size
        return 8 * (1 - C) / size * jnp.stack([jnp.ones_like(C), C])[None]

    y = lag.solve(slope, jnp.zeros((1, 2), start.dtype), times, None)
    return jax.vmap(grown)(y[:, 0])


def forces(C: Float[Array, "d d"], weight: Real) -> tuple[Float[Array, "d d"], Float[Array, " d"]]:
    """Return K [d, d], K_ii = 1 − C_ii and K_ij = −weight · C_ij, and Σ_j K_ij C_ij [d]."""
    own = jnp.diagonal(C)
    K = jnp.diag(1 - own + weight * own) - weight * C
    return K, jnp.sum(K * C, axis=1)


def threshold(rho: Float[Array, " r"], shared: Array, d: Whole) -> Float[Array, " r"]:
    """Return the off-diagonal weight above which each mode leaves d rows on the shared mode [r].

    Mode k enters the rows with signs that sum to 0, or alike in all rows, whichever is easier.
    """
    first = rho[shared]
    alike = (d - 1) * first * (first - rho)
    push = jnp.maximum(alike, first * ((d - 1) * first + rho) if d > 1 else 0)
    needed = (1 - first) * (first - rho)
    weight = jnp.where(push > 0, needed / jnp.where(push > 0, push, 1), jnp.inf)
    return jnp.where(needed <= 0, 0, weight).at[shared].set(jnp.inf)
