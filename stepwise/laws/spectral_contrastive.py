"""The law of the spectral contrastive loss."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from stepwise import _check
from stepwise.laws.pencil import Moments, Pencil, as_moment
from stepwise.types import Numbers, Real, Whole


@dataclass(frozen=True)
class SpectralContrastive(Pencil):
    r"""Growth of the embedding's covariance under the spectral contrastive loss.

    HaoChen et al. (2021), eq. 6, of a linear model: L = [−2 tr W Γ Wᵀ + ‖W Σ Wᵀ‖_F²]/mu, a pencil
    (`Pencil`) with A = Γ, B = Σ. With Γ and Σ of one eigenbasis, the variance q = σ s² of a mode is
    a logistic curve that rests at the agreement ρ = γ/σ of the views:

        q' = (8/mu) q (γ − σ q).

    It is the law of `losses.spectral_contrastive(z1, z2, mu=mu)` of embeddings without a mean, for
    a large number of pairs, if the loss does not clip them: take mu ≥ 10 Σ_j ρ_j over the learned
    modes, because ‖z‖² grows to about Σ_j ρ_j. At n pairs the rest of mode j is the solution of
    q_j (1 − 2ρ_j²/(n − 1)) − Σ_{k≠j} ρ_j ρ_k q_k/(n − 1) = ρ_j (Gaussian data).

    Args:
        gamma: cross-view moments γ of the modes [r].
        sigma: single-view moment Σ in the same coordinates, σ [r] or a matrix [r, r].
        mu: the square of the norm at which the loss clips embeddings.
        d: dimension of the embedding, for `max_stable_lr` and for a matrix Σ; by default r.

    Raises:
        ValueError: if gamma is not a vector of finite numbers, sigma has another shape or a
            negative diagonal, or mu is not positive.
    """

    gamma: Numbers
    sigma: Numbers
    mu: Real = 1.0
    d: int | None = None

    domain = "linear models, many pairs, embeddings that the loss does not clip, a small start"
    formula = "[−2 tr WΓWᵀ + ‖WΣWᵀ‖²]/μ"
    title = "Spectral contrastive loss"
    call = "losses.spectral_contrastive(z1, z2, mu=mu) with mu >= 10 Σρ, embeddings without a mean"
    mode = r"q' = (8/\mu) \, q (\gamma - \sigma q)"
    behaviour = (
        "A logistic curve that grows at the rate 8γ/μ and rests at ρ. Modes with the largest γ "
        "come first, and those with the largest ρ stay."
    )
    prediction = "A variance ends at the agreement ρ of its views, whatever μ."

    def __post_init__(self) -> None:
        gamma = jnp.asarray(_check.real_array("gamma", self.gamma, ndim=1))
        sigma = as_moment("sigma", self.sigma, gamma)
        if not _check.is_traced(self.mu):
            _check.require(self.mu > 0, "mu", "a positive number", self.mu)
        object.__setattr__(self, "gamma", gamma)
        object.__setattr__(self, "sigma", sigma)
        self._deflate()

    @classmethod
    def from_problem(cls, problem: Any, d: Whole) -> "SpectralContrastive":
        """Build the law of a problem, with mu = 1."""
        return cls(problem.gamma, problem.sigma, d=int(d))

    def moments(self) -> Moments:
        """Return Γ, Σ and 1/mu."""
        matrix = jnp.ndim(self.sigma) == 2
        return Moments(jnp.diag(self.gamma) if matrix else self.gamma, self.sigma, 1 / self.mu)
