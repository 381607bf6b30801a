"""Curves and step times that several laws share: the logistic curve, and numerical ones."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.ode import odeint
from jaxtyping import Array, Float


@jax.jit
def integrate(law: Any, times: Array, lam0: Array) -> Array:
    """Integrate the matrix flow from the aligned start; return λ(t) [T, d]."""
    start = law.aligned_start(lam0)
    dtype = jnp.result_type(start, times)
    # In units of the smallest row, rounding errors far below it cannot limit the step size.
    least = jnp.min(jnp.where(start == 0, jnp.inf, jnp.abs(start)), initial=1)
    least = jax.lax.stop_gradient(least).astype(dtype)

    def slope(A: Array, t: Array, law: Any, unit: Array) -> Array:
        return law.rhs(A * unit) / unit

    first = jnp.argsort(times)
    late = jnp.maximum(times[first].astype(dtype), jnp.finfo(dtype).eps * jnp.max(times))
    grid = jnp.concatenate([jnp.zeros(1, dtype), late])
    rtol = 1e-9 if dtype == jnp.float64 else 1e-5
    inside = start.astype(dtype) / least
    states = least * odeint(slope, inside, grid, law, least, rtol=rtol, atol=1e-3 * rtol)
    curves = jax.vmap(lambda A: jnp.diagonal(law.measure(A)))(states[1:])
    curves = jnp.zeros_like(curves).at[first].set(curves)
    return jnp.where(times[:, None] <= 0, lam0.astype(dtype)[None], curves)


@jax.jit
def crossing(law: Any, lam0: Array, goal: Array, rate: Array, crosses: Array) -> Array:
    """Return when each λ rises through its goal, by refining a grid of 48 times for each mode.

    The grid is first stretched until it contains all crossings. Each round then replaces it by a
    grid between the two times around the crossing.
    """
    safe = jnp.where(crosses, lam0 / jnp.where(crosses, goal, 1), 0.5)
    plateau = (1 - jnp.log(safe)) / jnp.where(crosses, rate, 1)
    d, points = lam0.shape[0], 48
    fixed_law, column = jax.lax.stop_gradient(law), jnp.arange(d)

    def reaches_goal(grid: Array) -> Array:
        values = fixed_law.eigenvalues(grid.ravel(), lam0).reshape(points, d, d)
        return jnp.diagonal(values, axis1=1, axis2=2) >= goal[None]

    def stretch(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        grid, reached, tries = carry
        grid = jnp.where(reached.any(axis=0)[None], grid, grid * 8)
        return grid, reaches_goal(grid), tries + 1

    def lacks_crossing(carry: tuple[Array, Array, Array]) -> Array:
        # Integrating far beyond the steps is expensive. Stretch only if a crossing is missing, up
        # to 2,048 plateau times.
        return (crosses & ~carry[1].any(axis=0)).any() & (carry[2] < 3)

    def refine(_: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        grid, reached, _ = carry
        row = jnp.maximum(jnp.argmax(reached, axis=0), 1)
        low, high = grid[row - 1, column], grid[row, column]
        grid = (
            low[None] + (high - low)[None] * jnp.linspace(0, 1, points, dtype=grid.dtype)[:, None]
        )
        return grid, reaches_goal(grid), high

    first = jnp.concatenate([jnp.zeros(1), jnp.geomspace(1 / 16, 4, points - 1)])
    grid = jax.lax.stop_gradient(plateau[None] * first.astype(plateau.dtype)[:, None])
    begin = (grid, reaches_goal(grid), jnp.zeros((), int))
    grid, reached, _ = jax.lax.while_loop(lacks_crossing, stretch, begin)
    crosses = crosses & reached.any(axis=0)
    rounds = 6 if plateau.dtype == jnp.float64 else 3
    tau = jax.lax.fori_loop(0, rounds, refine, (grid, reached, grid[-1]))[2]
    tau = jax.lax.stop_gradient(tau)

    def evaluate(t: Array) -> Array:
        return jnp.diagonal(law.eigenvalues(t, lam0))

    # One step of Newton's method removes the remaining error and carries the derivative of τ with
    # respect to the law and the start.
    step = 1e-4 * tau
    slope = (evaluate(tau + step) - evaluate(tau - step)) / jnp.where(step > 0, 2 * step, 1)
    slope = jax.lax.stop_gradient(jnp.where(crosses & (slope > 0), slope, 1))
    return jnp.where(crosses, tau - (evaluate(tau) - goal) / slope, jnp.inf)


def logistic(x: Array, rate: Any, lam0: Array) -> Array:
    """Return 1 / (1 + (1/λ0 − 1) e^{−rate x}).

    Three forms are combined so that neither the value nor a derivative overflows.
    """
    dtype = jnp.result_type(x, lam0)
    x, lam0 = x.astype(dtype), jnp.broadcast_to(lam0.astype(dtype), x.shape)
    largest = jnp.finfo(dtype).max
    x = rate * jnp.clip(x, -largest / (4 * rate), largest / (4 * rate))
    inside, fixed, falls = (lam0 > 0) & (lam0 < 1), (lam0 == 0) | (lam0 == 1), x <= 0

    below = jnp.where(inside, lam0, 0.5)
    within = jax.nn.sigmoid(x - (jnp.log1p(-below) - jnp.log(below)))

    # λ0 < 0 and λ0 > 1 have no logarithm of the odds, so this form uses e^{−|x|}. It has a pole
    # where the denominator is 0.
    beyond = jnp.where(inside | fixed, jnp.where(falls, -1, 2), lam0)
    decay = jnp.where(falls, x, -x)
    denominator = 1 + jnp.where(falls, beyond, 1 - beyond) * jnp.expm1(decay)
    denominator = jnp.where(jnp.abs(denominator) < 1 / largest, 1 / largest, denominator)
    outside = jnp.where(falls, beyond * jnp.exp(decay), beyond) / denominator

    # At λ0 = 0 and 1 the value is λ0. Its derivative is e^x at 0 and e^{−x} at 1.
    slope = jnp.exp(jnp.minimum(jnp.where(lam0 == 0, x, -x), 0.99 * jnp.log(largest)))
    here = jax.lax.stop_gradient(lam0)
    resting = here + jax.lax.stop_gradient(jnp.where(fixed, slope, 0)) * (lam0 - here)
    return jnp.where(
        inside, within, jnp.where(fixed, resting, jnp.clip(outside, -largest, largest))
    )


def geometric_mean(P: Array, Q: Array) -> Float[Array, "d d"]:
    """Return the positive definite B with B Q B = P, for positive definite P and Q [d, d].

    B = Q^{-½} (Q^½ P Q^½)^½ Q^{-½}, the geometric mean of P and Q^{-1}.
    """
    values, vectors = jnp.linalg.eigh(Q)
    floor = jnp.finfo(Q.dtype).tiny
    roots = jnp.sqrt(jnp.maximum(values, floor))
    root, inverse = ((vectors * scale[None]) @ vectors.T for scale in (roots, 1 / roots))
    inner, turned = jnp.linalg.eigh(root @ P @ root)
    middle = (turned * jnp.sqrt(jnp.maximum(inner, 0))[None]) @ turned.T
    return inverse @ middle @ inverse
