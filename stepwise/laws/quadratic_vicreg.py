"""The law of a quadratic form of VICReg, without the hinge."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from stepwise import _check
from stepwise.laws.pencil import Moments, Pencil, as_moment
from stepwise.types import Numbers, Real, Whole


@dataclass(frozen=True)
class QuadraticVICReg(Pencil):
    r"""Growth of the embedding's covariance under a quadratic form of VICReg.

    L = variance · ‖S − I‖_F² + invariance · E‖z − z'‖² with S = W Σ Wᵀ, in which one quadratic term
    replaces the hinge on the deviations and the covariance term of VICReg (Bardes et al. 2022,
    eq. 6, arXiv 2105.04906). Since E‖z − z'‖² = 2 tr W(Σ − Γ)Wᵀ, it is a pencil (`Pencil`) with
    A = Σ − (a/b)(Σ − Γ), B = Σ and κ = b, where a = invariance and b = variance. With Γ and Σ of
    one eigenbasis, the variance v = σ s² of a mode is a logistic curve:

        v' = 8 v [b σ (1 − v) − a (σ − γ)],    at rest v = 1 − (a/b)(1 − ρ),    ρ = γ/σ.

    A mode grows only if ρ > 1 − b/a, and modes with larger ρ have larger final values. The law is
    exact for the loss above, which is not a function of `stepwise.losses` (`VICReg` is the law of
    `losses.vicreg`), along common modes of Γ and Σ. The loss may be computed from any data: Σ is
    the mean second moment of the two views, and Σ and Γ are about the same mean.

    t = learning rate × step, and v is a variance of the embedding.

    Args:
        gamma: cross-view moments γ of the modes [r].
        sigma: single-view moment Σ in the same coordinates, σ [r] or a matrix [r, r].
        invariance, variance: the weights a and b of the loss.
        d: dimension of the embedding, for `max_stable_lr` and for a matrix Σ; by default r.

    Raises:
        ValueError: if gamma is not a vector of finite numbers, sigma has another shape, invariance
            is negative or variance is not positive.
    """

    gamma: Numbers
    sigma: Numbers
    invariance: Real
    variance: Real
    d: int | None = None

    domain = "linear models, variance ‖S − I‖² + invariance E‖z − z'‖², a small start"
    formula = "b‖WΣWᵀ − I‖² + 2a tr W(Σ − Γ)Wᵀ"
    title = "VICReg with a quadratic variance term"
    call = "no function of stepwise.losses: variance ‖S − I‖² + invariance E‖z − z'‖², S = WΣWᵀ"
    mode = r"v' = 8 v \left[ b \sigma (1 - v) - a (\sigma - \gamma) \right]"
    behaviour = (
        "A logistic curve that grows at the rate 8 [aγ + (b − a)σ] and rests at "
        "1 − (a/b)(1 − ρ), if ρ > 1 − b/a. Other modes decay."
    )
    prediction = (
        "The weights of the loss decide whether modes grow in the order of γ (a = b) or of a "
        "mixture of γ and σ, and which modes grow at all: those with ρ > 1 − b/a."
    )

    def __post_init__(self) -> None:
        gamma = jnp.asarray(_check.real_array("gamma", self.gamma, ndim=1))
        sigma = as_moment("sigma", self.sigma, gamma)
        require_weights(invariance=self.invariance)
        if not _check.is_traced(self.variance):
            _check.require(self.variance > 0, "variance", "a positive number", self.variance)
        object.__setattr__(self, "gamma", gamma)
        object.__setattr__(self, "sigma", sigma)
        self._deflate()

    def moments(self) -> Moments:
        """Return Σ − (a/b)(Σ − Γ), Σ and b."""
        matrix = jnp.ndim(self.sigma) == 2
        gamma = jnp.diag(self.gamma) if matrix else self.gamma
        drive = self.sigma - self.invariance / self.variance * (self.sigma - gamma)
        return Moments(drive, self.sigma, self.variance)

    def reason(self, mode: Whole) -> str:
        """Return why a mode does not grow."""
        least = float(1 - self.variance / self.invariance)
        return f"agreement is not above {least:.2f} = 1 − variance/invariance"

    def objective(self, A: Numbers) -> Float[Array, ""]:
        """Return the loss b ‖S − I‖² + 2a tr W(Σ − Γ)Wᵀ of mode coordinates W = A [d, r]."""
        return super().objective(A) + self.variance * jnp.shape(A)[0]


def require_weights(**weights: Real) -> None:
    """Raise ValueError if a weight is negative. A traced one is not checked."""
    for name, value in weights.items():
        if not _check.is_traced(value):
            _check.require(value >= 0, name, "a number that is not negative", value)
