"""Discrete steps of gradient descent: which are recorded, and the compiled loop that takes them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stepwise import _check, laws, trajectory
from stepwise.laws import Modes
from stepwise.moments import cross_moment
from stepwise.trajectory import Trajectory
from stepwise.types import Numbers, Whole

Gradients = Callable[[Any, Any], tuple[Any, Any]]
"""(state, operands) -> (the loss's gradient, a tree like state; what is recorded there)."""

Loss = Callable[[Any, Any], Any]
"""A loss of the two views' embeddings z1, z2 [n, d]."""

TOO_LARGE = "the learning rate, or the start, is too large"


def recording_steps(
    steps: Whole, record_every: Whole | None, record_at: Numbers | None
) -> np.ndarray:
    """The steps that are kept, the last one included; refuses both ways of saying so, and neither's
    nonsense.
    """
    _check.whole("steps", steps)
    _check.require(
        record_every is None or record_at is None,
        "record_every",
        "None where record_at is given",
        "both",
    )
    if record_at is None:
        every = max(1, steps // 1000) if record_every is None else record_every
        _check.whole("record_every", every, why=" of steps")
        at = np.arange(0, steps + 1, every)
    else:
        at = np.asarray(record_at)
        whole = (
            at.ndim == 1
            and at.size > 0
            and bool((at == np.round(at)).all() and (np.diff(at) > 0).all())
        )
        inside = whole and at[0] >= 0 and at[-1] <= steps
        _check.require(inside, "record_at", f"increasing whole numbers in 0 ... {steps}", at)
    return np.append(at, steps).astype(int) if at[-1] != steps else at.astype(int)


def rate(lr: Numbers) -> Any:
    """The learning rate as an array of rank 0, positive."""
    lr = _check.real_array("lr", lr, ndim=0)
    if not _check.is_traced(lr):
        _check.require(float(lr) > 0, "lr", "a positive learning rate", lr)
    return lr


def descend(
    gradients: Gradients,
    state: Any,
    operands: Any,
    lr: jax.Array,
    at: np.ndarray,
    snapshots: bool = False,
    update: Any = None,
) -> tuple[Any, Any, Any]:
    """state ← state − lr · gradient; what `gradients` records at the steps `at` [T, ...], the last
    state, and the states there if wanted.

    Compiled once for each function `gradients` and each `update`, an optax transformation that
    takes the place of −lr · gradient; reverse mode works where `at` is 0 and then evenly spaced.
    """
    lengths = np.diff(at, prepend=0)
    even = len(lengths) > 1 and len(set(lengths[1:])) == 1 and lengths[0] == 0
    return _descend(
        gradients,
        int(lengths[1]) if even else None,
        snapshots,
        update,
        state,
        operands,
        lr,
        jnp.asarray(lengths),
    )


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _descend(
    gradients: Gradients,
    even: int | None,
    snapshots: bool,
    update: Any,
    state: Any,
    operands: Any,
    lr: jax.Array,
    lengths: jax.Array,
) -> tuple[Any, Any, Any]:
    def step(_: Any, carry: Any) -> Any:
        state, memory = carry
        slopes = gradients(state, operands)[0]
        if update is None:
            moved = jax.tree.map(
                lambda value, slope: (value - lr * slope).astype(value.dtype), state, slopes
            )
            return moved, memory
        changes, memory = update.update(slopes, memory, state)
        moved = jax.tree.map(
            lambda value, change: (value + change).astype(value.dtype), state, changes
        )
        return moved, memory

    def record(carry: Any) -> tuple[Any, Any]:
        return gradients(carry[0], operands)[1], carry[0] if snapshots else None

    def segment(carry: Any, length: jax.Array) -> tuple[Any, Any]:
        # A fixed trip count is what makes the loop differentiable in reverse.
        carry = jax.lax.fori_loop(0, length if even is None else even, step, carry)
        return carry, record(carry)

    begin = (state, None if update is None else update.init(state))
    last, records = jax.lax.scan(segment, begin, lengths if even is None else lengths[1:])
    if even is not None:
        records = jax.tree.map(
            lambda first, rest: jnp.concatenate([first[None], rest]), record(begin), records
        )
    return records[0], last[0], records[1]


def run_of(
    records: tuple[jax.Array, jax.Array | None], lr: jax.Array, at: np.ndarray, source: str
) -> Trajectory:
    """The trajectory of a descent outside mode coordinates, from (C [T, d, d], loss [T]); no
    snapshots.

    Without a loss it is the default law's, converged when it is about the least that d modes can
    have; with one, nothing says whether it is.
    """
    C, loss = records
    d = C.shape[-1]
    law = laws.DEFAULT(Modes(jnp.ones(d, C.dtype)), d) if loss is None else None
    return trajectory.assemble(
        lr * jnp.asarray(at, C.dtype),
        trajectory.eigvalsh_descending(C),
        None,
        law,
        source=source,
        cause=TOO_LARGE,
        loss=loss,
        steps=jnp.asarray(at),
        stats={"lr": lr, "steps": jnp.asarray(int(at[-1]))},
    )


def view_moments(z1: jax.Array, z2: jax.Array) -> tuple[jax.Array, jax.Array]:
    """C = (z1ᵀ z2 + z2ᵀ z1)/2n and the covariance of all 2n embeddings about their mean, [d, d]."""
    z = jnp.concatenate([z1, z2])
    centred = z - z.mean(axis=0)
    return cross_moment(z1, z2), centred.T @ centred / len(z)
