"""Full-batch gradient descent of a real network, on the theory's loss or any other."""

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
    """Gradient descent θ ← θ − lr ∂L/∂θ on L = ‖C − I‖_F², C = (1/2n) Σ_i z_i z'_iᵀ + z'_i z_iᵀ of
    all pairs at once, or on another loss of them.

    Args:
        apply: pure function (params, inputs [k, ...]) -> outputs [k, d], such as
            `models.functional` makes; compiled anew for each function object.
        params: a tree of floating arrays.
        x, x2: the two views [n, ...].
        loss: any JAX function of the two views' outputs z1, z2 [n, d]; nothing then says where it
            ends, and the result is never "converged".
        lr, steps, record_every, record_at: as for `descent`.

    Returns:
        The trajectory (without snapshots; divergence is a result that names the step), and the last
        parameters.

    Raises:
        ValueError: the views differ in shape, the outputs are not [k, d], or as `descent`.
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
    at, rate = (
        loop.recording_steps(steps, record_every, record_at),
        jnp.asarray(loop.rate(lr), out.dtype),
    )
    gradients, views = _gradients(apply, loss), jnp.concatenate([x, x2])
    records, last, _ = loop.descend(gradients, params, views, rate, at)
    return loop.run_of(records, rate, at, "full-batch gradient descent of a network"), last


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
