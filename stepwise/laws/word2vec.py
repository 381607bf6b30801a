"""The law of word2vec's quadratic model, with one or two embeddings of each word."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from stepwise import _check
from stepwise.laws.base import NotKnownError
from stepwise.laws.pencil import Moments, Pencil
from stepwise.types import Numbers


@dataclass(frozen=True)
class Word2Vec(Pencil):
    r"""Growth of W Wᵀ under the quadratic word embedding model, W' = (M − W Wᵀ) W/2.

    Karkada et al., *Closed-form training dynamics reveal learned features and linear structure in
    word2vec-like models* (2025, arXiv 2502.09863): L = ‖M − W Wᵀ‖_F²/8, their loss at g = ½. It is
    a pencil (`Pencil`) with A = M, B = 1 and κ = 1/8. In eigenvectors of M, with eigenvalues m,
    each eigenvalue c of W Wᵀ is a logistic curve that rests at m:

        c' = c (m − c)        for m > 0;   a mode with m ≤ 0 decays.

    The symmetric form is the law of `losses.qwem(W, M)`, for any M and any start along eigenvectors
    of M. W [V, d] has one row a word; mode coordinates A [d, V] are those of Wᵀ.

    The asymmetric form (`symmetric=False`) has one embedding W of a word and another W̃ of a
    context: L = ‖M − W W̃ᵀ‖_F²/4, so W' = (M − W W̃ᵀ) W̃/2 and W̃' = (M − W W̃ᵀ)ᵀ W/2. It also learns
    modes with m < 0, with opposite rows, so modes grow in the order of |m|. λ is then |c|, with
    c = a b of the rows a of W and b of W̃. From a balanced start, |a| = |b|, it follows the same
    curve with |m| in place of m, and W̃ = W sign(M) stays true. So this law's coordinates are those
    of W alone. `balance` finds the balanced start of two small generic embeddings, and `products`
    returns c(t) from rows that are not balanced.

    A start is small if (1 − m_{j+1}/m_j) ½ ln(m_j/s_j(0)²) ≫ 1.

    t = learning rate × step, and m has no units.

    Args:
        m: eigenvalues of M [r] in any order, including negative ones. `max_stable_lr` needs all.
        d: dimension of the embedding, for `max_stable_lr`; by default r.
        symmetric: whether each word has one embedding.

    Raises:
        ValueError: if m is not a vector of finite numbers.
    """

    m: Numbers
    d: int | None = None
    symmetric: bool = True

    domain = "the quadratic word embedding model, any symmetric target, a small start"
    observable = "W Wᵀ"
    formula = "‖M − WWᵀ‖²/8"
    title = "word2vec, quadratic model"
    call = "losses.qwem(W, M)"
    mode = r"c' = c (m - c)"
    behaviour = (
        "A logistic curve that grows at the rate m and rests at m. Modes with the largest m come "
        "first."
    )
    prediction = (
        "One number m is both the growth rate and the final value. The asymmetric form also learns "
        "modes with m < 0, in the order of |m|."
    )
    second_moment = "does not enter the law"

    def __post_init__(self) -> None:
        object.__setattr__(self, "m", jnp.asarray(_check.real_array("m", self.m, ndim=1)))
        self._deflate()

    def moments(self) -> Moments:
        """Return m (|m| of the asymmetric form), 1 and 1/8."""
        return Moments(self.m if self.symmetric else jnp.abs(self.m), jnp.ones_like(self.m), 0.125)

    def objective(self, A: Numbers) -> Float[Array, ""]:
        """Return the loss ‖M − WWᵀ‖²/8, or ‖M − WW̃ᵀ‖²/4 with W̃ = W sign(M), of A [d, r]."""
        loss = super().objective(A) + jnp.sum(self.m**2) / 8
        return loss if self.symmetric else 2 * loss

    def balance(self, A: Numbers, A2: Numbers) -> Float[Array, "d r"]:
        """Return the balanced start that two small embeddings follow: (A + A2 sign(m))/2.

        The other half, (A − A2 sign(m))/2, decays as the first one grows.

        Args:
            A, A2: mode coordinates [d, r] of W and of W̃.

        Raises:
            ValueError: if A and A2 are not two matrices [d, r]; NotKnownError in the symmetric
                form, which has no second embedding.
        """
        self._require_two("balance")
        A = jnp.asarray(_check.real_array("A", A, ndim=2))
        A2 = jnp.asarray(_check.real_array("A2", A2, ndim=2))
        r = self.m.shape[0]
        _check.require(A.shape[1] == r, "A", f"[d, {r}], as m has {r} modes", A)
        _check.require(A2.shape == A.shape, "A2", f"shape {list(A.shape)} as A", A2)
        return (A + A2 * jnp.sign(self.m)[None]) / 2

    def products(self, times: Numbers, a0: Numbers, b0: Numbers) -> Float[Array, "T d"]:
        """Return c(t) = a b of rows of W and W̃ along one mode each, from any a(0) and b(0).

        κ = a² − b² is conserved. For m > 0, P = (a + b)² follows P' = m P + (κ² − P²)/4, so

            (P − P₋)/(P₊ − P) = E e^{Dt},   P± = 2 (m ± D),   D = √(m² + κ²/4),

        and c = (P − κ²/P)/4. For m < 0 the same holds of −c, with b replaced by −b.

        Args:
            times: t [T], non-negative.
            a0, b0: rows along the modes order[i] [d], of which one may be 0.

        Raises:
            ValueError: if a0 and b0 are not vectors of the same number of at most r entries;
                NotKnownError in the symmetric form.
        """
        self._require_two("products")
        times, a0, modes = self.check_arguments(times, a0)
        b0 = jnp.asarray(_check.real_array("b0", b0, ndim=1))
        _check.require(b0.shape == a0.shape, "b0", f"shape {list(a0.shape)} as a0", b0)
        m, sign = jnp.abs(self.m)[modes][None], jnp.where(self.m[modes] < 0, -1, 1)
        plus, minus = (a0 + sign * b0) ** 2, (a0 - sign * b0) ** 2
        conserved = jnp.abs(a0**2 - b0**2)
        c = _product(times[:, None], m, conserved[None], plus[None], minus[None])
        return sign[None] * c

    def _require_two(self, name: str) -> None:
        if self.symmetric:
            raise NotKnownError(self._lacks(name, "two embeddings, symmetric=False"))


def _product(
    t: Array, m: Array, conserved: Array, plus: Array, minus: Array
) -> Float[Array, "T d"]:
    """Return c(t) = (P − Q)/4, with P = (a + b)² and Q = (a − b)² of P Q = κ², for m ≥ 0.

    P' = m P − P²/4 + κ²/4, and Q' is the same with −m. Nothing cancels in these solutions.
    """
    K = conserved / 2
    D = jnp.maximum(jnp.hypot(m, K), jnp.sqrt(jnp.finfo(m.dtype).tiny))
    left, gone = jnp.exp(-D * t), -jnp.expm1(-D * t)
    small = K**2 / (D + m)  # D − m
    grown = plus * (D * (1 + left) + m * gone) + 2 * K**2 * gone
    grown = grown / (2 * D * left + (small + plus / 2) * gone)
    fallen = minus * (small * gone + 2 * D * left) + 2 * K**2 * gone
    fallen = fallen / (D * (1 + left) + (m + minus / 2) * gone)
    return (grown - fallen) / 4
