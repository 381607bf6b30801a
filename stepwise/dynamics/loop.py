"""Discrete steps of gradient descent: which are recorded, and the compiled loop that takes them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stepwise import _check, trajectory
from stepwise.trajectory import Trajectory
from stepwise.types import Numbers, Whole

Gradients = Callable[[Any, Any], tuple[Any, jax.Array]]
"""(state, operands) -> (the loss's gradient, a tree like state; C [d, d] there)."""


def recorded(steps: Whole, record_every: Whole | None, record_at: Numbers | None) -> np.ndarray:
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
) -> tuple[jax.Array, Any, Any]:
    """state ← state − lr · gradient; C at the steps `at` [T, d, d], the last state, and the states
    there if wanted.

    Compiled once for each function `gradients`; reverse mode works where `at` is 0 and then evenly
    spaced.
    """
    lengths = np.diff(at, prepend=0)
    even = len(lengths) > 1 and len(set(lengths[1:])) == 1 and lengths[0] == 0
    return _descend(
        gradients,
        int(lengths[1]) if even else None,
        snapshots,
        state,
        operands,
        lr,
        jnp.asarray(lengths),
    )


@partial(jax.jit, static_argnums=(0, 1, 2))
def _descend(
    gradients: Gradients,
    even: int | None,
    snapshots: bool,
    state: Any,
    operands: Any,
    lr: jax.Array,
    lengths: jax.Array,
) -> tuple[jax.Array, Any, Any]:
    def step(_: Any, state: Any) -> Any:
        slopes = gradients(state, operands)[0]
        return jax.tree.map(
            lambda value, slope: (value - lr * slope).astype(value.dtype), state, slopes
        )

    def record(state: Any) -> tuple[jax.Array, Any]:
        return gradients(state, operands)[1], state if snapshots else None

    def segment(state: Any, length: jax.Array) -> tuple[Any, Any]:
        # A fixed trip count is what makes the loop differentiable in reverse.
        state = jax.lax.fori_loop(0, length if even is None else even, step, state)
        return state, record(state)

    last, records = jax.lax.scan(segment, state, lengths if even is None else lengths[1:])
    if even is not None:
        records = jax.tree.map(
            lambda first, rest: jnp.concatenate([first[None], rest]), record(state), records
        )
    return records[0], last, records[1]


def run_of(C: jax.Array, lr: jax.Array, at: np.ndarray, source: str) -> Trajectory:
    """The trajectory of a descent outside mode coordinates: no snapshots, converged where the loss
    is below 1e-2.
    """
    return trajectory.assemble(
        lr * jnp.asarray(at, C.dtype),
        trajectory.descending(C),
        None,
        jnp.ones(C.shape[-1], C.dtype),
        source=source,
        cause="the learning rate, or the start, is too large",
        steps=jnp.asarray(at),
        stats={"lr": lr, "steps": jnp.asarray(int(at[-1]))},
    )
