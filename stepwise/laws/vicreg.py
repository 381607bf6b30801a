"""The law of the official VICReg loss, with its hinge."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, polygamma
from jaxtyping import Array, Float, Int

from stepwise import _check
from stepwise.laws import scalar
from stepwise.laws.base import NotKnownError
from stepwise.laws.frame import Framed
from stepwise.laws.quadratic_vicreg import require_weights
from stepwise.types import Numbers, Real, Whole


@dataclass(frozen=True)
class VICReg(Framed):
    r"""Growth of the embedding's covariance under the official VICReg loss of a linear model.

    Bardes et al. (2022), eq. 1 to 6, arXiv 2105.04906, as in the official code. With
    a = invariance, b = variance, c = covariance and Σ_u = nΣ/(n − 1), row w_i of W follows exactly

        w_i' = (1/d) [b θ_i Σ_u w_i/std_i − 4a (Σ − Γ) w_i − 8c Σ_{j≠i} S_ij Σ_u w_j],

    S = W Σ_u Wᵀ, std_i = √(S_ii + eps), and θ_i = 1 if std_i < 1, else 0. The loss treats each row
    on its own, so it is not invariant under rotations of the embedding, and the QR factors of a
    start do not determine the curves.

    Near zero, a variance grows as d ln λ/dt = (2/d) [b σ_u/√eps − 4a (σ − γ)]. By default this is
    about 5000 σ/d: every mode grows, in the order of σ, whatever its agreement ρ.

    All d rows then take mode 1 together. From a small generic start, the rows have different sizes
    until their deviations exceed √eps = 0.01, and almost equal ones from then on: deviation u in
    every row, and the eigenvalue λ = d u² of the covariance, with

        u' = (1/d) [b σ_u/√(u² + eps) − 4a (σ − γ) − 8c (d − 1) σ_u u²] u,   √(u² + eps) ≤ 1,

    at rest where the bracket is 0, or else at the hinge's kink. `eigenvalues`, `step_times` and
    `rest` describe this first step, so `lam0` has one entry; `generic_start` finds it. With one
    row, and u ≫ 0.01, u = min(u* (1 − e^{−kt}), 1) with k = 4a(σ − γ)/d and u* = b/(4a(1 − ρ)): the
    deviation of a mode with ρ < 1 − b/(4a) stays below 1, and growth is additive. The plateau ends
    at about ln(√eps/u(0)) √eps d/(bσ_u).

    `next_growth` is the rate of the next mode k, twice the largest eigenvalue of

        J_k = (1/d) {diag[b θ_i σ_uk/std_i] − 4a (σ_k − γ_k) − 8c σ_uk (S − diag S)},

    where a row at the kink slides on it with an average θ_i in [0, 1]. In tests the rates agreed to
    0.2% while mode k was tiny. The curves of
    later modes depend on the whole start: integrate `rhs`. Once each deviation has reached 1, the
    rank can stay below d.

    It is the law of `losses.vicreg(z1, z2, invariance=a, variance=b, covariance=c, eps=eps)` of
    symmetrised pairs, each in both orders. It is only close for ordinary pairs, whose two views
    have different moments.

    t = learning rate × step. γ and σ are about the mean of all views.

    Args:
        gamma: cross-view moments γ of the modes [r].
        sigma: single-view moment Σ in the same coordinates, σ [r] or a matrix [r, r]. If it is not
            diagonal, curves neglect its entries between the law's modes (`Framed`).
        d: dimension of the embedding, by which the loss divides.
        n: number of pairs in the loss; by default many, Σ_u = Σ.
        invariance, variance, covariance, eps: the arguments of `losses.vicreg`.

    Raises:
        ValueError: if gamma is not a vector of finite numbers, sigma has another shape or a
            variance that is not positive, d is not a positive whole number, n is not one from 2, a
            weight is negative, or eps is not in (0, 1).
    """

    gamma: Numbers
    sigma: Numbers
    d: int
    n: int | None = None
    invariance: Real = 25.0
    variance: Real = 25.0
    covariance: Real = 1.0
    eps: Real = 1e-4

    domain = "linear models, symmetrised pairs; closed to the first mode, which all rows learn"
    observable = "covariance"
    formula = "25 MSE + 25 hinge + covariance²"
    title = "VICReg, official"
    call = (
        "losses.vicreg(z1, z2, invariance=a, variance=b, covariance=c, eps=eps) of symmetrised "
        "pairs (each pair in both orders)"
    )
    mode = (
        r"u' = \frac{1}{d} \left[ \frac{b \sigma_u}{\sqrt{u^2 + \epsilon}} - 4 a (\sigma - \gamma) "
        r"- 8 c (d - 1) \sigma_u u^2 \right] u"
    )
    behaviour = (
        "With the default weights, modes grow in the order of σ, whatever ρ is: a variance at "
        "about 5000 σ/d until its deviation is 0.01, and then additively."
    )
    prediction = (
        "All d rows learn mode 1 together, before any other mode. In one row, a mode with "
        "ρ < 1 − b/(4a) stays below deviation 1."
    )
    curves = "integrated, for the first mode"
    rotates = False
    centred = True

    def __post_init__(self) -> None:
        _check.whole("d", self.d)
        if self.n is not None:
            _check.whole("n", self.n, 2)
        require_weights(
            invariance=self.invariance, variance=self.variance, covariance=self.covariance
        )
        if not _check.is_traced(self.eps):
            _check.require(0 < self.eps < 1, "eps", "a number between 0 and 1", self.eps)
        self._find_modes()

    def _operator(self, gamma: Array, sigma: Array) -> Array:
        """Return b Σ_u/√eps − 4a (Σ − Γ)."""
        push = self.variance * self._scale() * sigma / jnp.sqrt(self.eps)
        return push - 4 * self.invariance * (sigma - gamma)

    @classmethod
    def from_problem(cls, problem: Any, d: Whole) -> "VICReg":
        """Build the law of a problem in d dimensions, with the official weights and many pairs."""
        return cls(problem.gamma, problem.sigma, int(d))

    def _scale(self) -> float:
        """Return n/(n − 1), the factor of Σ_u on Σ."""
        return 1.0 if self.n is None else self.n / (self.n - 1)

    def growth(self) -> Float[Array, " r"]:
        """Return the rates (2/d) [b σ_u/√eps − 4a (σ − γ)] of deviations below √eps [r]."""
        return 2 / self.d * self._operator(self.frame.gamma, self.frame.sigma)

    def rest(self) -> Float[Array, " r"]:
        """Return d u*² [r], where d rows rest that are all on this mode; 0 if it does not grow."""
        most = jnp.sqrt(1 - self.eps)
        pull = 4 * self.invariance * (self.frame.sigma - self.frame.gamma)
        curb = 8 * self.covariance * (self.d - 1) * self.unit()
        push = self.variance * self.unit()

        def excess(u: Array) -> Array:
            return push / jnp.sqrt(u**2 + self.eps) - pull - curb * u**2

        def halve(_: Any, span: tuple[Array, Array]) -> tuple[Array, Array]:
            middle = (span[0] + span[1]) / 2
            above = excess(middle) > 0
            return jnp.where(above, middle, span[0]), jnp.where(above, span[1], middle)

        first = (jnp.zeros_like(push), jnp.full_like(push, most))
        u = jax.lax.stop_gradient(jax.lax.fori_loop(0, 60, halve, first)[1])
        # One step of Newton's method carries the derivative.
        slope = -push * u / (u**2 + self.eps) ** 1.5 - 2 * curb * u
        exact = u - excess(u) / jax.lax.stop_gradient(jnp.where(slope < 0, slope, -1))
        u = jnp.where(excess(jnp.full_like(push, most)) >= 0, most, exact)
        return jnp.where(self.growth() > 0, self.d * u**2, 0)

    def objective(self, A: Numbers) -> Float[Array, ""]:
        """Return the loss of mode coordinates A; rows missing to d count as 0."""
        A = jnp.asarray(A)
        S = self.measure(A)
        std = jnp.sqrt(jnp.diagonal(S) + self.eps)
        hinge = jnp.sum(jax.nn.relu(1 - std))
        hinge = hinge + (self.d - A.shape[0]) * (1 - jnp.sqrt(self.eps))
        apart = 2 * jnp.sum(A * (self._by_sigma(A) - self._by_gamma(A)))
        off_diagonal = jnp.sum(S**2) - jnp.sum(jnp.diagonal(S) ** 2)
        total = self.invariance * apart + self.variance * hinge
        return (total + 2 * self.covariance * off_diagonal) / self.d

    def rhs(self, A: Numbers) -> Float[Array, "d r"]:
        """Return the flow dA/dt of A [d, r], discontinuous where a deviation is 1.

        Solvers stall where rows slide along the kink, unless it is smoothed or their steps are
        fixed.
        """
        A = jnp.asarray(A)
        std = self._deviations(A)
        return self._push(A, (std < 1) / std) + self._pull(A)

    def _deviations(self, A: Array) -> Array:
        return jnp.sqrt(self._scale() * jnp.sum(A * self._by_sigma(A), axis=1) + self.eps)

    def _push(self, A: Array, weights: Array) -> Array:
        """Return the part of the flow from the hinge, with weights θ_i/std_i of the rows."""
        return self.variance / self.d * self._scale() * weights[:, None] * self._by_sigma(A)

    def _pull(self, A: Array) -> Array:
        """Return the part of the flow from the other two terms."""
        S = self.measure(A)
        mixed = (S - jnp.diag(jnp.diagonal(S))) @ self._by_sigma(A) * self._scale()
        apart = self._by_sigma(A) - self._by_gamma(A)
        return -(4 * self.invariance * apart + 8 * self.covariance * mixed) / self.d

    def generic_start(self, A: Numbers) -> Float[Array, " 1"]:
        """Return λ(0) [1] of the first mode, from a small generic start A [d, r].

        It is d σ_u e^{mean_i ln A_i1²}: each row leaves its plateau on its own, at a time linear in
        the logarithm of its first entry, so that the rows have the deviation of their geometric
        mean.

        Raises:
            ValueError: if A has not d rows and r columns.
        """
        A = jnp.asarray(_check.real_array("A", A, ndim=2))
        expected = f"shape [{self.d}, {self.frame.gamma.shape[0]}]"
        _check.require(A.shape == (self.d, self.frame.gamma.shape[0]), "A", expected, A)
        first = self.order[0]
        column = self.to_modes(A)[:, first]
        return (self.d * self.unit()[first] * jnp.exp(jnp.mean(jnp.log(column**2))))[None]

    def known_modes(self, d: Whole) -> int:
        """Return 1: all rows learn the first mode together, and later curves are not known."""
        return 1

    def expected_start(self, d: Whole) -> tuple[Float[Array, " 1"], Float[Array, " 1"]]:
        """Return mean and standard deviation of the logarithm of `generic_start` [1].

        It is ln(dσ_u) plus the mean of d logarithms of χ² variables with one degree of freedom.
        """
        mean = digamma(0.5) + jnp.log(2 * self.d * self.unit()[self.order[:1]])
        return mean, jnp.sqrt(polygamma(1, 0.5) / self.d)[None]

    def reason(self, mode: Whole) -> str:
        """Return why a mode does not grow."""
        return "the pull of the invariance term exceeds that of the hinge"

    def aligned_start(self, lam: Numbers, modes: Numbers | None = None) -> Float[Array, "d r"]:
        """Return A [d, r] whose rows are all alike, along one mode, with the eigenvalue lam[0].

        Raises:
            NotKnownError: if lam has more than one entry.
        """
        lam = self._require_one("aligned_start", jnp.asarray(lam))
        mode = (self.order if modes is None else jnp.asarray(modes))[0]
        size = jnp.sqrt(lam[0] / (self.d * self.unit()[mode]))
        rows = jnp.zeros(
            (self.d, self.frame.gamma.shape[0]), jnp.result_type(lam, self.frame.sigma)
        )
        return self.from_modes(rows.at[:, mode].set(size.astype(rows.dtype)))

    def eigenvalues(self, times: Numbers, lam0: Numbers) -> Float[Array, "T d"]:
        """Return λ(t) = d u² [T, 1] of the first mode, which d rows learn together.

        ln u is integrated. The hinge's kink only cuts the curve off.

        Args:
            times: t [T], learning rate × step.
            lam0: λ(0) [1], positive.

        Raises:
            NotKnownError: if lam0 has more than one entry.
        """
        times, lam0, modes = self.check_arguments(times, lam0)

        def slope(log_u: Array) -> Array:
            return self._speed(log_u, modes[0])

        # At lam0 = 0 the rows stay 0.
        log_u0 = jnp.log(jnp.where(lam0[0] > 0, lam0[0], 1) / self.d) / 2
        # Explicit steps stay short near the rest, so times long after the step are not reached.
        log_rest = (
            jnp.log(jnp.where(self.rest()[modes[0]] > 0, self.rest()[modes[0]], 1) / self.d) / 2
        )
        settling = 40 / jnp.maximum(-jax.grad(slope)(log_rest), 1e-30)
        half = self.step_times(lam0)[0]
        settled = jax.lax.stop_gradient(jnp.where(half < jnp.inf, half, 0) + settling)
        log_u = scalar.integrate(slope, log_u0, jnp.minimum(times, settled))
        curve = self.d * jnp.minimum(jnp.exp(2 * log_u), 1 - self.eps)
        return jnp.where(lam0[0] > 0, curve, 0)[:, None]

    def _speed(self, log_u: Array, mode: Array) -> Array:
        """Return d ln u/dt of d equal rows along one mode, below the kink."""
        sigma_u = self.unit()[mode]
        push = self.variance * sigma_u / jnp.sqrt(jnp.exp(2 * log_u) + self.eps)
        pull = 4 * self.invariance * (self.frame.sigma - self.frame.gamma)[mode]
        curb = 8 * self.covariance * (self.d - 1) * sigma_u * jnp.exp(2 * log_u)
        return (push - pull - curb) / self.d

    def step_times(self, lam0: Numbers, level: Real = 0.5) -> Float[Array, " d"]:
        """Return when λ of the first mode rises through level · rest [1], or infinity.

        τ = ∫ d ln u/(d ln u/dt), by Gauss's rule on 64 parts.

        Raises:
            NotKnownError: if lam0 has more than one entry.
        """
        _check.require(0 < level < 1, "level", "a number between 0 and 1", level)
        _, lam0, modes = self.check_arguments(jnp.zeros(1), lam0)
        goal = level * self.rest()[modes]
        crosses = (goal > 0) & (lam0 > 0) & (lam0 <= goal)
        last = jnp.log(jnp.where(crosses, goal, 1) / self.d) / 2
        first = jnp.log(jnp.where(crosses, lam0, goal) / self.d) / 2
        nodes, weights = np.polynomial.legendre.leggauss(12)
        width = (last - first) / 64
        places = (np.arange(64)[:, None] + (nodes + 1)[None] / 2).ravel()
        slowness = 1 / self._speed(first + width * places, modes[0])
        total = jnp.sum(slowness * np.tile(weights / 2, 64)) * width
        return jnp.where(crosses, total, jnp.inf)

    def descent_delay(self, lr: Numbers, lam0: Numbers, level: Real = 0.5) -> Float[Array, " d"]:
        """Return the fraction (lr/2) ln(f_τ/f_0)/τ by which descent crosses the level late [1].

        f = du/dt. Descent is Euler's method, so it follows u' = f − (lr/2) f (df/du) to first order
        in lr.
        """
        lr = jnp.asarray(_check.real_array("lr", lr, ndim=0))
        tau = self.step_times(lam0, level)
        _, lam0, modes = self.check_arguments(jnp.zeros(1), lam0)
        crosses = tau < jnp.inf
        goal = jnp.where(crosses, level * self.rest()[modes], 1)
        first, last = (
            log_u + jnp.log(self._speed(log_u, modes[0]))
            for log_u in (jnp.log(jnp.where(crosses, lam, 1) / self.d) / 2 for lam in (lam0, goal))
        )
        return jnp.where(
            crosses & (tau > 0), lr / 2 * (last - first) / jnp.where(crosses, tau, 1), 0
        )

    def takeover(self, j: Whole, k: Whole) -> Float[Array, ""]:
        """Return the rate at which mode k grows in d equal rows that rest on mode j.

        (8a/d) [σ_uk (σ_j − γ_j)/σ_uj − (σ_k − γ_k)]: mode k replaces mode j if its ρ is larger.
        """
        apart, unit = self.frame.sigma - self.frame.gamma, self.unit()
        return 8 * self.invariance / self.d * (unit[k] * apart[j] / unit[j] - apart[k])

    def next_growth(self, learned: Sequence[int] | Numbers) -> Float[Array, ""]:
        """Return twice the largest eigenvalue of J_k over the modes k that are not learned.

        Args:
            learned: no mode, or one mode on which all rows rest, as indices; or the state itself
                as rows [d, r] of mode coordinates, in which a mode counts as learned if it has more
                than a millionth of the variance.

        Raises:
            NotKnownError: if several modes are given as indices.
        """
        state = np.asarray(learned)
        if state.ndim < 2:
            if state.size == 0:
                return jnp.max(self.growth())
            modes = self._require_one("next_growth", jnp.asarray(state, int))
            state = np.asarray(self.aligned_start(self.rest()[modes], modes))
        A = jnp.asarray(state)
        carried = np.sum(np.asarray(self.to_modes(A)) ** 2, axis=0) * np.asarray(self.unit())
        left = np.flatnonzero(carried <= 1e-6 * carried.sum())
        expected = "a state with a mode that is not learned"
        _check.require(left.size > 0, "learned", expected, state)
        S = self.measure(A)
        diagonal = self.variance * self._sliding(A) / self._deviations(A)
        curb = 8 * self.covariance * (S - jnp.diag(jnp.diagonal(S)))
        common = self.unit()[left][:, None, None] * (jnp.diag(diagonal) - curb)[None]
        own = 4 * self.invariance * (self.frame.sigma - self.frame.gamma)[left]
        return 2 / self.d * jnp.max(jnp.linalg.eigvalsh(common)[:, -1] - own)

    def _sliding(self, A: Array) -> Array:
        """Return θ_i [d], which keeps the deviation of a row at the kink constant."""
        std, tangent = self._deviations(A), self._scale() * self._by_sigma(A)
        push = jnp.sum(tangent * self._push(A, 1 / std), axis=1)
        held = -jnp.sum(tangent * self._pull(A), axis=1) / jnp.where(push == 0, 1, push)
        width = 2e-3
        return jnp.where(
            jnp.abs(std - 1) < width, jnp.clip(held, 0, 1), (std < 1).astype(std.dtype)
        )

    def final_modes(self, d: Whole) -> Int[Array, " k"]:
        """Raise NotKnownError, because the final modes depend on the start."""
        raise NotKnownError(
            self._lacks("final_modes", "final modes that do not depend on the start")
        )

    def check_arguments(
        self, times: Numbers, lam0: Numbers
    ) -> tuple[Float[Array, " T"], Float[Array, " d"], Int[Array, " d"]]:
        """Check the arguments of `eigenvalues`, and that lam0 has one entry."""
        times, lam0, modes = super().check_arguments(times, lam0)
        return times, self._require_one("lam0", lam0), modes

    def _require_one(self, name: str, values: Array) -> Array:
        """Return the values [1] of the mode that all rows learn together.

        Raises:
            NotKnownError: if there is not exactly one.
        """
        if values.shape != (1,):
            what = "curves of several modes, because all rows learn one mode first"
            raise NotKnownError(self._lacks(name, what))
        return values
