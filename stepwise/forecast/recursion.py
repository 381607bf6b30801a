"""Heavy-ball descent of the rows that are not learned yet, on features that only their own mode
strengthens.

The embedding is z = H φ. Beside learned rows H1, the other rows A descend

    ‖C_b − I‖² averaged over batches,    C = A D Aᵀ,    D = Γ − Γ H1ᵀ diag(1/λ) H1 Γ,

because a learned row adapts at once, and keeps what lies along its own mode. In a batch of n pairs
that the loss centres, C has the mean C − (S + C)/(2n), and for Gaussian features the squared
deviation [(tr S)² + tr S² + (tr C)² + tr C²]/(2n) up to terms in C² /n of the mean, where S is the
moment of single views and the traces include the learned rows.

While a row grows, the backbone strengthens the same mode. As in a linear network of two layers, the
feature along direction j has a strength u_j, which starts at 1 and descends at the rate
`sensitivity` times that of the row: u² = 1 + sensitivity · |row|² along gradient flow.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stepwise.types import Numbers

HORIZON = 10_000
"""Number of steps after which a mode counts as not coming."""
LEVEL = 0.5
"""Eigenvalue of C from which a mode counts as learned."""
TAKEOFF = 0.1
"""Eigenvalue of C up to which the mean loss of a batch describes the next row. Above it the noise
of the batches keeps a mode below its rest (`forecast.simulation`).
"""
LARGEST_STRENGTH = 10.0
"""Bound on the strength of a feature relative to now; the recursion is not valid beyond it."""


class Moments(NamedTuple):
    """Second moments of the features on p directions, and what the learned rows add.

    Attributes:
        deflated: D [p, p].
        cross: the cross-view moment Γ [p, p].
        single: the moment of single views Σ [p, p].
        learned_cross, learned_single: traces of C and of S over the learned rows.
    """

    deflated: Numbers
    cross: Numbers
    single: Numbers
    learned_cross: Numbers
    learned_single: Numbers


class Descent(NamedTuple):
    """How the rows descend.

    Attributes:
        rates: learning rate of each coming step, at least HORIZON of them.
        momentum: β of the heavy ball.
        batch: number of pairs in a batch; infinite for full batches.
        sensitivity: of the backbone; 0 for features that stay as they are.
    """

    rates: Numbers
    momentum: Numbers
    batch: Numbers
    sensitivity: Numbers


def batch_loss(rows: Numbers, moments: Moments, batch: Numbers) -> Float[Array, ""]:
    """Return the mean loss of a batch as a function of the rows that are not learned [k, p]."""
    C, single = rows @ moments.deflated @ rows.T, rows @ moments.single @ rows.T
    mean = C - (single + C) / (2 * batch)
    traces = (moments.learned_single + jnp.trace(single)) ** 2
    traces += (moments.learned_cross + jnp.trace(C)) ** 2
    spread = (traces + jnp.sum(single**2) + jnp.sum(C**2)) / (2 * batch)
    return jnp.sum((mean - jnp.eye(len(rows), dtype=C.dtype)) ** 2) + spread


def growth_operator(moments: Moments, batch: Numbers) -> Float[Array, "p p"]:
    """Return M [p, p], with dA/dt = 4 A M for rows A near zero.

    M = D − (Σ + D)/(2n) − (s Σ + c D)/(2n), where s and c are the learned rows' traces of S and C.
    """
    D, single = jnp.asarray(moments.deflated), jnp.asarray(moments.single)
    noise = (1 + moments.learned_single) * single + (1 + moments.learned_cross) * D
    return D - noise / (2 * batch)


def factor(rate: Numbers, momentum: Numbers) -> Float[Array, ""]:
    """Return the root z of z² − (1 + β + rate) z + β = 0, by which an amplitude grows in one step.

    `rate` is lr times the growth rate of the amplitude, 4 lr γ.
    """
    half = (1 + momentum + rate) / 2
    return half + jnp.sqrt(jnp.maximum(half**2 - momentum, 0))


class Taken(NamedTuple):
    """Where the rows are when they take off.

    Attributes:
        steps: number of steps taken, infinite if the mode does not take off.
        rows, velocity: the rows [k, p] and their momentum.
        strength: u of each direction [p].
        path: the largest eigenvalue of C before each step and after the last [HORIZON + 1], then 0;
            or empty, if it is not recorded.
    """

    steps: Numbers
    rows: Numbers
    velocity: Numbers
    strength: Numbers
    path: Numbers


@partial(jax.jit, static_argnames="record")
def takeoff(
    rows: Numbers, velocity: Numbers, moments: Moments, descent: Descent, record: bool = False
) -> Taken:
    """Descend until the largest eigenvalue of C crosses `TAKEOFF`, for at most `HORIZON` steps.

    Args:
        rows: the rows that are not learned [k, p].
        velocity: their momentum V; a step is V ← β V + gradient, A ← A − lr V.
        moments: of the features on the p directions.
        descent: how the rows descend.
        record: whether to return the path.
    """
    slope = jax.grad(lambda rows, u: batch_loss(rows * u[None], moments, descent.batch), (0, 1))
    start = jnp.ones(rows.shape[1], rows.dtype)

    def largest(effective: Array) -> Array:
        return jnp.linalg.eigvalsh(effective @ moments.deflated @ effective.T)[-1]

    def pending(state: Any) -> Array:
        return (state[0] < HORIZON) & (state[5] < TAKEOFF)

    def step(state: Any) -> Any:
        count, rows, velocity, u, u_velocity, now, path = state
        path = path.at[count].set(now) if record else path
        rows_slope, u_slope = slope(rows, u)
        velocity = descent.momentum * velocity + rows_slope
        u_velocity = descent.momentum * u_velocity + descent.sensitivity * u_slope
        rate = descent.rates[count]
        rows = rows - rate * velocity
        u = jnp.clip(u - rate * u_velocity, 1 / LARGEST_STRENGTH, LARGEST_STRENGTH)
        return count + 1, rows, velocity, u, u_velocity, largest(rows * u[None]), path

    path = jnp.zeros(HORIZON + 1 if record else 0, rows.dtype)
    state = (jnp.zeros((), int), rows, velocity, start, 0 * start, largest(rows), path)
    count, rows, velocity, u, _, now, path = jax.lax.while_loop(pending, step, state)
    path = path.at[count].set(now) if record else path
    steps = jnp.where(now >= TAKEOFF, count.astype(now.dtype), jnp.inf)
    return Taken(steps, rows, velocity, u, path)
