"""The kernelised problem: K_Γ of a kernel matrix, and the modes' dual coefficients."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from stepwise import _check, eigen
from stepwise.moments import CENTERS, Center
from stepwise.problem.problem import Kernel, Problem, assemble, first
from stepwise.types import Numbers, Real, Whole

EPS = float(np.finfo(np.float64).eps)


def from_kernel(
    kernel_fn: Kernel, x: Numbers, x2: Numbers, *, center: Center = "none", modes: Whole | None = None
) -> Problem:
    """The kernelised problem on n positive pairs: K of the 2n views, then `from_gram`.

    Args:
        kernel_fn: kernel_fn(a [p, ...], b [q, ...]) -> [p, q], positive semi-definite.
        x, x2: the two views [n, ...], in the shape that the kernel wants.
        center, modes: as for `from_gram`.

    Raises:
        ValueError: as `from_gram`; or the views differ in shape.
    """
    x, x2 = _check.real_array("x", x), _check.real_array("x2", x2)
    _check.require(x2.shape == x.shape, "x2", f"shape {list(x.shape)} as x", x2)
    views = jnp.concatenate([jnp.asarray(x), jnp.asarray(x2)])
    K = kernel_fn(views, views)
    _check.require(np.shape(K) == (len(views), len(views)), "kernel_fn", f"values [{len(views)}, {len(views)}]", K)
    problem = from_gram(K, center=center, modes=modes)
    return replace(problem, kernel=kernel_fn, views=views)


def from_gram(
    K: Numbers, *, center: Center = "none", modes: Whole | None = None, cutoff: Real | None = None
) -> Problem:
    """The problem of a kernel matrix: K_Γ = (1/2n) K^{1/2} P K^{1/2} = B diag(γ) Bᵀ, where P swaps the views.

    Its non-zero spectrum is Γ's in feature space (source, section 5). Modes are φ_j(x) = B_jᵀ K^{-1/2} k(x); of K's
    eigenvalues those above cutoff · the largest are kept; how many, γ's size says.

    Args:
        K: [2n, 2n], views stacked X then X'.
        center: centre the features at their mean over all 2n views ("pooled"), over each view ("per_view"), or
            not ("none").
        modes: keep only the k largest.
        cutoff: relative to K's largest eigenvalue; 2n · eps of K's dtype by default. A kernel that was computed in
            float32 and then widened wants 2n · 1.2e-7.

    Raises:
        ValueError: K is not square with an even side, not finite, not symmetric, or not positive semi-definite, each
            beyond the cutoff; `modes` is more than the rank.
    """
    _check.require(center in CENTERS, "center", f"one of {CENTERS}", center)
    K = _check.real_array("K", K, ndim=2)
    square = K.shape[0] == K.shape[1] and K.shape[0] % 2 == 0 and K.shape[0] > 0
    _check.require(square, "K", "a square matrix [2n, 2n], X stacked on X'", K)
    dtype, k64 = K.dtype, np.asarray(K, np.float64)
    eps = max(float(jnp.finfo(dtype).eps), float(np.finfo(np.float64).eps))
    skew, scale = np.abs(k64 - k64.T).max(), np.abs(k64).max()
    relative = len(k64) * eps if cutoff is None else float(cutoff)
    tolerance = max(64 * np.sqrt(len(k64)) * eps, relative) * scale
    _check.require(
        bool(skew <= tolerance), "K", f"a symmetric matrix (to {tolerance:.1e})", f"|K - Kᵀ| up to {skew:.1e}"
    )
    n = len(k64) // 2
    projector = _projector(n, center)
    centred = projector @ ((k64 + k64.T) / 2) @ projector if center != "none" else (k64 + k64.T) / 2
    gamma, dual = dual_modes(centred, relative)
    features, basis = centred @ dual, projector @ dual
    offset = k64.mean(1) @ basis if center != "none" else np.zeros(gamma.size)
    whole = assemble(gamma, features, basis, offset, dtype, center, linear=False)
    return whole if modes is None else first(whole, modes)


def dual_modes(K: Float[np.ndarray, "views views"], cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """γ and K-orthonormal dual coefficients U from the 2n × 2n side: K_Γ on the range of K."""
    n = len(K) // 2
    spread, span = eigen.descending(K)
    kept = above(spread, cutoff)
    root = span[:, kept] * np.sqrt(spread[kept])
    cross = root[:n].T @ root[n:] / n
    gamma, rotation = eigen.descending((cross + cross.T) / 2)
    return gamma, (span[:, kept] / np.sqrt(spread[kept])) @ rotation


def above(spread: Float[np.ndarray, " k"], cutoff: float) -> Bool[np.ndarray, " k"]:
    """Which directions hold more than rounding; refuses a matrix that is not positive semi-definite, or is zero."""
    cut = cutoff * spread[0]
    found = f"eigenvalues from {spread[-1]:.3e} to {spread[0]:.3e}"
    _check.require(spread[0] > 0, "views", "centred views, or a kernel of them, that differ from one another", found)
    _check.require(spread[-1] >= -10 * cut, "K", f"a positive semi-definite kernel (to {10 * cut:.1e}, cutoff)", found)
    return spread > cut


def _projector(n: int, center: Center) -> Float[np.ndarray, "views views"]:
    eye = np.eye(2 * n)
    if center == "pooled":
        return eye - 1 / (2 * n)
    return eye - np.kron(np.eye(2), np.full((n, n), 1 / n)) if center == "per_view" else eye
