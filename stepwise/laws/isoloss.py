"""The law of IsoLoss, the predictor loss whose modes grow independently of their size."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stepwise import _check
from stepwise.laws.base import NotKnownError
from stepwise.laws.pencil import Moments, Pencil, as_moment
from stepwise.types import Numbers, Real, Whole


@dataclass(frozen=True)
class IsoLoss(Pencil):
    r"""Growth of the embedding's covariance S = W Σ Wᵀ under IsoLoss, without normalisation.

    The gradient flow of a linear model is W' = W Γ − Sᵅ W Σ with α = alpha. With Γ and Σ of one
    eigenbasis, the variance s = σ w² of a mode follows

        s' = 2 s (γ − σ sᵅ),

    so sᵅ is a logistic curve with the rate 2α γ and the rest ρ = γ/σ. The growth rate is 2γ, and
    the rest of s is ρ^{1/α}. For α = 1 the flow is that of a pencil (`Pencil`) with A = Γ, B = Σ
    and κ = 1/4. Without a common eigenbasis the modes are found by deflation, which is the same for
    every α.

    It is the law of `losses.isoloss(z1, z2, alpha=alpha)` with its defaults (the moment of the
    batch, eps = 0, relative = False), for any data; moments are uncentred. The official code adds
    both directions, which multiplies every rate by 4. DirectPred, with the same predictor in BYOL's
    loss, follows s' = 2 s^{1+α} (γ − σ sᵅ): it waits for a time of the order of 1/(γ sᵅ(0)), where
    IsoLoss waits for the logarithm of s(0).

    The loss stops gradients, so the flow does not lower it: the loss rises from 0 while modes are
    learned (`value`). `objective` is the potential of the flow,

        −½ tr W Γ Wᵀ + tr S^{1+α}/(2(1 + α)),

    which does decrease. Halvagal, Laborieux & Zenke (2023), arXiv 2212.04858.

    Args:
        gamma: cross-view moments γ of the modes [r].
        sigma: single-view moment Σ in the same coordinates, σ [r] or a matrix [r, r].
        alpha: power of the predictor's eigenvalues.
        d: dimension of the embedding, for `max_stable_lr` and for a matrix Σ; by default r.

    Raises:
        ValueError: if gamma is not a vector of finite numbers, sigma has another shape, or alpha is
            not positive.
    """

    gamma: Numbers
    sigma: Numbers
    alpha: Real = 1.0
    d: int | None = None

    domain = "linear models, Euclidean loss, predictor of the batch's own moment, a small start"
    formula = "½ E‖z − sg(z′ + z − Sᵅ z)‖²"
    title = "IsoLoss"
    call = "losses.isoloss(z1, z2, alpha=alpha)"
    mode = r"s' = 2 s (\gamma - \sigma s^{\alpha})"
    behaviour = (
        "sᵅ is a logistic curve. s grows at the rate 2γ and rests at ρ to the power 1/α. Modes "
        "with the largest γ come first."
    )
    prediction = (
        "The growth rate depends neither on the start of a predictor, as BYOL's does, nor on the "
        "power α, which sets the final value."
    )

    def __post_init__(self) -> None:
        gamma = jnp.asarray(_check.real_array("gamma", self.gamma, ndim=1))
        sigma = as_moment("sigma", self.sigma, gamma)
        if not _check.is_traced(self.alpha):
            _check.require(self.alpha > 0, "alpha", "a positive number", self.alpha)
        object.__setattr__(self, "gamma", gamma)
        object.__setattr__(self, "sigma", sigma)
        self._deflate()

    @classmethod
    def from_problem(cls, problem: Any, d: Whole) -> "IsoLoss":
        """Build the law of a problem, with alpha = 1."""
        return cls(problem.gamma, problem.sigma, d=int(d))

    def moments(self) -> Moments:
        """Return Γ, Σ and 1/4."""
        matrix = jnp.ndim(self.sigma) == 2
        return Moments(jnp.diag(self.gamma) if matrix else self.gamma, self.sigma, 0.25)

    def rest(self) -> Float[Array, " r"]:
        """Return ρ^{1/α} of each mode [r], 0 for a mode that does not grow."""
        return super().rest() ** (1 / self.alpha)

    def objective(self, A: Numbers) -> Float[Array, ""]:
        """Return the potential −½ tr W Γ Wᵀ + tr S^{1+α}/(2(1 + α)) of W = A [d, r]."""
        A = jnp.asarray(A)
        S = self.measure(A)
        curb = jnp.sum(_power(S, jnp.asarray(self.alpha, S.dtype)) * S) / (2 * (1 + self.alpha))
        return curb - jnp.sum(A**2 * self.gamma[None]) / 2

    def value(self, A: Numbers) -> Float[Array, ""]:
        """Return the loss ½ tr[S − 2 Sᵅ W Γ Wᵀ + S^{1+2α}] of W = A [d, r]."""
        A = jnp.asarray(A)
        S, C = self.measure(A), (A * self.gamma[None]) @ A.T
        P = _power(S, jnp.asarray(self.alpha, S.dtype))
        return (jnp.trace(S) - 2 * jnp.sum(P * C) + jnp.sum((P @ S) * P)) / 2

    def rhs(self, A: Numbers) -> Float[Array, "d r"]:
        """Return the exact flow W Γ − Sᵅ W Σ of W = A [d, r]."""
        A = jnp.asarray(A)
        sigma = jnp.asarray(self.sigma)
        spread = A * sigma[None] if sigma.ndim == 1 else A @ sigma
        S = self.measure(A)
        return A * self.gamma[None] - _power(S, jnp.asarray(self.alpha, S.dtype)) @ spread

    def eigenvalues(self, times: Numbers, lam0: Numbers) -> Float[Array, "T d"]:
        """Return s [T, d], the power 1/α of logistic curves that grow at 2αγ and rest at ρ."""
        times, lam0, _ = self.check_arguments(times, lam0)
        curves = self._powers().eigenvalues(times, lam0**self.alpha)
        return jnp.maximum(curves, 0) ** (1 / self.alpha)

    def step_times(self, lam0: Numbers, level: Real = 0.5) -> Float[Array, " d"]:
        """Return when each s rises through level · rest [d], or infinity if it never does."""
        _check.require(0 < level < 1, "level", "a number between 0 and 1", level)
        _, lam0, modes = self.check_arguments(jnp.zeros(1), lam0)
        powers, start, goal = self._powers(), lam0**self.alpha, level**self.alpha
        if getattr(self, "deflation", None) is not None:
            return powers._crossings(start, goal)[0]
        needed, crosses = powers._needed(start, modes, goal)
        return jnp.where(crosses, needed / jnp.where(crosses, powers.growth()[modes], 1), jnp.inf)

    def descent_delay(self, lr: Numbers, lam0: Numbers, level: Real = 0.5) -> Float[Array, " d"]:
        """Return the fraction (lr γ/2)(1 − (1 + 2α) I/E) by which descent crosses late.

        E is the exponent 2αγ τ at the crossing τ, and I = ln((1 − sᵅ(0)/ρ)/(1 − levelᵅ)).
        """
        lr = jnp.asarray(_check.real_array("lr", lr, ndim=0))
        _check.require(0 < level < 1, "level", "a number between 0 and 1", level)
        _, lam0, modes = self.check_arguments(jnp.zeros(1), lam0)
        powers, level = self._powers(), level**self.alpha
        start = lam0**self.alpha
        needed, crosses = powers._needed(start, modes, level)
        rest = powers.rest()[modes]
        ratio = jnp.where(crosses, start / jnp.where(rest > 0, rest, 1), level / 2)
        inside = jnp.log1p(-ratio) - jnp.log(1 - level)
        late = 1 - (1 + 2 * self.alpha) * inside / needed
        return jnp.where(crosses, lr * self.growth()[modes] / 4 * late, 0)

    def max_stable_lr(self) -> Float[Array, ""]:
        """Return 2 over the largest decay rate where d modes rest.

        The rates are 2αγ_j of a learned mode, (σ_k s_j + σ_j s_k)(ρ_j − ρ_k)/(s_j − s_k) of a pair
        of them, σ_k (ρ_j − ρ_k) of an unlearned mode k in the row of a learned one, and |γ_k| of a
        decaying mode if a row is spare.

        Raises:
            NotKnownError: if Γ and Σ do not commute.
        """
        if getattr(self, "deflation", None) is not None:
            raise NotKnownError(self._lacks("max_stable_lr", "moments that commute"))
        gamma, sigma, rest = self.gamma, self.sigma, self.rest()
        r = gamma.shape[0]
        final = self.final_modes(min(self._dimension(), r))
        learned = jnp.zeros(r, bool).at[final].set(rest[final] > 0)
        rho = jnp.where(sigma > 0, gamma / jnp.where(sigma > 0, sigma, 1), 0)
        quotient = _quotients(rest, jnp.asarray(self.alpha, rest.dtype))
        pairs = (sigma[None] * rest[:, None] + sigma[:, None] * rest[None]) * quotient
        both = learned[:, None] & learned[None] & ~jnp.eye(r, dtype=bool)
        aside = sigma[None] * (rho[:, None] - rho[None])
        spare = jnp.sum(learned) < self._dimension()
        rates = jnp.array([
            jnp.max(jnp.where(learned, 2 * self.alpha * gamma, 0)),
            jnp.max(jnp.where(both, pairs, 0)),
            jnp.max(jnp.where(learned[:, None] & ~learned[None], aside, 0)),
            jnp.where(spare, jnp.max(jnp.where(gamma < 0, -gamma, 0)), 0),
        ])  # fmt: skip
        return 2 / jnp.max(rates)

    def _powers(self) -> "_Powers":
        """Return the law of sᵅ."""
        return _Powers(self.gamma, self.sigma, self.alpha / 4, self.d)


@dataclass(frozen=True)
class _Powers(Pencil):
    """The pencil of Γ and Σ that sᵅ follows, with κ = α/4."""

    gamma: Any
    sigma: Any
    factor: Any
    d: int | None

    def __post_init__(self) -> None:
        self._deflate()

    def moments(self) -> Moments:
        """Return the moments of the law of sᵅ."""
        matrix = jnp.ndim(self.sigma) == 2
        return Moments(jnp.diag(self.gamma) if matrix else self.gamma, self.sigma, self.factor)


@jax.custom_jvp
def _power(S: Array, alpha: Array) -> Array:
    """Return Sᵅ of a positive semi-definite matrix.

    It can be differentiated even if eigenvalues are equal.
    """
    values, vectors = jnp.linalg.eigh(S)
    return (vectors * jnp.maximum(values, 0)[None] ** alpha) @ vectors.T


@_power.defjvp
def _power_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    """Differentiate Sᵅ by the formula of Daleckii and Krein."""
    (S, alpha), (change, by_alpha) = primals, tangents
    values, vectors = jnp.linalg.eigh(S)
    values = jnp.maximum(values, 0)
    powers = values**alpha
    inner = _quotients(values, alpha) * (vectors.T @ change @ vectors)
    logs = jnp.where(values > 0, powers * jnp.log(jnp.where(values > 0, values, 1)), 0)
    slope = vectors @ (inner + jnp.diag(logs * by_alpha)) @ vectors.T
    return (vectors * powers[None]) @ vectors.T, slope


def _quotients(values: Array, alpha: Array) -> Array:
    """Return (xᵅ − yᵅ)/(x − y) [d, d] of all pairs, αxᵅ⁻¹ for equal ones, and 0 for two zeros."""
    powers = values**alpha
    gap = values[:, None] - values[None]
    middle = (values[:, None] + values[None]) / 2
    near = jnp.abs(gap) <= 1e-5 * middle
    slope = jnp.where(middle > 0, alpha * jnp.where(middle > 0, middle, 1) ** (alpha - 1), 0)
    return jnp.where(near, slope, (powers[:, None] - powers[None]) / jnp.where(near, 1, gap))
