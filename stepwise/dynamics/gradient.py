"""Gradient descent on the full matrix: the experiment of the linear and kernel models."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stepwise import _check
from stepwise.dynamics import trajectory
from stepwise.dynamics.trajectory import Trajectory
from stepwise.problem import Problem
from stepwise.types import Numbers, Whole


def descent(
    problem: Problem,
    A0: Numbers,
    lr: Numbers,
    steps: Whole,
    *,
    record_every: Whole | None = None,
    record_at: Numbers | None = None,
    snapshots: bool = False,
) -> Trajectory:
    """Gradient descent A ← A − 4 lr (C − I) A diag(γ), C = A diag(γ) Aᵀ, from any start.

    This is gradient descent on W for L = ‖C − I‖_F²: V is orthonormal, so the steps are the same in both coordinates.
    Stable for lr < min(1/(4 γ_1), 1/(2 |γ_min|)) (`stats["lr_limit"]`); its steps come late by a fraction 2 lr γ_j of
    the flow's.

    Args:
        problem: its γ is all that matters.
        A0: mode coordinates of the start [d, r].
        lr: learning rate, positive.
        steps: how many steps to take.
        record_every: keep every so many steps, from step 0, and the last; about 1000 records by default.
        record_at: or keep just these steps, increasing, in 0 ... steps; the last step is added.
        snapshots: keep A at every record, not only the last.

    Returns:
        Trajectory with times lr × step. Divergence is a result that names the step and the likely cause.

    Raises:
        ValueError: A0 does not have r columns, lr is not positive, steps is not a whole number, or both ways of
            recording are given.

    Can be jitted (steps, recording and snapshots static) and vmapped over A0 and lr. Differentiable in reverse where
    record_every divides steps, forward always: loops of unlike lengths have no reverse derivative in JAX.
    """
    _check.require(isinstance(steps, int | np.integer) and steps >= 1, "steps", "a positive whole number", steps)
    weak = type(lr) in (int, float)  # a Python number widens nothing
    lr = _check.real_array("lr", lr, ndim=0)
    recorded = _recorded(int(steps), record_every, record_at)
    gamma, A0, _ = trajectory.start(problem.gamma, A0, jnp.zeros(1, problem.gamma.dtype))
    dtype = gamma.dtype if weak else jnp.result_type(gamma, lr)
    limit = problem.max_stable_lr()
    cause = "the learning rate, or the start, is too large"
    if not _check.is_traced(lr, limit):
        _check.require(float(lr) > 0, "lr", "a positive learning rate", lr)
        if float(lr) >= float(limit):
            cause = f"lr = {float(lr):.4g} is above the limit min(1/(4 γ_1), 1/(2 |γ_min|)) = {float(limit):.4g}"
    lengths = np.diff(recorded, prepend=0)
    uniform = int(lengths[1]) if len(lengths) > 1 and len(set(lengths[1:])) == 1 and lengths[0] == 0 else None
    lr, gamma, A0 = jnp.asarray(lr, dtype), gamma.astype(dtype), A0.astype(dtype)
    eigenvalues, states = _run(gamma, A0, lr, jnp.asarray(lengths), uniform, snapshots)
    return trajectory.assemble(
        lr * jnp.asarray(recorded, dtype),
        eigenvalues,
        states,
        gamma,
        source="gradient descent",
        cause=cause,
        steps=jnp.asarray(recorded),
        stats={"lr": lr, "lr_limit": limit, "steps": jnp.asarray(steps)},
    )


def _recorded(steps: int, record_every: Whole | None, record_at: Numbers | None) -> np.ndarray:
    _check.require(record_every is None or record_at is None, "record_every", "None where record_at is given", "both")
    if record_at is None:
        every = max(1, steps // 1000) if record_every is None else record_every
        whole = isinstance(every, int | np.integer) and every >= 1
        _check.require(whole, "record_every", "a positive whole number of steps", every)
        at = np.arange(0, steps + 1, every)
    else:
        at = np.asarray(record_at)
        whole = at.ndim == 1 and at.size > 0 and bool((at == np.round(at)).all() and (np.diff(at) > 0).all())
        inside = whole and at[0] >= 0 and at[-1] <= steps
        _check.require(inside, "record_at", f"increasing whole numbers in 0 ... {steps}", at)
    return np.append(at, steps).astype(int) if at[-1] != steps else at.astype(int)


@partial(jax.jit, static_argnums=(4, 5))
def _run(
    gamma: jax.Array, A0: jax.Array, lr: jax.Array, lengths: jax.Array, uniform: int | None, snapshots: bool
) -> tuple[jax.Array, jax.Array]:
    def step(_: Any, A: jax.Array) -> jax.Array:
        AD = A * gamma
        return A + 4 * lr * (AD - (AD @ A.T) @ AD)

    def record(A: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        return (A * gamma) @ A.T, A if snapshots else None

    def segment(A: jax.Array, length: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array | None]]:
        # A fixed trip count is what makes the loop differentiable in reverse.
        A = jax.lax.fori_loop(0, length if uniform is None else uniform, step, A)
        return A, record(A)

    final, records = jax.lax.scan(segment, A0, lengths if uniform is None else lengths[1:])
    if uniform is not None:
        records = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), record(A0), records)
    C, states = records
    return trajectory.descending(C), final[None] if states is None else states
