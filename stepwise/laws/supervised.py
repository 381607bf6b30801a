"""The supervised law: exponential relaxation to targets, without symmetry breaking."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from stepwise import _check
from stepwise.laws.base import Law, NotKnownError
from stepwise.types import Numbers, Real, Whole


@dataclass(frozen=True)
class Supervised(Law):
    """Growth of the singular values of a linear model trained on targets with the squared loss.

    s_j' = γ_j (s*_j − s_j), so s_j(t) = s*_j + (s_j(0) − s*_j) e^{−γ_j t}. There is one fixed
    point, of one sign, and no plateau. A self-supervised mode, s' = γ s (1 − s²) in units where
    s* = 1, has a pitchfork instead: s = 0 is unstable, and s = 1 and s = −1 are both stable
    (slides, "symmetry breaking").

    As a `Law`, the loss is L = ½ tr (A − A*) diag(γ) (A − A*)ᵀ, row i of A* holds s* of mode
    order[i], and λ_j = s_j². `growth`, `grows`, `takeover`, `next_growth` and `descent_delay` do
    not exist for this law and raise `NotKnownError`. `dynamics.closed_form` and `validity.report`
    raise ValueError, because this loss is not invariant under rotations of the embedding.

    Args:
        gamma: modes [r], eigenvalues of the inputs' second moment, non-negative.
        target: s* [r], the singular values at the solution.

    Raises:
        ValueError: if gamma or target is not a vector of finite numbers, or their sizes differ.
    """

    gamma: Numbers
    target: Numbers

    domain = "squared loss on the targets of a linear teacher, modes of the inputs' second moment"
    observable = "W Wᵀ"
    formula = "½ E‖W x − W* x‖²"
    title = "Supervised learning, squared error"
    call = "no function of stepwise.losses: ½ E‖W x − y‖² with the targets y = W* x"
    mode = r"s' = \gamma (s^{*} - s)"
    behaviour = "Exponential relaxation to the target at the rate γ, from any start."
    prediction = "There is no plateau, and one fixed point of one sign: no symmetry is broken."
    curves = "closed form"
    second_moment = "does not enter the law"
    rotates = False

    def __post_init__(self) -> None:
        gamma = jnp.asarray(_check.real_array("gamma", self.gamma, ndim=1))
        target = jnp.asarray(_check.real_array("target", self.target, ndim=1))
        shape = f"shape {list(gamma.shape)} as gamma"
        _check.require(gamma.shape == target.shape, "target", shape, target)
        object.__setattr__(self, "gamma", gamma)
        object.__setattr__(self, "target", target)

    def singular_values(self, times: Numbers, s0: Numbers) -> Float[Array, "T r"]:
        """Return s_j(t) = s*_j + (s_j(0) − s*_j) e^{−γ_j t} at times [T], from s(0) [r]."""
        times = jnp.asarray(_check.real_array("times", times, ndim=1))
        s0 = jnp.asarray(_check.real_array("s0", s0, ndim=1))
        _check.require(
            s0.shape == self.gamma.shape, "s0", f"shape {list(self.gamma.shape)} as gamma", s0
        )
        decay = jnp.exp(-self.gamma[None] * times[:, None])
        return self.target[None] + (s0 - self.target)[None] * decay

    @property
    def order(self) -> Int[Array, " r"]:
        """The modes from the fastest to the slowest."""
        return jnp.argsort(-self.gamma)

    def unit(self) -> Float[Array, " r"]:
        """Return 1 for each mode, because the observable is W Wᵀ."""
        return jnp.ones_like(self.gamma)

    def rest(self) -> Float[Array, " r"]:
        """Return the final eigenvalues [r]: s*_j² if γ_j > 0, else 0."""
        return jnp.where(self.gamma > 0, self.target**2, 0)

    def final_modes(self, d: Whole) -> Int[Array, " k"]:
        """Return the fastest d modes, which the targets assign to the rows."""
        return self.order[:d]

    def rhs(self, A: Numbers) -> Float[Array, "d r"]:
        """Return the flow dA/dt = (A* − A) diag(γ)."""
        return (self._solution(len(A)) - A) * self.gamma[None]

    def objective(self, A: Numbers) -> Float[Array, ""]:
        """Return the loss ½ tr (A − A*) diag(γ) (A − A*)ᵀ."""
        return jnp.sum((A - self._solution(len(A))) ** 2 * self.gamma[None]) / 2

    def eigenvalues(self, times: Numbers, lam0: Numbers) -> Float[Array, "T d"]:
        """Return λ_j(t) = s_j(t)², from s_j(0) = +sqrt(λ_j(0))."""
        times, lam0, modes = self.check_arguments(times, lam0)
        goal, start = self.target[modes], jnp.sqrt(jnp.maximum(lam0, 0))
        decay = jnp.exp(-self.gamma[modes][None] * times[:, None])
        return (goal[None] + (start - goal)[None] * decay) ** 2

    def step_times(self, lam0: Numbers, level: Real = 0.5) -> Float[Array, " d"]:
        """Return when s_j rises through sqrt(level) s*_j, or infinity if it never does.

        τ_j = ln[(s*_j − s_j(0))/(s*_j − sqrt(level) s*_j)]/γ_j.
        """
        _, lam0, modes = self.check_arguments(jnp.zeros(1), lam0)
        _check.require(0 < level < 1, "level", "a number between 0 and 1", level)
        rate, goal = self.gamma[modes], self.target[modes]
        start = jnp.sqrt(jnp.maximum(lam0, 0))
        mark = jnp.sqrt(level) * goal
        crosses = (rate > 0) & (goal > 0) & (start <= mark)
        ratio = jnp.where(crosses, (goal - start) / jnp.where(crosses, goal - mark, 1), 1)
        return jnp.where(crosses, jnp.log(ratio) / jnp.where(crosses, rate, 1), jnp.inf)

    def has_converged(self, loss: Numbers, d: Whole) -> Bool[Array, ""]:
        """Return whether the loss is below 1% of the loss of zero weights."""
        start = self.objective(jnp.zeros((int(d), self.gamma.shape[0]), self.gamma.dtype))
        return loss < 1e-2 * jnp.where(start > 0, start, 1)

    def max_stable_lr(self) -> Float[Array, ""]:
        """Return 2/γ_1, below which gradient descent is stable."""
        return 2 / jnp.max(self.gamma, initial=0)

    def growth(self) -> Float[Array, " r"]:
        """Raise NotKnownError, because there is no plateau."""
        raise NotKnownError(self._refusal("growth"))

    def grows(self) -> Bool[Array, " r"]:
        """Raise NotKnownError, because no mode has a rate proportional to its own size."""
        raise NotKnownError(self._refusal("grows"))

    def takeover(self, j: Whole, k: Whole) -> Float[Array, ""]:
        """Raise NotKnownError, because each row has its own target."""
        raise NotKnownError(self._refusal("takeover"))

    def next_growth(self, learned: Numbers) -> Float[Array, ""]:
        """Raise NotKnownError, because there is no plateau."""
        raise NotKnownError(self._refusal("next_growth"))

    def descent_delay(self, lr: Numbers, lam0: Numbers, level: Real = 0.5) -> Float[Array, " d"]:
        """Raise NotKnownError, because there is no plateau."""
        raise NotKnownError(self._refusal("descent_delay"))

    def _refusal(self, name: str) -> str:
        return (
            f"{name}: expected a law with a plateau, received Supervised, whose modes relax to "
            f"their targets at once"
        )

    def _solution(self, d: int) -> Array:
        """Return the state A* [d, r] of lowest loss."""
        modes = self.order[:d]
        rows = jnp.zeros((d, self.gamma.shape[0]), self.target.dtype)
        return rows.at[jnp.arange(modes.shape[0]), modes].set(self.target[modes])
