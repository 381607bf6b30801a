"""What a law without closed forms falls back on: its flow integrated, its steps searched for."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.ode import odeint
from jaxtyping import Array


@jax.jit
def integrate(law: Any, times: Array, lam0: Array) -> Array:
    """λ(t) [T, d] along the matrix flow from the aligned start."""
    start = law.aligned_start(lam0)
    dtype = jnp.result_type(start, times)
    # in units of the smallest row: rounding far below it must not set the step
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
    """When each λ rises through its goal: a grid of 48 times that is first stretched until it holds
    all crossings, and then put between the two times around each, round after round.
    """
    safe = jnp.where(crosses, lam0 / jnp.where(crosses, goal, 1), 0.5)
    plateau = (1 - jnp.log(safe)) / jnp.where(crosses, rate, 1)
    d, points = lam0.shape[0], 48
    held, column = jax.lax.stop_gradient(law), jnp.arange(d)

    def above(grid: Array) -> Array:
        values = held.eigenvalues(grid.ravel(), lam0).reshape(points, d, d)
        return jnp.diagonal(values, axis1=1, axis2=2) >= goal

    def stretched(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        grid, reached, tries = carry
        grid = jnp.where(reached.any(axis=0), grid, grid * 8)
        return grid, above(grid), tries + 1

    def missing(carry: tuple[Array, Array, Array]) -> Array:
        # integrating far beyond the steps is dear: only where one is missing, up to 2,048 plateaus
        return (crosses & ~carry[1].any(axis=0)).any() & (carry[2] < 3)

    def refined(_: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        grid, reached, _ = carry
        at = jnp.maximum(jnp.argmax(reached, axis=0), 1)
        low, high = grid[at - 1, column], grid[at, column]
        grid = low + (high - low) * jnp.linspace(0, 1, points, dtype=grid.dtype)[:, None]
        return grid, above(grid), high

    first = jnp.concatenate([jnp.zeros(1), jnp.geomspace(1 / 16, 4, points - 1)])
    grid = jax.lax.stop_gradient(plateau * first.astype(plateau.dtype)[:, None])
    begin = (grid, above(grid), jnp.zeros((), int))
    grid, reached, _ = jax.lax.while_loop(missing, stretched, begin)
    crosses = crosses & reached.any(axis=0)
    rounds = 6 if plateau.dtype == jnp.float64 else 3
    tau = jax.lax.fori_loop(0, rounds, refined, (grid, reached, grid[-1]))[2]
    tau = jax.lax.stop_gradient(tau)

    def along(t: Array) -> Array:
        return jnp.diagonal(law.eigenvalues(t, lam0))

    # one step of Newton's method: what is left of the error, and how τ moves with law and start
    step = 1e-4 * tau
    slope = (along(tau + step) - along(tau - step)) / jnp.where(step > 0, 2 * step, 1)
    slope = jax.lax.stop_gradient(jnp.where(crosses & (slope > 0), slope, 1))
    return jnp.where(crosses, tau - (along(tau) - goal) / slope, jnp.inf)
