"""Laws of Barlow Twins under other update rules than gradient descent (`stepwise.updates`)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.experimental.ode import odeint
from jaxtyping import Array, Bool, Float, Int

from stepwise import _check
from stepwise.laws.barlow_twins import BarlowTwins
from stepwise.laws.base import Law, NotKnownError
from stepwise.laws.numeric import geometric_mean
from stepwise.types import Numbers, Real, Whole


@dataclass(frozen=True)
class Preconditioned(Law):
    """Base class: the loss ‖C − I‖² of a linear model, under another rule than gradient descent.

    All rules end at the same place as gradient descent, λ = 1 for each mode with γ > 0. They differ
    in the path, so `growth`, `eigenvalues` and `step_times` belong to the rule. t = lr × step.

    Args:
        gamma: eigenvalues γ of the modes [r] in descending order.
        lowest: the smallest eigenvalue of the data, if `gamma` does not contain it;
            `max_stable_lr` uses it.

    Raises:
        ValueError: if gamma is not a vector of finite numbers.
    """

    gamma: Numbers
    lowest: Numbers | None = None

    domain = "the theory's loss, full batch, aligned start, small learning rate"
    formula = "‖C − I‖²"
    follows_gamma = True

    def __post_init__(self) -> None:
        gamma = jnp.asarray(_check.real_array("gamma", self.gamma, ndim=1))
        object.__setattr__(self, "gamma", gamma)

    @property
    def order(self) -> Int[Array, " r"]:
        """The modes in the order of `gamma`, which is descending."""
        return jnp.arange(self.gamma.shape[0])

    def grows(self) -> Bool[Array, " r"]:
        """Return which modes grow [r]: those with γ > 0."""
        return self.gamma > 0

    def rest(self) -> Float[Array, " r"]:
        """Return the final eigenvalues [r]: 1 if γ_j > 0, else 0."""
        return (self.gamma > 0).astype(self.gamma.dtype)

    def objective(self, A: Numbers) -> Float[Array, ""]:
        """Return the loss ‖C − I‖_F² with C = A diag(γ) Aᵀ."""
        return BarlowTwins.distance(self.measure(A))

    def loss_of(self, eigenvalues: Numbers) -> Any:
        """Return Σ_j (1 − λ_j)² of eigenvalues [..., d]."""
        return ((1 - eigenvalues) ** 2).sum(axis=-1)

    def rhs(self, A: Numbers) -> Float[Array, "d r"]:
        """Raise NotKnownError: a rule that is not gradient descent has no flow of the loss."""
        raise NotKnownError(self._lacks("rhs", "a flow that is the gradient of its loss"))

    def takeover(self, j: Whole, k: Whole) -> Float[Array, ""]:
        """Return 0: no mode replaces a learned one."""
        return jnp.zeros((), self.gamma.dtype)

    def next_growth(self, learned: Any) -> Float[Array, ""]:
        """Return the largest growth rate of the modes that are not learned, as indices [k]."""
        free = jnp.ones(self.gamma.shape[0], bool).at[jnp.asarray(learned, int)].set(False)
        return jnp.max(jnp.where(free, self.growth(), -jnp.inf))

    def extremes(self) -> tuple[Array, Array]:
        """Return max(γ_1, 0) and max(−γ_min, 0) of all modes."""
        gamma = self.gamma
        if self.lowest is not None:
            gamma = jnp.append(gamma, jnp.asarray(self.lowest, gamma.dtype))
        return jnp.max(gamma, initial=0), jnp.max(-gamma, initial=0)


@dataclass(frozen=True)
class Logistic(Preconditioned):
    """Base class: each mode follows λ' = g λ (1 − λ) with its own rate g (`growth`).

    The curves are those of `BarlowTwins` with γ = g/8, and so is the delay of a finite learning
    rate, because s' = (g/2)(1 − λ) s.
    """

    def _curve(self, lam0: Numbers) -> tuple[BarlowTwins, Array]:
        _, lam0, modes = self.check_arguments(jnp.zeros(1), lam0)
        return BarlowTwins(self.growth()[modes] / BarlowTwins.RATE), lam0

    def eigenvalues(self, times: Numbers, lam0: Numbers) -> Float[Array, "T d"]:
        """Return λ(t) = 1/(1 + (1/λ(0) − 1) e^{−g t}) [T, d]."""
        curve, lam0 = self._curve(lam0)
        return curve.eigenvalues(times, lam0)

    def step_times(self, lam0: Numbers, level: Real = 0.5) -> Float[Array, " d"]:
        """Return [ln(1/λ(0) − 1) − ln(1/level − 1)]/g [d], or infinity if it never crosses."""
        curve, lam0 = self._curve(lam0)
        return curve.step_times(lam0, level)

    def descent_delay(self, lr: Numbers, lam0: Numbers, level: Real = 0.5) -> Float[Array, " d"]:
        """Return the fraction (lr g/4)(1 − 3 I/τ) by which a finite learning rate is late."""
        curve, lam0 = self._curve(lam0)
        return curve.descent_delay(lr, lam0, level)


@dataclass(frozen=True)
class RelativePolarLaw(Logistic):
    """The law of `updates.RelativePolar`: λ' = 2 λ (1 − λ) for every mode with γ > 0.

    All modes are learned at once, so the time does not depend on the condition number of Γ. A start
    that is not aligned grows faster while its rows turn towards the leading modes.
    """

    PLATEAU: ClassVar[float] = 8.0
    """Time over which `generic_start` follows the plateau."""

    def growth(self) -> Float[Array, " r"]:
        """Return 2 sign(γ) [r]: all modes grow at once."""
        return 2 * jnp.sign(self.gamma)

    def generic_start(self, A: Numbers) -> Float[Array, " k"]:
        """Return λ(0) [d] of the aligned start as which a small generic start A [d, r] acts.

        While C is small, W' = B W Γ does not depend on the scale of W, but is not linear, so that
        the QR factors of A do not give it. The flow is followed over the time `PLATEAU`, in 400
        steps of the midpoint rule; λ(0) are the eigenvalues of C at its end times e^{−2t}. The last
        modes, if γ_{d+1}/γ_d is near 1, are not aligned by then.
        """
        W = jnp.asarray(_check.real_array("A", A, ndim=2)).astype(self.gamma.dtype)
        h = self.PLATEAU / 400

        def slope(W: Array) -> Array:
            H = W * self.gamma
            return geometric_mean(W @ W.T, H @ H.T) @ H

        def step(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
            W, size = state
            W = W + h * slope(W + h / 2 * slope(W))
            norm = jnp.linalg.norm(W)
            return (W / norm, size + jnp.log(norm)), None

        first = jnp.linalg.norm(W)
        (W, size), _ = jax.lax.scan(step, (W / first, jnp.log(first)), None, length=400)
        measured = jnp.linalg.eigvalsh((W * self.gamma) @ W.T)[::-1]
        grown = 400 * jnp.log1p(h + h**2 / 2)  # what the rule makes of e^t for aligned rows
        return measured * jnp.exp(2 * (size - grown))

    def max_stable_lr(self) -> Float[Array, ""]:
        """Return 1, because a step scales the deviation λ − 1 of every mode by 1 − 2 lr."""
        return jnp.ones((), self.gamma.dtype)


@dataclass(frozen=True)
class InputPowerLaw(Logistic):
    """The law of `updates.InputPower`: λ' = 8 γ^{1−power} λ (1 − λ); modes with γ ≤ 0 stay."""

    power: Real = 0.5

    def growth(self) -> Float[Array, " r"]:
        """Return 8 γ^{1−power} [r], and 0 if γ ≤ 0."""
        positive = self.gamma > 0
        return jnp.where(positive, 8 * jnp.where(positive, self.gamma, 1) ** (1 - self.power), 0)

    def max_stable_lr(self) -> Float[Array, ""]:
        """Return 2/max_j (8 γ_j^{1−power}), because a step scales λ − 1 by 1 − 8 lr γ^{1−power}."""
        return 2 / jnp.max(self.growth(), initial=0)


@dataclass(frozen=True)
class EmbeddingPowerLaw(Preconditioned):
    """The law of `updates.EmbeddingPower`: λ' = 8 γ λ (1 − λ)/(λ + eps)^power.

    The plateau is short: at power = 1 and eps → 0, mode j is learned at ln 2/(8γ_j) from any small
    start. The order 1/γ and the times beyond the plateau are those of gradient descent. A mode
    with γ < 0 decays at the rate 8γ/eps^power.
    """

    power: Real = 0.5
    eps: Real = 0.0

    def growth(self) -> Float[Array, " r"]:
        """Return 8 γ/eps^power [r].

        Raises:
            NotKnownError: if eps is 0, because small modes then do not grow exponentially.
        """
        if not _check.is_traced(self.eps) and not self.eps > 0:
            raise NotKnownError(self._lacks("growth", "eps > 0"))
        return 8 * self.gamma / self.eps**self.power

    def eigenvalues(self, times: Numbers, lam0: Numbers) -> Float[Array, "T d"]:
        """Return λ(t) [T, d], integrated in u = ln λ/(1 − λ), u' = 8γ/(λ + eps)^power.

        Raises:
            ValueError: if a mode with γ > 0 starts outside 0 ≤ λ(0) < 1.
        """
        times, lam0, modes = self.check_arguments(times, lam0)
        gamma = self.gamma[modes]
        inside = (gamma > 0) & (lam0 > 0) & (lam0 < 1)
        self._require_inside(gamma, lam0)
        safe = jnp.where(inside, lam0, 0.5)
        start, rate = jnp.log(safe) - jnp.log1p(-safe), jnp.where(inside, 8 * gamma, 0)
        first = jnp.argsort(times)
        late = jnp.maximum(times[first], jnp.finfo(times.dtype).eps * jnp.max(times))
        grid = jnp.concatenate([jnp.zeros(1, times.dtype), late])

        def slope(u: Array, t: Array, rate: Array, power: Any, eps: Any) -> Array:
            return rate / (jax.nn.sigmoid(u) + eps) ** power

        rtol = 1e-9 if start.dtype == jnp.float64 else 1e-5
        parts = (jnp.asarray(value, start.dtype) for value in (rate, self.power, self.eps))
        grid = grid.astype(start.dtype)
        states = odeint(slope, start, grid, *parts, rtol=rtol, atol=rtol)[1:]
        curves = jnp.zeros_like(states).at[first].set(jax.nn.sigmoid(states))
        fixed = (gamma == 0) | (lam0 == 0)
        decay = jnp.where(fixed, 0, gamma / jnp.where(self.eps == 0, 1, self.eps) ** self.power)
        falling = lam0[None] * jnp.exp(jnp.minimum(8 * decay[None] * times[:, None], 0))
        curves = jnp.where(times[:, None] <= 0, lam0[None], curves)
        return jnp.where(inside[None], curves, falling)

    def step_times(self, lam0: Numbers, level: Real = 0.5) -> Float[Array, " d"]:
        """Return ∫ (λ + eps)^power/(8γ λ (1 − λ)) dλ from λ(0) to level [d], or infinity.

        The integral over u = ln λ/(1 − λ) is computed by the midpoint rule on 4,096 intervals,
        with a relative error of about 1e-6.
        """
        _check.require(0 < level < 1, "level", "a number between 0 and 1", level)
        _, lam0, modes = self.check_arguments(jnp.zeros(1), lam0)
        gamma = self.gamma[modes]
        crosses = (gamma > 0) & (lam0 > 0) & (lam0 <= level)
        safe = jnp.where(crosses, lam0, level)
        begin, end = jnp.log(safe) - jnp.log1p(-safe), jnp.log(level) - jnp.log1p(-level)
        middles = (jnp.arange(4096) + 0.5) / 4096
        u = begin[:, None] + (end - begin)[:, None] * middles[None]
        mean = jnp.mean((jax.nn.sigmoid(u) + self.eps) ** self.power, axis=1)
        return jnp.where(
            crosses, (end - begin) * mean / (8 * jnp.where(crosses, gamma, 1)), jnp.inf
        )

    def descent_delay(self, lr: Numbers, lam0: Numbers, level: Real = 0.5) -> Float[Array, " d"]:
        """Raise NotKnownError: one step on the plateau may be larger than the plateau."""
        raise NotKnownError(self._lacks("descent_delay", "steps that are small on the plateau"))

    def max_stable_lr(self) -> Float[Array, ""]:
        """Return min((1 + eps)^power/(4 γ_1), eps^power/(2 |γ_min|)), for stability at C = I.

        The first steps also need 8 lr γ_1/eps^power of at most about 30, to select the leading
        modes; this is not part of the limit.
        """
        top, bottom = self.extremes()
        one = (1 + self.eps) ** self.power / (4 * jnp.where(top > 0, top, 1))
        other = self.eps**self.power / (2 * jnp.where(bottom > 0, bottom, 1))
        return jnp.minimum(jnp.where(top > 0, one, jnp.inf), jnp.where(bottom > 0, other, jnp.inf))

    def _require_inside(self, gamma: Array, lam0: Array) -> None:
        if not _check.is_traced(gamma, lam0):
            fits = bool(((gamma <= 0) | ((lam0 >= 0) & (lam0 < 1))).all())
            _check.require(fits, "lam0", "λ(0) in 0 ≤ λ(0) < 1 for γ > 0", lam0)


@dataclass(frozen=True)
class MuonLaw(Preconditioned):
    """The law of `updates.Muon`: singular values grow at rate 1 until λ = 1.

    s_j = s_j(0) + t, so λ_j = min(γ_j (s_j(0) + t)², 1). Descent ends with λ within
    2 lr √γ_1 of 1, because its steps do not become smaller. A mode with γ < 0 shrinks to 0 as
    s_j(0) − t. A start below lr counts as lr for the selection of modes.
    """

    def growth(self) -> Float[Array, " r"]:
        """Raise NotKnownError: modes grow linearly from a small start."""
        raise NotKnownError(self._lacks("growth", "exponential growth"))

    def eigenvalues(self, times: Numbers, lam0: Numbers) -> Float[Array, "T d"]:
        """Return min(γ (s(0) + t)², 1) [T, d] from λ(0) = γ s(0)² ≤ 1."""
        times, lam0, modes = self.check_arguments(times, lam0)
        gamma = self.gamma[modes]
        safe = jnp.where(gamma == 0, 1, gamma)
        root = jnp.where(lam0 == 0, 0, jnp.sqrt(jnp.where(lam0 == 0, 1, lam0 / safe)))
        s = root[None] + jnp.sign(gamma)[None] * times[:, None]
        moved = gamma[None] * jnp.square(jnp.maximum(s, 0))
        moved = jnp.where(gamma[None] > 0, jnp.minimum(moved, 1), moved)
        return jnp.where((gamma == 0)[None] | (lam0 == 0)[None], lam0[None], moved)

    def step_times(self, lam0: Numbers, level: Real = 0.5) -> Float[Array, " d"]:
        """Return √(level/γ) − √(λ(0)/γ) [d], or infinity if it never crosses."""
        _check.require(0 < level < 1, "level", "a number between 0 and 1", level)
        _, lam0, modes = self.check_arguments(jnp.zeros(1), lam0)
        gamma = self.gamma[modes]
        crosses = (gamma > 0) & (lam0 > 0) & (lam0 <= level)
        roots = jnp.sqrt(level) - jnp.sqrt(jnp.where(crosses, lam0, level))
        return jnp.where(crosses, roots / jnp.sqrt(jnp.where(crosses, gamma, 1)), jnp.inf)

    def descent_delay(self, lr: Numbers, lam0: Numbers, level: Real = 0.5) -> Float[Array, " d"]:
        """Return 0: Euler's steps follow a linear growth exactly."""
        return jnp.zeros(jnp.shape(lam0), self.gamma.dtype)
