"""Numerical curves and step times of a law that has no closed forms."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.ode import odeint
from jaxtyping import Array


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
    return jnp.where(times[:, None] <= 0, lam0.astype(dtype), curves)


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
        return jnp.diagonal(values, axis1=1, axis2=2) >= goal

    def stretch(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        grid, reached, tries = carry
        grid = jnp.where(reached.any(axis=0), grid, grid * 8)
        return grid, reaches_goal(grid), tries + 1

    def lacks_crossing(carry: tuple[Array, Array, Array]) -> Array:
        # Integrating far beyond the steps is expensive. Stretch only if a crossing is missing, up
        # to 2,048 plateau times.
        return (crosses & ~carry[1].any(axis=0)).any() & (carry[2] < 3)

    def refine(_: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        grid, reached, _ = carry
        row = jnp.maximum(jnp.argmax(reached, axis=0), 1)
        low, high = grid[row - 1, column], grid[row, column]
        grid = low + (high - low) * jnp.linspace(0, 1, points, dtype=grid.dtype)[:, None]
        return grid, reaches_goal(grid), high

    first = jnp.concatenate([jnp.zeros(1), jnp.geomspace(1 / 16, 4, points - 1)])
    grid = jax.lax.stop_gradient(plateau * first.astype(plateau.dtype)[:, None])
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
