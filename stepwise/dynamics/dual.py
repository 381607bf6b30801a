"""Gradient descent where kernel models and networks near their start live: in dual coefficients, in
outputs.
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
    """Gradient descent on the dual coefficients of a kernel model f(x) = c k(x), k(x) = [K(x, X),
    K(x, X')].

    c ← c − lr (∂L/∂z)ᵀ with the outputs z = K cᵀ: gradient descent on the function in the kernel's
    own space. For L = ‖C − I‖_F², C = (1/2n) c K P K cᵀ, where P swaps the views, the gradient is
    (4/2n) (C − I) c K P. In mode coordinates, A = c K · basis, it is `descent` (source, section 5);
    this is the same experiment without a decomposition of K.

    Args:
        K: [2n, 2n], views stacked X then X'; centre it beforehand if the model is to be centred.
        c0: coefficients of the start [d, 2n]; `A0 @ problem.basis.T` of a problem's mode
            coordinates.
        loss: any JAX function of the two views' outputs z1, z2 [n, d] in place of ‖C − I‖_F²;
            nothing then says where it ends, and the result is never "converged".
        lr, steps, record_every, record_at: as for `descent`.

    Returns:
        Trajectory without snapshots; `stats["coefficients"]` is c at the last step.

    Raises:
        ValueError: K is not square with an even side or not symmetric, c0 does not have 2n columns,
            or as `descent`.
    """
    K, c0 = _check.real_array("K", K, ndim=2), _check.real_array("c0", c0, ndim=2)
    square = K.shape[0] == K.shape[1] and K.shape[0] % 2 == 0 and K.shape[0] > 0
    _check.require(square, "K", "a square matrix [2n, 2n], X stacked on X'", K)
    _check.require(c0.shape[1] == len(K), "c0", f"{len(K)} columns, one a view", c0)
    K, c0 = jnp.asarray(K), jnp.asarray(c0)
    if not _check.is_traced(K):
        skew, scale = float(jnp.abs(K - K.T).max()), float(jnp.abs(K).max())
        bound = 64 * len(K) ** 0.5 * float(jnp.finfo(K.dtype).eps) * scale
        _check.require(
            skew <= bound, "K", f"a symmetric matrix (to {bound:.1e})", f"|K - Kᵀ| up to {skew:.1e}"
        )

    dtype, at, lr = (
        jnp.result_type(K, c0),
        loop.recording_steps(steps, record_every, record_at),
        loop.rate(lr),
    )
    lr = jnp.asarray(lr, dtype)
    records, c, _ = loop.descend(_dual_gradients(loss), c0.astype(dtype), K.astype(dtype), lr, at)
    return _with(loop.run_of(records, lr, at, "dual descent"), coefficients=c)


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
    """Gradient descent of a linearised network, seen in its outputs z [2n, d] on the views.

    z ← z − lr Θ ∂L/∂z with the full kernel Θ_{ia,jb} = ⟨∂z_ia/∂θ, ∂z_jb/∂θ⟩ of the network at its
    start, which a linear model keeps for ever. For L = ‖C − I‖_F², C = (1/2n) zᵀ P z, the gradient
    is ∂L/∂z = (2/n) P z (C − I). With Θ = K ⊗ 1 it is `descent` on K's problem; a finite network's
    Θ is not, and this is what its own kernel at the start predicts.

    Args:
        theta: [2n, d, 2n, d].
        z0: outputs at the start [2n, d], X's views stacked on X's.
        loss: as for `dual_descent`.
        lr, steps, record_every, record_at: as for `descent`.

    Returns:
        Trajectory without snapshots; `stats["outputs"]` is z at the last step.

    Raises:
        ValueError: theta does not fit z0, or as `descent`.
    """
    theta, z0 = _check.real_array("theta", theta, ndim=4), _check.real_array("z0", z0, ndim=2)
    _check.require(
        z0.shape[0] % 2 == 0 and z0.shape[0] > 0, "z0", "[2n, d], X's views stacked on X's", z0
    )
    _check.require(theta.shape == 2 * z0.shape, "theta", f"shape {list(2 * z0.shape)}", theta)
    theta, z0 = jnp.asarray(theta), jnp.asarray(z0)

    dtype, at, lr = (
        jnp.result_type(theta, z0),
        loop.recording_steps(steps, record_every, record_at),
        loop.rate(lr),
    )
    lr, flat = jnp.asarray(lr, dtype), theta.reshape(z0.size, z0.size).astype(dtype)
    records, z, _ = loop.descend(_output_gradients(loss), z0.astype(dtype), flat, lr, at)
    return _with(loop.run_of(records, lr, at, "output descent"), outputs=z)


def _with(run: Trajectory, **arrays: jax.Array) -> Trajectory:
    return replace(run, stats=run.stats | arrays)


@lru_cache(maxsize=64)
def _dual_gradients(loss: loop.Loss | None) -> loop.Gradients:
    def gradients(c: jax.Array, K: jax.Array) -> tuple[jax.Array, Any]:
        # the gradient in the kernel's own space: f moves by −lr · this @ k(x)
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
    """∂L/∂z [2n, d], and what is recorded: C, and the loss where it is not the law's."""
    if loss is None:
        slope, C = laws.BarlowTwins.embedding_gradient(z)
        return slope, (C, None)
    z1, z2 = jnp.split(z, 2)
    value, slopes = jax.value_and_grad(loss, argnums=(0, 1))(z1, z2)
    return jnp.concatenate(slopes), (cross_moment(z1, z2), value)
