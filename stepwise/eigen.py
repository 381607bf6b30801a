"""Eigenpairs of symmetric operators: all by LAPACK in float64, or the top k without a matrix."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stepwise import _check, _random

Operator = Callable[[Any, Float[Array, "m b"]], Float[Array, "m b"]]
"""A function (operands, block of columns) -> the symmetric operator applied to each column."""


class NotConvergedError(RuntimeError):
    """The residuals are still too large after the maximal number of block products."""


class Eigenpairs(NamedTuple):
    """The k largest eigenvalues in descending order, their eigenvectors, and their accuracy.

    `vectors` [m, k] has orthonormal columns.
    """

    values: Any
    vectors: Any
    residuals: Any
    """‖G v − γ v‖ of each pair.

    An exact eigenvalue lies within this distance of γ, and usually within about its square over the
    gap.
    """
    lowest: Any
    """The lowest Ritz value, an upper bound of the smallest eigenvalue.

    The bound is close only if the smallest eigenvalue is well separated from the rest.
    """
    products: int
    """Number of products of the operator with a block."""


def eigh_descending(
    matrix: Float[np.ndarray, "k k"],
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "k k"]]:
    """Return all eigenpairs of a symmetric matrix in float64, the largest eigenvalue first.

    The signs are such that each vector's entry of largest magnitude is positive.
    """
    values, vectors = np.linalg.eigh(np.asarray(matrix, np.float64))
    return values[::-1], _fix_signs(vectors[:, ::-1], np)


def top(
    operator: Operator,
    operands: Any,
    size: int,
    k: int,
    *,
    dtype: Any = jnp.float32,
    tol: float | None = None,
    seed: int = 0,
    max_products: int = 200,
) -> Eigenpairs:
    """Compute the k algebraically largest eigenpairs of a symmetric operator.

    The method is block Lanczos with thick restarts and full orthogonalisation, from a block of
    k + 8 random columns. After a few products it computes the Rayleigh-Ritz pairs of the Krylov
    space and restarts from the best ones, until every residual ‖G v − γ v‖ is at most tol · max|γ|.
    A small operator is converted to a matrix instead.

    Args:
        operator: a jittable function (operands, block [size, b]) -> [size, b].
        operands: a pytree of arrays for the operator, not copied into the compiled program.
        size: dimension m of the space.
        k: number of pairs, 1 ≤ k ≤ size.
        dtype: type of the vectors and the eigenvalues.
        tol: relative residual, by default 1e-9. Tolerances below 20 units of rounding of `dtype`
            are raised to that value, which includes the default in float32.
        seed: seed of the random start. Pairs for different seeds agree to within the residuals.
        max_products: maximal number of block products.

    Raises:
        ValueError: if k is not in 1 ... size.
        NotConvergedError: if the residuals are too large after `max_products`; the message states
            the largest one.
    """
    _check.require(1 <= k <= size, "modes", f"a number in 1 ... {size}", k)
    floor = 20 * float(jnp.finfo(dtype).eps)
    tol = max(tol if tol is not None else 1e-9, floor)
    width = min(k + 8, size)
    blocks = max(2, min(7, size // (2 * width)))  # with seven, one cycle usually suffices
    if blocks * width > size // 2:  # the Krylov space would not be much smaller than the whole one
        return _solve_dense(operator, operands, size, k, dtype)

    basis = jnp.zeros((size, blocks * width), dtype)
    image = jnp.zeros_like(basis)
    block = _orthonormalise(jax.random.normal(_random.key(seed), (size, width), dtype), basis)
    products, filled, worst = 0, 0, np.inf
    while products < max_products:
        while filled + width <= blocks * width:
            basis, image, block = _extend(operator, operands, basis, image, block, filled)
            filled, products = filled + width, products + 1
        basis, image, values, residuals, lowest = _rayleigh_ritz(
            operator, operands, basis, image, width
        )
        products += 1
        scale = jnp.maximum(jnp.maximum(jnp.abs(values[0]), jnp.abs(lowest)), jnp.finfo(dtype).tiny)
        worst = float(jnp.max(residuals[:k]) / scale)
        if worst <= tol:
            vectors = _fix_signs(basis[:, :k], jnp)
            return Eigenpairs(values[:k], vectors, residuals[:k], lowest, products)
        filled = width
    raise NotConvergedError(
        f"top eigenpairs: expected every residual below {tol:.1e} of the largest eigenvalue within "
        f"{max_products} block products, received {worst:.1e}; pass fewer modes or a larger tol"
    )


def top_of_product(
    left: Callable[[np.ndarray], np.ndarray],
    right: Callable[[np.ndarray], np.ndarray],
    size: int,
    k: int,
    *,
    tol: float = 1e-9,
    seed: int = 0,
    max_products: int = 100,
) -> Eigenpairs:
    """Compute the k largest eigenpairs S M u = γ u with uᵀ M u = 1.

    S is symmetric and M positive semi-definite. S M is self-adjoint in M's inner product, so no
    root of M is needed. The method is that of `top` in this inner product, in float64 on the host.
    Products with M are the main cost: each basis vector is stored with its image under M, and each
    step needs one product with a block.

    Args:
        left: S applied to a block of columns [size, b]; assumed cheap.
        right: M applied to such a block; assumed expensive.
        size: dimension of the space.
        k: number of pairs, 1 ≤ k ≤ size.
        tol: residual √(rᵀ M r), r = S M u − γ u, relative to the largest |γ|.
        seed: seed of the random start.
        max_products: maximal number of products with M.

    Raises:
        ValueError: if k is not in 1 ... size, M is not positive semi-definite, or its rank is below
            k.
        NotConvergedError: if the residuals are too large after `max_products`; the message states
            the largest one.
    """
    _check.require(1 <= k <= size, "modes", f"a number in 1 ... {size}", k)
    width = min(k + 8, size)
    cap = min(8 * width, size)
    # start within the range of S M: components in M's null space would grow with every projection
    block = left(right(np.random.default_rng(seed).normal(size=(size, width))))
    block, image = _whiten(block, right(block))
    _check.require(
        block.shape[1] > 0, "K", "a kernel that is not zero after centring", "zero, to rounding"
    )
    basis, images = block[:, :0], image[:, :0]
    products, worst = 2, np.inf
    while products < max_products:
        while block.shape[1] and basis.shape[1] + block.shape[1] <= cap:
            basis, images = np.hstack([basis, block]), np.hstack([images, image])
            block, image = _deflate(left(image), right, basis, images)
            products += 1
        values, rotation = np.linalg.eigh(_symmetrise(images.T @ left(images)))
        lowest, values, rotation = values[0], values[::-1][:width], rotation[:, ::-1][:, :width]
        basis = basis @ rotation
        basis, images = _whiten(basis, right(basis))
        _check.require(
            basis.shape[1] >= k, "modes", f"a number in 1 ... {basis.shape[1]}, the rank of K", k
        )
        values, rotation = np.linalg.eigh(_symmetrise(images.T @ left(images)))
        values, basis, images = values[::-1], basis @ rotation[:, ::-1], images @ rotation[:, ::-1]
        residual = left(images) - basis * values
        image = right(residual)
        products += 2
        residuals = np.sqrt(np.maximum(np.sum(residual * image, axis=0), 0))
        worst = float(residuals[:k].max() / max(np.abs(values).max(), abs(lowest), 1e-300))
        if worst <= tol:
            vectors = _fix_signs(basis[:, :k], np)
            return Eigenpairs(values[:k], vectors, residuals[:k], np.asarray(lowest), products)
        block, image = _deflate(residual, right, basis, images)
        products += 1
    raise NotConvergedError(
        f"top eigenpairs: expected every residual below {tol:.1e} of the largest eigenvalue within "
        f"{max_products} block products, received {worst:.1e}; pass fewer modes or a larger tol"
    )


def _symmetrise(matrix: np.ndarray) -> np.ndarray:
    return (matrix + matrix.T) / 2


def _deflate(
    block: np.ndarray,
    right: Callable[[np.ndarray], np.ndarray],
    basis: np.ndarray,
    images: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return columns that are orthonormal to each other and the basis in M's inner product.

    Their images under M are returned too. M is applied after the projection, because a difference
    of images would consist of rounding.
    """
    removed = np.zeros(block.shape[1])
    for _ in range(2):
        weights = images.T @ block
        block, removed = block - basis @ weights, removed + np.sum(weights**2, axis=0)
    image = right(block)
    scale = float(np.max(removed + np.sum(block * image, axis=0), initial=0))
    block, image = _whiten(block, image, scale)
    weights = images.T @ block
    return _whiten(block - basis @ weights, image - images @ weights, 1.0)


def _whiten(
    block: np.ndarray, image: np.ndarray, scale: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return orthonormal columns in M's inner product, with their images under M.

    Directions within rounding of zero, relative to `scale` or to the largest one, are dropped.

    Raises:
        ValueError: if M is negative along a direction; checked only without a `scale`.
    """
    values, rotation = np.linalg.eigh(_symmetrise(block.T @ image))
    top = np.max(np.abs(values), initial=0)
    if scale is None and top > 0:
        # Per unit of length, because products along a direction near M's null space are rounding,
        # of either sign.
        real = np.abs(values) > 1e-10 * top
        quotients = values[real] / np.sum((block @ rotation[:, real]) ** 2, axis=0)
        received = (
            f"a direction in which it is {quotients.min():.1e}, against {quotients.max():.1e}"
        )
        _check.require(
            quotients.min() >= -1e-6 * np.abs(quotients).max(),
            "K",
            "a positive semi-definite kernel",
            received,
        )
    keep = values > max(1e-13 * top, 1e-20 * (scale or 0.0))
    rotation = rotation[:, keep] / np.sqrt(values[keep])
    return block @ rotation, image @ rotation


def _solve_dense(operator: Operator, operands: Any, size: int, k: int, dtype: Any) -> Eigenpairs:
    matrix = np.asarray(operator(operands, jnp.eye(size, dtype=dtype)), np.float64)
    values, vectors = eigh_descending((matrix + matrix.T) / 2)
    residuals = np.linalg.norm(matrix @ vectors[:, :k] - vectors[:, :k] * values[:k], axis=0)
    arrays = (values[:k], vectors[:, :k], residuals, values[-1])
    top_values, top_vectors, bounds, lowest = (jnp.asarray(array, dtype) for array in arrays)
    return Eigenpairs(top_values, top_vectors, bounds, lowest, products=1)


@partial(jax.jit, static_argnums=0, donate_argnums=(2, 3, 4))
def _extend(
    operator: Operator, operands: Any, basis: Array, image: Array, block: Array, filled: Array
) -> tuple[Array, Array, Array]:
    product = operator(operands, block)
    basis = jax.lax.dynamic_update_slice_in_dim(basis, block, filled, axis=1)
    image = jax.lax.dynamic_update_slice_in_dim(image, product, filled, axis=1)
    return basis, image, _orthonormalise(product, basis)


def _orthonormalise(block: Array, basis: Array) -> Array:
    """Return orthonormal columns that are orthogonal to the basis.

    They are projected twice, which suffices for full precision.
    """
    for _ in range(2):
        block = block - basis @ (basis.T @ block)
        block = jnp.linalg.qr(block)[0]
    return block


@partial(jax.jit, static_argnums=(0, 4), donate_argnums=(2, 3))
def _rayleigh_ritz(
    operator: Operator, operands: Any, basis: Array, image: Array, width: int
) -> tuple[Array, Array, Array, Array, Array]:
    """Compute the best `width` Ritz pairs of the space and store them as its first columns.

    Their products with the operator are computed again, because rotating the old products would add
    rounding at every restart.
    """
    small = basis.T @ image
    values, rotation = jnp.linalg.eigh((small + small.T) / 2)
    lowest, values, rotation = values[0], values[::-1][:width], rotation[:, ::-1][:, :width]
    vectors = jnp.linalg.qr(basis @ rotation)[0]
    products = operator(operands, vectors)
    residuals = jnp.linalg.norm(products - vectors * values[None], axis=0)
    zeros = jnp.zeros((basis.shape[0], basis.shape[1] - width), basis.dtype)
    return jnp.hstack([vectors, zeros]), jnp.hstack([products, zeros]), values, residuals, lowest


def _fix_signs(vectors: Any, xp: Any) -> Any:
    """Choose the sign of each column so that its entry of largest magnitude is positive."""
    peak = xp.take_along_axis(vectors, xp.argmax(xp.abs(vectors), axis=0)[None], axis=0)
    return vectors * xp.where(peak < 0, -1, 1)


descending = eigh_descending  # former name, until 0.3
