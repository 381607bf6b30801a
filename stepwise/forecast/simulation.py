"""Descent of a head on random batches of features that stay: how a mode crosses 1/2.

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

from stepwise.forecast.recursion import LARGEST_STRENGTH
from stepwise.moments import centre, cross_moment
from stepwise.types import Numbers

MEMBERS = 16
"""Number of runs on different batches."""
STEPS, LONGEST = 1000, 16_000
"""Number of steps of each, at least and at most."""
SHARE = 0.9
"""Share of the members whose crossing ends the simulation."""
EARLY = 0.4
"""Eigenvalue of C that stands for 1/2 while a mode has not taken off. Its rest on fixed features is
near 1/2 if it is weak, and rises while the features improve. Chosen on two runs.
"""


class Head(NamedTuple):
    """A head on features, and how it moves.

    Attributes:
        forward: a function (params, features [2n, p]) -> embeddings [2n, d], the views of one image
            in adjacent rows.
        params, velocity: its parameters and their momentum, trees of arrays.
        factors: a like tree, by which the gradient of each is multiplied.
    """

    forward: Callable[[Any, Array], Array]
    params: Any
    velocity: Any
    factors: Any


def strengthened(params: Any, features: Array) -> Array:
    """Return the embeddings of a linear head whose features have strengths.

    The forward function of params {"rows": [d, p], "strength": [p]}.
    """
    strength = jnp.clip(params["strength"], 1 / LARGEST_STRENGTH, LARGEST_STRENGTH)
    return features @ (params["rows"] * strength[None]).T


def curves(
    head: Head,
    loss: Callable[[Array, Array], Array],
    pairs: tuple[Numbers, Numbers],
    probe: tuple[Numbers, Numbers],
    *,
    rates: Numbers,
    momentum: float,
    batch: int | None,
    mode: int,
    every: int,
    until: float,
    seed: int,
    members: int = MEMBERS,
) -> Float[np.ndarray, "members T"]:
    """Return an eigenvalue of C before the first step and after every few.

    Args:
        head: the head at the start.
        loss: of the embeddings of both views.
        pairs: features of both views from which batches are drawn [n, p].
        probe: features of both views on which C is measured [n', p].
        rates: learning rates of the steps, of which there are as many.
        momentum: of SGD.
        batch: number of pairs in a batch, drawn with replacement; None for the full batch.
        mode: which eigenvalue, 0 for the largest.
        every: number of steps between two measurements of C.
        until: eigenvalue of `SHARE` of the members at which the simulation ends.
        seed: of the batches.
        members: number of runs on different batches.

    Returns:
        Eigenvalues; NaN after the end.
    """
    keys = jax.random.split(jax.random.key(seed, impl="threefry2x32"), members)
    trees = head.params, head.velocity, head.factors
    arrays = jax.tree.map(jnp.float32, (trees, pairs, probe, rates, momentum))
    values = _run(arrays, keys, head.forward, loss, batch, mode, every, until)
    return np.asarray(values, np.float64)


def first_crossing(
    curves: Float[np.ndarray, "m T"], every: int, level: float
) -> Float[np.ndarray, " m"]:
    """Return when each curve, measured every `every` steps from 0 on, first reaches `level` [m].

    A curve that never does so counts from where it reaches `SHARE` of its rest, the median of its
    second half, because a rest rises while the features improve. A curve that diverges is NaN.
    """
    steps = np.full(len(curves), np.inf)
    for i, whole in enumerate(curves):
        curve = whole[np.isfinite(whole)]
        if len(curve) < 2:
            steps[i] = np.nan
            continue
        rest = float(np.median(curve[len(curve) // 2 :]))
        goal = level if (curve >= level).any() else SHARE * rest
        above = np.flatnonzero(curve >= goal)
        if goal > 0 and above.size:
            j = int(above[0])
            before = curve[j - 1] if j else goal
            share = (goal - before) / (curve[j] - before) if curve[j] > before else 0.0
            steps[i] = every * (max(j - 1, 0) + share)
    return steps


@partial(jax.jit, static_argnames=("forward", "loss", "batch", "every"))
def _run(
    arrays: Any,
    keys: Array,
    forward: Any,
    loss: Any,
    batch: int | None,
    mode: Any,
    every: int,
    until: Any,
) -> Float[Array, "members T"]:
    (params, velocity, factors), pairs, probe, rates, momentum = arrays
    n, samples = len(pairs[0]), len(rates) // every

    def embed(params: Any, first: Array, second: Array) -> tuple[Array, Array]:
        both = jnp.stack([first, second], axis=1).reshape(-1, first.shape[1])
        z = forward(params, both)
        return z[0::2], z[1::2]

    def measure(params: Any) -> Array:
        z1, z2 = jnp.split(centre(jnp.concatenate(embed(params, *probe)), "pooled"), 2)
        return jnp.linalg.eigvalsh(cross_moment(z1, z2))[::-1][mode]

    def step(state: Any, inputs: Any) -> tuple[Any, None]:
        params, velocity = state
        key, rate = inputs
        views = pairs
        if batch is not None:
            drawn = jax.random.randint(key, (batch,), 0, n, jnp.int32)
            views = pairs[0][drawn], pairs[1][drawn]
        slope = jax.grad(lambda params: loss(*embed(params, *views)))(params)
        velocity = jax.tree.map(lambda v, f, g: momentum * v + f * g, velocity, factors, slope)
        return (jax.tree.map(lambda p, v: p - rate * v, params, velocity), velocity), None

    def advance(carry: Any) -> Any:
        count, states, values = carry
        now = jax.lax.dynamic_slice_in_dim(rates, count * every, every)

        def member(key: Array, state: Any) -> Any:
            moves = jax.random.split(jax.random.fold_in(key, count), every)
            return jax.lax.scan(step, state, (moves, now))[0]

        states = jax.vmap(member)(keys, states)
        return count + 1, states, values.at[:, count + 1].set(jax.vmap(measure)(states[0]))

    def pending(carry: Any) -> Array:
        crossed = (carry[2] >= until).any(axis=1)  # NaN does not count
        return (carry[0] < samples) & (jnp.mean(crossed) < SHARE)

    states = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (len(keys), *leaf.shape)), (params, velocity)
    )
    first = jax.vmap(measure)(states[0])
    values = jnp.full((len(keys), samples + 1), jnp.nan, first.dtype).at[:, 0].set(first)
    return jax.lax.while_loop(pending, advance, (jnp.zeros((), int), states, values))[2]
