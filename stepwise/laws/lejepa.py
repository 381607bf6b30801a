"""The law of LeJEPA: modes that share one Gaussian target, and slow each other down."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.ode import odeint
from jaxtyping import Array, Float, Int

from stepwise import _check
from stepwise.laws import sphere
from stepwise.laws.frame import Framed
from stepwise.types import Numbers, Real, Whole

KNOTS = np.linspace(0, 3, 17)[1:]
"""Frequencies t_k of the loss, without 0, where both characteristic functions are 1."""

GAUSSIAN = np.exp(-(KNOTS**2) / 2)
"""Characteristic function φ_k of a standard normal variable at the knots."""

WEIGHTS = 3 / 16 * np.array([*[2] * 15, 1]) * GAUSSIAN
"""Weights w_k of the knots: the trapezoidal rule on [−3, 3], times φ_k."""

CURVATURE = float(np.sum(WEIGHTS * KNOTS**2 * (1 - GAUSSIAN)))
"""κ0 = Σ_k w_k t_k² (1 − φ_k) = 1.54604, the pull of SIGReg at zero."""


@dataclass(frozen=True)
class LeJEPA(Framed):
    r"""Growth of the embedding's covariance S = W Σ Wᵀ under the loss of LeJEPA.

    For a linear model z = W x of two centred Gaussian views and the mean over all directions a of
    the sphere (Balestriero & LeCun 2025, arXiv 2511.08544, as in their minimal code),

        L = weight E_a T(aᵀ S a) + (1 − weight)/(2d) tr W (Σ − Γ) Wᵀ,
        T(q) = n Σ_k w_k (e^{−q t_k²/2} − φ_k)²,

    with 17 knots t_k on [0, 3]. It is the law of `losses.lejepa(z1, z2, weight=weight, slices=...)`
    with n pairs and enough slices. If Γ and Σ have a common eigenbasis, the variances q = σ s² of
    the modes follow coupled equations,

        q_j' = −4σ_j q_j [weight E_a T'(Σ_k a_k² q_k) a_j² + (1 − weight)(1 − ρ_j)/(2d)].

    The averages over directions are exact to rounding (`sphere.averages`), for any d. Near zero the
    rates are (4/d) [weight n κ0 σ − (1 − weight)(σ − γ)/2], κ0 = 1.546. With the default weight and
    n every mode grows, in the order of σ; the agreement ρ = γ/σ of the views matters only if
    weight · n is about 0.1 or less. Learned modes slow down the others, so that late steps come
    later than their plateaus alone would say. Those with the largest ρ stay (`takeover`).

    In tests, curves of a sample of n = 256 agreed to 0.03, and half times to 1%.

    Args:
        gamma: cross-view moments γ of the modes [r].
        sigma: single-view moment Σ in the same coordinates, σ [r] or a matrix [r, r]. If it is not
            diagonal, curves neglect its entries between the law's modes (`Framed`).
        d: dimension of the embedding.
        weight: weight of SIGReg, in (0, 1].
        n: batch size, which the loss has as a factor of SIGReg.

    Raises:
        ValueError: if gamma is not a vector of finite numbers; if sigma has another shape or a
            variance that is not positive; if d is not a positive whole number, weight not in
            (0, 1], or n not positive. Methods raise it if lam0 has more than d entries or a
            negative one.
    """

    gamma: Numbers
    sigma: Numbers
    d: int
    weight: Real = 0.02
    n: Real = 256

    domain = (
        "linear models, many pairs and slices, an aligned start; growth for any views, curves for "
        "Gaussian ones with Γ and Σ of one eigenbasis"
    )
    observable = "covariance"
    centred = True
    gaussian = "normal"
    formula = "weight E T(aᵀSa) + (1 − weight)/(2d) tr W(Σ − Γ)Wᵀ"
    title = "LeJEPA"
    call = (
        "losses.lejepa(z1, z2, weight=weight, slices=slices, key=key) with n pairs and enough "
        "slices"
    )
    mode = (
        r"q_j' = -4 \sigma_j q_j \left[ \lambda E_a T' \left( \sum_k a_k^2 q_k \right) a_j^2 + "
        r"\frac{(1 - \lambda)(1 - \rho_j)}{2d} \right]"
    )
    behaviour = (
        "Growth at the rate (4/d) [λ n κ0 σ − (1 − λ)(σ − γ)/2], with the weight λ and κ0 = 1.546. "
        "With the default weight and n, every mode grows, in the order of σ. Those with the "
        "largest ρ stay."
    )
    prediction = (
        "Learned modes slow down the others, so late steps come later than their plateaus alone "
        "would say."
    )

    def __post_init__(self) -> None:
        _check.whole("d", self.d)
        if not _check.is_traced(self.weight):
            _check.require(0 < self.weight <= 1, "weight", "a number in (0, 1]", self.weight)
        if not _check.is_traced(self.n):
            _check.require(self.n > 0, "n", "a positive number of pairs", self.n)
        self._find_modes()

    def _operator(self, gamma: Array, sigma: Array) -> Array:
        """Return weight n κ0 Σ − (1 − weight)(Σ − Γ)/2."""
        apart = (1 - self.weight) * (sigma - gamma) / 2
        return self.weight * self.n * CURVATURE * sigma - apart

    def growth(self) -> Float[Array, " r"]:
        """Return the rates (4/d) [weight n κ0 σ − (1 − weight)(σ − γ)/2] [r]."""
        return 4 / self.d * self._operator(self.frame.gamma, self.frame.sigma)

    def reason(self, mode: Whole) -> str:
        """Return why a mode does not grow."""
        rho = float(self.frame.gamma[mode] / self.frame.sigma[mode])
        least = 1 - 2 * self.weight * self.n * CURVATURE / (1 - self.weight)
        return f"agreement {rho:.2f} is below {float(least):.2f} = 1 − 2 weight n κ0/(1 − weight)"

    def rest(self) -> Float[Array, " r"]:
        """Return the final variances [r] of the d growing modes of largest ρ, learned together.

        The entry of another mode is its variance in the place of the last of them, beside the
        others. A mode that does not grow beside them has 0.
        """
        fixed = self.final_modes(self.d)
        q = self._rest_of(fixed)
        rest = q if q.shape == self.frame.sigma.shape else _solve_beside(self, q[:-1])
        rest = rest.at[fixed].set(q)
        return jnp.where(self.growth() > 0, rest, 0)

    def final_modes(self, d: Whole) -> Int[Array, " k"]:
        """Return the growing modes [min(d, r)] of largest ρ, to which the rows turn at the end."""
        rho = self.frame.gamma / self.frame.sigma
        return jnp.argsort(-jnp.where(self.growth() > 0, rho, rho - 4))[: int(d)]

    def objective(self, A: Numbers) -> Float[Array, ""]:
        """Return the loss of mode coordinates A [d, r]."""
        A = jnp.asarray(A)
        q = jnp.linalg.eigvalsh(self.measure(A))
        apart = jnp.sum(A * (self._by_sigma(A) - self._by_gamma(A))) / (2 * len(A))
        return self.weight * self._distance(q) + (1 - self.weight) * apart

    def rhs(self, A: Numbers) -> Float[Array, "d r"]:
        """Return the flow −2 weight E_a[T'(aᵀSa) a aᵀ] A Σ − ((1 − weight)/d) A (Σ − Γ)."""
        A = jnp.asarray(A)
        q, U = jnp.linalg.eigh(self.measure(A))
        pulled = (U * self._pull(q)[None]) @ (U.T @ A)
        apart = (1 - self.weight) / len(A) * (self._by_sigma(A) - self._by_gamma(A))
        return -2 * self.weight * self._by_sigma(pulled) - apart

    def eigenvalues(self, times: Numbers, lam0: Numbers) -> Float[Array, "T d"]:
        """Return q(t) from an aligned start, by integrating the coupled equations in ln q.

        Args:
            times: t [T], learning rate × step, none negative.
            lam0: q(0) [k], k ≤ min(d, r), none negative. The remaining d − k rows are 0.
        """
        times, lam0, modes = self.check_arguments(times, lam0)
        most = f"at most d = {self.d} entries"
        _check.require(lam0.shape[0] <= self.d, "lam0", most, lam0)
        if not _check.is_traced(lam0):
            least = float(jnp.min(lam0, initial=0))
            _check.require(least >= 0, "lam0", "variances, none negative", f"{least}")
        return _integrate(self, modes, times, lam0)

    def step_times(self, lam0: Numbers, level: Real = 0.5) -> Float[Array, " k"]:
        """Return when each q rises through level · rest [k], or infinity if it never does.

        The crossings are searched up to 1,000 times the longest plateau.
        """
        _check.require(0 < level < 1, "level", "a number between 0 and 1", level)
        _, lam0, modes = self.check_arguments(jnp.zeros(1), lam0)
        goal = level * self.rest()[modes]
        crosses = (goal > 0) & (lam0 > 0) & (lam0 <= goal)
        return _cross(self, modes, lam0, goal, crosses)

    def takeover(self, j: Whole, k: Whole) -> Float[Array, ""]:
        """Return 2σ_k (1 − weight)(ρ_k − ρ_j)/d, the growth of mode k in a row at rest on j."""
        rho = self.frame.gamma / self.frame.sigma
        return 2 * self.frame.sigma[k] * (1 - self.weight) * (rho[k] - rho[j]) / self.d

    def next_growth(self, learned: Sequence[int] | Numbers) -> Float[Array, ""]:
        """Return the growth rate of the fastest direction beside learned modes at rest.

        Rotations of learned rows neither grow nor decay, so that the rate is 0 if every other mode
        decays.

        Args:
            learned: fewer than d modes, as indices [k].
        """
        modes = np.asarray(learned)
        fits = modes.ndim == 1 and len(modes) < self.d
        _check.require(fits, "learned", f"fewer than d = {self.d} indices of modes", modes)
        modes = modes.astype(int)
        q = (
            self._rest_of(jnp.asarray(modes))
            if len(modes)
            else jnp.zeros(0, self.frame.sigma.dtype)
        )
        pull = self._pull(jnp.zeros(self.d, q.dtype).at[: len(modes)].set(q))[-1]
        rates = -4 * self.frame.sigma * (self.weight * pull + self._apart())
        rates = rates.at[modes].set(0)
        return jnp.max(rates)

    def growth_in_turn(self, j: Whole) -> Float[Array, ""]:
        """Return the rate of mode order[j] beside the earlier ones at rest."""
        q = self._rest_of(self.order[: int(j)])
        pull = self._pull(jnp.zeros(self.d, q.dtype).at[: int(j)].set(q))[-1]
        mode = self.order[j]
        return -4 * self.frame.sigma[mode] * (self.weight * pull + self._apart()[mode])

    def _apart(self) -> Array:
        """Return (1 − weight)(1 − ρ)/(2d) [r]."""
        return (1 - self.weight) * (1 - self.frame.gamma / self.frame.sigma) / (2 * self.d)

    def _distance(self, q: Array) -> Array:
        """Return E_a T(Σ_k a_k² q_k) of variances q [d]."""
        phi, w = jnp.asarray(GAUSSIAN, q.dtype), jnp.asarray(WEIGHTS, q.dtype)
        double, single = (mean for mean, _ in _averages(q))
        return self.n * jnp.sum(w * (double - 2 * phi * single + phi**2))

    def _pull(self, q: Array) -> Array:
        """Return E_a T'(Σ_k a_k² q_k) a_j² [d] of variances q [d]."""
        phi, w = jnp.asarray(GAUSSIAN, q.dtype), jnp.asarray(WEIGHTS * KNOTS**2, q.dtype)
        double, single = (moments for _, moments in _averages(q))
        return -self.n * jnp.sum(w[:, None] * (double - phi[:, None] * single), axis=0)

    def _force(self, q: Array, modes: Array) -> Array:
        """Return weight E_a T' a_j² + (1 − weight)(1 − ρ_j)/(2d) of q [k] along modes [k]."""
        padded = jnp.zeros(self.d, q.dtype).at[: q.shape[0]].set(q)
        return self.weight * self._pull(padded)[: q.shape[0]] + self._apart()[modes]

    def _rest_of(self, modes: Array) -> Array:
        """Return the variances [k] at which these modes rest together."""
        return _solve_together(self, modes)


def _averages(q: Array) -> list[tuple[Array, Array]]:
    """Return the averages of `sphere.averages` for x = t_k² q and for x = t_k² q/2."""
    t2 = jnp.asarray(np.concatenate([KNOTS**2, KNOTS**2 / 2]), q.dtype)
    mean, moments = sphere.averages(t2[:, None] * q[None])
    k = len(KNOTS)
    return [(mean[:k], moments[:k]), (mean[k:], moments[k:])]


@jax.jit
def _solve_together(law: LeJEPA, modes: Array) -> Array:
    """Return q [k] ≥ 0 at which modes [k] rest together.

    Newton's method, in which no entry changes by more than a factor of 3. Entries that only a
    negative variance would bring to rest become 0.
    """
    fixed = jax.lax.stop_gradient(law)

    def improve(_: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        q, _ = carry
        slopes = jax.jacfwd(lambda q: fixed._force(q, modes))(q)
        step = jnp.linalg.solve(slopes, fixed._force(q, modes))
        return jnp.clip(q - step, q / 3, 3 * q), slopes

    ones = jnp.ones_like(fixed.frame.sigma[modes])
    q, slopes = jax.lax.fori_loop(0, 40, improve, (ones, jnp.diag(ones)))
    active = q > 1e-6
    q = jnp.where(active, q, 0)
    slope = jnp.where(active[:, None] & active[None], slopes, jnp.diag(ones))
    # One more step carries the derivative with respect to the law.
    return q - jnp.linalg.solve(slope, jnp.where(active, law._force(q, modes), 0))


@jax.jit
def _solve_beside(law: LeJEPA, q: Array) -> Array:
    """Return the variance [r] at which each mode rests in the last place beside q [k − 1]."""
    fixed, apart, count = jax.lax.stop_gradient((law, q)), law._apart(), q.shape[0]

    def pull(x: Array, law: LeJEPA, q: Array) -> Array:
        padded = jnp.zeros(law.d, q.dtype).at[:count].set(q).at[count].set(x)
        return law.weight * law._pull(padded)[count]

    def both(x: Array) -> tuple[Array, Array]:
        return jax.jvp(lambda x: pull(x, *fixed), (x,), (jnp.ones_like(x),))

    def improve(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        x, _, _, count = carry
        values, slopes = jax.lax.map(both, x)
        better = jnp.clip(x - (values + fixed[0]._apart()) / slopes, x / 3, 3 * x)
        change = jnp.where(better > 1e-6, jnp.abs(better / x - 1), 0)
        return better, slopes, jnp.max(change), count + 1

    def continues(carry: tuple[Array, Array, Array, Array]) -> Array:
        return (carry[2] > 1e-3 * jnp.finfo(q.dtype).eps ** 0.5) & (carry[3] < 40)

    ones = jnp.ones_like(fixed[0].frame.sigma)
    begin = (ones, ones, jnp.ones((), q.dtype), jnp.zeros((), int))
    x, slopes, _, _ = jax.lax.while_loop(continues, improve, begin)
    active = x > 1e-6
    x = jnp.where(active, x, 0)
    rest = jax.lax.map(lambda x: pull(x, law, q), x) + apart
    # One more step carries the derivative with respect to the law.
    return x - jnp.where(active, rest / slopes, 0)


@jax.jit
def _integrate(law: LeJEPA, modes: Array, times: Array, lam0: Array) -> Array:
    """Integrate the coupled equations in y = ln q; return q(t) [T, k]."""
    dtype = jnp.result_type(times, lam0, law.frame.sigma)
    moves = lam0 > 0
    start = jnp.log(jnp.where(moves, lam0, 1)).astype(dtype)
    # odeint accepts no whole numbers and no booleans
    rates, apart = -4 * jnp.where(moves, law.frame.sigma[modes], 0), law._apart()[modes]
    ones = moves.astype(dtype)

    def slope(y: Array, t: Array, law: LeJEPA, rates: Array, apart: Array, ones: Array) -> Array:
        padded = jnp.zeros(law.d, y.dtype).at[: y.shape[0]].set(ones * jnp.exp(y))
        return rates * (law.weight * law._pull(padded)[: y.shape[0]] + apart)

    first = jnp.argsort(times)
    late = jnp.maximum(times[first].astype(dtype), jnp.finfo(dtype).eps * jnp.max(times))
    grid = jnp.concatenate([jnp.zeros(1, dtype), late])
    tolerance = 1e-9 if dtype == jnp.float64 else 1e-5
    options = {"rtol": tolerance, "atol": tolerance}
    states = odeint(slope, start, grid, law, rates, apart, ones, **options)[1:]
    curves = jnp.where(moves[None], jnp.exp(states), 0)
    curves = jnp.zeros_like(curves).at[first].set(curves)
    return jnp.where(times[:, None] <= 0, lam0.astype(dtype)[None], curves)


@jax.jit
def _cross(law: LeJEPA, modes: Array, lam0: Array, goal: Array, crosses: Array) -> Array:
    """Return when each q rises through its goal [k], by refining a grid of times for each mode."""
    points, column = 256, jnp.arange(lam0.shape[0])
    fixed = jax.lax.stop_gradient(law)
    plateau = jnp.log(jnp.where(crosses, goal / jnp.where(crosses, lam0, 1), 1)) + 1
    rate = jnp.where(crosses, law.growth()[modes], 1)
    even = jnp.linspace(0, 1, points, dtype=goal.dtype)[:, None]

    def refine(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        grid, _, count = carry
        values = _integrate(fixed, modes, grid.ravel(), lam0).reshape(*grid.shape, -1)
        reached = jnp.diagonal(values, axis1=1, axis2=2) >= goal[None]
        row = jnp.maximum(jnp.argmax(reached, axis=0), 1)
        low, high = grid[row - 1, column], grid[row, column]
        has_crossed = reached.any(axis=0)
        # Without a crossing the grid becomes four times as long.
        low, high = jnp.where(has_crossed, low, 0), jnp.where(has_crossed, high, 4 * grid[-1])
        finer = low[None] + (high - low)[None] * even
        return finer, jnp.where(has_crossed, high, jnp.inf), count + 1

    def continues(carry: tuple[Array, Array, Array]) -> Array:
        grid, _, count = carry
        wide = crosses & (grid[-1] - grid[0] > 1e-6 * grid[-1])
        return wide.any() & (count < 9)

    grid = jax.lax.stop_gradient(4 * plateau / jnp.where(rate > 0, rate, 1))[None] * even
    tau = jax.lax.while_loop(continues, refine, (grid, grid[-1], jnp.zeros((), int)))[1]
    crosses = crosses & jnp.isfinite(tau)
    tau = jax.lax.stop_gradient(jnp.where(crosses, tau, 0))
    states = _integrate(law, modes, tau, lam0)
    forces = jax.lax.map(lambda q: fixed._force(q, modes), jax.lax.stop_gradient(states))
    # One step of Newton's method also carries the derivative of τ.
    slope = -4 * fixed.frame.sigma[modes] * jnp.diagonal(forces) * goal
    tau -= (jnp.diagonal(states) - goal) / jnp.where(crosses & (slope > 0), slope, 1)
    return jnp.where(crosses, tau, jnp.inf)
