"""The eNTK with an entry for every pair of outputs, for few samples."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stepwise import _check
from stepwise.entk.parameters import Apply, Split, input_array, split
from stepwise.types import Numbers

GROUP = 2**20
"""Largest total number of entries of parameter arrays whose Jacobians are computed together."""


def full_kernel(apply: Apply, params: Any, x: Numbers) -> Float[Array, "n d n d"]:
    """Compute Θ_{ia,jb} = ⟨∂f_a(x_i)/∂θ, ∂f_b(x_j)/∂θ⟩ [n, d, n, d], for all pairs of outputs.

    The Jacobians are computed and multiplied for groups of parameter arrays with at most 2²⁰
    entries, or for one larger array alone. The memory is n · d · (entries of the largest array, or
    2²⁰). Each sample is passed through the function alone; samples must be independent, as with
    batch norm in evaluation mode.

    Args:
        apply: a pure function (params, inputs [k, ...]) -> outputs [k, d].
        params: a tree of parameters. Leaves that are not floating or complex are constants.
        x: inputs [n, ...].

    Raises:
        ValueError: if the outputs are not [k, d], params contain batch statistics, or the kernel is
            not finite.
    """
    function, leaves, _ = split(apply, params, statistics=False)
    x = jnp.asarray(input_array("x", x))
    out = jax.eval_shape(function, leaves, x)
    shape = getattr(out, "shape", None)
    _check.require(
        shape is not None and len(shape) == 2 and shape[0] == len(x),
        "apply",
        f"outputs [{len(x)}, d]",
        type(out).__name__ if shape is None else f"{list(shape)}",
    )
    n, d = out.shape
    theta = jnp.zeros((n * d, n * d), out.dtype)
    for group in _group_leaves(leaves):
        theta += _contract(function, group, leaves, x)
    if not _check.is_traced(theta):
        bad = int(theta.size - jnp.isfinite(theta).sum())
        _check.require(
            bad == 0,
            "apply",
            "finite gradients",
            f"a kernel with {bad} of {theta.size} entries not finite",
        )
    return theta.reshape(n, d, n, d)


def _group_leaves(leaves: list[Array]) -> list[tuple[int, ...]]:
    """Divide the parameter arrays into groups whose Jacobians are computed together.

    A group has at most `GROUP` entries, or is one array.
    """
    groups: list[list[int]] = []
    numbers = 0
    for k, leaf in enumerate(leaves):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue
        numbers += leaf.size
        if not groups or numbers > GROUP:
            groups.append([])
            numbers = leaf.size
        groups[-1].append(k)
    return [tuple(group) for group in groups]


@partial(jax.jit, static_argnums=(0, 1))
def _contract(function: Split, group: tuple[int, ...], leaves: list[Array], x: Array) -> Array:
    """Return a group of parameter arrays' term of the kernel [n d, n d].

    The function is differentiated in all parameter arrays, because a derivative rule may depend on
    which of its inputs are perturbed.
    """
    moving = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]

    def jacobian(sample: Array) -> Array:
        def output(values: list[Array]) -> Array:
            filled = list(leaves)
            for i, value in zip(moving, values, strict=True):
                filled[i] = value
            return function(filled, sample[None])[0]

        slopes = jax.jacrev(output)([leaves[i] for i in moving])
        return jnp.concatenate(
            [slopes[moving.index(k)].reshape(len(slopes[0]), -1) for k in group], axis=1
        )

    J = jax.vmap(jacobian)(x)
    flat = J.reshape(J.shape[0] * J.shape[1], -1)
    return jnp.matmul(flat, flat.T, precision=jax.lax.Precision.HIGHEST)
