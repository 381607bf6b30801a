"""The law of Barlow Twins under gradient descent with momentum."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stepwise import _check
from stepwise.laws.preconditioned import Preconditioned
from stepwise.types import Numbers, Real


@dataclass(frozen=True)
class HeavyBallLaw(Preconditioned):
    """The law of `updates.HeavyBall`, exact at any learning rate: the recurrence of each mode.

    From an aligned start without velocity, with u = √|λ|,

        u_{n+1} = u_n + β (u_n − u_{n−1}) + 4 lr γ (1 − λ_n) u_n.

    Near zero u_{n+1} = z u_n with z² − (1 + β + 4 lr γ) z + β = 0. If 4 lr γ ≪ (1 − β)², this is
    gradient descent at the learning rate lr/(1 − β); if it is larger, z ≈ 1 + √(4 lr γ). Between
    steps, the curves are interpolated in ln λ. Step times have no derivatives.
    """

    lr: Real = 1.0
    momentum: Real = 0.0

    def growth(self) -> Float[Array, " r"]:
        """Return 2 ln|z|/lr [r], z the root of larger magnitude."""
        half = (1 + self.momentum + 4 * self.lr * self.gamma) / 2
        square = half**2 - self.momentum
        root = jnp.sqrt(jnp.maximum(square, 0))
        real = jnp.maximum(jnp.abs(half + root), jnp.abs(half - root))
        size = jnp.where(square >= 0, real, jnp.sqrt(jnp.asarray(self.momentum, real.dtype)))
        return 2 * jnp.log(size) / self.lr

    def eigenvalues(self, times: Numbers, lam0: Numbers) -> Float[Array, "T d"]:
        """Return λ after t/lr steps [T, d]."""
        times, lam0, modes = self.check_arguments(times, lam0)
        gamma = self.gamma[modes]
        order = jnp.argsort(times)
        steps = jnp.maximum(times[order] / self.lr, 0)
        whole = jnp.floor(steps * (1 + 8 * jnp.finfo(steps.dtype).eps)).astype(int)
        signs = jnp.where(gamma < 0, -1, 1)

        def advance(carry: Any, target: Array) -> tuple[Any, Array]:
            step, state = carry
            state = jax.lax.fori_loop(step, target, lambda _, s: self._step(gamma, s), state)
            return (target, state), jnp.stack([state[0], self._step(gamma, state)[0]])

        start = jnp.sqrt(jnp.abs(lam0)).astype(jnp.result_type(lam0, gamma))
        _, pairs = jax.lax.scan(advance, (jnp.zeros((), int), (start, start)), whole)
        share = jnp.clip(steps - whole, 0, 1)[:, None]
        here, after = pairs[:, 0], pairs[:, 1]
        positive = (here > 0) & (after > 0)
        logs = [jnp.log(jnp.where(positive, u, 1)) for u in (here, after)]
        between = jnp.exp(logs[0] * (1 - share) + logs[1] * share)
        u = jnp.where(positive, between, here * (1 - share) + after * share)
        return jnp.zeros_like(u).at[order].set(signs[None] * u**2)

    def step_times(self, lam0: Numbers, level: Real = 0.5) -> Float[Array, " d"]:
        """Return lr × the step at which each λ crosses level [d], or infinity."""
        _check.require(0 < level < 1, "level", "a number between 0 and 1", level)
        _, lam0, modes = self.check_arguments(jnp.zeros(1), lam0)
        gamma = self.gamma[modes]
        crosses = (gamma > 0) & (lam0 > 0) & (lam0 <= level)
        start = jnp.where(crosses, jnp.sqrt(jnp.where(crosses, lam0, 1)), 0)
        goal = jnp.sqrt(jnp.asarray(level, start.dtype))
        rate = jnp.where(crosses, self.growth()[modes] * self.lr / 2, 1)
        most = jnp.max(jnp.where(crosses, jnp.log(goal / jnp.where(crosses, start, 1)) / rate, 0))

        def pending(carry: Any) -> Array:
            step, _, crossed = carry
            return (crosses & jnp.isinf(crossed)).any() & (step < 4 * most + 1000)

        def step(carry: Any) -> Any:
            count, state, crossed = carry
            moved = self._step(gamma, state)
            here, after = state[0], moved[0]
            rises = crosses & jnp.isinf(crossed) & (here <= goal) & (after > goal)
            safe = jnp.where(rises, here, 1), jnp.where(rises, after, 2)
            share = jnp.log(goal / safe[0]) / jnp.log(safe[1] / safe[0])
            return count + 1, moved, jnp.where(rises, count + share, crossed)

        begin = (jnp.zeros((), int), (start, start), jnp.full_like(start, jnp.inf))
        return self.lr * jax.lax.while_loop(pending, step, begin)[2]

    def _step(self, gamma: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        u, before = state
        lam = jnp.where(gamma < 0, -1, 1) * u**2
        return u + self.momentum * (u - before) + 4 * self.lr * gamma * (1 - lam) * u, u

    def descent_delay(self, lr: Numbers, lam0: Numbers, level: Real = 0.5) -> Float[Array, " d"]:
        """Return 0: the law is that of descent itself."""
        return jnp.zeros(jnp.shape(lam0), self.gamma.dtype)

    def max_stable_lr(self) -> Float[Array, ""]:
        """Return (1 + β) min(1/(4 γ_1), 1/(2 |γ_min|)), 1 + β times that of gradient descent."""
        top, bottom = self.extremes()
        return (1 + self.momentum) / jnp.maximum(4 * top, 2 * bottom)
