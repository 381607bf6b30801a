"""Averages of Gaussian functions over the directions of a sphere, by a contour integral.

For a direction a, uniform on the unit sphere of R^d, and numbers x_1, ..., x_d ≥ 0,

    E exp(−Σ_k x_k a_k²) = Γ(d/2)/(2πi) ∫ e^s Π_k (s + x_k)^{−1/2} ds,

the inverse Laplace transform at 1 of the product (the normalising constant of the Bingham
distribution). The contour is a parabola through the saddle point, on which the trapezoidal rule
converges geometrically: the error is about 1e-13 in float64 for d from 1 to 1,000.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

STEP, NODES = 0.2, 52
"""Distance of the nodes in units of the saddle's width, and their number on one side."""


@jax.vmap
def averages(x: Float[Array, " d"]) -> tuple[Float[Array, ""], Float[Array, " d"]]:
    """Return E e^{−Σ_k x_k a_k²} [n] and E a_j² e^{−Σ_k x_k a_k²} [n, d] over directions a.

    Args:
        x: n sets of numbers [n, d], none far below 0.
    """
    d = x.shape[0]
    fixed = jax.lax.stop_gradient(x)

    def improve(_: Any, s: Array) -> Array:
        inverse = 1 / (s + fixed)
        total = jnp.sum(inverse)
        return s + (total - 2) / 2 * total / jnp.sum(inverse**2)

    # The saddle solves Σ 1/(s + x_k) = 2. Newton's method for 1/Σ rises to it from the left.
    saddle = jax.lax.fori_loop(0, 8, improve, 0.5 - jnp.min(fixed))
    inverse = 1 / (saddle + fixed)
    width = 1 / jnp.sqrt(jnp.sum(inverse**2) / 2)
    bend = jnp.sum(inverse**3) * width**2 / 6
    y = width * STEP * jnp.arange(NODES, dtype=x.dtype)
    s = saddle - bend * y**2 + 1j * y
    poles = s[:, None] + x[None]
    exponent = s - jnp.sum(jnp.log(poles), axis=1) / 2 + math.lgamma(d / 2)
    # The nodes with y < 0 are the complex conjugates.
    twice = jnp.where(jnp.arange(NODES) == 0, 1, 2)
    weights = twice * (1 + 2j * bend * y) * jnp.exp(exponent) * width * STEP / (2 * jnp.pi)
    return jnp.sum(weights).real, jnp.sum(weights[:, None] / poles, axis=0).real / 2
