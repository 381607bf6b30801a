"""The law of DINO: modes grow if their views agree better than the ratio of the temperatures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, polygamma
from jaxtyping import Array, Bool, Float

from stepwise import _check
from stepwise.laws import lag, softmax
from stepwise.laws.base import NotKnownError
from stepwise.laws.frame import Framed
from stepwise.types import Numbers, Real, Whole


@dataclass(frozen=True)
class DINO(Framed):
    r"""Growth of the covariance of the student's logits under DINO, with a linear model.

    Student W x and teacher V x have K = prototypes logits, with temperatures τs and τt, and the
    centre is 0. For Gaussian data the gradient flow is exactly

        W' = [J̄_t V Γ/τt − J̄_s W Σ/τs]/τs,        V' = ema · (W − V),

    with J̄ = E[diag p − ppᵀ] of the softmax p of either. Near zero J̄ = (I − 11ᵀ/K)/K, for any data,
    and the variance of a mode grows at the rate 2r, where

        (r + σ/(Kτs²))(r + ema) = ema γ/(Kτsτt).

    **A mode grows if and only if ρ = γ/σ > τt/τs**, for every ema, K and σ. It saturates as the
    teacher's sharper softmax does. The curve of the first mode is that of W = e wᵀ with
    e = (−1, 0, …, 0, 1)/√2, the only direction of K = 2. For K > 2 a random direction turns to such
    an e, for some pair of prototypes, and ends at the same rest; its half times were 0.5% to 10%
    late (K = 3 to 10, 18 starts). The curve has two variables,

        w' = [γ v h(√σ v/τt)/τt − σ w h(√σ w/τs)/τs]/τs,        v' = ema · (w − v),

    where h(s) = eᵀJ̄e for logits s g e, g a standard Gaussian. The mode rests at λ = σ w² with
    ρ h(√λ/τt)/τt = h(√λ/τs)/τs, finite for ρ < 1.

    Later modes do not follow curves of their own, because the softmax couples them. While mode j
    rests, mode k grows only if ρ_k is close to ρ_j or above (`next_growth`), so the first mode
    shuts out most others. `eigenvalues` therefore has one mode, and refuses more.

    It is the law of `losses.dino(s1, s2, t1, t2, jnp.zeros(K), student_temperature=student,
    teacher_temperature=teacher)`. Finite data with E[p(x) x′] ≠ 0 beyond Stein's lemma force modes
    to O(n^{-1/2}) at once; data that are symmetric under the reflection of each mode do not.

    Loss: Caron et al. (2021), arXiv 2104.14294, eq. 1 to 3. No publication of the law is known.

    Args:
        gamma: cross-view moments γ of the modes [r], uncentred.
        sigma: single-view moment Σ in the same coordinates, σ [r] or a matrix [r, r]. If it is not
            diagonal, curves neglect its entries between the law's modes (`Framed`).
        prototypes: the number K of logits, at least 2.
        student: temperature τs of the student.
        teacher: temperature τt of the teacher.
        ema: rate (1 − decay)/lr at which the teacher follows the student, from a copy of it (with
            momentum, see `methods.theory.with_lag`). None if the teacher is the student.

    Raises:
        ValueError: if gamma is not a vector of finite numbers; if sigma has another shape or a
            negative variance; if prototypes is less than 2; if a temperature or ema is not
            positive.
    """

    gamma: Numbers
    sigma: Numbers
    prototypes: int
    student: Real = 0.1
    teacher: Real = 0.04
    ema: Real | None = None

    domain = (
        "linear models without centre, Γ and Σ with a common eigenbasis; growth for any data, the "
        "first mode's curve for Gaussian data and a start along two prototypes"
    )
    observable = "covariance"
    gaussian = "normal"
    formula = "H(softmax(V x′/τt), softmax(W x/τs))"
    title = "DINO, without centre"
    call = (
        "losses.dino(s1, s2, t1, t2, jnp.zeros(K), student_temperature=τs, teacher_temperature=τt)"
    )
    mode = r"\left( r + \sigma/(K \tau_s^2) \right) (r + \mu) = \mu \gamma/(K \tau_s \tau_t)"
    behaviour = "Growth at the rate 2r; the first mode saturates as the teacher's softmax does."
    prediction = (
        "A mode grows only if ρ > τt/τs. While the first mode rests, another grows only if its ρ "
        "is close to that of the first or larger, so the first mode shuts out most others."
    )
    curves = "integrated, for the first mode"
    rotates = False

    def __post_init__(self) -> None:
        _check.whole("prototypes", self.prototypes, 2)
        for name in ("student", "teacher"):
            value = getattr(self, name)
            _check.require(value is not None, name, "a positive number", value)
            lag.check_rate(name, value)
        lag.check_rate("ema", self.ema)
        self._find_modes(positive=False)

    def _operator(self, gamma: Array, sigma: Array) -> Array:
        """Return the symmetric matrix M(r) whose largest eigenvalue is r, the rate of mode 1.

        M(r) = ema Γ/(Kτsτt (r + ema)) − Σ/(Kτs²). The other modes are its other eigenvectors,
        whose growth rates are not exact.
        """
        pull = sigma / (self.prototypes * self.student**2)
        drive = gamma / (self.prototypes * self.student * self.teacher)
        if self.ema is None:
            return drive - pull
        r = jnp.zeros((), gamma.dtype)
        for _ in range(8):  # Newton's method; the largest eigenvalue of M is convex in r
            values, vectors = jnp.linalg.eigh(self.ema / (r + self.ema) * drive - pull)
            v = vectors[:, -1]
            slope = -self.ema / (r + self.ema) ** 2 * (v @ drive @ v) - 1
            r = jnp.maximum(r - (values[-1] - r) / slope, 0)
        return self.ema / (r + self.ema) * drive - pull

    def growth(self) -> Float[Array, " r"]:
        """Return 2r [r], (r + σ/(Kτs²))(r + ema) = ema γ/(Kτsτt)."""
        return 2 * self._rate(
            jnp.arange(len(self.unit())), 1 / self.prototypes, 1 / self.prototypes
        )

    def grows(self) -> Bool[Array, " r"]:
        """Return which modes grow [r]: those with ρ > τt/τs."""
        return self.frame.gamma * self.student > self.frame.sigma * self.teacher

    def rest(self) -> Float[Array, " r"]:
        """Return λ of each mode on its own [r], along two prototypes.

        It solves ρ h(√λ/τt)/τt = h(√λ/τs)/τs, and is infinite for ρ ≥ 1.
        """
        grows, sigma = self.grows(), self.unit()
        rho = jnp.where(grows, self.frame.gamma / jnp.where(grows, sigma, 1), 1)
        return jnp.where(grows, _rest(self, rho), 0)

    def states(self, times: Numbers, lam0: Numbers) -> Float[Array, "T two d"]:
        """Return the amplitudes w of the student and v of the teacher [T, 2, 1], from v = w.

        Args:
            times: t [T], learning rate × step, not negative.
            lam0: λ(0) of the first mode [1].

        Raises:
            NotKnownError: if lam0 has more than one entry.
        """
        times, lam0, modes = self.check_arguments(times, lam0)
        self._require_one("states", lam0)
        return _states(self, times, lam0, modes)

    def eigenvalues(self, times: Numbers, lam0: Numbers) -> Float[Array, "T d"]:
        """Return λ = σ w² [T, 1] of the first mode, from a start along two prototypes.

        Raises:
            NotKnownError: if lam0 has more than one entry.
        """
        times, lam0, modes = self.check_arguments(times, lam0)
        self._require_one("eigenvalues", lam0)
        return self.unit()[modes][None] * _states(self, times, lam0, modes)[:, 0] ** 2

    def step_times(self, lam0: Numbers, level: Real = 0.5) -> Float[Array, " d"]:
        """Return when λ of the first mode rises through level · rest [1], or infinity.

        Raises:
            NotKnownError: if lam0 has more than one entry.
        """
        _check.require(0 < level < 1, "level", "a number between 0 and 1", level)
        _, lam0, modes = self.check_arguments(jnp.zeros(1), lam0)
        self._require_one("step_times", lam0)
        return _step_times(self, lam0, level, modes)

    def loss(self, times: Numbers, lam0: Numbers) -> Float[Array, " T"]:
        """Return E ln Σ_k e^{s_k} − γ v w h(√σ v/τt)/(τsτt) [T] of the first mode, with logits s.

        It is ln K at a start of 0.

        Raises:
            NotKnownError: if lam0 has more than one entry.
        """
        times, lam0, modes = self.check_arguments(times, lam0)
        self._require_one("loss", lam0)
        w, v = _states(self, times, lam0, modes).swapaxes(0, 1)
        gamma, size = self.frame.gamma[modes][None], jnp.sqrt(self.unit()[modes])[None]
        spread = softmax.curvatures(size * v / self.teacher, self.prototypes).contrast
        gain = gamma * v * w * spread / (self.student * self.teacher)
        return jnp.sum(
            softmax.log_partition(size * w / self.student, self.prototypes) - gain, axis=1
        )

    def known_modes(self, d: Whole) -> int:
        """Return 1: the first mode suppresses most others, whose curves are not known."""
        return 1

    def generic_start(self, A: Numbers) -> Float[Array, " 1"]:
        """Return λ(0) [1] of the first mode in a small start A [K, r], without the mean logit."""
        A = jnp.asarray(_check.real_array("A", A, ndim=2))
        first = self.order[:1]
        column = self.to_modes(A)[:, first]
        square = jnp.sum((column - column.mean(axis=0, keepdims=True)) ** 2, axis=0)
        return self.unit()[first] * square

    def expected_start(self, d: Whole) -> tuple[Float[Array, " 1"], Float[Array, " 1"]]:
        """Return mean and standard deviation of ln λ(0) [1] over Gaussian starts of scale 1.

        λ(0)/σ is a χ² variable with K − 1 degrees of freedom.
        """
        half = (self.prototypes - 1) / 2
        mean = digamma(half) + jnp.log(2 * self.unit()[self.order[:1]])
        return mean, jnp.sqrt(polygamma(1, half))[None]

    def neglected(self, tau: Numbers, d: Whole) -> Float[np.ndarray, " k"]:
        """Return 0.12 for K > 2: steps from a random start came up to 10% late, and a margin."""
        return np.full(np.shape(tau), 0.12 if self.prototypes > 2 else 0.0)

    def reason(self, mode: Whole) -> str:
        """Return why a mode does not grow."""
        rho, least = self.frame.gamma[mode] / self.frame.sigma[mode], self.teacher / self.student
        return f"agreement {rho:.2f} is below {least:.2f}, the ratio of the temperatures"

    def aligned_start(self, lam: Numbers, modes: Numbers | None = None) -> Float[Array, "K r"]:
        """Return the logits' mode coordinates e wᵀ [K, r] with e = (−1, 0, …, 0, 1)/√2.

        Raises:
            NotKnownError: if lam has more than one entry.
        """
        self._require_one("aligned_start", jnp.asarray(lam))
        row = super().aligned_start(lam, modes)
        e = np.zeros((self.prototypes, row.shape[0]))
        e[0], e[-1] = -np.sqrt(0.5), np.sqrt(0.5)
        return jnp.asarray(e, row.dtype) @ row

    def takeover(self, j: Whole, k: Whole) -> Float[Array, ""]:
        """Return the rate of the variance of mode k along the two prototypes that mode j holds.

        It has the sign of ρ_k − ρ_j.
        """
        soft, sharp = self._curvatures_at_rest(j)
        return 2 * self._rate(k, soft.contrast, sharp.contrast)

    def next_growth(self, learned: Sequence[int] | Numbers) -> Float[Array, ""]:
        """Return the growth rate of the fastest direction that is not yet learned.

        The other modes are linearised at the rest of one mode along two prototypes, where
        (r + J_sσ/τs²)(r + ema) = ema J_tγ/(τsτt) with eigenvalues J_s and J_t of both J̄. Mode k
        grows along an eigenvector if ρ_k > (τt/τs) J_s/J_t. This holds for Gaussian modes that are
        independent; a finite sample has other rates.

        Args:
            learned: the mode at rest [1], or none [0].

        Raises:
            NotKnownError: if more than one mode is learned.
        """
        held = np.asarray(learned)
        if held.ndim != 1 or held.size > 1:
            raise NotKnownError(self._lacks("next_growth", "a known rest of several modes"))
        if held.size == 0:
            return jnp.max(self.growth())
        j = int(held[0])
        soft, sharp = self._curvatures_at_rest(j)
        count = min(self.prototypes - 1, 3)
        every = jnp.arange(len(self.unit()))
        rates = [self._rate(every, soft[i], sharp[i]) for i in range(count)]
        return 2 * jnp.max(jnp.stack(rates).at[:, j].set(-jnp.inf))

    def center_is_stable(self, square: Real, rate: Real) -> Bool[Array, ""]:
        """Return whether the mean of the data stays unlearned, thanks to a running centre.

        The centre follows the mean of the teacher's logits, c' = rate · (V x̄ − c). With
        A = |x̄|²/(Kτs²) and B = |x̄|²/(Kτsτt) the amplitude along x̄ grows at the roots of
        (r + A)(r + ema)(r + rate) = B ema r. By the criterion of Routh and Hurwitz these decay if
        (A + ema + rate)(A ema + A rate + ema rate − B ema) > A ema rate, or A + rate > B without a
        lag: the centre must be fast enough.

        Args:
            square: |x̄|², the squared norm of the data's mean.
            rate: (1 − decay)/lr of the running centre.
        """
        A = square / (self.prototypes * self.student**2)
        B = square / (self.prototypes * self.student * self.teacher)
        if self.ema is None:
            return jnp.asarray(A + rate > B)
        linear = A * self.ema + A * rate + self.ema * rate - B * self.ema
        return jnp.asarray((A + self.ema + rate) * linear > A * self.ema * rate)

    def rhs(self, A: Numbers) -> Float[Array, "d r"]:
        """Raise NotKnownError, because the flow needs the teacher too."""
        raise NotKnownError(self._lacks("rhs", "a flow of the student's coordinates alone"))

    def objective(self, A: Numbers) -> Float[Array, ""]:
        """Raise NotKnownError, because the loss needs the teacher too."""
        raise NotKnownError(self._lacks("objective", "a loss of the student's coordinates alone"))

    def has_converged(self, loss: Numbers, d: Whole) -> Bool[Array, ""]:
        """Raise NotKnownError, because the final state of several modes is not known."""
        raise NotKnownError(self._lacks("has_converged", "a known final loss"))

    def _rate(self, modes: Any, soft: Any, sharp: Any) -> Array:
        """Return r of modes along an eigenvector of both J̄ with these eigenvalues."""
        drive = self.frame.gamma[modes] * sharp / (self.student * self.teacher)
        return lag.growth(self.unit()[modes] * soft / self.student**2, drive, self.ema)

    def _curvatures_at_rest(self, j: Whole) -> tuple[softmax.Curvatures, softmax.Curvatures]:
        """Return the eigenvalues of J̄ of student and teacher while mode j rests."""
        sizes = (jnp.sqrt(self.rest()[j]) / T for T in (self.student, self.teacher))
        soft, sharp = (softmax.curvatures(size, self.prototypes) for size in sizes)
        return soft, sharp

    def _require_one(self, name: str, lam: Array) -> None:
        """Raise NotKnownError unless lam has at most one entry."""
        if jnp.size(lam) > 1:
            what = f"curves of {jnp.size(lam)} modes, which are known for the first only"
            raise NotKnownError(self._lacks(name, what))


@jax.jit
def _rest(law: DINO, rho: Array) -> Array:
    """Solve ρ h(s τs/τt)/τt = h(s)/τs for s by bisection of ln s; return λ = (s τs)²."""
    sharper = law.student / law.teacher

    def excess(log_s: Array, rho: Array, sharper: Any) -> Array:
        s = jnp.exp(log_s)
        top = softmax.curvatures(s * sharper, law.prototypes).contrast
        return jnp.log(rho * sharper * top / softmax.curvatures(s, law.prototypes).contrast)

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        rises = excess(middle, rho, sharper) > 0
        return jnp.where(rises, middle, low), jnp.where(rises, high, middle)

    ends = (jnp.full_like(rho, -7), jnp.full_like(rho, 7))
    root = jax.lax.stop_gradient(jax.lax.fori_loop(0, 60, halve, ends)[0])
    # One step of Newton's method carries the derivative with respect to the law.
    slope = jax.vmap(jax.grad(excess), (0, 0, None))(root, rho, sharper)
    slope = jax.lax.stop_gradient(jnp.where(rho < 1, slope, -1))
    root = root - excess(root, rho, sharper) / slope
    return jnp.where(rho < 1, (jnp.exp(root) * law.student) ** 2, jnp.inf)


def _force(law: DINO, own: dict[str, Array], w: Array, v: Array) -> Array:
    """Return w' of modes with amplitudes w and v."""
    size = jnp.sqrt(own["sigma"])
    soft = softmax.curvatures(size * w / law.student, law.prototypes).contrast
    sharp = softmax.curvatures(size * v / law.teacher, law.prototypes).contrast
    drive = own["gamma"] * v * sharp / law.teacher
    return (drive - own["sigma"] * w * soft / law.student) / law.student


def _parameters(law: DINO, lam0: Array, modes: Array) -> dict[str, Array]:
    """Return γ, σ and w(0) of the modes of lam0 [d]."""
    sigma = law.unit()[modes]
    positive = (lam0 > 0) & (sigma > 0)
    w0 = jnp.where(
        positive, jnp.sqrt(jnp.where(positive, lam0 / jnp.where(positive, sigma, 1), 1)), 0
    )
    return {"gamma": law.frame.gamma[modes], "sigma": sigma, "w0": w0.astype(sigma.dtype)}


@jax.jit
def _states(law: DINO, times: Array, lam0: Array, modes: Array) -> Array:
    """Integrate w/w0 and v/w0 of each mode; return w and v [T, 2, d]."""
    own = _parameters(law, lam0, modes)
    own["size"] = jnp.where(own["w0"] > 0, own["w0"], 1)

    def field(t: Array, y: Array, own: dict[str, Array]) -> Array:
        v = y[:, 0] if law.ema is None else y[:, 1]
        by_w = _force(law, own, own["size"] * y[:, 0], own["size"] * v) / own["size"]
        return jnp.stack([by_w, by_w if law.ema is None else law.ema * (y[:, 0] - v)], axis=1)

    start = jnp.broadcast_to((own["w0"] > 0).astype(own["w0"].dtype)[:, None], (lam0.shape[0], 2))
    y = lag.solve(field, start, times, own)
    return jnp.swapaxes(y, 1, 2) * own["size"][None, None]


@jax.jit
def _step_times(law: DINO, lam0: Array, level: Any, modes: Array) -> Array:
    """Integrate t · growth and v/w over ln(w/w0)/span, which only increases."""
    own, goal = _parameters(law, lam0, modes), level * law.rest()[modes]
    crosses = law.grows()[modes] & (lam0 > 0) & (lam0 <= goal) & jnp.isfinite(goal)
    own["rate"] = jnp.where(crosses, law.growth()[modes], 1)
    own["span"] = jnp.log(jnp.where(crosses, goal / jnp.where(crosses, lam0, 1), 1)) / 2

    def field(x: Array, y: Array, own: dict[str, Array]) -> Array:
        w = own["w0"] * jnp.exp(x * own["span"])
        speed = _force(law, own, w, y[:, 1] * w) / jnp.where(own["w0"] > 0, w, 1)
        behind = 0 * y[:, 1] if law.ema is None else law.ema * (1 - y[:, 1]) / speed - y[:, 1]
        return own["span"][:, None] * jnp.stack([own["rate"] / speed, behind], axis=1)

    start = jnp.stack([jnp.zeros_like(own["w0"]), jnp.ones_like(own["w0"])], axis=1)
    y = lag.solve(field, start, jnp.ones(1, start.dtype), own)
    return jnp.where(crosses, y[0, :, 0] / own["rate"], jnp.inf)
