"""The effective aligned start of a generic start, and its spread over random starts."""

import jax.numpy as jnp
from jax.scipy.special import digamma, polygamma
from jaxtyping import Array, Float, Int

from stepwise import _check
from stepwise.laws.base import Law
from stepwise.types import Numbers, Whole


def effective_start(A: Numbers, law: Law | None = None) -> Float[Array, " d"]:
    """Return s_j(0) = |R_jj| from the QR factorisation A_{≤d} = Q R of the leading d × d block.

    After its plateau, a small generic start evolves as if it had been aligned with these singular
    values: mode 1 takes the first direction, mode 2 the best remaining one, and so on (the paper,
    Simon et al. 2023, section 4.3). This holds while (1 − γ_{j+1}/γ_j) ln(1/α) ≫ 1 (see
    `stepwise.validity`).

    Args:
        A: mode coordinates of any start [d, r] with r ≥ d, the modes in descending order.
        law: a law whose modes grow in another order. Its first d modes then replace the leading
            columns.

    Returns:
        s0 [d] in the order of growth: of the leading modes, or of law.order[:d].

    Raises:
        ValueError: if A is not a matrix of finite numbers with at least as many columns as rows;
            if the law's loss is not invariant under rotations of the embedding.
    """
    A = jnp.asarray(_check.real_array("A", A, ndim=2))
    d = A.shape[0]
    _check.require(
        A.shape[1] >= d, "A", "at least as many columns (modes) as rows (embedding dimensions)", A
    )
    leading = A[:, :d] if law is None else law.to_modes(A)[:, leading_modes(law, d)]
    return jnp.abs(jnp.diagonal(jnp.linalg.qr(leading, mode="r")))


def leading_modes(law: Law, d: Whole) -> Int[Array, " k"]:
    """Return the first d modes to grow, for a law under which a start acts as an aligned one.

    Raises:
        ValueError: if the law's loss is not invariant under rotations of the embedding.
    """
    _check.require(
        law.rotates,
        "law",
        "a law whose loss is invariant under rotations of the embedding",
        type(law).__name__,
    )
    return law.order[:d]


def expected_start(d: Whole) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
    """Return mean and standard deviation of ln s_j(0)² over Gaussian starts of scale α = 1.

    The factor R of a Gaussian matrix has R_jj² ~ χ² with k = d − j + 1 degrees of freedom
    (Bartlett). So ln s_j(0)² has mean ψ(k/2) + ln 2 (plus ln α² for scale α) and variance ψ'(k/2).
    The spread of step times can therefore be predicted without knowing W(0).

    Args:
        d: dimension of the embedding, at least 1.

    Returns:
        (mean [d], standard deviation [d]), for j = 1 ... d.
    """
    _check.require(d >= 1, "d", "a positive number of dimensions", d)
    half = jnp.arange(d, 0, -1) / 2
    return digamma(half) + jnp.log(2.0), jnp.sqrt(polygamma(1, half))
