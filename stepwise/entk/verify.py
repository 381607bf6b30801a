"""A check of a computed kernel: a few of its entries, by plain backward passes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stepwise import _check
from stepwise.entk.parameters import dtype_of

TOLERANCE = {64: 1e-6, 32: 1e-2, 16: 0.3, 8: 0.6}
"""Largest difference of an entry over √(K_ii K_jj), by the bits of the network's numbers."""

ROWS = 64
"""Largest number of output directions for which whole entries are verified."""


def verify(kernel: Any, V: np.ndarray, K: np.ndarray) -> None:
    """Compare entries of Σ_r ⟨∂(v_r·f)(x)/∂θ, ∂(v_r·f)(x')/∂θ⟩ with those of `jax.vjp`.

    The engine differentiates the operations of a function one by one. A derivative rule that
    depends on more than its own operation would make the result wrong; this check reports it. The
    entries compared are those for the first and the last input.

    Args:
        kernel: the `Kernel`.
        V: the rows v_r [R, O].
        K: the sum over all units [n, n'].

    Raises:
        ValueError: if an entry differs, with the largest difference.
    """
    i, j = 0, len(kernel.x) - 1
    pair = kernel.x[[i, j]]
    products = np.zeros((2, 2))
    for v in V[V.any(axis=1)]:
        gradients = kernel.engine.gradients(kernel.selected, kernel.leaves, pair, v)
        products += np.asarray(gradients, np.float64)
    rows = [0, len(K) - 1] if kernel.symmetric else [0]
    columns = [0, K.shape[1] - 1] if kernel.symmetric else [K.shape[1] - 1]
    expected = products if kernel.symmetric else products[:1, 1:]
    lower = np.tril(K) + np.tril(K, -1).T if kernel.symmetric else K
    size = np.sqrt(np.outer(np.diag(products), np.diag(products)))
    size = size if kernel.symmetric else size[:1, 1:]
    gaps = np.abs(lower[np.ix_(rows, columns)] - expected)
    bits = min(jnp.finfo(leaf.dtype).bits for leaf in kernel.leaves if _is_floating(leaf))
    least = np.finfo(np.float32).tiny
    wrong = ~(gaps <= TOLERANCE[bits] * np.maximum(size, least))
    _check.require(
        not wrong.any(),
        "apply",
        "a function whose kernel agrees with plain backward passes (jax.vjp)",
        f"one whose entries differ by up to {np.max(gaps / np.maximum(size, least)):.1e} of their "
        f"size: in float32 the function may be too rough for a kernel, so try float64; otherwise "
        f'use entk.full_kernel or backend="neural_tangents" and report this function',
    )


def verify_pair(kernel: Any) -> None:
    """Verify the kernel of the first and the last input, for one random direction of the outputs.

    This costs little compared with a large kernel, and detects an error before it is computed.

    Raises:
        ValueError: as `verify`.
    """
    direction = np.random.default_rng(0).normal(size=(1, kernel.outputs))
    small = kernel.restrict_to_pair()
    work = small.work(direction / np.linalg.norm(direction))
    verify(small, work.V, sum(small.terms(work), np.zeros(small.shape)))


def _is_floating(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def gradient_products(
    function: Any, chosen: tuple[int, ...], leaves: Any, pair: Any, v: Any
) -> Any:
    """Return ⟨∂(v·f)(x_a)/∂θ, ∂(v·f)(x_b)/∂θ⟩ [2, 2] of two inputs, over the chosen leaves."""

    def output(moving: list[Any], x: Any) -> Any:
        filled = list(leaves)
        for leaf, value in zip(chosen, moving, strict=True):
            filled[leaf] = value
        out = function(filled, x[None]).reshape(-1)
        return jnp.vdot(v.astype(out.dtype), out)

    gradients = jax.vmap(jax.grad(output), (None, 0))([leaves[i] for i in chosen], pair)
    total = jnp.zeros((2, 2), jnp.float32)
    for gradient in gradients:
        flat = gradient.reshape(2, -1)
        wide = dtype_of([flat])
        total = total + jnp.matmul(
            flat.astype(wide), flat.T.astype(wide), precision=jax.lax.Precision.HIGHEST
        )
    return total
