"""The kernelised problem: K_Γ of a kernel matrix, and the modes' dual coefficients."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from stepwise import _check, eigen, kernels
from stepwise.kernels import Kernel
from stepwise.moments import CENTERS, Center, centre
from stepwise.problem.problem import TILE, Problem, assemble, first, require_modes
from stepwise.problem.spectrum import EPS, dual_modes
from stepwise.types import Numbers, Real, Whole

SLAB = 1024
"""Rows of K that are read at once."""
DENSE = 10_000
"""Side of the largest matrix that is decomposed where products with it did not suffice."""


def from_kernel(
    kernel_fn: Kernel,
    x: Numbers,
    x2: Numbers,
    *,
    center: Center = "none",
    modes: Whole | None = None,
    cutoff: Real | None = None,
    tile: Whole = TILE,
    path: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Problem:
    """The kernelised problem on n positive pairs: K of the 2n views (`kernels.gram`), then
    `from_gram`.

    Args:
        kernel_fn: kernel_fn(a [p, ...], b [q, ...]) -> [p, q], positive semi-definite
            (`stepwise.kernels` has some).
        x, x2: the two views [n, ...], in the shape that the kernel wants.
        center, modes, cutoff: as for `from_gram`. A network is not centred: for a prediction of its
            training leave the kernel as it is, too.
        tile: inputs a side that meet the kernel at once, here and in `Problem.embed`; pooling in an
            infinitely wide network wants few.
        path, progress: as for `kernels.gram`: keep K in a file, resume there, show a bar.

    Raises:
        ValueError: as `from_gram` and `kernels.gram`; or the views differ in shape.
    """
    x, x2 = _check.real_array("x", x), _check.real_array("x2", x2)
    _check.require(x2.shape == x.shape, "x2", f"shape {list(x.shape)} as x", x2)
    views = jnp.concatenate([jnp.asarray(x), jnp.asarray(x2)])
    K = kernels.gram(
        kernel_fn, np.asarray(views), tile=tile, rounding=cutoff, path=path, progress=progress
    )
    return replace(
        from_gram(K, center=center, modes=modes, cutoff=cutoff),
        kernel=kernel_fn,
        views=views,
        tile=tile,
    )


def from_gram(
    K: Numbers, *, center: Center = "none", modes: Whole | None = None, cutoff: Real | None = None
) -> Problem:
    """The problem of a kernel matrix: K_Γ = (1/2n) K^{1/2} P K^{1/2} = B diag(γ) Bᵀ, where P swaps
    the views.

    Its non-zero spectrum is Γ's in feature space (source, section 5). Modes are φ_j(x) = B_jᵀ
    K^{-1/2} k(x); of K's eigenvalues those above cutoff · the largest are kept; how many, γ's size
    says.

    With few modes no root and no second matrix is made: P K/2n is self-adjoint in the inner product
    uᵀ K v and has K_Γ's spectrum, and with uᵀ K u = 1 its eigenvectors are the dual coefficients
    (`eigen.top_of_product`). K is then read in slabs, from memory or from a file (`np.memmap`), and
    multiplied in float64.

    Args:
        K: [2n, 2n], views stacked X then X'.
        center: centre the features at their mean over all 2n views ("pooled"), over each view
            ("per_view"), or not ("none").
        modes: keep only the k largest; found without a decomposition of K when k is small against
            2n.
        cutoff: relative to K's largest eigenvalue; by default 2n · eps in float64 and 8 · eps in
            float32, which is its entries' rounding, but at least twice the size of K's most
            negative eigenvalue. Modes that rest on directions near the cutoff are biased. A kernel
            that was computed in float32 and then widened wants 1e-6. With few modes it is asked of
            the modes that were found: where one rests on directions below it, K is decomposed after
            all, or refused if it is too large for that.

    Raises:
        ValueError: K is not square with an even side, not finite, not symmetric, or not positive
            semi-definite, each beyond the cutoff (where K is not decomposed: as far as its products
            show); `modes` is more than the rank.
    """
    _check.require(center in CENTERS, "center", f"one of {CENTERS}", center)
    K = (
        _check.real_array("K", K, ndim=2)
        if not isinstance(K, np.ndarray) or K.dtype.kind != "f"
        else K
    )
    square = K.ndim == 2 and K.shape[0] == K.shape[1] and K.shape[0] % 2 == 0 and K.shape[0] > 0
    _check.require(square, "K", "a square matrix [2n, 2n], X stacked on X'", K)
    dtype, side, host = K.dtype, len(K), np.asarray(K)
    eps = max(float(jnp.finfo(dtype).eps), EPS)
    inside = cutoff is None or (np.ndim(cutoff) == 0 and 0 <= cutoff < 1)
    _check.require(
        inside, "cutoff", "a number in [0, 1), relative to the largest eigenvalue", cutoff
    )
    relative = side * eps if cutoff is None else float(cutoff)
    least = relative if cutoff is not None or eps == EPS else 8 * eps
    _require_symmetric(host, max(64 * np.sqrt(side) * eps, relative))
    if modes is not None:
        require_modes(modes, side)

        def product(block: np.ndarray) -> np.ndarray:
            return np.concatenate([host[rows].astype(np.float64) @ block for rows in _slabs(side)])

        enough = 10 * (modes + 8) <= side
        found = _matrix_free(product, side, center, modes, least, side <= DENSE) if enough else None
        if found is not None:
            gamma, features, basis, offset, lowest = found
            return assemble(gamma, features, basis, offset, lowest, dtype, center, linear=False)
    k64 = host.astype(np.float64)
    k64 = (k64 + k64.T) / 2
    centred = centre(centre(k64, center).T, center)
    gamma, dual = dual_modes(
        centred, least, refused=10 * relative, scale=float(np.linalg.norm(k64))
    )
    features, basis = centred @ dual, centre(dual, center)
    offset = k64.mean(1) @ basis if center != "none" else np.zeros(gamma.size)
    whole = assemble(gamma, features, basis, offset, gamma[-1], dtype, center, linear=False)
    return whole if modes is None else first(whole, modes)


def from_products(
    product: Callable[[np.ndarray], np.ndarray],
    n_views: Whole,
    *,
    modes: Whole,
    center: Center = "none",
    cutoff: Real = 1e-6,
    dtype: Any = np.float32,
) -> Problem:
    """The leading modes of a kernel that is known by its products alone, such as `entk.products`; K
    is never made.

    As `from_gram` finds them with few modes: P K/2n in the inner product uᵀ K v.

    Args:
        product: block [2n, b] -> K · block, float64, with the views X stacked on X'.
        n_views: 2n.
        modes, center, cutoff: as for `from_gram`.
        dtype: of the result.

    Raises:
        ValueError: n_views is not even; a mode is not positive or does not stand above the cutoff;
            K is not positive semi-definite, as far as its products show.
        eigen.NotConvergedError: the products did not suffice.
    """
    _check.whole("n_views", n_views, 2)
    _check.require(n_views % 2 == 0, "n_views", "an even number, X stacked on X'", n_views)
    require_modes(modes, int(n_views))
    found = _matrix_free(product, int(n_views), center, modes, float(cutoff), False)
    _check.require(found is not None, "modes", "as many positive modes", modes)
    assert found is not None
    gamma, features, basis, offset, lowest = found
    return assemble(gamma, features, basis, offset, lowest, np.dtype(dtype), center, linear=False)


def _require_symmetric(K: np.ndarray, relative: float) -> None:
    """Refuse what is not finite, or not symmetric to `relative` of the largest entry; slab by
    slab."""
    bad, skew, scale = 0, 0.0, 0.0
    for rows in _slabs(len(K)):
        slab = K[rows]
        finite = np.isfinite(slab)
        bad += int(finite.size - finite.sum())
        if bad == 0:
            scale = max(scale, float(np.abs(slab).max()))
            skew = max(skew, float(np.abs(slab - K[:, rows].T).max()))
    _check.require(bad == 0, "K", "finite entries", f"{bad} of {K.size} not finite")
    expected = f"a symmetric matrix (to {relative * scale:.1e})"
    _check.require(skew <= relative * scale, "K", expected, f"|K - Kᵀ| up to {skew:.1e}")


def _slabs(side: int) -> list[slice]:
    return [slice(i, min(i + SLAB, side)) for i in range(0, side, SLAB)]


def _matrix_free(
    product: Callable[[np.ndarray], np.ndarray],
    side: int,
    center: Center,
    modes: Whole,
    cutoff: float,
    small: bool,
) -> tuple[np.ndarray, ...] | None:
    """γ, features, dual coefficients, offset and the lowest γ by products with K alone.

    None where not all of the modes are positive, or, with K small enough to be decomposed, they
    were not found or one rests on eigenvalues of K below cutoff · the largest.
    """
    n = side // 2

    def centred(block: np.ndarray) -> np.ndarray:
        return centre(block, center)

    def swapped(block: np.ndarray) -> np.ndarray:
        return np.concatenate([block[n:], block[:n]]) / side

    try:
        found = eigen.top_of_product(
            swapped, lambda block: centred(product(centred(block))), side, int(modes)
        )
    except (eigen.NotConvergedError, ValueError):
        if not small:
            raise
        return None  # small enough for a decomposition to say what is wrong, or that nothing is
    if found.values[-1] <= 10 * found.residuals.max():
        return None
    basis = centred(found.vectors)
    # uᵀ K u = 1: what K is along each mode. One that is made of K's rounding can rise above the
    # real ones
    along = 1 / np.sum(basis**2, axis=0)
    ones = product(np.ones((side, 1))) if center != "none" else np.zeros((side, 1))
    size = max(along.max(), float(ones.sum()) / side)
    if along.min() <= cutoff * size:
        expected = (
            f"modes that stand above the cutoff ({cutoff:.1e} of K's largest eigenvalue, about "
            f"{size:.2e})"
        )
        _check.require(
            small, "modes", expected, f"mode {int(along.argmin()) + 1}, on {along.min():.1e}"
        )
        return None
    images = product(basis)
    offset = images.mean(axis=0) if center != "none" else np.zeros(len(found.values))
    return found.values, centred(images), basis, offset, found.lowest
