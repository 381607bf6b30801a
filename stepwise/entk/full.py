"""The whole kernel, every pair of outputs apart, for few samples."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stepwise import _check
from stepwise.types import Numbers


def full_kernel(
    apply: Callable[[Any, Any], Any], params: Any, x: Numbers
) -> Float[Array, "n d n d"]:
    """Θ_{ia,jb} = ⟨∂f_a(x_i)/∂θ, ∂f_b(x_j)/∂θ⟩ [n, d, n, d] of a pure function, without averaging
    over outputs.

    Jacobian contraction, a parameter array at a time: memory n · d · (numbers in the largest
    array). Samples are taken one by one, so a function whose samples are coupled (batch statistics
    in training mode) has no such kernel.

    Args:
        apply: pure function (params, inputs [k, ...]) -> outputs [k, d].
        params: a tree of floating arrays.
        x: inputs [n, ...].

    Raises:
        ValueError: the outputs are not [k, d], or the kernel is not finite.
    """
    whole = np.dtype(getattr(x, "dtype", float)).kind in "iub"
    x = jnp.asarray(x if whole else _check.real_array("x", x))
    out = jax.eval_shape(apply, params, x)
    _check.require(
        out.ndim == 2 and out.shape[0] == len(x),
        "apply",
        f"outputs [{len(x)}, d]",
        f"{list(out.shape)}",
    )
    leaves, tree = jax.tree.flatten(params)
    n, d = out.shape
    theta = jnp.zeros((n * d, n * d), out.dtype)
    for k in range(len(leaves)):
        theta += _contracted(apply, tree, k, leaves, x)
    if not _check.is_traced(theta):
        bad = int(theta.size - jnp.isfinite(theta).sum())
        _check.require(
            bad == 0,
            "apply",
            "finite gradients",
            f"a kernel with {bad} of {theta.size} entries not finite",
        )
    return theta.reshape(n, d, n, d)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _contracted(
    apply: Callable[[Any, Any], Any], tree: Any, k: int, leaves: list[Array], x: Array
) -> Array:
    def output(leaf: Array, sample: Array) -> Array:
        return apply(jax.tree.unflatten(tree, [*leaves[:k], leaf, *leaves[k + 1 :]]), sample[None])[
            0
        ]

    jacobian = jax.vmap(jax.jacrev(output), (None, 0))(leaves[k], x)
    flat = jacobian.reshape(jacobian.shape[0] * jacobian.shape[1], -1)
    return jnp.matmul(flat, flat.T, precision=jax.lax.Precision.HIGHEST)
