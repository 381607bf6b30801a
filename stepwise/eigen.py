"""Eigenpairs: all of them by LAPACK in float64, or only the top k of an operator that is never
formed.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stepwise import _check, _random

Operator = Callable[[Any, Float[Array, "m b"]], Float[Array, "m b"]]
"""(operands, block of columns) -> the symmetric operator applied to each column."""


class NotConvergedError(RuntimeError):
    """The block products ran out before every residual was small enough."""


class Eigenpairs(NamedTuple):
    """The largest eigenvalues first, their orthonormal vectors as columns [m, k], and how well they
    were found.
    """

    values: Any
    vectors: Any
    residuals: Any
    """‖G v − γ v‖ of each pair: |γ − a true eigenvalue| is at most this, and about its square over
    the gap.
    """
    lowest: Any
    """The lowest Ritz value: an upper bound of the smallest eigenvalue, close to it only where that
    stands out.
    """
    products: int
    """How many times the operator met a block."""


def eigh_descending(
    matrix: Float[np.ndarray, "k k"],
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "k k"]]:
    """All eigenpairs of a symmetric matrix, from the largest down, in float64; each vector's
    largest entry positive.
    """
    values, vectors = np.linalg.eigh(np.asarray(matrix, np.float64))
    return values[::-1], _signed(vectors[:, ::-1], np)


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
    """The k algebraically largest eigenpairs of a symmetric operator, by block Lanczos with thick
    restarts.

    The Krylov space of a block of k + 8 random columns is kept fully orthogonal; after a few
    products its Rayleigh-Ritz pairs are measured, and it restarts from the best of them until every
    residual ‖G v − γ v‖ is at most tol · max|γ|.

    Args:
        operator: (operands, block [size, b]) -> [size, b], jittable; `operands` are passed as
            arrays and not copied into the compiled program.
        size: dimension m of the space.
        k: how many pairs, 1 ≤ k ≤ size.
        tol: relative residual; 20 units of rounding of `dtype` at the least, which is the default
            in float32; 1e-9 in float64.
        seed: of the random start; another seed gives the same pairs to within the residuals.
        max_products: products with a block before it gives up.

    Raises:
        ValueError: k is not in 1 ... size.
        NotConvergedError: not converged within `max_products`; names the residual reached.
    """
    _check.require(1 <= k <= size, "modes", f"a number in 1 ... {size}", k)
    floor = 20 * float(jnp.finfo(dtype).eps)
    tol = max(tol if tol is not None else 1e-9, floor)
    width = min(k + 8, size)
    blocks = max(2, min(7, size // (2 * width)))  # seven usually suffice at once
    if blocks * width > size // 2:  # the Krylov space would be no smaller than the whole one
        return _dense(operator, operands, size, k, dtype)

    basis = jnp.zeros((size, blocks * width), dtype)
    image = jnp.zeros_like(basis)
    block = _orthonormal(jax.random.normal(_random.key(seed), (size, width), dtype), basis)
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
            vectors = _signed(basis[:, :k], jnp)
            return Eigenpairs(values[:k], vectors, residuals[:k], lowest, products)
        filled = width
    raise NotConvergedError(
        f"top eigenpairs: expected every residual below {tol:.1e} of the largest eigenvalue within "
        f"{max_products} block products, reached {worst:.1e}; ask for fewer modes or a larger tol"
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
    """The k largest eigenpairs S M u = γ u of a symmetric S and a positive semi-definite M, with uᵀ
    M u = 1.

    S M is self-adjoint in M's inner product, so that no root of M is needed: the method of `top`
    there, in float64 on the host. Each step meets M once, with a block; the M-images of all that is
    kept are kept with it.

    Args:
        left: S applied to a block of columns [size, b]; cheap.
        right: M applied to such a block; dear.
        size: dimension of the space.
        k: how many pairs, 1 ≤ k ≤ size.
        tol: residual √(rᵀ M r), r = S M u − γ u, relative to the largest |γ|.
        seed: of the random start.
        max_products: products with M before it gives up.

    Raises:
        ValueError: k is not in 1 ... size; M is not positive semi-definite; its rank is below k.
        NotConvergedError: not converged within `max_products`; names the residual reached.
    """
    _check.require(1 <= k <= size, "modes", f"a number in 1 ... {size}", k)
    width = min(k + 8, size)
    cap = min(8 * width, size)
    # within the range of S M from the start: what M does not see would grow with every projection
    block = left(right(np.random.default_rng(seed).normal(size=(size, width))))
    block, image = _whitened(block, right(block))
    _check.require(
        block.shape[1] > 0, "K", "a kernel that sees more than one direction", "zero, to rounding"
    )
    basis, images = block[:, :0], image[:, :0]
    products, worst = 2, np.inf
    while products < max_products:
        while block.shape[1] and basis.shape[1] + block.shape[1] <= cap:
            basis, images = np.hstack([basis, block]), np.hstack([images, image])
            block, image = _deflated(left(image), right, basis, images)
            products += 1
        values, rotation = np.linalg.eigh(_symmetric(images.T @ left(images)))
        lowest, values, rotation = values[0], values[::-1][:width], rotation[:, ::-1][:, :width]
        basis = basis @ rotation
        basis, images = _whitened(basis, right(basis))
        _check.require(
            basis.shape[1] >= k, "modes", f"a number in 1 ... {basis.shape[1]}, the rank of K", k
        )
        values, rotation = np.linalg.eigh(_symmetric(images.T @ left(images)))
        values, basis, images = values[::-1], basis @ rotation[:, ::-1], images @ rotation[:, ::-1]
        residual = left(images) - basis * values
        image = right(residual)
        products += 2
        residuals = np.sqrt(np.maximum(np.sum(residual * image, axis=0), 0))
        worst = float(residuals[:k].max() / max(np.abs(values).max(), abs(lowest), 1e-300))
        if worst <= tol:
            found = (values[:k], _signed(basis[:, :k], np), residuals[:k], np.asarray(lowest))
            return Eigenpairs(*found, products)
        block, image = _deflated(residual, right, basis, images)
        products += 1
    raise NotConvergedError(
        f"top eigenpairs: expected every residual below {tol:.1e} of the largest eigenvalue within "
        f"{max_products} block products, reached {worst:.1e}; ask for fewer modes or a larger tol"
    )


def _symmetric(matrix: np.ndarray) -> np.ndarray:
    return (matrix + matrix.T) / 2


def _deflated(
    block: np.ndarray,
    right: Callable[[np.ndarray], np.ndarray],
    basis: np.ndarray,
    images: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal columns in M's inner product, orthogonal to the basis, with their images under M.

    M meets what is left after the projection, not the block before it: a difference of images would
    be rounding.
    """
    removed = np.zeros(block.shape[1])
    for _ in range(2):
        weights = images.T @ block
        block, removed = block - basis @ weights, removed + np.sum(weights**2, axis=0)
    image = right(block)
    scale = float(np.max(removed + np.sum(block * image, axis=0), initial=0))
    block, image = _whitened(block, image, scale)
    weights = images.T @ block
    return _whitened(block - basis @ weights, image - images @ weights, 1.0)


def _whitened(
    block: np.ndarray, image: np.ndarray, scale: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal columns in M's inner product; what is rounding beside `scale`, or the largest, is
    dropped.

    Without a scale a direction in which M is negative is refused.
    """
    values, rotation = np.linalg.eigh(_symmetric(block.T @ image))
    top = np.max(np.abs(values), initial=0)
    if scale is None and top > 0:
        # per unit of length: along a direction that M hardly sees a product, of any sign, can be
        # rounding
        real = np.abs(values) > 1e-10 * top
        along = values[real] / np.sum((block @ rotation[:, real]) ** 2, axis=0)
        found = f"a direction in which it is {along.min():.1e}, against {along.max():.1e}"
        _check.require(
            along.min() >= -1e-6 * np.abs(along).max(),
            "K",
            "a positive semi-definite kernel",
            found,
        )
    kept = values > max(1e-13 * top, 1e-20 * (scale or 0.0))
    rotation = rotation[:, kept] / np.sqrt(values[kept])
    return block @ rotation, image @ rotation


def _dense(operator: Operator, operands: Any, size: int, k: int, dtype: Any) -> Eigenpairs:
    matrix = np.asarray(operator(operands, jnp.eye(size, dtype=dtype)), np.float64)
    values, vectors = eigh_descending((matrix + matrix.T) / 2)
    residuals = np.linalg.norm(matrix @ vectors[:, :k] - vectors[:, :k] * values[:k], axis=0)
    found = (values[:k], vectors[:, :k], residuals, values[-1])
    top_values, top_vectors, bounds, lowest = (jnp.asarray(array, dtype) for array in found)
    return Eigenpairs(top_values, top_vectors, bounds, lowest, products=1)


@partial(jax.jit, static_argnums=0, donate_argnums=(2, 3, 4))
def _extend(
    operator: Operator, operands: Any, basis: Array, image: Array, block: Array, filled: Array
) -> tuple[Array, Array, Array]:
    product = operator(operands, block)
    basis = jax.lax.dynamic_update_slice_in_dim(basis, block, filled, axis=1)
    image = jax.lax.dynamic_update_slice_in_dim(image, product, filled, axis=1)
    return basis, image, _orthonormal(product, basis)


def _orthonormal(block: Array, basis: Array) -> Array:
    """Orthonormal columns orthogonal to the basis; projected twice, which is enough for full
    precision.
    """
    for _ in range(2):
        block = block - basis @ (basis.T @ block)
        block = jnp.linalg.qr(block)[0]
    return block


@partial(jax.jit, static_argnums=(0, 4), donate_argnums=(2, 3))
def _rayleigh_ritz(
    operator: Operator, operands: Any, basis: Array, image: Array, width: int
) -> tuple[Array, Array, Array, Array, Array]:
    """Ritz pairs of the space; the best `width` stay as its first columns.

    They are orthonormalised and multiplied anew: rotating old products would add rounding at every
    restart.
    """
    small = basis.T @ image
    values, rotation = jnp.linalg.eigh((small + small.T) / 2)
    lowest, values, rotation = values[0], values[::-1][:width], rotation[:, ::-1][:, :width]
    vectors = jnp.linalg.qr(basis @ rotation)[0]
    products = operator(operands, vectors)
    residuals = jnp.linalg.norm(products - vectors * values, axis=0)
    zeros = jnp.zeros((basis.shape[0], basis.shape[1] - width), basis.dtype)
    return jnp.hstack([vectors, zeros]), jnp.hstack([products, zeros]), values, residuals, lowest


def _signed(vectors: Any, xp: Any) -> Any:
    """Fix the free sign of each column: its largest entry is positive."""
    peak = xp.take_along_axis(vectors, xp.argmax(xp.abs(vectors), axis=0)[None], axis=0)
    return vectors * xp.where(peak < 0, -1, 1)


descending = eigh_descending  # former name, until 0.3
