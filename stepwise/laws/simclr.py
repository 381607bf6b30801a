"""The laws of SimCLR: of dot products, and of cosines around an offset."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from stepwise import _check
from stepwise.laws import scalar
from stepwise.laws.base import Law
from stepwise.laws.frame import Framed
from stepwise.laws.pencil import Moments, Pencil, as_moment
from stepwise.types import Numbers, Real, Whole


@dataclass(frozen=True)
class SimCLR(Law):
    r"""Growth of the embedding's covariance under SimCLR's loss, NT-Xent.

    Without an offset, the law is that of `losses.simclr(z1, z2, temperature=T, normalise=False)`
    (`DotProductSimCLR`). With one, it is that of `losses.simclr(z1, z2, temperature=T)`, the
    official loss, of embeddings that start close to one vector of norm `offset` (`CosineSimCLR`).
    Chen et al. (2020), eq. 1, arXiv 2002.05709; the means of the two views are added, as in the
    official code. Both laws have the same growth, up to the offset:

        d ln q/dt = (8/T) (γ + σ/(2n − 1)),   divided by offset² if there is one.

    The official loss from a small start without an offset has no plateau, because the loss does not
    depend on the scale of the embedding. No law is known there.

    t = learning rate × step. The moments are about the mean of all 2n views.

    Args:
        gamma: cross-view moments γ of the modes [r].
        sigma: single-view moment Σ in the same coordinates, σ [r] or a matrix [r, r].
        temperature: T, the divisor of the products.
        offset: norm β of the vector that all embeddings have in common at the start; None for the
            loss of dot products.
        n: number of pairs in the loss; by default many.
        d: dimension of the embedding, for `max_stable_lr` and for a matrix Σ; by default r, and
            r + 1 with an offset, which takes one dimension.

    Raises:
        ValueError: if gamma is not a vector of finite numbers, sigma has another shape, or
            temperature, offset or n is not positive. With an offset: if a
            variance is not positive, or Σ is diagonal and a mode has ρ + 1/(2n − 1) ≥ 1.
    """

    gamma: Numbers
    sigma: Numbers
    temperature: Real
    offset: Real | None = None
    n: int | None = None
    d: int | None = None

    domain = "linear models: dot products of Gaussian data, or cosines around an offset"
    centred = True

    def __new__(
        cls,
        gamma: Any = None,
        sigma: Any = None,
        temperature: Any = None,
        offset: Any = None,
        *args: Any,
        **options: Any,
    ) -> "SimCLR":
        """Choose the law of dot products or, if there is an offset, that of cosines."""
        if cls is SimCLR:
            return object.__new__(DotProductSimCLR if offset is None else CosineSimCLR)
        return object.__new__(cls)

    def __post_init__(self) -> None:
        gamma = jnp.asarray(_check.real_array("gamma", self.gamma, ndim=1))
        object.__setattr__(self, "gamma", gamma)
        for name in ("temperature", "offset"):
            value = getattr(self, name)
            if value is not None and not _check.is_traced(value):
                _check.require(value > 0, name, "a positive number", value)
        if self.n is not None:
            _check.whole("n", self.n)

    def reason(self, mode: Whole) -> str:
        """Return why a mode does not grow."""
        return f"agreement is not above {-self._repulsion():.2g} = −1/(2n − 1)"

    def _repulsion(self) -> float:
        """Return 1/(2n − 1): each of 2n − 1 products in the denominator includes the positive."""
        return 0.0 if self.n is None else 1 / (2 * self.n - 1)


@dataclass(frozen=True)
class DotProductSimCLR(SimCLR, Pencil):
    r"""Growth of the embedding's covariance under SimCLR's loss of dot products.

    For Gaussian data and many pairs, ln E_x' e^{z·z'/T} = zᵀSz/(2T²), so the loss is

        L = 2 ln(2n − 1) − (2/T) tr W Γ Wᵀ + ‖W Σ Wᵀ‖_F²/T².

    It is a pencil (`Pencil`) with A = T Γ, B = Σ and κ = 1/T². With Γ and Σ of one eigenbasis, the
    variance q = σ s² of a mode is a logistic curve that rests at T ρ, ρ = γ/σ:

        q' = (8/T) q (γ − σ q/T).

    n pairs replace γ by γ + σ/(2n − 1), and so ρ by ρ + 1/(2n − 1). The growth is then exact for
    any data. The rest is that of Gaussian data and many pairs: at n = 400 it was within 6% in
    tests. Data that are not Gaussian have another rest.

    It is the law of `losses.simclr(z1, z2, temperature=T, normalise=False)`. Source, arguments and
    errors: `SimCLR`.
    """

    domain = "linear models, dot products, Gaussian data, many pairs, a small start"
    gaussian = "independent"
    formula = "−(2/T) tr WΓWᵀ + ‖WΣWᵀ‖²/T²"
    title = "SimCLR, dot products"
    call = "losses.simclr(z1, z2, temperature=T, normalise=False)"
    mode = r"q' = (8/T) \, q \left[ \gamma + \sigma/(2n - 1) - \sigma q/T \right]"
    behaviour = (
        "A logistic curve that grows at the rate (8/T) [γ + σ/(2n − 1)] and rests at "
        "T [ρ + 1/(2n − 1)]."
    )
    prediction = (
        "A variance ends in proportion to the temperature T. The negatives add σ/(2n − 1) to the γ "
        "of every mode, and the batch size enters only so."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check.require(self.offset is None, "offset", "None for dot products", self.offset)
        object.__setattr__(self, "sigma", as_moment("sigma", self.sigma, self.gamma))
        self._deflate()

    def moments(self) -> Moments:
        """Return T [Γ + Σ/(2n − 1)], Σ and 1/T²."""
        matrix = jnp.ndim(self.sigma) == 2
        gamma = jnp.diag(self.gamma) if matrix else self.gamma
        T = self.temperature
        return Moments(T * (gamma + self._repulsion() * self.sigma), self.sigma, 1 / T**2)


@dataclass(frozen=True)
class CosineSimCLR(SimCLR, Framed):
    r"""Growth of the embedding's covariance under SimCLR's official loss, around an offset.

    z = b + W x with |b| = β, and the rows of W perpendicular to b are small. For T → 0, Gaussian
    data and T p ≪ 1, P = W⊥ Σ W⊥ᵀ/(T β²) has the loss

        L = 2 {tr[(1 − ρ̃) P] − ½ ln det(1 + P) − ½ tr[P (1 + P)⁻¹]},   ρ̃ = γ/σ + 1/(2n − 1),

    and the modes of one eigenbasis of Γ and Σ decouple. With y = 1/(1 + p),

        p' = (4σ/(T β²)) p [y + y² − 2 (1 − ρ̃)],    at rest y* = (−1 + √(1 + 8 (1 − ρ̃)))/2,

    p* = 1/y* − 1: about ⅔ρ̃ for small ρ̃, and 1/(2(1 − ρ̃)) near 1. The curve is known as t(p):

        (4σ/(T β²)) t = H(p) − H(p(0)),
        H = ln y/(y*(1 + y*)) + ln(1 − y)/((1 − y*)(2 + y*))
        − ln(y − y*)/(y*(1 − y*)(1 + 2y*)) − ln(y + 1 + y*)/((1 + y*)(2 + y*)(1 + 2y*)).

    λ is the variance of the *normalised* embeddings z/|z| divided by T, to first order p, which
    W/β is not. The offset takes one dimension, so d dimensions hold d − 1 modes: mode coordinates
    A [d, r] are those of W⊥, all perpendicular to b. At T = 0.02 and n = 300, half times were
    within 4% and rests within 6% in tests. The law fails if T Σ p* of the learned modes is not
    small. The covariance of z/|z| then has another eigenvalue of about T² Σ p*²/2 along b.
    A mode with ρ̃ near 1 or above, as a few pairs of images can have by chance, is outside of this
    domain. Its curve is that of ρ̃ = 0.999, and `neglected` is infinite.
    β² + ‖W‖² is conserved, so β² shrinks as W grows, which matters if Σ T p*/σ is not small.

    It is the law of `losses.simclr(z1, z2, temperature=T)`. Source, arguments and errors:
    `SimCLR`.
    """

    domain = "linear models around an offset, Gaussian data, many pairs, low temperature"
    observable = "covariance / T"
    gaussian = "independent"
    formula = "2 tr (1 − ρ)P − ln det(1 + P) − tr P(1 + P)⁻¹"
    title = "SimCLR, official, around an offset"
    call = (
        "losses.simclr(z1, z2, temperature=T) of embeddings that start close to one vector of norm "
        "β = offset"
    )
    mode = (
        r"p' = \frac{4 \sigma}{T \beta^2} \, p \left[ y + y^2 - 2 (1 - \rho) + \frac{2}{2n - 1} "
        r"\right], \quad y = \frac{1}{1 + p}"
    )
    behaviour = (
        "Growth at the rate 8 [γ + σ/(2n − 1)]/(T β²). A start is small if the differences of the "
        "embeddings are small, and not the embeddings themselves."
    )
    prediction = (
        "The offset takes one dimension, so d dimensions learn d − 1 modes, and its squared norm "
        "divides every rate."
    )
    curves = "closed form of t(λ), inverted"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check.require(self.offset is not None, "offset", "the norm of the offset", "None")
        self._find_modes()
        if self.basis is None and not _check.is_traced(self.frame.gamma, self.frame.sigma):
            largest = jnp.max(self._agreement(), initial=0)
            expected = "γ/σ + 1/(2n − 1) < 1 in every mode"
            _check.require(largest < 1, "gamma", expected, f"{float(largest):.3g}")

    def _agreement(self) -> Float[Array, " r"]:
        """Return ρ̃ = γ/σ + 1/(2n − 1) of each mode."""
        return self.frame.gamma / self.frame.sigma + self._repulsion()

    def _operator(self, gamma: Array, sigma: Array) -> Array:
        """Return Γ + Σ/(2n − 1)."""
        return gamma + self._repulsion() * sigma

    def _scale(self) -> Any:
        """Return 1/(T β²)."""
        offset: Real = self.offset
        return 1 / (self.temperature * offset**2)

    def _disagreement(self, A: Array) -> Array:
        """Return A (Σ (1 − 1/(2n − 1)) − Γ)/(T β²) of rows A [d, r]."""
        apart = (1 - self._repulsion()) * self._by_sigma(A) - self._by_gamma(A)
        return self._scale() * apart

    def _resting(self) -> Float[Array, " r"]:
        """Return y* of each mode, with ρ̃ at most 0.999."""
        agreement = jnp.minimum(self._agreement(), 0.999)
        return (jnp.sqrt(1 + 8 * (1 - agreement)) - 1) / 2

    def growth(self) -> Float[Array, " r"]:
        """Return the growth rates (8/(T β²)) (γ + σ/(2n − 1)) [r]."""
        return 8 * self.unit() * self._agreement()

    def rest(self) -> Float[Array, " r"]:
        """Return p* = 1/y* − 1 [r], 0 for a mode that does not grow."""
        return jnp.maximum(1 / self._resting() - 1, 0)

    def free_rows(self, d: Whole) -> int:
        """Return d − 1, because the offset takes one dimension."""
        return max(int(d) - 1, 0)

    def neglected(self, tau: Numbers, d: Whole) -> Float[np.ndarray, " k"]:
        """Return the relative error [k] of step times tau: that of `Framed`, and x/(1 − 2x).

        x = T Σ p* over the modes learned so far, itself included, which the law takes as small. On
        Gaussian modes (T = 0.02 to 0.1, ρ = 0.4 to 0.95, n = 300, 24 step times) the measured
        errors were at most 1.1 times this estimate for x < 0.5. From x = 0.5 on it is infinite,
        because a mode may end below the level.
        """
        errors = super().neglected(tau, d)
        rests = np.asarray(self.rest()[self.order], np.float64)[: errors.size]
        x = float(self.temperature) * np.cumsum(rests)
        return errors + np.where(x < 0.5, x / np.where(x < 0.5, 1 - 2 * x, 1), np.inf)

    def final_modes(self, d: Whole) -> Int[Array, " k"]:
        """Return the modes that d dimensions hold at the end, of which the offset takes one."""
        return super().final_modes(self.free_rows(d))

    def objective(self, A: Numbers) -> Float[Array, ""]:
        """Return the loss 2 tr (1 − ρ̃)P − ln det(1 + P) − tr P(1 + P)⁻¹ of A [d, r]."""
        A = jnp.asarray(A)
        P = self.measure(A)
        one = jnp.eye(P.shape[0], dtype=P.dtype)
        pull = 2 * jnp.sum(A * self._disagreement(A))
        # tr P(1 + P)⁻¹ = tr [1 − (1 + P)⁻¹]
        return pull - jnp.linalg.slogdet(one + P)[1] - jnp.trace(one - jnp.linalg.inv(one + P))

    def rhs(self, A: Numbers) -> Float[Array, "d r"]:
        """Return the flow 2 [(Y + Y²) A − 2 A (1 − ρ̃)] σ/(T β²), Y = (1 + P)⁻¹, of A [d, r]."""
        A = jnp.asarray(A)
        P = self.measure(A)
        Y = jnp.linalg.inv(jnp.eye(P.shape[0], dtype=P.dtype) + P)
        push = self._scale() * self._by_sigma((Y + Y @ Y) @ A)
        return 2 * (push - 2 * self._disagreement(A))

    def eigenvalues(self, times: Numbers, lam0: Numbers) -> Float[Array, "T d"]:
        """Return p(t), from the closed form by Newton's method.

        A mode that falls, because it does not grow or starts above its rest, is integrated.

        Args:
            times: t [T], learning rate × step.
            lam0: p(0) [d], d ≤ r.
        """
        times, lam0, modes = self.check_arguments(times, lam0)
        rest, speed = self.rest()[modes], 4 * self.unit()[modes]
        rises = (lam0 > 0) & (lam0 < rest)
        safe_rest = jnp.where(rest > 0, rest, 1)
        safe = jnp.where(rises, lam0, safe_rest / 2)
        y = jnp.where(rest > 0, self._resting()[modes], 0.5)
        phase = jnp.log(safe) - jnp.log(safe_rest - safe)
        goal = _elapsed(phase, y)[None] + speed[None] * times[:, None]
        rising = safe_rest[None] * jax.nn.sigmoid(_phase(goal, phase, y))
        fall = jax.vmap(_fall, in_axes=(None, 0, 0, 0), out_axes=1)
        start = jnp.where(rises | (lam0 <= 0), 2 * safe_rest, lam0)
        falling = fall(times, start, speed, self._resting()[modes])
        return jnp.where(rises[None], rising, jnp.where(lam0[None] > 0, falling, lam0[None]))

    def step_times(self, lam0: Numbers, level: Real = 0.5) -> Float[Array, " d"]:
        """Return when each p rises through level · p* [d], in closed form; inf if it never does."""
        _check.require(0 < level < 1, "level", "a number between 0 and 1", level)
        _, lam0, modes = self.check_arguments(jnp.zeros(1), lam0)
        rest, y, speed = self.rest()[modes], self._resting()[modes], 4 * self.unit()[modes]
        crosses = (rest > 0) & (lam0 > 0) & (lam0 <= level * rest)
        ratio = jnp.where(crosses, lam0 / jnp.where(rest > 0, rest, 1), level)
        y = jnp.where(rest > 0, y, 0.5)
        begin = _elapsed(jnp.log(ratio) - jnp.log1p(-ratio), y)
        end = _elapsed(jnp.full_like(y, jnp.log(level) - jnp.log1p(-level)), y)
        return jnp.where(crosses, (end - begin) / jnp.where(crosses, speed, 1), jnp.inf)

    def descent_delay(self, lr: Numbers, lam0: Numbers, level: Real = 0.5) -> Float[Array, " d"]:
        """Return the fraction (lr/2) ln(f_τ/f_0)/τ by which descent crosses the level late [d].

        f = √p [y + y² − 2 (1 − ρ̃)] is the speed of an amplitude. Descent is Euler's method, so it
        follows v' = f − (lr/2) f (df/dv) to first order in lr.
        """
        lr = jnp.asarray(_check.real_array("lr", lr, ndim=0))
        tau = self.step_times(lam0, level)
        _, lam0, modes = self.check_arguments(jnp.zeros(1), lam0)
        crosses, goal = (tau < jnp.inf) & (tau > 0), level * self.rest()[modes]

        def speed(p: Array) -> Array:
            y = 1 / (1 + jnp.where(crosses, p, 0))
            bracket = y + y**2 - 2 * (1 - self._agreement()[modes])
            return jnp.log(jnp.where(crosses, p * bracket**2, 1)) / 2

        return jnp.where(
            crosses, lr / 2 * (speed(goal) - speed(lam0)) / jnp.where(crosses, tau, 1), 0
        )

    def max_stable_lr(self) -> Float[Array, ""]:
        """Return 2 over the largest curvature where d − 1 modes rest.

        With units 1/(T β²), the curvatures are 4σ(1 − y*) y* (1 + 2y*) of a learned mode,
        4σ_k (ρ_j − ρ_k) of an unlearned mode k in a row that holds mode j, and 4|γ_k| of a decaying
        mode if a row is spare.
        """
        unit, y, agreement = self.unit(), self._resting(), self._agreement()
        d = unit.shape[0] + 1 if self.d is None else int(self.d)
        final = self.final_modes(d)
        learned = jnp.zeros(unit.shape[0], bool).at[final].set(self.rest()[final] > 0)
        aside = 4 * unit[None] * (agreement[:, None] - agreement[None])
        spare = jnp.sum(learned) < d - 1
        curvatures = jnp.array([
            jnp.max(jnp.where(learned, 4 * unit * (1 - y) * y * (1 + 2 * y), 0)),
            jnp.max(jnp.where(learned[:, None] & ~learned[None], aside, 0)),
            jnp.where(spare, jnp.max(-4 * unit * agreement, initial=0), 0),
        ])  # fmt: skip
        return 2 / jnp.max(curvatures)


def _elapsed(phase: Array, y: Array) -> Array:
    """Return H up to a constant, as a function of u = ln(p/(p* − p)) and y*.

    It is convex and increasing, with the slope 1/((1 − y*) η (η + 1 + y*)) at η = 1/(1 + p).
    """
    rest = 1 / y - 1
    log_now = -jnp.log1p(rest * jax.nn.sigmoid(phase))
    first, last = 1 / ((1 - y) * (2 + y)), 1 / (y * (1 - y) * (1 + 2 * y))
    side = 1 / ((1 + y) * (2 + y) * (1 + 2 * y))
    # 1 − η = p η and η − y* = (p* − p) η y*, of which the constant factors are left out
    rising = first * jax.nn.log_sigmoid(phase) - last * jax.nn.log_sigmoid(-phase)
    both = (1 / (y * (1 + y)) + first - last) * log_now
    return rising + both - side * jnp.log(jnp.exp(log_now) + 1 + y)


def _phase(goal: Array, start: Array, y: Array) -> Array:
    """Return u at which H(u) = goal, by Newton's method, which is monotonic as H is convex."""

    def slope(u: Array) -> Array:
        now = 1 / (1 + (1 / y - 1)[None] * jax.nn.sigmoid(u))
        return 1 / ((1 - y)[None] * now * (now + 1 + y[None]))

    def step(_: Any, u: Array) -> Array:
        return u - (_elapsed(u, y[None]) - goal) / slope(u)

    # An upper bound: the slope is nowhere below that of the plateau.
    first = start[None] + (goal - _elapsed(start, y)[None]) * ((1 - y) * (2 + y))[None]
    u = jax.lax.stop_gradient(jax.lax.fori_loop(0, 60, step, first))
    # The last step carries the derivative.
    return u - (_elapsed(u, y[None]) - goal) / jax.lax.stop_gradient(slope(u))


def _fall(times: Array, start: Array, speed: Array, y: Array) -> Array:
    """Integrate ln(p − p₊) of one mode above its rest p₊ = max(p*, 0); return p [T]."""
    rest = jnp.maximum(1 / y - 1, 0)

    def slope(log_gap: Array) -> Array:
        p = rest + jnp.exp(log_gap)
        now = 1 / (1 + p)
        # p (y* − η)/(p − p*) = p η y* if p* > 0, with η = 1/(1 + p)
        factor = jnp.where(rest > 0, p * now * y, y - now)
        return -speed * factor * (now + 1 + y)

    gap = jnp.maximum(start - rest, jnp.finfo(start.dtype).tiny)
    return rest + jnp.exp(scalar.integrate(slope, jnp.log(gap), times))
