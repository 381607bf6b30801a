"""Contrastive losses: SimCLR, the spectral contrastive loss and CLIP."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array

from stepwise.losses._pairs import Scalar, check_pair, require_positive, unit
from stepwise.types import Numbers, Real, Whole

LARGEST_SCALE = 100.0
"""The largest scale of CLIP's logits when the scale is learned, as in the official code."""


def simclr(
    z1: Numbers,
    z2: Numbers,
    *,
    temperature: Real = 0.1,
    normalise: bool = True,
    eps: Real = 1e-12,
) -> Scalar:
    """Compute NT-Xent: the mean cross entropy of each view's anchors, added over the two views.

    Chen et al. (2020), eq. 1. With u = z/max(‖z‖, √eps), the cross entropy of anchor i is
    −ln softmax_j(u_i · u_j / temperature) at its positive, over the 2n − 1 other embeddings j. As
    in the official code, the means of the two views are added; many ports use half of this, the
    mean over all 2n anchors. The loss is 2 ln(2n − 1) at full collapse.

    Args:
        z1, z2: embeddings of the two views [n, d].
        temperature: T, the divisor of the products.
        normalise: whether to divide embeddings by their norms. If not, u = z. In a linear model
            z = W x, small weights then follow W' = (4/T) W (Γ + Σ/(2n − 1)), with moments Γ and Σ
            about the mean of all 2n views.
        eps: square of the smallest norm.

    Raises:
        ValueError: if the embeddings are not two matrices of the same shape, or the temperature is
            not positive.
    """
    z1, z2 = check_pair(z1, z2)
    require_positive("temperature", temperature)
    u = jnp.concatenate([unit(z1, eps), unit(z2, eps)] if normalise else [z1, z2])
    n = len(z1)
    logits = jnp.where(jnp.eye(2 * n, dtype=bool), -jnp.inf, u @ u.T / temperature)
    positives = jnp.roll(jnp.arange(2 * n), n)
    return -2 * jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(2 * n), positives])


def spectral_contrastive(z1: Numbers, z2: Numbers, *, mu: Real = 1.0) -> Scalar:
    """Compute [−2 mean_i z1_i·z2_i + Σ_{i≠j} (z1_i·z2_j)²/(n(n − 1))]/mu, z clipped to ‖z‖ ≤ √mu.

    HaoChen et al. (2021), eq. 6, with the clipping of their code, where mu is 1 for CIFAR and 10
    for larger images. The loss is mu − 2 at full collapse to a vector of norm √mu.

    Raises:
        ValueError: if the embeddings are not two matrices of the same shape with at least two rows,
            or `mu` is not positive.
    """
    z1, z2 = check_pair(z1, z2, rows=2)
    require_positive("mu", mu)
    z1, z2 = _clip_norms(z1, mu), _clip_norms(z2, mu)
    n = len(z1)
    products = z1 @ z2.T
    positive = jnp.mean(jnp.diagonal(products))
    negative = (jnp.sum(products**2) - jnp.sum(jnp.diagonal(products) ** 2)) / (n * (n - 1))
    return (-2 * positive + negative) / mu


def clip(
    z1: Numbers, z2: Numbers, *, scale: Real, normalise: bool = True, eps: Real = 1e-24
) -> Scalar:
    """Compute ½ mean_i [−ln softmax_j(scale · u1_i·u2_j) − ln softmax_j(scale · u1_j·u2_i)] at j=i.

    Radford et al. (2021), fig. 3. With u = z/max(‖z‖, √eps), the first term is the cross entropy of
    the rows of the matrix scale · u1 u2ᵀ and the second that of its columns; each row of one tower
    must find its partner among all n rows of the other. The loss is ln n at full collapse.

    Args:
        z1, z2: embeddings of the two towers [n, d], for instance of images and of their captions.
        scale: factor k on the products, an inverse temperature; `clip_with_learned_scale` trains
            it.
        normalise: whether to divide embeddings by their norms. If not, u = z. For linear towers
            z1 = W1 x1 and z2 = W2 x2, small weights then follow W1' = k W2 Gᵀ and W2' = k W1 G,
            with the centred cross moment G of x1 and x2.
        eps: square of the smallest norm.

    Raises:
        ValueError: if the embeddings are not two matrices of the same shape, or the scale is not
            positive.
    """
    z1, z2 = check_pair(z1, z2)
    require_positive("scale", scale)
    if normalise:
        z1, z2 = unit(z1, eps), unit(z2, eps)
    logits = scale * z1 @ z2.T
    rows, columns = jax.nn.log_softmax(logits, axis=1), jax.nn.log_softmax(logits, axis=0)
    return -jnp.mean(jnp.diagonal(rows) + jnp.diagonal(columns)) / 2


def clip_with_learned_scale(z1: Numbers, z2: Numbers, *, parameters: dict[str, Array]) -> Scalar:
    """Compute `clip` with scale = exp(log_scale), as a loss that trains its scale.

    Args:
        z1, z2: embeddings of the two views [n, d].
        parameters: {"log_scale": the logarithm of the scale}, at first `clip_scale`. As in the
            official code, `clip_limit` bounds it after every step.

    Raises:
        ValueError: as in `clip`.
    """
    return clip(z1, z2, scale=jnp.exp(parameters["log_scale"]))


def clip_scale(d: Whole) -> dict[str, Array]:
    """Return the first parameters of `clip_with_learned_scale`: a scale of 1/0.07, for any d."""
    return {"log_scale": jnp.asarray(math.log(1 / 0.07), jnp.float32)}


def clip_limit(parameters: dict[str, Array]) -> dict[str, Array]:
    """Return the parameters of `clip_with_learned_scale` with a scale between 1 and 100."""
    return {"log_scale": jnp.clip(parameters["log_scale"], 0, math.log(LARGEST_SCALE))}


def _clip_norms(z: Array, mu: Real) -> Array:
    squares = jnp.sum(z**2, axis=1, keepdims=True)
    return z * jnp.sqrt(mu / jnp.maximum(squares, mu))
