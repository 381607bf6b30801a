"""The closed form: what theory says, at any time, at no cost."""

import jax
import jax.numpy as jnp

from stepwise import laws, trajectory
from stepwise.problem import Problem
from stepwise.trajectory import Trajectory
from stepwise.types import Numbers


def closed_form(problem: Problem, A0: Numbers, times: Numbers) -> Trajectory:
    """λ_j(t) by the law of `laws.BarlowTwins`, from the effective aligned start of A0.

    With A0_{≤d} = Q R the start is taken as Q diag(|R_jj|) on the leading d modes: exact when A0 is
    aligned with these (its rows are multiples of them, up to a rotation), and the small-start limit
    otherwise (source, Props. 4.1, 4.2).

    Args:
        problem: its γ is all that matters.
        A0: mode coordinates of the start [d, r]; d > r is allowed, the dimensions beyond r stay 0.
        times: increasing [T], learning rate × step.

    Returns:
        Trajectory; the snapshot is the aligned state Q diag(±s_j(t)) at the last time.

    Raises:
        ValueError: A0 does not have r columns; times do not increase from 0 on; anything is not
            finite.

    Can be jitted, vmapped over A0, and differentiated in A0 and γ.
    """
    return _closed_form(*trajectory.start(problem.gamma, A0, times))


@jax.jit
def _closed_form(gamma: jax.Array, A0: jax.Array, times: jax.Array) -> Trajectory:
    d, r = A0.shape
    k = min(d, r)
    q, upper = jnp.linalg.qr(A0[:, :k])
    s0 = laws.effective_start(A0) if d <= r else jnp.abs(jnp.diagonal(upper))
    law = laws.BarlowTwins(gamma)
    lam0 = gamma[:k] * s0**2
    curves = jnp.pad(law.eigenvalues(times, lam0), ((0, 0), (0, d - k)))
    size = law.growth(times[-1:], lam0)[0] * jnp.diagonal(upper)
    final = jnp.pad(q * size, ((0, 0), (0, r - k)))
    eigenvalues = jnp.sort(curves, axis=1)[:, ::-1]
    return trajectory.assemble(
        times,
        eigenvalues,
        final[None],
        gamma,
        source="closed form",
        cause="the start is not finite",
    )
