"""The law of CLIP with one encoder for both inputs."""

from dataclasses import dataclass

import jax.numpy as jnp

from stepwise import _check
from stepwise.laws.pencil import Moments, Pencil, as_moment
from stepwise.types import Numbers, Real, Whole


@dataclass(frozen=True)
class OneTowerCLIP(Pencil):
    r"""Growth of the embedding's covariance under the loss of CLIP with one encoder.

    Both inputs are views of one image, and both pass through the same linear model. For many pairs
    of centred Gaussian views, up to the constant ln n,

        L = −k tr W Γ Wᵀ + (k²/2) ‖W Σ Wᵀ‖_F²,

    a pencil (`Pencil`) with A = Γ/k, B = Σ and κ = k²/2. With Γ and Σ of one eigenbasis, the
    variance q = σ s² of a mode is a logistic curve that rests at ρ/k, ρ = γ/σ:

        q' = 4k q (γ − k σ q).

    Two towers (`CLIP`) grow half as fast, because each has a gradient of its own. Unlike in SimCLR,
    the number of pairs does not change the growth, since the negatives are cross-view products.

    It is the law of `losses.clip(z1, z2, scale=k, normalise=False)` with a constant scale. Loss:
    Radford et al. (2021), arXiv 2103.00020, fig. 3.

    Args:
        gamma: cross-view moments γ of the modes [r], about the mean of all views.
        sigma: single-view moment Σ in the same coordinates, σ [r] or a matrix [r, r].
        scale: the factor k on the products of embeddings, an inverse temperature.
        d: dimension of the embedding, for `max_stable_lr` and for a matrix Σ; by default r.

    Raises:
        ValueError: if gamma is not a vector of finite numbers, sigma has another shape, or scale is
            not positive.
    """

    gamma: Numbers
    sigma: Numbers
    scale: Real
    d: Whole | None = None

    domain = "one linear encoder, dot products, many pairs of Gaussian views, a constant scale"
    gaussian = "independent"
    formula = "−k tr WΓWᵀ + (k²/2)‖WΣWᵀ‖²"
    title = "CLIP with one encoder, unnormalised"
    call = "losses.clip(z1, z2, scale=scale, normalise=False)"
    mode = r"q' = 4 k q (\gamma - k \sigma q)"
    behaviour = (
        "A logistic curve that grows at the rate 4kγ and rests at ρ/k. Modes with the largest γ "
        "come first, and those with the largest ρ stay."
    )
    prediction = (
        "The number of pairs does not change the growth; one encoder is twice as fast as two."
    )
    centred = True

    def __post_init__(self) -> None:
        gamma = jnp.asarray(_check.real_array("gamma", self.gamma, ndim=1))
        sigma = as_moment("sigma", self.sigma, gamma)
        if not _check.is_traced(self.scale):
            _check.require(self.scale > 0, "scale", "a positive number", self.scale)
        object.__setattr__(self, "gamma", gamma)
        object.__setattr__(self, "sigma", sigma)
        self._deflate()

    def moments(self) -> Moments:
        """Return Γ/k, Σ and k²/2."""
        k = self.scale
        gamma = jnp.diag(self.gamma) if jnp.ndim(self.sigma) == 2 else self.gamma
        return Moments(gamma / k, self.sigma, k**2 / 2)
