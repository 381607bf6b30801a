"""Gradient descent on the full matrix: the experiment of the linear and kernel models."""

import jax
import jax.numpy as jnp

from stepwise import _check, trajectory
from stepwise.dynamics import loop
from stepwise.problem import Problem
from stepwise.trajectory import Trajectory
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

    This is gradient descent on W for L = ‖C − I‖_F²: V is orthonormal, so the steps are the same in
    both coordinates. Stable for lr < min(1/(4 γ_1), 1/(2 |γ_min|)) (`stats["lr_limit"]`); its steps
    come late by a fraction 2 lr γ_j of the flow's.

    Args:
        problem: its γ is all that matters.
        A0: mode coordinates of the start [d, r].
        lr: learning rate, positive.
        steps: how many steps to take.
        record_every: keep every so many steps, from step 0, and the last; about 1000 records by
            default.
        record_at: or keep just these steps, increasing, in 0 ... steps; the last step is added.
        snapshots: keep A at every record, not only the last.

    Returns:
        Trajectory with times lr × step. Divergence is a result that names the step and the likely
        cause.

    Raises:
        ValueError: A0 does not have r columns, lr is not positive, steps is not a whole number, or
            both ways of recording are given.

    Can be jitted (steps, recording and snapshots static) and vmapped over A0 and lr. Differentiable
    in reverse where record_every divides steps, forward always: loops of unlike lengths have no
    reverse derivative in JAX.
    """
    weak = type(lr) in (int, float)  # a Python number widens nothing
    lr, at = loop.rate(lr), loop.recorded(steps, record_every, record_at)
    gamma, A0, _ = trajectory.start(problem.gamma, A0, jnp.zeros(1, problem.gamma.dtype))
    dtype = gamma.dtype if weak else jnp.result_type(gamma, lr)
    limit = problem.max_stable_lr()
    cause = "the learning rate, or the start, is too large"
    if not _check.is_traced(lr, limit) and float(lr) >= float(limit):
        cause = (
            f"lr = {float(lr):.4g} is above the limit min(1/(4 γ_1), 1/(2 |γ_min|)) = "
            f"{float(limit):.4g}"
        )
    lr, gamma, A0 = jnp.asarray(lr, dtype), gamma.astype(dtype), A0.astype(dtype)
    C, last, states = loop.descend(_gradients, A0, gamma, lr, at, snapshots)
    return trajectory.assemble(
        lr * jnp.asarray(at, dtype),
        trajectory.descending(C),
        states if snapshots else last[None],
        gamma,
        source="gradient descent",
        cause=cause,
        steps=jnp.asarray(at),
        stats={"lr": lr, "lr_limit": limit, "steps": jnp.asarray(steps)},
    )


def _gradients(A: jax.Array, gamma: jax.Array) -> tuple[jax.Array, jax.Array]:
    AD = A * gamma
    C = AD @ A.T
    return -4 * (AD - C @ AD), C
