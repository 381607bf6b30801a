"""Losses of the correlation matrix of two views: Barlow Twins and VICReg."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from stepwise import _check
from stepwise.losses._pairs import Scalar, check_pair
from stepwise.moments import CENTERS, Center, centre, cross_moment
from stepwise.types import Numbers, Real


def barlow_twins(
    z1: Numbers, z2: Numbers, *, off_diagonal: Real = 0.0051, eps: Real = 1e-5
) -> Scalar:
    """Compute Σ_i (C_ii − 1)² + off_diagonal Σ_{i≠j} C_ij², C = BN(z1)ᵀ BN(z2)/n.

    Zbontar et al. (2021), eq. 1. BN is a batch normalisation of each view without affine
    parameters. It adds `eps` to the biased variance, so it only scales embeddings much smaller than
    √eps by 1/√eps. The loss is d at full collapse.

    Raises:
        ValueError: if the embeddings are not two matrices of the same shape.
    """
    z1, z2 = check_pair(z1, z2)
    C = _normalise_batch(z1, eps).T @ _normalise_batch(z2, eps) / z1.shape[0]
    return _distance_from_identity(C, off_diagonal)


def barlow_twins_unnormalised(
    z1: Numbers,
    z2: Numbers,
    *,
    off_diagonal: Real = 1.0,
    center: Center = "pooled",
) -> Scalar:
    """Compute ‖C − I‖_F², C = (z1ᵀ z2 + z2ᵀ z1)/(2n) of centred embeddings.

    This is the loss of the theory: Simon et al. (2023), eq. 3 and 4. It is the only loss of
    the package for which `laws.BarlowTwins` is exact. The loss is d at full collapse.

    Args:
        z1, z2: embeddings of the two views [n, d].
        off_diagonal: weight of the off-diagonal terms; the theory's is 1.
        center: subtract the mean of all 2n embeddings ("pooled"), each view's mean ("per_view"), or
            no mean ("none").

    Raises:
        ValueError: if the embeddings are not two matrices of the same shape, or `center` is
            unknown.
    """
    z1, z2 = check_pair(z1, z2)
    _check.require(center in CENTERS, "center", f"one of {CENTERS}", repr(center))
    if center != "none":
        z1, z2 = jnp.split(centre(jnp.concatenate([z1, z2]), center), 2)
    return _distance_from_identity(cross_moment(z1, z2), off_diagonal)


def vicreg(
    z1: Numbers,
    z2: Numbers,
    *,
    invariance: Real = 25.0,
    variance: Real = 25.0,
    covariance: Real = 1.0,
    eps: Real = 1e-4,
) -> Scalar:
    """Compute invariance · MSE + variance · V + covariance · D.

    V = ½ Σ_views mean_j max(0, 1 − std_j) and D = Σ_views Σ_{i≠j} Cov_ij²/d.

    Bardes et al. (2022), eq. 1 to 6, as in the official code: MSE is the mean over n·d entries,
    std = √(var + eps), variances and covariances divide by n − 1, and the variance term is halved,
    unlike in their paper. The loss is variance · (1 − √eps) at full collapse, 24.75 by default.

    Raises:
        ValueError: if the embeddings are not two matrices of the same shape with at least two rows.
    """
    z1, z2 = check_pair(z1, z2, rows=2)
    return (
        invariance * jnp.mean((z1 - z2) ** 2)
        + variance * (_hinge(z1, eps) + _hinge(z2, eps)) / 2
        + covariance * (_decorrelation(z1) + _decorrelation(z2))
    )


def _normalise_batch(z: Array, eps: Real) -> Array:
    centred = z - z.mean(axis=0, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred**2, axis=0, keepdims=True) + eps)


def _distance_from_identity(C: Array, off_diagonal: Real) -> Scalar:
    diagonal = jnp.diagonal(C)
    rest = C - jnp.diag(diagonal)
    return jnp.sum((diagonal - 1) ** 2) + off_diagonal * jnp.sum(rest**2)


def _hinge(z: Array, eps: Real) -> Scalar:
    return jnp.mean(jax.nn.relu(1 - jnp.sqrt(jnp.var(z, axis=0, ddof=1) + eps)))


def _decorrelation(z: Array) -> Scalar:
    centred = z - z.mean(axis=0, keepdims=True)
    cov = centred.T @ centred / (len(z) - 1)
    return (jnp.sum(cov**2) - jnp.sum(jnp.diagonal(cov) ** 2)) / z.shape[1]
