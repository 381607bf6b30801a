"""The directions of a kernel matrix above its rounding errors, and the modes of K_Γ on them."""

import numpy as np
from jaxtyping import Bool, Float

from stepwise import _check, eigen

EPS = float(np.finfo(np.float64).eps)


def dual_modes(
    K: Float[np.ndarray, "views views"],
    cutoff: float,
    *,
    tolerance: float | None = None,
    scale: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return γ and K-orthonormal dual coefficients U of K_Γ on the range of K [2n, 2n].

    `scale` is the size of K before centring, to which its rounding errors are relative. `tolerance`
    is the largest negative part of K that is accepted, relative to its size.
    """
    n = len(K) // 2
    spread, span = eigen.eigh_descending(K)
    mask = above_cutoff(spread, cutoff, tolerance=tolerance, scale=scale)
    root = span[:, mask] * np.sqrt(spread[mask])
    cross = root[:n].T @ root[n:] / n
    gamma, rotation = eigen.eigh_descending((cross + cross.T) / 2)
    return gamma, (span[:, mask] / np.sqrt(spread[mask])) @ rotation


def above_cutoff(
    spread: Float[np.ndarray, " k"],
    cutoff: float,
    *,
    tolerance: float | None = None,
    scale: float = 0.0,
) -> Bool[np.ndarray, " k"]:
    """Return which eigenvalues of a kernel matrix are above its rounding errors.

    Raises:
        ValueError: if the matrix is zero, or not positive semi-definite.
    """
    size = max(float(spread[0]), scale)
    bound = (10 * cutoff if tolerance is None else tolerance) * size
    received = f"eigenvalues from {spread[-1]:.3e} to {spread[0]:.3e}"
    nothing = spread[0] <= cutoff * scale and spread[-1] >= -bound
    _check.require(
        spread[0] > 0 and not nothing,
        "views",
        "centred views, or their kernel, that differ from one another",
        received,
    )
    _check.require(
        spread[-1] >= -bound,
        "K",
        f"a positive semi-definite kernel (to {bound:.1e}; set cutoff=1e-6 if it was computed in "
        f"float32)",
        received,
    )
    return spread > max(cutoff * size, -2 * float(spread[-1]))
