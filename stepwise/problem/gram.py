"""The problem of a kernel: the modes of K_Γ and their dual coefficients."""

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
"""The number of rows of K read at once."""
DENSE = 10_000
"""Side of the largest matrix that is decomposed if products with it are not sufficient."""


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
    """Build the problem of a kernel on n positive pairs.

    The kernel matrix K of the 2n views is computed by `kernels.gram` and passed to `from_gram`.

    Args:
        kernel_fn: kernel_fn(a [p, ...], b [q, ...]) -> [p, q], positive semi-definite. See
            `stepwise.kernels` for examples.
        x, x2: the two views [n, ...], in the shape that the kernel accepts.
        center, modes, cutoff: as for `from_gram`. A network does not centre its features, so use
            "none" to predict its training.
        tile: evaluate the kernel on at most this many inputs per side at once, here and in
            `Problem.embed`. Kernels of infinitely wide networks with pooling need small tiles.
        path, progress: as for `kernels.gram`: store K in a file and resume from it; show a progress
            bar.

    Returns:
        The problem, which keeps the kernel and the views for `Problem.embed`.

    Raises:
        ValueError: if the views differ in shape, or for the reasons of `from_gram` and
            `kernels.gram`.
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
    """Build the problem of a kernel matrix.

    The modes diagonalise K_Γ = (1/2n) K^{1/2} P K^{1/2} = B diag(γ) Bᵀ, where P swaps the views.
    The non-zero spectrum of K_Γ is that of Γ in feature space (the paper, Simon et al. 2023,
    section 5), and the modes are φ_j(x) = B_jᵀ K^{-1/2} k(x). Eigenvalues of K below cutoff · the
    largest are dropped. The size of γ is the number of modes that remain.

    If `modes` is small compared with 2n, neither a root of K nor a second matrix is formed: P K/2n
    is self-adjoint in the inner product uᵀ K v and has the spectrum of K_Γ. Its eigenvectors with
    uᵀ K u = 1 are the dual coefficients (`eigen.top_of_product`). K is then read in slabs, from
    memory or from a file (`np.memmap`), and multiplied in float64.

    Args:
        K: kernel matrix of the views, X stacked on X' [2n, 2n].
        center: centre the features at their mean over all 2n views ("pooled") or over each view
            ("per_view"), or do not centre them ("none").
        modes: keep only the k largest modes. If k is small compared with 2n, they are computed
            without decomposing K.
        cutoff: smallest eigenvalue of K that is kept, relative to the largest. The default is
            2n · eps in float64 and 8 · eps in float32 (the rounding of the entries), and at least
            twice the size of K's most negative eigenvalue. Modes that rest on directions near the
            cutoff are biased. Set 1e-6 for a kernel that was computed in float32 and then widened
            to float64. If `modes` is small, the cutoff applies to the computed modes: if one rests
            on directions below it, K is decomposed instead, or rejected if it is too large.

    Returns:
        The problem, with the k largest modes or with all.

    Raises:
        ValueError: if K is not square with an even side, not finite, not symmetric, or not positive
            semi-definite, each beyond the cutoff (if K is not decomposed, as far as its products
            show); if `modes` is more than the rank.
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
        small = side <= DENSE
        parts = _solve_matrix_free(product, side, center, modes, least, small) if enough else None
        if parts is not None:
            gamma, features, basis, offset, lowest = parts
            return assemble(gamma, features, basis, offset, lowest, dtype, center, linear=False)
    k64 = host.astype(np.float64)
    k64 = (k64 + k64.T) / 2
    centred = centre(centre(k64, center).T, center)
    gamma, dual = dual_modes(
        centred, least, tolerance=10 * relative, scale=float(np.linalg.norm(k64))
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
    """Build the problem of a kernel's leading modes from products with the kernel matrix.

    K itself is never formed. `entk.products` returns such a product. The modes are computed as in
    `from_gram` with few modes, from P K/2n in the inner product uᵀ K v.

    Args:
        product: function block [2n, b] -> K · block in float64, with the views X stacked on X'.
        n_views: the number of views, 2n.
        modes, center, cutoff: as for `from_gram`.
        dtype: dtype of the result.

    Returns:
        The problem with the `modes` largest modes.

    Raises:
        ValueError: if n_views is not even; if a mode is not positive or not above the cutoff; if K
            is not positive semi-definite, as far as its products show.
        eigen.NotConvergedError: if the iteration does not converge.
    """
    _check.whole("n_views", n_views, 2)
    _check.require(n_views % 2 == 0, "n_views", "an even number, X stacked on X'", n_views)
    require_modes(modes, int(n_views))
    parts = _solve_matrix_free(product, int(n_views), center, modes, float(cutoff), False)
    expected = "at most as many modes as K_Γ has positive ones"
    _check.require(parts is not None, "modes", expected, modes)
    assert parts is not None
    gamma, features, basis, offset, lowest = parts
    return assemble(gamma, features, basis, offset, lowest, np.dtype(dtype), center, linear=False)


def _require_symmetric(K: np.ndarray, relative: float) -> None:
    """Raise unless K is finite, and symmetric to `relative` of its largest entry.

    K is read slab by slab.
    """
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


def _solve_matrix_free(
    product: Callable[[np.ndarray], np.ndarray],
    side: int,
    center: Center,
    modes: Whole,
    cutoff: float,
    small: bool,
) -> tuple[np.ndarray, ...] | None:
    """Return γ, features, dual coefficients, offset and the lowest γ, from products with K.

    Returns None if not all modes are positive. If K is `small` enough to be decomposed, also
    returns None if the iteration fails, or if a mode rests on eigenvalues of K below cutoff · the
    largest.
    """
    n = side // 2

    def centre_block(block: np.ndarray) -> np.ndarray:
        return centre(block, center)

    def swap_views(block: np.ndarray) -> np.ndarray:
        return np.concatenate([block[n:], block[:n]]) / side

    try:
        pairs = eigen.top_of_product(
            swap_views, lambda block: centre_block(product(centre_block(block))), side, int(modes)
        )
    except (eigen.NotConvergedError, ValueError):
        if not small:
            raise
        return None  # a decomposition then succeeds, or raises an error that names the cause
    if pairs.values[-1] <= 10 * pairs.residuals.max():
        return None
    basis = centre_block(pairs.vectors)
    # As uᵀ K u = 1, this is K along each mode. It is needed because a mode that consists of K's
    # rounding errors can have a larger γ than the real modes.
    strength = 1 / np.sum(basis**2, axis=0)
    ones = product(np.ones((side, 1))) if center != "none" else np.zeros((side, 1))
    size = max(strength.max(), float(ones.sum()) / side)
    if strength.min() <= cutoff * size:
        expected = (
            f"modes above the cutoff ({cutoff:.1e} of K's largest eigenvalue, about {size:.2e})"
        )
        weakest = int(strength.argmin()) + 1
        received = f"mode {weakest}, along which K is {strength.min():.1e}"
        _check.require(small, "modes", expected, received)
        return None
    images = product(basis)
    offset = images.mean(axis=0) if center != "none" else np.zeros(len(pairs.values))
    return pairs.values, centre_block(images), basis, offset, pairs.lowest
