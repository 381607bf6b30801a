"""Gradient descent in the dual coefficients of a kernel model and in the outputs of a linearised
network.
"""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from stepwise import _check, laws
from stepwise.dynamics import loop
from stepwise.moments import cross_moment
from stepwise.trajectory import Trajectory
from stepwise.types import Numbers, Whole


def dual_descent(
    K: Numbers,
    c0: Numbers,
    lr: Numbers,
    steps: Whole,
    *,
    loss: loop.Loss | None = None,
    record_every: Whole | None = None,
    record_at: Numbers | None = None,
) -> Trajectory:
    """Run gradient descent on the dual coefficients c of a kernel model f(x) = c k(x).

    Here k(x) = [K(x, X), K(x, X')]. A step is c ← c − lr (∂L/∂z)ᵀ with the outputs z = K cᵀ, which
    is gradient descent on the function in the kernel's Hilbert space. For L = ‖C − I‖_F² with
    C = (1/2n) c K P K cᵀ, where P swaps the views, the gradient is (4/2n) (C − I) c K P. In mode
    coordinates, A = c K · basis, this equals `descent` (the paper, Simon et al. 2023, section 5).
    It needs no decomposition of K.

    Args:
        K: kernel matrix of the views, X stacked on X' [2n, 2n]. Centre it beforehand if the model
            is to be centred.
        c0: coefficients of the start [d, 2n], `A0 @ problem.basis.T` for mode coordinates A0.
        loss: any JAX function loss(z1, z2) of the two views' outputs [n, d], instead of
            ‖C − I‖_F². The lowest value of such a loss is not known, so the result is never
            "converged".
        lr, steps, record_every, record_at: as for `descent`.

    Returns:
        Trajectory without snapshots. `stats["coefficients"]` is c at the last step.

    Raises:
        ValueError: if K is not square with an even side, or not symmetric; if c0 does not have 2n
            columns; or for the reasons of `descent`.
    """
    K, c0 = _check.real_array("K", K, ndim=2), _check.real_array("c0", c0, ndim=2)
    square = K.shape[0] == K.shape[1] and K.shape[0] % 2 == 0 and K.shape[0] > 0
    _check.require(square, "K", "a square matrix [2n, 2n], X stacked on X'", K)
    _check.require(c0.shape[1] == len(K), "c0", f"{len(K)} columns, one for each view", c0)
    K, c0 = jnp.asarray(K), jnp.asarray(c0)
    if not _check.is_traced(K):
        skew, scale = float(jnp.abs(K - K.T).max()), float(jnp.abs(K).max())
        bound = 64 * len(K) ** 0.5 * float(jnp.finfo(K.dtype).eps) * scale
        _check.require(
            skew <= bound, "K", f"a symmetric matrix (to {bound:.1e})", f"|K - Kᵀ| up to {skew:.1e}"
        )

    dtype, record_steps, lr = (
        jnp.result_type(K, c0),
        loop.recording_steps(steps, record_every, record_at),
        loop.rate(lr),
    )
    lr = jnp.asarray(lr, dtype)
    records, c, _ = loop.descend(
        _dual_gradients(loss), c0.astype(dtype), K.astype(dtype), lr, record_steps
    )
    return _add_stats(loop.run_of(records, lr, record_steps, "dual descent"), coefficients=c)


def output_descent(
    theta: Numbers,
    z0: Numbers,
    lr: Numbers,
    steps: Whole,
    *,
    loss: loop.Loss | None = None,
    record_every: Whole | None = None,
    record_at: Numbers | None = None,
) -> Trajectory:
    """Run gradient descent of a linearised network on its outputs z [2n, d] for the views.

    A step is z ← z − lr Θ ∂L/∂z. Θ_{ia,jb} = ⟨∂z_ia/∂θ, ∂z_jb/∂θ⟩ is the full kernel of the network
    at its start, which stays constant for a linearised network. For L = ‖C − I‖_F² with
    C = (1/2n) zᵀ P z, the gradient is ∂L/∂z = (2/n) P z (C − I). If Θ = K ⊗ 1, this equals
    `descent` on the problem of K. The Θ of a finite network does not have this form; the result is
    then the prediction of the network's own kernel at the start.

    Args:
        theta: the full kernel Θ [2n, d, 2n, d].
        z0: outputs at the start [2n, d], those of X stacked on those of X'.
        loss: as for `dual_descent`.
        lr, steps, record_every, record_at: as for `descent`.

    Returns:
        Trajectory without snapshots. `stats["outputs"]` is z at the last step.

    Raises:
        ValueError: if theta does not fit z0, or for the reasons of `descent`.
    """
    theta, z0 = _check.real_array("theta", theta, ndim=4), _check.real_array("z0", z0, ndim=2)
    _check.require(
        z0.shape[0] % 2 == 0 and z0.shape[0] > 0, "z0", "[2n, d], outputs of X stacked on X'", z0
    )
    _check.require(theta.shape == 2 * z0.shape, "theta", f"shape {list(2 * z0.shape)}", theta)
    theta, z0 = jnp.asarray(theta), jnp.asarray(z0)

    dtype, record_steps, lr = (
        jnp.result_type(theta, z0),
        loop.recording_steps(steps, record_every, record_at),
        loop.rate(lr),
    )
    lr, flat = jnp.asarray(lr, dtype), theta.reshape(z0.size, z0.size).astype(dtype)
    records, z, _ = loop.descend(_output_gradients(loss), z0.astype(dtype), flat, lr, record_steps)
    return _add_stats(loop.run_of(records, lr, record_steps, "output descent"), outputs=z)


def _add_stats(run: Trajectory, **arrays: jax.Array) -> Trajectory:
    return replace(run, stats=run.stats | arrays)


@lru_cache(maxsize=64)
def _dual_gradients(loss: loop.Loss | None) -> loop.Gradients:
    def gradients(c: jax.Array, K: jax.Array) -> tuple[jax.Array, Any]:
        # The gradient in the kernel's Hilbert space: a step changes f by −lr · gradient @ k(x).
        outputs = c @ K
        if loss is None:
            slope, C = laws.BarlowTwins.transposed_gradient(outputs)
            return slope, (C, None)
        slope, records = _slope(loss, outputs.T)
        return slope.T, records

    return gradients


@lru_cache(maxsize=64)
def _output_gradients(loss: loop.Loss | None) -> loop.Gradients:
    def gradients(z: jax.Array, theta: jax.Array) -> tuple[jax.Array, Any]:
        slope, records = _slope(loss, z)
        return (theta @ slope.ravel()).reshape(z.shape), records

    return gradients


def _slope(loss: loop.Loss | None, z: jax.Array) -> tuple[jax.Array, Any]:
    """Return ∂L/∂z [2n, d] and the records: C, and the value of a user's loss."""
    if loss is None:
        slope, C = laws.BarlowTwins.embedding_gradient(z)
        return slope, (C, None)
    z1, z2 = jnp.split(z, 2)
    value, slopes = jax.value_and_grad(loss, argnums=(0, 1))(z1, z2)
    return jnp.concatenate(slopes), (cross_moment(z1, z2), value)
