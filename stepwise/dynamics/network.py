"""Full-batch gradient descent of a real network, on the loss of the theory or any other loss."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from stepwise import _check, laws
from stepwise.dynamics import loop
from stepwise.models import Apply
from stepwise.moments import cross_moment
from stepwise.trajectory import Trajectory
from stepwise.types import Numbers, Whole


def full_batch(
    apply: Apply,
    params: Any,
    x: Numbers,
    x2: Numbers,
    lr: Numbers,
    steps: Whole,
    *,
    loss: loop.Loss | None = None,
    record_every: Whole | None = None,
    record_at: Numbers | None = None,
) -> tuple[Trajectory, Any]:
    """Run gradient descent θ ← θ − lr ∂L/∂θ on all pairs at once.

    The loss is L = ‖C − I‖_F² with C = (1/2n) Σ_i z_i z'_iᵀ + z'_i z_iᵀ, or `loss` if given.

    Args:
        apply: pure function (params, inputs [k, ...]) -> outputs [k, d], such as
            `models.functional` returns. Each function object is compiled separately.
        params: a pytree of floating-point arrays.
        x, x2: the two views [n, ...].
        loss: any JAX function loss(z1, z2) of the two views' outputs [n, d], instead of
            ‖C − I‖_F². The lowest value of such a loss is not known, so the result is never
            "converged".
        lr, steps, record_every, record_at: as for `descent`.

    Returns:
        The trajectory, without snapshots, and the last parameters. If the run diverges, the
        trajectory's `result` names the step.

    Raises:
        ValueError: if the views differ in shape, or the outputs are not [k, d]; or for the reasons
            of `descent`.
    """
    x, x2 = (jnp.asarray(_check.real_array(name, view)) for name, view in (("x", x), ("x2", x2)))
    _check.require(x2.shape == x.shape, "x2", f"shape {list(x.shape)} as x", x2)
    out = jax.eval_shape(apply, params, x)
    _check.require(
        out.ndim == 2 and out.shape[0] == len(x),
        "apply",
        f"outputs [{len(x)}, d]",
        f"{list(out.shape)}",
    )
    record_steps, rate = (
        loop.recording_steps(steps, record_every, record_at),
        jnp.asarray(loop.rate(lr), out.dtype),
    )
    gradients, views = _gradients(apply, loss), jnp.concatenate([x, x2])
    records, last, _ = loop.descend(gradients, params, views, rate, record_steps)
    source = "full-batch gradient descent of a network"
    return loop.run_of(records, rate, record_steps, source), last


@lru_cache(maxsize=64)
def _gradients(apply: Apply, loss: loop.Loss | None) -> loop.Gradients:
    def value(params: Any, views: jax.Array) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        z, z2 = jnp.split(apply(params, views), 2)
        C = cross_moment(z, z2)
        if loss is None:
            return laws.BarlowTwins.distance(C), (C, None)
        number = loss(z, z2)
        return number, (C, number)

    return jax.grad(value, has_aux=True)
