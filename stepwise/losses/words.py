"""The loss of word2vec's quadratic model."""

import jax.numpy as jnp
import numpy as np

from stepwise import _check
from stepwise.losses._pairs import Scalar, check_embeddings
from stepwise.types import Numbers


def qwem(W: Numbers, M: Numbers) -> Scalar:
    """Compute ‖M − W Wᵀ‖_F²/8, the loss of the quadratic word embedding model.

    Karkada et al. (2025), with the prefactor g/4 at g = ½. The gradient flow is exactly
    W' = (M − W Wᵀ) W/2, so an eigenvalue of W Wᵀ along an eigenvector of M with eigenvalue m > 0
    grows at rate m and rests at m. The loss is ‖M‖_F²/8 at W = 0.

    Args:
        W: embeddings of the words [V, d].
        M: the target of their products [V, V], symmetric, for instance
            2 (P_ij − P_i P_j)/(P_ij + P_i P_j) of the probabilities of words and of pairs.

    Raises:
        ValueError: if W is not a matrix, or M is not a symmetric matrix with as many rows as W.
    """
    W = check_embeddings("W", W)
    V = len(W)
    _check.require(jnp.shape(M) == (V, V), "M", f"a matrix [{V}, {V}]", M)
    M = check_embeddings("M", M)
    if not _check.is_traced(M):
        target = np.asarray(M)
        fits = np.allclose(target, target.T, rtol=1e-4, atol=1e-6 * np.abs(target).max())
        _check.require(fits, "M", "a symmetric matrix", "one that differs from its transpose")
    return jnp.sum((M - W @ W.T) ** 2) / 8
