"""The compiled loop of gradient descent, and the steps that it records."""

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
"""A function (state, operands) -> (gradient of the loss, a pytree like state; records)."""

Loss = Callable[[Any, Any], Any]
"""A loss of the two views' embeddings: a function (z1 [n, d], z2 [n, d]) -> scalar."""

TOO_LARGE = "the learning rate, or the start, is too large"


def recording_steps(
    steps: Whole, record_every: Whole | None, record_at: Numbers | None
) -> np.ndarray:
    """Return the steps to record, always including the last.

    Raises:
        ValueError: if both `record_every` and `record_at` are given, or either is invalid.
    """
    _check.whole("steps", steps)
    _check.require(
        record_every is None or record_at is None,
        "record_every",
        "None if record_at is given",
        "both",
    )
    if record_at is None:
        every = max(1, steps // 1000) if record_every is None else record_every
        _check.whole("record_every", every, why=" of steps")
        chosen = np.arange(0, steps + 1, every)
    else:
        chosen = np.asarray(record_at)
        whole = (
            chosen.ndim == 1
            and chosen.size > 0
            and bool((chosen == np.round(chosen)).all() and (np.diff(chosen) > 0).all())
        )
        inside = whole and chosen[0] >= 0 and chosen[-1] <= steps
        _check.require(inside, "record_at", f"increasing whole numbers in 0 ... {steps}", chosen)
    return np.append(chosen, steps).astype(int) if chosen[-1] != steps else chosen.astype(int)


def rate(lr: Numbers) -> Any:
    """Return the learning rate as an array of rank 0, or raise ValueError if it is not positive."""
    lr = _check.real_array("lr", lr, ndim=0)
    if not _check.is_traced(lr):
        _check.require(float(lr) > 0, "lr", "a positive learning rate", lr)
    return lr


def descend(
    gradients: Gradients,
    state: Any,
    operands: Any,
    lr: jax.Array,
    record_steps: np.ndarray,
    snapshots: bool = False,
    update: Any = None,
) -> tuple[Any, Any, Any]:
    """Iterate state ← state − lr · gradient.

    Compiled once for each function `gradients` and each `update`. Reverse-mode derivatives exist if
    the recorded steps start at 0 and are evenly spaced.

    Args:
        gradients: function (state, operands) -> (gradient, records).
        state: the start, a pytree of arrays.
        operands: the second argument of `gradients`.
        lr: the learning rate.
        record_steps: the steps [T] to record, increasing.
        snapshots: whether to return the state at every recorded step.
        update: an optax transformation that replaces −lr · gradient.

    Returns:
        The records [T, ...], the last state, and the recorded states [T, ...] or None.
    """
    lengths = np.diff(record_steps, prepend=0)
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
        # JAX can differentiate a loop in reverse only if its trip count is fixed.
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
    records: tuple[jax.Array, jax.Array | None],
    lr: jax.Array,
    record_steps: np.ndarray,
    source: str,
) -> Trajectory:
    """Build the trajectory of a descent outside mode coordinates, without snapshots.

    The records are C [T, d, d] and a loss [T] or None. Without a loss, the loss is the default
    law's, and the run has converged if it is near the lowest loss of d modes. With a loss, the
    result is never "converged".
    """
    C, loss = records
    d = C.shape[-1]
    law = laws.DEFAULT(Modes(jnp.ones(d, C.dtype)), d) if loss is None else None
    return trajectory.assemble(
        lr * jnp.asarray(record_steps, C.dtype),
        trajectory.eigvalsh_descending(C),
        None,
        law,
        source=source,
        cause=TOO_LARGE,
        loss=loss,
        steps=jnp.asarray(record_steps),
        stats={"lr": lr, "steps": jnp.asarray(int(record_steps[-1]))},
    )


def view_moments(z1: jax.Array, z2: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return C = (z1ᵀ z2 + z2ᵀ z1)/2n and the covariance of all 2n embeddings, each [d, d].

    The covariance is taken about the mean of all embeddings.
    """
    z = jnp.concatenate([z1, z2])
    centred = z - z.mean(axis=0, keepdims=True)
    return cross_moment(z1, z2), centred.T @ centred / len(z)
