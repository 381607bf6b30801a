"""The closed-form solution, evaluated at any time without integration."""

import jax
import jax.numpy as jnp

from stepwise import laws, trajectory
from stepwise.laws import Law, LawOf
from stepwise.laws.start import leading_modes
from stepwise.problem import Problem
from stepwise.trajectory import Trajectory
from stepwise.types import Numbers


def closed_form(problem: Problem, A0: Numbers, times: Numbers, *, law: LawOf = None) -> Trajectory:
    """Evaluate a law's eigenvalues λ_j(t) from the effective aligned start of A0.

    With A0_{≤d} = Q R, the start is replaced by Q diag(|R_jj|) on the first d modes to grow. This
    is exact if A0 is aligned with these modes (its rows are multiples of them, up to a rotation),
    and the limit of a small start otherwise (the paper, Simon et al. 2023, Props. 4.1, 4.2).

    Args:
        problem: the problem, of which only the modes are used.
        A0: mode coordinates of the start [d, r]. d > r is allowed; the dimensions beyond r stay 0.
        times: increasing times [T], learning rate × step.
        law: a function (problem, d) -> Law; Barlow Twins (`laws.DEFAULT`) by default. A law without
            a closed form is integrated from the aligned start.

    Returns:
        Trajectory. Its snapshot is the aligned state Q diag(±s_j(t)) at the last time.

    The loss of VICReg and of DINO is not invariant under rotations of the embedding. Their laws
    describe the first mode only; the other eigenvalues are 0.

    Raises:
        ValueError: if A0 does not have r columns; if times are negative or do not increase; if an
            argument is not finite; if the law has no `generic_start`.

    Can be jitted, vmapped over A0, and differentiated with respect to A0 and the law's moments.
    """
    _, A0, times = trajectory.as_inputs(problem.gamma, A0, times)
    return _closed_form(laws.law_of(law, problem, len(A0)), A0, times)


@jax.jit
def _closed_form(law: Law, A0: jax.Array, times: jax.Array) -> Trajectory:
    law, d = laws.cast(law, A0.dtype), len(A0)
    lam0 = law.generic_start(A0)
    curves = law.eigenvalues(times, lam0)
    missing = max(d - lam0.shape[0], 0)
    eigenvalues = jnp.sort(jnp.pad(curves, ((0, 0), (0, missing))), axis=1)[:, ::-1]
    final = _last_state(law, A0, times, lam0) if law.rotates else _padded(law, curves[-1], d)
    return trajectory.assemble(
        times,
        eigenvalues,
        final[None],
        law,
        source="closed form",
        cause="the start is not finite",
        loss=_loss(law, times, lam0, curves, d) if law.loss_of(eigenvalues) is None else None,
    )


def _last_state(law: Law, A0: jax.Array, times: jax.Array, lam0: jax.Array) -> jax.Array:
    """Return the aligned state Q diag(±s_j(t)) [d, r] at the last time."""
    d, r = A0.shape
    modes = leading_modes(law, min(d, r))
    q, upper = jnp.linalg.qr(law.to_modes(A0)[:, modes])
    size = jnp.diagonal(upper)
    k = lam0.shape[0]
    size = size.at[:k].multiply(law.amplitude(times[-1:], lam0)[0]).at[k:].set(0)
    rows = jnp.zeros((d, r), A0.dtype).at[:, modes].set((q * size[None]).astype(A0.dtype))
    return law.from_modes(rows)


def _padded(law: Law, lam: jax.Array, d: int) -> jax.Array:
    """Return the aligned state [d, r] with these eigenvalues, and zero rows."""
    rows = law.aligned_start(lam)
    return jnp.pad(rows, ((0, d - rows.shape[0]), (0, 0)))


def _loss(law: Law, times: jax.Array, lam0: jax.Array, curves: jax.Array, d: int) -> jax.Array:
    """Return the loss [T] of aligned states, or of a law with more variables than the encoder."""
    try:
        return law.losses(curves, d)
    except laws.NotKnownError:
        return law.loss(times, lam0)
