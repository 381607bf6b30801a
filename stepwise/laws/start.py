"""What a random start means for the law: the aligned start that it acts as, and how that
spreads."""

import jax.numpy as jnp
from jax.scipy.special import digamma, polygamma
from jaxtyping import Array, Float, Int

from stepwise import _check
from stepwise.laws.base import Law
from stepwise.types import Numbers, Whole


def effective_start(A: Numbers, law: Law | None = None) -> Float[Array, " d"]:
    """s_j(0) = |R_jj|, with A_{≤d} = Q R the QR factorisation of the leading d × d block.

    A small start in general position moves, after its plateau, as if it had begun aligned with
    these singular values: mode 1 chooses the first direction, mode 2 the best of what is left, and
    so on (source, section 4.3). Valid while (1 − γ_{j+1}/γ_j) ln(1/α) ≫ 1 (see
    `stepwise.validity`).

    Args:
        A: mode coordinates [d, r] with r ≥ d, the modes from the largest down; any start.
        law: whose modes do not grow in that order: its first d take the leading columns' place.

    Returns:
        s0 [d] in the order of growth: of the leading modes, or of law.order[:d].

    Raises:
        ValueError: A is not a matrix of finite numbers with at least as many columns as rows; the
            law's loss is not blind to rotations of the embedding, on which this rests.
    """
    A = jnp.asarray(_check.real_array("A", A, ndim=2))
    d = A.shape[0]
    _check.require(
        A.shape[1] >= d, "A", "at least as many columns (modes) as rows (embedding dimensions)", A
    )
    leading = A[:, :d] if law is None else A[:, leading_modes(law, d)]
    return jnp.abs(jnp.diagonal(jnp.linalg.qr(leading, mode="r")))


def leading_modes(law: Law, d: Whole) -> Int[Array, " k"]:
    """The first d modes that grow, for a law under which a start acts as an aligned one.

    Raises:
        ValueError: the law's loss is not blind to rotations of the embedding.
    """
    _check.require(
        law.rotates,
        "law",
        "a loss that is blind to rotations of the embedding (a start then acts as an aligned one)",
        type(law).__name__,
    )
    return law.order[:d]


def expected_start(d: Whole) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
    """Mean and standard deviation of ln s_j(0)² for a Gaussian start of scale α = 1, over draws of
    W(0).

    The factor R of a Gaussian matrix has R_jj² ~ χ² with k = d − j + 1 degrees of freedom
    (Bartlett), so ln s_j(0)² has mean ψ(k/2) + ln 2 (add ln α² for scale α) and variance ψ'(k/2):
    step times have a predictable spread even when W(0) is not known.

    Args:
        d: dimension of the embedding, at least 1.

    Returns:
        (mean [d], standard deviation [d]), for j = 1 ... d.
    """
    _check.require(d >= 1, "d", "a positive number of dimensions", d)
    half = jnp.arange(d, 0, -1) / 2
    return digamma(half) + jnp.log(2.0), jnp.sqrt(polygamma(1, half))
