"""Features that stand for a kernel, so that the whole network may move and not the head alone."""

import numpy as np
from jaxtyping import Float

from stepwise import _check, eigen
from stepwise.types import Numbers

CUTOFF = 1e-6
"""Eigenvalues of the kernel below this share of the largest are rounding."""


def factorise(
    kernel: Numbers, embeddings: Numbers
) -> tuple[Float[np.ndarray, "n r"], Float[np.ndarray, "n r"], Float[np.ndarray, "d r"]]:
    """Return features of both views and a head that stand for a kernel and the present embeddings.

    The features ψ are those of K = ψ ψᵀ, and the head is the smallest with ψ headᵀ = z. While
    K stays as it is, descent of this head moves the embeddings as descent of the whole network
    does.

    Args:
        kernel: K of the views, X stacked on X' [2n, 2n].
        embeddings: z of the same views, less the bias [2n, d].

    Raises:
        ValueError: if the kernel is not symmetric, has a negative eigenvalue that rounding does not
            explain, or does not fit the embeddings.
    """
    K = np.asarray(_check.real_array("kernel", kernel, ndim=2), np.float64)
    z = np.asarray(embeddings, np.float64)
    fits = K.shape == (len(z), len(z))
    _check.require(fits, "kernel", f"[{len(z)}, {len(z)}], the first views and then the second", K)
    size = float(np.abs(K).max())
    fits = size > 0 and bool(np.abs(K - K.T).max() <= 1e-4 * size)
    _check.require(fits, "kernel", "a symmetric matrix that is not 0", "another one")
    values, vectors = eigen.eigh_descending((K + K.T) / 2)
    lowest = f"a smallest eigenvalue of {values[-1]:.3g} beside a largest of {values[0]:.3g}"
    _check.require(values[-1] > -1e-3 * values[0], "kernel", "no negative eigenvalue", lowest)
    kept = values > CUTOFF * values[0]
    root = np.sqrt(values[kept])
    features = vectors[:, kept] * root
    return *np.split(features, 2), z.T @ (vectors[:, kept] / root)
