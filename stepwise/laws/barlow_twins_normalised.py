"""The law of the official Barlow Twins loss, which normalises each dimension of the embedding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logit
from jaxtyping import Array, Float, Int

from stepwise import _check
from stepwise.laws import normalised
from stepwise.laws.base import Law, NotKnownError
from stepwise.laws.pencil import as_moment
from stepwise.laws.quadratic_vicreg import require_weights
from stepwise.types import Numbers, Real, Whole


@dataclass(frozen=True)
class BarlowTwinsNormalised(Law):
    r"""Growth of the views' correlation matrix under the official Barlow Twins loss.

    The loss divides dimension i by r_i = √(w_i Σ w_i + eps), so it depends on the correlations
    C_ij = w_i Γ w_j/(r_i r_j). With β = off_diagonal, K_ii = 1 − C_ii and K_ij = −β C_ij,

        L = Σ_i (1 − C_ii)² + β Σ_{i≠j} C_ij²,
        w_i' = (4/r_i) [Σ_j K_ij Γ w_j/r_j − (Σ_j K_ij C_ij) Σ w_i/r_i],

    exactly, for any Σ. Zbontar et al. (2021), eq. 1, arXiv 2103.03230.

    *Small start.* If all deviations are far below √eps, each mode grows at 8γ/eps, and at the same
    rate in every row. The rows repel each other only through β, so they all take the mode with the
    largest γ first. A row whose only entry is s has C_ii = ρu, u = σs²/(σs² + eps), ρ = γ/σ, and

        u' = (8γ/eps) u (1 − u)³ (1 − ρu):

    a plateau, then a step that ends slowly, because 1 − u falls as time^{−1/2}. `eigenvalues` and
    `step_times` are those of rows along one mode each; they are exact, but such rows are a saddle.
    From a small generic start, row i follows `eigenvalues(times, [γ_1 w_i1²/eps])` through its
    first step, up to terms of the order of β (d − 1). With `rows` = d > 1 the law describes this
    collective step: one mode with the eigenvalue λ = d C_ii of C, from the median of ln w_i1², as
    λ is half of its final value when half of the rows are. `from_problem` builds this law.

    *Larger start.* If deviations are far above √eps, |w_i|² changes only at the rate
    8 eps [(1 − C_ii) C_ii − β Σ_{j≠i} C_ij²]/r_i², and the other rates are proportional to 1/|w|².
    There is no saddle at zero, only saddles of directions. One row rotates to the mode with the
    largest ρ (`row`). With σ = 1 this is a replicator equation of the shares π_k of its variance,
    π_k' = (8/|w|²)(1 − C) π_k (ρ_k − C) with C = Σ_k ρ_k π_k. Beside learned modes, an unlearned
    mode k grows at 8 λ_max(J_k) (`next_growth`): J_k,ij = γ_k K_ij/(r_i r_j) for i ≠ j, and

        J_k,ii = [(1 − C_ii)(γ_k − σ_k C_ii) + β σ_k Σ_{l≠i} C_il²]/r_i².

    If d ≥ 2 rows share mode 1, a mode with ρ_k ≥ 0 leaves them only if
    β ρ_1 ((d − 1) ρ_1 + ρ_k) > (1 − ρ_1)(ρ_1 − ρ_k) (`threshold`). For d = 10 and ρ = 0.9, 0.5 that
    is β > 0.00517, just above the official 0.0051. Rows at rest may mix modes, so read the
    eigenvalues of C and not its diagonal.

    It is the law of `losses.barlow_twins(z1, z2, off_diagonal=off_diagonal, eps=eps)` of
    symmetrised pairs, each in both orders. It is only close for ordinary pairs, whose two views
    have different moments. t = learning rate × step. γ and σ are about the mean of all views.

    Args:
        gamma: cross-view moments γ of the modes [r].
        sigma: single-view moment Σ in the same coordinates, σ [r] or a matrix [r, r]. If it is not
            diagonal, curves and final values neglect its entries between modes; `growth`,
            `objective`, `rhs` and `measure` are exact.
        off_diagonal, eps: the arguments of `losses.barlow_twins`.
        norm: |w_i| of rows at rest, for `takeover`, `next_growth` and `aligned_start`.
        rows: number of rows that learn the first mode together. With the default, 1, curves are
            those of rows along one mode each.

    Raises:
        ValueError: if gamma is not a vector of finite numbers, sigma has another shape or a
            variance that is not positive, off_diagonal is negative, or eps or norm not positive.
    """

    gamma: Numbers
    sigma: Numbers
    off_diagonal: Real = 0.0051
    eps: Real = 1e-5
    norm: Real = 1.0
    rows: int = 1

    domain = "linear models, symmetrised pairs; curves of one row, or of rows along one mode each"
    observable = "correlation"
    formula = "Σ(1 − C_ii)² + 0.0051 Σ C_ij²"
    title = "Barlow Twins, official"
    call = (
        "losses.barlow_twins(z1, z2, off_diagonal=off_diagonal, eps=eps) of symmetrised pairs ("
        "each pair in both orders)"
    )
    mode = r"u' = \frac{8 \gamma}{\epsilon} \, u (1 - u)^3 (1 - \rho u)"
    behaviour = (
        "While deviations are far below √eps, modes grow at 8γ/eps in the order of γ, in all rows "
        "alike. The correlation ρu ends its step slowly. A larger start has no plateau."
    )
    prediction = (
        "Another mode leaves the rows that share the first one only if the off-diagonal weight is "
        "above a threshold, which d and the ρ of both modes determine."
    )
    second_moment = "any; if it is not diagonal, curves neglect its entries between modes"
    rotates = False
    centred = True

    def __post_init__(self) -> None:
        gamma = jnp.asarray(_check.real_array("gamma", self.gamma, ndim=1))
        sigma = as_moment("sigma", self.sigma, gamma)
        object.__setattr__(self, "gamma", gamma)
        object.__setattr__(self, "sigma", sigma)
        if not _check.is_traced(sigma):
            variances = np.asarray(sigma if sigma.ndim == 1 else jnp.diagonal(sigma))
            _check.require((variances > 0).all(), "sigma", "positive variances", variances.min())
        require_weights(off_diagonal=self.off_diagonal)
        for name, value in (("eps", self.eps), ("norm", self.norm)):
            if not _check.is_traced(value):
                _check.require(value > 0, name, "a positive number", value)

    @classmethod
    def from_problem(cls, problem: Any, d: Whole) -> "BarlowTwinsNormalised":
        """Build the law of the first step of d rows, with the official weight and eps."""
        return cls(problem.gamma, problem.sigma, rows=int(d))

    def growth(self) -> Float[Array, " r"]:
        """Return the rates 8γ/eps [r] of rows whose deviations are far below √eps."""
        return 8 * self.unit()

    def unit(self) -> Float[Array, " r"]:
        """Return γ/eps [r]: C_ii is γs²/eps in a row whose deviation is far below √eps."""
        return self.gamma / self.eps

    def rest(self) -> Float[Array, " r"]:
        """Return ρ = γ/σ [r], which C_ii of a row on one mode approaches; 0 if it does not grow.

        It is multiplied by `rows`.
        """
        return self.rows * jnp.maximum(self._agreement(), 0)

    def known_modes(self, d: Whole) -> int:
        """Return 1: all rows learn the first mode, and later curves depend on the whole start."""
        return 1

    def generic_start(self, A: Numbers) -> Float[Array, " 1"]:
        """Return λ(0) = rows · γ_1 e^{median_i ln w_i1²}/eps [1] of a small start A [d, r]."""
        A = jnp.asarray(_check.real_array("A", A, ndim=2))
        first = self.order[:1]
        return self.rows * self.unit()[first] * jnp.exp(jnp.median(jnp.log(A[:, first] ** 2)))

    def expected_start(self, d: Whole) -> tuple[Float[Array, " 1"], Float[Array, " 1"]]:
        """Return about the mean and standard deviation of ln λ(0) [1] over Gaussian starts.

        The squares are χ² variables with one degree of freedom, of median 0.4549. The logarithm of
        the median of d of them varies by 2.33/√d.
        """
        mean = jnp.log(0.4549 * self.rows * self.unit()[self.order[:1]])
        return mean, jnp.full(1, 2.33 / np.sqrt(d))

    def measure(self, A: Numbers) -> Float[Array, "d d"]:
        """Return the correlation matrix C [d, d] of the two views for mode coordinates A [d, r]."""
        return self._parts(jnp.asarray(A)).C

    def objective(self, A: Numbers) -> Float[Array, ""]:
        """Return the loss Σ_i (1 − C_ii)² + β Σ_{i≠j} C_ij² of mode coordinates A [d, r]."""
        C = self.measure(A)
        own = jnp.diagonal(C)
        return jnp.sum((1 - own) ** 2) + self.off_diagonal * (jnp.sum(C**2) - jnp.sum(own**2))

    def rhs(self, A: Numbers) -> Float[Array, "d r"]:
        """Return the exact flow dA/dt of mode coordinates A [d, r], for any Σ."""
        unit, spread, C, size = self._parts(jnp.asarray(A))
        K, pull = normalised.forces(C, self.off_diagonal)
        return 4 / size[:, None] * (K @ (unit * self.gamma[None]) - pull[:, None] * spread)

    def aligned_start(self, lam: Numbers, modes: Numbers | None = None) -> Float[Array, "d r"]:
        """Return A [d, r] whose row i lies along mode modes[i] and has C_ii = lam[i].

        By default modes[i] is order[i]. C_ii is below ρ in any row, so a row with lam[i] ≥ ρ has
        the norm `norm` instead. If `rows` > 1, lam [1] is shared by as many equal rows.
        """
        lam = self._each(jnp.asarray(lam))
        columns = jnp.asarray(self.order[: lam.shape[0]] if modes is None else modes)
        part, inside = self._saturation(lam, columns)
        small = jnp.sqrt(self.eps / self._variances()[columns] * part / (1 - part))
        size = jnp.where(inside, small, jnp.where(lam == 0, 0, self.norm))
        rows = jnp.zeros((lam.shape[0], self.gamma.shape[0]), jnp.result_type(lam, self.gamma))
        rows = rows.at[jnp.arange(lam.shape[0]), columns].set(size.astype(rows.dtype))
        return rows if self.rows == 1 else jnp.broadcast_to(rows, (self.rows, rows.shape[1]))

    def eigenvalues(self, times: Numbers, lam0: Numbers) -> Float[Array, "T d"]:
        """Return C_ii(t) [T, d] of rows along one mode each, by integration of ln(σs²/eps).

        Args:
            times: t [T], learning rate × step.
            lam0: C_ii(0) [d], d ≤ r, between 0 and ρ; other values stay as they are. If
                `rows` > 1, rows · C_ii(0) [1].
        """
        times, lam0, modes = self.check_arguments(times, lam0)
        x, _, moves = self._follow(times, lam0, modes)
        curves = self.rows * self._agreement()[modes][None] * jax.nn.sigmoid(x)
        return jnp.where(moves[None], curves, lam0[None])

    def amplitude(self, times: Numbers, lam0: Numbers) -> Float[Array, "T d"]:
        """Return s_j(t)/s_j(0) [T, d], and 1 where λ_j(0) is not between 0 and ρ."""
        times, lam0, modes = self.check_arguments(times, lam0)
        x, x0, moves = self._follow(times, lam0, modes)
        return jnp.where(moves[None], jnp.exp((x - x0[None]) / 2), 1)

    def step_times(self, lam0: Numbers, level: Real = 0.5) -> Float[Array, " d"]:
        """Return when each C_ii rises through level · ρ [d], or infinity if it never does.

        τ = ∫ dx/x' with x = ln(σs²/eps).
        """
        _check.require(0 < level < 1, "level", "a number between 0 and 1", level)
        _, lam0, modes = self.check_arguments(jnp.zeros(1), lam0)
        part, inside = self._saturation(self._each(lam0), modes)
        crosses = inside & (self.gamma[modes] > 0) & (part <= level)
        first, last = logit(jnp.where(crosses, part, level)), np.log(level) - np.log1p(-level)
        total = normalised.duration(first, last, self._agreement()[modes])
        return jnp.where(crosses, total / jnp.where(crosses, self.growth()[modes], 1), jnp.inf)

    def row(self, times: Numbers, start: Numbers) -> Float[Array, "T r"]:
        """Return the mode coordinates of an embedding with one row [T, r], from any start.

        s_k² = s_k(0)² e^{γ_k θ − σ_k φ} with θ' = 8 (1 − C)/r² and φ' = C θ', exactly; θ and φ are
        integrated. |w|² − eps φ is conserved. `measure` of a row is its C.

        Args:
            times: t [T], learning rate × step.
            start: mode coordinates [r].
        """
        times = jnp.asarray(_check.real_array("times", times, ndim=1))
        start = jnp.asarray(_check.real_array("start", start, ndim=1))
        expected = f"shape [{self.gamma.shape[0]}]"
        _check.require(start.shape == self.gamma.shape, "start", expected, start)
        eps = jnp.asarray(self.eps)
        return normalised.rotate(self.gamma, self._variances(), eps, start, times)

    def takeover(self, j: Whole, k: Whole) -> Float[Array, ""]:
        """Return the rate at which the variance of mode k grows in a row of norm `norm` on mode j.

        (8/r²)(1 − C)(γ_k − C σ_k): the mode with the larger ρ replaces the other.
        """
        sigma, square = self._variances(), self.norm**2
        size = sigma[j] * square + self.eps
        C = self.gamma[j] * square / size
        return 8 / size * (1 - C) * (self.gamma[k] - C * sigma[k])

    def next_growth(self, learned: Sequence[int] | Numbers) -> Float[Array, ""]:
        """Return 8 λ_max(J_k), the largest over the modes k that are not learned.

        Args:
            learned: the mode of each row as indices [d], for rows of norm `norm` (a mode that d
                rows share is repeated); or the state itself as rows [d, r] of mode coordinates, in
                which a mode counts as learned if it has more than a millionth of the variance.
        """
        state = np.asarray(learned)
        if state.size == 0:
            return jnp.max(self.growth())
        sigma = np.asarray(self._variances())
        if state.ndim < 2:
            state = float(self.norm) * np.eye(len(sigma))[state.astype(int)]
        carried = np.sum(state**2, axis=0) * sigma
        left = np.flatnonzero(carried <= 1e-6 * carried.sum())
        expected = "a state with a mode that is not learned"
        _check.require(left.size > 0, "learned", expected, state)
        _, _, C, size = self._parts(jnp.asarray(state))
        K, pull = normalised.forces(C, self.off_diagonal)
        drive = self.gamma[left][:, None, None] * K[None]
        J = drive - sigma[left][:, None, None] * jnp.diag(pull)[None]
        return 8 * jnp.max(jnp.linalg.eigvalsh(J / (size[:, None] * size[None])[None]))

    def threshold(self, d: Whole, mode: Whole | None = None) -> Float[Array, " r"]:
        """Return the weight β above which each mode leaves a collapsed state of d rows [r].

        It is (1 − ρ_1)(ρ_1 − ρ_k)/(ρ_1 ((d − 1) ρ_1 + ρ_k)) if d ≥ 2 and ρ_k ≥ 0; mode k then
        enters with opposite signs. If ρ_k < 0, it enters with one sign, at (1 − ρ_1)/(ρ_1 (d − 1)).
        It is 0 if ρ_k ≥ ρ_1, and infinite for the shared mode and for the others if d = 1.

        Args:
            d: number of rows.
            mode: the mode that all rows share, by default the first to grow.
        """
        _check.whole("d", d)
        shared, rho = self.order[0] if mode is None else jnp.asarray(mode), self._agreement()
        return normalised.threshold(rho, shared, d)

    def final_modes(self, d: Whole) -> Int[Array, " k"]:
        """Return the mode with the largest ρ if d = 1.

        Raises:
            NotKnownError: if d > 1, because what several rows hold depends on the start and on β.
        """
        if d > 1:
            what = "final modes of several rows that do not depend on the start"
            raise NotKnownError(self._lacks("final_modes", what))
        return super().final_modes(d)

    def _variances(self) -> Array:
        """Return σ [r], the diagonal of Σ."""
        sigma = jnp.asarray(self.sigma)
        return sigma if sigma.ndim == 1 else jnp.diagonal(sigma)

    def _each(self, lam: Array) -> Array:
        """Return C_ii of each row, for eigenvalues that `rows` equal rows share.

        Raises:
            NotKnownError: if several modes share several rows.
        """
        if self.rows == 1:
            return lam
        if lam.shape != (1,):
            what = "curves of several modes, because all rows learn one mode first"
            raise NotKnownError(self._lacks("lam0", what))
        return lam / self.rows

    def _agreement(self) -> Array:
        return self.gamma / self._variances()

    def _parts(self, A: Array) -> normalised.Parts:
        return normalised.parts(A, self.gamma, jnp.asarray(self.sigma), self.eps)

    def _saturation(self, lam: Array, modes: Array) -> tuple[Array, Array]:
        """Return u = C_ii/ρ of rows on these modes, and whether it is between 0 and 1 (else ½)."""
        rho = self._agreement()[modes]
        part = lam / jnp.where(rho == 0, 1, rho)
        inside = (rho != 0) & (part > 0) & (part < 1)
        return jnp.where(inside, part, 0.5), inside

    def _follow(self, times: Array, lam0: Array, modes: Array) -> tuple[Array, Array, Array]:
        """Return x = ln(σs²/eps) [T, d] of rows along one mode each, x(0), and which rows move."""
        part, moves = self._saturation(self._each(lam0), modes)
        rate, rho = self.growth()[modes], self._agreement()[modes]
        return normalised.follow(logit(part), rate, rho, times), logit(part), moves
