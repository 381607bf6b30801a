"""Descent of all rows of a head on random batches of fixed features: how a mode that has taken off
crosses 1/2.

The noise of the batches moves the learned rows too. At the learning rates of practice it keeps a
weak mode below its rest for many steps, which the mean loss of a batch does not show.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stepwise.forecast.recursion import LARGEST_STRENGTH, LEVEL
from stepwise.moments import centre, cross_moment
from stepwise.types import Numbers

MEMBERS = 16
"""Number of runs on different batches."""
STEPS = 1000
"""Largest number of steps of each."""
SHARE = 0.9
"""Share of the members whose crossing ends the simulation."""
EARLY = 0.4
"""Eigenvalue of C that stands for 1/2 while a mode has not taken off. Its rest on fixed features is
near 1/2 if it is weak, and rises while the features improve. Chosen on two runs.
"""


class Pairs(NamedTuple):
    """Features of both views on a basis [n, p]."""

    first: Numbers
    second: Numbers


class Head(NamedTuple):
    """Rows of a head on the same basis [d, p], and their momentum."""

    rows: Numbers
    velocity: Numbers


def crossings(
    loss: Callable[[Array, Array], Array],
    pairs: Pairs,
    probe: Pairs,
    head: Head,
    sensitivity: Float[np.ndarray, " p"],
    *,
    rates: Numbers,
    momentum: float,
    batch: int,
    learned: int,
    every: int,
    level: float,
    seed: int,
) -> Float[np.ndarray, " members"]:
    """Return after how many steps the next eigenvalue of C first crosses `level`, for each
    member.

    Args:
        loss: of the embeddings of both views.
        pairs: features from which batches are drawn.
        probe: features on which C is measured.
        head: where the rows start.
        sensitivity: of the backbone along each direction of the basis.
        rates: learning rates of the coming steps, at least `STEPS` of them.
        momentum: of SGD.
        batch: number of pairs in a batch, drawn with replacement; n means the full batch.
        learned: number of modes that are learned at the start.
        every: number of steps between two measurements of C.
        level: of the crossing, at most 1/2.
        seed: of the batches.

    Returns:
        Numbers of steps [MEMBERS], infinite for a member that decays. A crossing is interpolated
        linearly between two measurements.
    """
    keys = jax.random.split(jax.random.key(seed, impl="threefry2x32"), MEMBERS)
    curves = _run(
        jax.tree.map(jnp.float32, (pairs, probe, head, sensitivity, rates[:STEPS], momentum)),
        keys,
        loss,
        batch,
        learned,
        every,
    )
    return first_crossing(np.asarray(curves, np.float64), every, level)


def first_crossing(
    curves: Float[np.ndarray, "m T"], every: int, level: float
) -> Float[np.ndarray, " m"]:
    """Return when each curve, measured every `every` steps from 0 on, first reaches `level` [m].

    A curve that never does so counts from where it reaches `SHARE` of its rest, the median of its
    second half, because a rest rises while the features improve.
    """
    steps = np.full(len(curves), np.inf)
    for i, whole in enumerate(curves):
        curve = whole[np.isfinite(whole)]
        rest = float(np.median(curve[len(curve) // 2 :]))
        goal = level if (curve >= level).any() else SHARE * rest
        above = np.flatnonzero(curve >= goal)
        if goal > 0 and above.size:
            j = int(above[0])
            before = curve[j - 1] if j else goal
            share = (goal - before) / (curve[j] - before) if curve[j] > before else 0.0
            steps[i] = every * (max(j - 1, 0) + share)
    return steps


@partial(jax.jit, static_argnames=("loss", "batch", "every"))
def _run(
    arrays: Any, keys: Array, loss: Any, batch: int, learned: Any, every: int
) -> Float[Array, "members T"]:
    """Return the next eigenvalue of C of every member, NaN after the simulation ended."""
    pairs, probe, head, sensitivity, rates, momentum = arrays
    n, samples = pairs.first.shape[0], STEPS // every
    first, second = jnp.split(centre(jnp.concatenate(probe), "pooled"), 2)
    moment = cross_moment(first, second)

    def measure(rows: Array, u: Array) -> Array:
        effective = rows * u[None]
        return jnp.linalg.eigvalsh(effective @ moment @ effective.T)[::-1][learned]

    def step(state: Any, inputs: Any) -> tuple[Any, None]:
        rows, velocity, u, u_velocity = state
        key, rate = inputs
        drawn = jax.random.randint(key, (batch,), 0, n)
        chosen = jnp.arange(n) if batch == n else drawn
        a, b = pairs.first[chosen], pairs.second[chosen]

        def value(rows: Array, u: Array) -> Array:
            effective = (rows * u[None]).T
            return loss(a @ effective, b @ effective)

        rows_slope, u_slope = jax.grad(value, (0, 1))(rows, u)
        velocity = momentum * velocity + rows_slope
        u_velocity = momentum * u_velocity + sensitivity * u_slope
        u = jnp.clip(u - rate * u_velocity, 1 / LARGEST_STRENGTH, LARGEST_STRENGTH)
        return (rows - rate * velocity, velocity, u, u_velocity), None

    def advance(carry: Any) -> Any:
        count, states, curves = carry
        now = jax.lax.dynamic_slice_in_dim(rates, count * every, every)

        def member(key: Array, state: Any) -> Any:
            moves = jax.random.split(jax.random.fold_in(key, count), every)
            return jax.lax.scan(step, state, (moves, now))[0]

        states = jax.vmap(member)(keys, states)
        values = jax.vmap(measure)(states[0], states[2])
        return count + 1, states, curves.at[:, count + 1].set(values)

    def pending(carry: Any) -> Array:
        crossed = (carry[2] >= LEVEL).any(axis=1)  # NaN does not count
        return (carry[0] < samples) & (jnp.mean(crossed) < SHARE)

    one = (head.rows, head.velocity, jnp.ones_like(head.rows[0]), jnp.zeros_like(head.rows[0]))
    states = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(keys), *leaf.shape)), one)
    curves = jnp.full((len(keys), samples + 1), jnp.nan, head.rows.dtype)
    curves = curves.at[:, 0].set(jax.vmap(measure)(states[0], states[2]))
    return jax.lax.while_loop(pending, advance, (jnp.zeros((), int), states, curves))[2]
