"""Which directions of a kernel matrix count, and the modes of K_Γ on them."""

import numpy as np
from jaxtyping import Bool, Float

from stepwise import _check, eigen

EPS = float(np.finfo(np.float64).eps)


def dual_modes(
    K: Float[np.ndarray, "views views"],
    cutoff: float,
    *,
    refused: float | None = None,
    scale: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """γ and K-orthonormal dual coefficients U from the 2n × 2n side: K_Γ on the range of K.

    `scale` is what K was before it was centred, to which its rounding is relative.
    """
    n = len(K) // 2
    spread, span = eigen.eigh_descending(K)
    kept = above_cutoff(spread, cutoff, refused=refused, scale=scale)
    root = span[:, kept] * np.sqrt(spread[kept])
    cross = root[:n].T @ root[n:] / n
    gamma, rotation = eigen.eigh_descending((cross + cross.T) / 2)
    return gamma, (span[:, kept] / np.sqrt(spread[kept])) @ rotation


def above_cutoff(
    spread: Float[np.ndarray, " k"],
    cutoff: float,
    *,
    refused: float | None = None,
    scale: float = 0.0,
) -> Bool[np.ndarray, " k"]:
    """Which directions hold more than rounding; refuses a matrix that is not positive
    semi-definite, or is zero.
    """
    size = max(float(spread[0]), scale)
    bound = (10 * cutoff if refused is None else refused) * size
    found = f"eigenvalues from {spread[-1]:.3e} to {spread[0]:.3e}"
    nothing = spread[0] <= cutoff * scale and spread[-1] >= -bound
    _check.require(
        spread[0] > 0 and not nothing,
        "views",
        "centred views, or a kernel of them, that differ from one another",
        found,
    )
    _check.require(
        spread[-1] >= -bound,
        "K",
        f"a positive semi-definite kernel (to {bound:.1e}; one computed in float32 wants "
        f"cutoff=1e-6)",
        found,
    )
    return spread > max(cutoff * size, -2 * float(spread[-1]))
