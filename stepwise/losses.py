"""Losses of joint embeddings, one function each, as the official code computes them.

Each function accepts the embeddings of two views [n, d], where row i of both belongs to image i,
and returns a scalar. The loss is always that of the whole batch, also under `jit` on sharded
embeddings. bfloat16 and float16 inputs are converted to float32.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stepwise import _check
from stepwise.moments import CENTERS, Center, centre, cross_moment
from stepwise.types import Numbers, Real

Scalar = Float[Array, ""]


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
    z1, z2 = _pair(z1, z2)
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

    This is the loss of the theory: Simon et al. (2023), eq. 3 and 4. It is the only loss in this
    module for which `laws.BarlowTwins` is exact. The loss is d at full collapse.

    Args:
        z1, z2: embeddings of the two views [n, d].
        off_diagonal: weight of the off-diagonal terms; the theory's is 1.
        center: subtract the mean of all 2n embeddings ("pooled"), each view's mean ("per_view"), or
            no mean ("none").

    Raises:
        ValueError: if the embeddings are not two matrices of the same shape, or `center` is
            unknown.
    """
    z1, z2 = _pair(z1, z2)
    _check.require(center in CENTERS, "center", f"one of {CENTERS}", repr(center))
    if center != "none":
        z1, z2 = jnp.split(centre(jnp.concatenate([z1, z2]), center), 2)
    return _distance_from_identity(cross_moment(z1, z2), off_diagonal)


def simclr(z1: Numbers, z2: Numbers, *, temperature: Real = 0.1, eps: Real = 1e-12) -> Scalar:
    """Compute NT-Xent: the mean cross entropy of each view's anchors, added over the two views.

    Chen et al. (2020), eq. 1. With u = z/max(‖z‖, √eps), the cross entropy of anchor i is
    −ln softmax_j(u_i · u_j / temperature) at its positive, over the 2n − 1 other embeddings j. As
    in the official code, the means of the two views are added; many ports use half of this, the
    mean over all 2n anchors. The loss is 2 ln(2n − 1) at full collapse.

    Raises:
        ValueError: if the embeddings are not two matrices of the same shape, or the temperature is
            not positive.
    """
    z1, z2 = _pair(z1, z2)
    _require_positive("temperature", temperature)
    u = jnp.concatenate([_unit(z1, eps), _unit(z2, eps)])
    n = len(z1)
    logits = jnp.where(jnp.eye(2 * n, dtype=bool), -jnp.inf, u @ u.T / temperature)
    positives = jnp.roll(jnp.arange(2 * n), n)
    return -2 * jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(2 * n), positives])


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
    z1, z2 = _pair(z1, z2, rows=2)
    return (
        invariance * jnp.mean((z1 - z2) ** 2)
        + variance * (_hinge(z1, eps) + _hinge(z2, eps)) / 2
        + covariance * (_decorrelation(z1) + _decorrelation(z2))
    )


def spectral_contrastive(z1: Numbers, z2: Numbers, *, mu: Real = 1.0) -> Scalar:
    """Compute [−2 mean_i z1_i·z2_i + Σ_{i≠j} (z1_i·z2_j)²/(n(n − 1))]/mu, z clipped to ‖z‖ ≤ √mu.

    HaoChen et al. (2021), eq. 6, with the clipping of their code, where mu is 1 for CIFAR and 10
    for larger images. The loss is mu − 2 at full collapse to a vector of norm √mu.

    Raises:
        ValueError: if the embeddings are not two matrices of the same shape with at least two rows,
            or `mu` is not positive.
    """
    z1, z2 = _pair(z1, z2, rows=2)
    _require_positive("mu", mu)
    z1, z2 = _clip_norms(z1, mu), _clip_norms(z2, mu)
    n = len(z1)
    products = z1 @ z2.T
    positive = jnp.mean(jnp.diagonal(products))
    negative = (jnp.sum(products**2) - jnp.sum(jnp.diagonal(products) ** 2)) / (n * (n - 1))
    return (-2 * positive + negative) / mu


def byol(
    p1: Numbers,
    p2: Numbers,
    z1: Numbers | None = None,
    z2: Numbers | None = None,
    *,
    eps: Real = 1e-12,
) -> Scalar:
    """Compute mean_i ‖u(p1_i) − u(z2_i)‖² + ‖u(p2_i) − u(z1_i)‖², u(z) = z/max(‖z‖, √eps).

    Grill et al. (2020), eq. 2, with both directions added. No gradient flows through z1 and z2.
    The loss is 0, its minimum, at full collapse.

    Args:
        p1, p2: the online network's predictions for the two views [n, d].
        z1, z2: the target network's projections of the two views [n, d]; by default p1 and p2, with
            their gradients stopped.

    Raises:
        ValueError: if the embeddings are not matrices of the same shape.
    """
    (p1, p2), (z1, z2) = _pair(p1, p2), _targets(p1, p2, z1, z2)
    distances = (_unit(p1, eps) - _unit(z2, eps)) ** 2 + (_unit(p2, eps) - _unit(z1, eps)) ** 2
    return jnp.mean(jnp.sum(distances, axis=1))


def simsiam(
    p1: Numbers,
    p2: Numbers,
    z1: Numbers | None = None,
    z2: Numbers | None = None,
    *,
    eps: Real = 1e-16,
) -> Scalar:
    """Compute −½ mean_i [cos(p1_i, z2_i) + cos(p2_i, z1_i)], with no gradient through z1 and z2.

    Chen & He (2021), eq. 2. Norms are at least √eps. The loss is −1, its minimum, at full collapse.

    Args:
        p1, p2: the predictor's outputs for the two views [n, d].
        z1, z2: the projections of the two views [n, d]; by default p1 and p2, with their gradients
            stopped.

    Raises:
        ValueError: if the embeddings are not matrices of the same shape.
    """
    (p1, p2), (z1, z2) = _pair(p1, p2), _targets(p1, p2, z1, z2)
    cosines = _unit(p1, eps) * _unit(z2, eps) + _unit(p2, eps) * _unit(z1, eps)
    return -jnp.mean(jnp.sum(cosines, axis=1)) / 2


def _pair(
    z1: Numbers, z2: Numbers, rows: int = 1, names: tuple[str, str] = ("z1", "z2")
) -> tuple[Array, Array]:
    arrays = []
    for name, z in zip(names, (z1, z2), strict=True):
        z = jnp.asarray(z)
        _check.require(jnp.issubdtype(z.dtype, jnp.floating), name, "real floating embeddings", z)
        fits = z.ndim == 2 and z.shape[0] >= rows and z.shape[1] > 0
        _check.require(fits, name, f"embeddings [n, d] with n at least {rows}", z)
        arrays.append(z.astype(jnp.promote_types(z.dtype, jnp.float32)))
    _check.require(
        arrays[1].shape == arrays[0].shape,
        names[1],
        f"shape {list(arrays[0].shape)} as {names[0]}",
        z2,
    )
    return arrays[0], arrays[1]


def _targets(
    p1: Numbers, p2: Numbers, z1: Numbers | None, z2: Numbers | None
) -> tuple[Array, Array]:
    z1, z2 = p1 if z1 is None else z1, p2 if z2 is None else z2
    shape = jnp.shape(p1)
    _check.require(jnp.shape(z1) == shape, "z1", f"shape {list(shape)} as p1", z1)
    z1, z2 = _pair(z1, z2)
    return jax.lax.stop_gradient(z1), jax.lax.stop_gradient(z2)


def _require_positive(name: str, value: Real) -> None:
    if not _check.is_traced(value):
        _check.require(value > 0, name, "a positive number", value)


def _normalise_batch(z: Array, eps: Real) -> Array:
    centred = z - z.mean(0)
    return centred / jnp.sqrt(jnp.mean(centred**2, axis=0) + eps)


def _distance_from_identity(C: Array, off_diagonal: Real) -> Scalar:
    diagonal = jnp.diagonal(C)
    rest = C - jnp.diag(diagonal)
    return jnp.sum((diagonal - 1) ** 2) + off_diagonal * jnp.sum(rest**2)


def _unit(z: Array, eps: Real) -> Array:
    return z * jax.lax.rsqrt(jnp.maximum(jnp.sum(z**2, axis=1, keepdims=True), eps))


def _clip_norms(z: Array, mu: Real) -> Array:
    squares = jnp.sum(z**2, axis=1, keepdims=True)
    return z * jnp.sqrt(mu / jnp.maximum(squares, mu))


def _hinge(z: Array, eps: Real) -> Scalar:
    return jnp.mean(jax.nn.relu(1 - jnp.sqrt(jnp.var(z, axis=0, ddof=1) + eps)))


def _decorrelation(z: Array) -> Scalar:
    centred = z - z.mean(0)
    cov = centred.T @ centred / (len(z) - 1)
    return (jnp.sum(cov**2) - jnp.sum(jnp.diagonal(cov) ** 2)) / z.shape[1]
