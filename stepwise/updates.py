"""Update rules: each is a law for every mode, and an optax transformation.

    rule = updates.RelativePolar(lr=0.5)
    rule.law(problem.gamma).step_times(lam0)                # when each mode is learned
    dynamics.descent(problem, A0, 0.5, 60, update=rule)

The rules act on one matrix W [d, m] under the loss ‖C − I‖², C = W Γ Wᵀ, with the gradient
G = −4 (I − C) W Γ. The transformation of a rule adds its step to the parameters, as in optax, and
t = lr × step. Three rules need moments, which an optimiser does not have. Their transformations
take them as extra arguments of `update`: `gamma`, which is Γ [m, m] or the vector of its
eigenvalues [m] in mode coordinates, and optionally `C` [d, d], which is otherwise W Γ Wᵀ. A moment
given to `optax(gamma=...)` need not be passed again.

A rule that multiplies the gradient from the left (the embedding's side) learns the same leading
modes as gradient descent: the angle to them is about α^{1 − γ_{d+1}/γ_d} at the start scale α. A
power of Γ on the inputs' side weakens the exponent to 1 − (γ_{d+1}/γ_d)^{1−power}, and momentum to
1 − ln z_{d+1}/ln z_d.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from stepwise import _check
from stepwise._transformations import polar, times, with_moments
from stepwise.laws import BarlowTwins
from stepwise.laws.heavy_ball import HeavyBallLaw
from stepwise.laws.numeric import geometric_mean
from stepwise.laws.preconditioned import (
    EmbeddingPowerLaw,
    InputPowerLaw,
    MuonLaw,
    RelativePolarLaw,
)
from stepwise.types import Numbers, Real


@dataclass(frozen=True)
class GradientDescent:
    """W ← W − lr G: λ' = 8 γ λ (1 − λ), the law `laws.BarlowTwins`.

    Stable below min(1/(4 γ_1), 1/(2 |γ_min|)).

    Raises:
        ValueError: if lr is not positive.
    """

    lr: Real

    def __post_init__(self) -> None:
        _require_rate(self.lr)

    def law(self, gamma: Numbers, lowest: Numbers | None = None) -> BarlowTwins:
        """Return the law of modes γ [r]."""
        return BarlowTwins(gamma, lowest)

    def optax(self) -> optax.GradientTransformation:
        """Return `optax.sgd(lr)`."""
        return optax.sgd(self.lr)


@dataclass(frozen=True)
class HeavyBall:
    """V ← momentum V − lr G, W ← W + V: λ grows by z² a step.

    z² − (1 + β + 4 lr γ) z + β = 0 with β the momentum. Stable below 1 + β times the limit of
    gradient descent. Momentum shortens the slow modes most, from 1/γ to 1/√γ, and the selection of
    the leading modes becomes weaker in the same measure.

    Raises:
        ValueError: if lr is not positive, or momentum is not in [0, 1).
    """

    lr: Real
    momentum: Real = 0.9

    def __post_init__(self) -> None:
        _require_rate(self.lr)
        _require_share("momentum", self.momentum)

    def law(self, gamma: Numbers, lowest: Numbers | None = None) -> HeavyBallLaw:
        """Return the law of modes γ [r], exact at this learning rate."""
        return HeavyBallLaw(gamma, lowest, self.lr, self.momentum)

    def optax(self) -> optax.GradientTransformation:
        """Return `optax.sgd(lr, momentum)`."""
        return optax.sgd(self.lr, self.momentum)


@dataclass(frozen=True)
class Muon:
    """W ← W − lr U Vᵀ, with the polar factor U Vᵀ of the gradient: singular values grow at rate 1.

    Mode j reaches ½ after √(½/γ_j)/lr steps, which is optimal among rules whose steps have a
    spectral norm of at most lr. The exact polar factor is used, by a singular value decomposition;
    `optax.contrib.muon` approximates it by polynomials whose singular values are 0.7 to 1.2, and
    adds momentum and factors of the shape. Steps do not become smaller near the solution, so λ ends
    within 2 lr √γ_1 of 1.

    Raises:
        ValueError: if lr is not positive, or momentum is not in [0, 1); the transformation raises
            it for a parameter that is not a matrix.
    """

    lr: Real
    momentum: Real = 0.0

    def __post_init__(self) -> None:
        _require_rate(self.lr)
        _require_share("momentum", self.momentum)

    def law(self, gamma: Numbers, lowest: Numbers | None = None) -> MuonLaw:
        """Return the law of modes γ [r], for a momentum of 0."""
        return MuonLaw(gamma, lowest)

    def optax(self) -> optax.GradientTransformation:
        """Return the transformation −lr · polar(momentum's average of the gradients)."""

        def update(gradients: Any, state: Any, parameters: Any = None) -> tuple[Any, Any]:
            return jax.tree.map(lambda G: -self.lr * polar(G), gradients), state

        step = optax.GradientTransformation(lambda _: optax.EmptyState(), update)
        return optax.chain(optax.trace(self.momentum), step) if self.momentum else step


@dataclass(frozen=True)
class RelativePolar:
    """W ← W + lr (I − C) B W Γ, with B (W Γ² Wᵀ) B = W Wᵀ: all modes follow λ' = 2 λ (1 − λ).

    B is positive definite: the geometric mean of W Wᵀ and (W Γ² Wᵀ)^{-1}. The time to λ = ½,
    ln(1/λ(0))/2 in units of t, does not depend on the spectrum, and the leading modes are still
    selected as by gradient descent. lr = 0.5 reached ‖C − I‖ < 1e-3 in 30 to 32 steps. Place
    (I − C) on the left of B, as here: on the right it diverges from many starts.

    The transformation needs the parameters and `gamma`, and ignores the gradient.

    Raises:
        ValueError: if lr is not positive.
    """

    lr: Real

    def __post_init__(self) -> None:
        _require_rate(self.lr)

    def law(self, gamma: Numbers, lowest: Numbers | None = None) -> RelativePolarLaw:
        """Return the law of modes γ [r]."""
        return RelativePolarLaw(gamma, lowest)

    def optax(self, gamma: Numbers | None = None) -> optax.GradientTransformationExtraArgs:
        """Return the transformation; `gamma` and `C` are extra arguments of its `update`."""

        def step(G: Array, W: Array, moment: Any, C: Array) -> Array:
            H = times(W, moment)
            B = geometric_mean(W @ W.T, H @ H.T)
            return self.lr * (jnp.eye(len(W), dtype=W.dtype) - C) @ B @ H

        return with_moments("RelativePolar", step, gamma)


@dataclass(frozen=True)
class EmbeddingPower:
    """W ← W − lr (C + eps)^{−power} G: λ' = 8 γ λ (1 − λ)/(λ + eps)^power.

    Saves the plateau but not the order 1/γ: at power = 1 mode j reaches ½ at t = ln 2/(8 γ_j).
    eps = 0 diverges at the first step from a small start; keep 8 lr γ_1/eps^power below about 30.
    Negative eigenvalues of C count as 0 in the power.

    Raises:
        ValueError: if lr or power is not positive, or eps is negative.
    """

    lr: Real
    power: Real = 0.5
    eps: Real = 1e-2

    def __post_init__(self) -> None:
        _require_rate(self.lr)
        _require_rate(self.power, "power")
        if not _check.is_traced(self.eps):
            _check.require(self.eps >= 0, "eps", "a number of at least 0", self.eps)

    def law(self, gamma: Numbers, lowest: Numbers | None = None) -> EmbeddingPowerLaw:
        """Return the law of modes γ [r]."""
        return EmbeddingPowerLaw(gamma, lowest, self.power, self.eps)

    def optax(self, gamma: Numbers | None = None) -> optax.GradientTransformationExtraArgs:
        """Return the transformation; `gamma` and `C` are extra arguments of its `update`."""

        def step(G: Array, W: Array, moment: Any, C: Array) -> Array:
            values, vectors = jnp.linalg.eigh((C + C.T) / 2)
            scales = (jnp.maximum(values, 0) + self.eps) ** -self.power
            return -self.lr * (vectors * scales[None]) @ vectors.T @ G

        return with_moments("EmbeddingPower", step, gamma, needs_gamma=False)


@dataclass(frozen=True)
class InputPower:
    """W ← W − lr G Γ₊^{−power}: λ' = 8 γ^{1−power} λ (1 − λ).

    Γ₊ has the positive eigenvalues of Γ; the gradient along all others is dropped. Times become
    more equal by the power, and the selection of the leading modes weaker: none is left at
    power = 1. Stable below 1/(4 γ_1^{1−power}).

    Raises:
        ValueError: if lr is not positive, or power is not in [0, 1].
    """

    lr: Real
    power: Real = 0.5

    def __post_init__(self) -> None:
        _require_rate(self.lr)
        if not _check.is_traced(self.power):
            _check.require(0 <= self.power <= 1, "power", "a number in [0, 1]", self.power)

    def law(self, gamma: Numbers, lowest: Numbers | None = None) -> InputPowerLaw:
        """Return the law of modes γ [r]."""
        return InputPowerLaw(gamma, lowest, self.power)

    def optax(self, gamma: Numbers | None = None) -> optax.GradientTransformationExtraArgs:
        """Return the transformation; `gamma` is an extra argument of its `update`."""

        def step(G: Array, W: Array, moment: Any, C: Array) -> Array:
            if moment.ndim == 1:
                return -self.lr * G * self._scales(moment)[None]
            values, vectors = jnp.linalg.eigh(moment)
            return -self.lr * (G @ vectors * self._scales(values)[None]) @ vectors.T

        return with_moments("InputPower", step, gamma)

    def _scales(self, values: Array) -> Array:
        positive = values > 1e3 * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
        return jnp.where(positive, jnp.where(positive, values, 1) ** -self.power, 0)


def _require_rate(value: Real, name: str = "lr") -> None:
    if not _check.is_traced(value):
        _check.require(value > 0, name, "a positive number", value)


def _require_share(name: str, value: Real) -> None:
    if not _check.is_traced(value):
        _check.require(0 <= value < 1, name, "a number in 0 ≤ x < 1", value)
