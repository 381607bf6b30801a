"""The law of linear Barlow Twins from an aligned start: each mode is a logistic curve."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from stepwise import _check
from stepwise.laws import numeric
from stepwise.laws.base import Law
from stepwise.types import Numbers, Real, Whole


@dataclass(frozen=True)
class BarlowTwins(Law):
    r"""Growth of the embedding eigenvalues under L = ‖C − I‖², dW/dt = −4 (C − I) W Γ.

    From an aligned start, W(0) = U diag(s(0)) V_{≤d}ᵀ, each λ_j = γ_j s_j² evolves independently
    (the paper, Simon et al. 2023, eq. 8-10):

        λ_j' = 8 γ_j λ_j (1 − λ_j),        λ_j/(1 − λ_j) = λ_j(0)/(1 − λ_j(0)) · e^{8 γ_j t}.

    A small generic start follows the same law from its effective aligned start
    (`effective_start`).

    Args:
        gamma: eigenvalues γ of the modes [r] in descending order, including negative ones. The
            curves use the leading d, one for each entry of `lam0`; `max_stable_lr` uses all.
        lowest: the smallest eigenvalue of the data, if `gamma` does not contain it;
            `max_stable_lr` uses it.

    Raises:
        ValueError: if gamma is not a vector of finite numbers. Methods raise it if lam0 is not a
            vector of at most r finite numbers.

    All methods can be jitted, vmapped and differentiated with respect to gamma, times and lam0.
    """

    gamma: Numbers
    lowest: Numbers | None = None

    RATE: ClassVar[float] = 8.0
    """Growth rate of a small eigenvalue: λ_j grows as e^{RATE γ_j t}."""
    PULL: ClassVar[float] = 4.0
    """Prefactor of the flow: dW/dt = PULL (I − C) W Γ."""

    domain = "the theory's loss, any data, in modes of Γ; closed form from an aligned start"
    observable = "C"
    formula = "‖C − I‖²"
    title = "Barlow Twins, the theory's form"
    call = "losses.barlow_twins_unnormalised(z1, z2)"
    mode = r"\lambda' = 8 \gamma \lambda (1 - \lambda)"
    behaviour = (
        "A plateau of about ln(1/λ(0))/(8γ), then a sigmoid of width 1/(8γ). Modes with the "
        "largest γ come first."
    )
    prediction = (
        "The variances σ play no role. Every learned mode ends at 1, so no later mode replaces it."
    )
    curves = "closed form"
    second_moment = "does not enter the law"
    follows_gamma = True

    def __post_init__(self) -> None:
        gamma = jnp.asarray(_check.real_array("gamma", self.gamma, ndim=1))
        object.__setattr__(self, "gamma", gamma)

    @classmethod
    def from_problem(cls, problem: Any, d: Whole) -> "BarlowTwins":
        """Build the law from a problem's modes and its lowest eigenvalue."""
        return cls(problem.gamma, problem.lowest)

    @property
    def order(self) -> Int[Array, " r"]:
        """The modes in the order of `gamma`, which is descending."""
        return jnp.arange(self.gamma.shape[0])

    def growth(self) -> Float[Array, " r"]:
        """Return the rates 8 γ_j at which small eigenvalues grow [r]."""
        return self.RATE * self.gamma

    def rest(self) -> Float[Array, " r"]:
        """Return the final eigenvalues [r]: 1 if γ_j > 0, else 0."""
        return (self.gamma > 0).astype(self.gamma.dtype)

    def grows(self) -> Bool[Array, " r"]:
        """Return which modes grow [r]: those with γ_j > 0."""
        return self.gamma > 0

    def rhs(self, A: Numbers) -> Float[Array, "d r"]:
        """Return the flow dA/dt = 4 (I − C) A diag(γ), with C = A diag(γ) Aᵀ."""
        AD = A * self.gamma[None]
        return self.PULL * (AD - (AD @ jnp.asarray(A).T) @ AD)

    def objective(self, A: Numbers) -> Float[Array, ""]:
        """Return the loss ‖C − I‖_F² with C = A diag(γ) Aᵀ."""
        return self.distance(self.measure(A))

    def contraction(self) -> float:
        """Return κ = 4, the prefactor of the flow."""
        return self.PULL

    def loss_of(self, eigenvalues: Numbers) -> Any:
        """Return Σ_j (1 − λ_j)² of NumPy or JAX eigenvalues [..., d], as the same kind of array."""
        return ((1 - eigenvalues) ** 2).sum(axis=-1)

    def lowest_loss(self, d: Whole) -> Float[Array, ""]:
        """Return the final loss: 1 for each of the d dimensions without a positive mode."""
        return jnp.maximum(d - jnp.sum(self.gamma > 0), 0).astype(self.gamma.dtype)

    @staticmethod
    def distance(C: Numbers) -> Float[Array, ""]:
        """Return ‖C − I‖_F²."""
        C = jnp.asarray(C)
        return jnp.sum((C - jnp.eye(C.shape[0], dtype=C.dtype)) ** 2)

    @staticmethod
    def embedding_gradient(z: Numbers) -> tuple[Float[Array, "views d"], Float[Array, "d d"]]:
        """Return ∂L/∂z = (4/2n) P z (C − I) and C = (1/2n) zᵀ P z for embeddings z [2n, d].

        P swaps the two views.
        """
        z = jnp.asarray(z)
        swapped = jnp.roll(z, len(z) // 2, axis=0) / len(z)
        C = swapped.T @ z
        return 4 * swapped @ (C - jnp.eye(z.shape[1], dtype=C.dtype)), C

    @staticmethod
    def transposed_gradient(zT: Numbers) -> tuple[Float[Array, "d views"], Float[Array, "d d"]]:
        """Return the same for embeddings stored as columns [d, 2n], without transposing them."""
        zT = jnp.asarray(zT)
        views = zT.shape[1]
        swapped = jnp.roll(zT, views // 2, axis=1) / views
        C = swapped @ zT.T
        return 4 * (C - jnp.eye(len(C), dtype=C.dtype)) @ swapped, C

    def eigenvalues(self, times: Numbers, lam0: Numbers) -> Float[Array, "T d"]:
        """Return λ_j(t) = 1 / (1 + (1/λ_j(0) − 1) e^{−8 γ_j t}), in the order of the modes.

        The result is finite for every t, γ and λ(0). λ(0) = 0 stays 0, λ(0) = 1 stays 1, and a
        mode with γ < 0 (and so λ ≤ 0) decays to 0. Combinations of signs that the model cannot
        have (λ(0) < 0 with γ > 0, or λ(0) > 1 with γ < 0) have a pole at a finite time, where the
        largest finite number is returned.

        Args:
            times: t [T], learning rate × step.
            lam0: λ(0) [d], d ≤ r.
        """
        times, lam0, gamma = self._leading_modes(times, lam0)
        return numeric.logistic(times[:, None] * gamma[None], self.RATE, lam0)

    def step_times(self, lam0: Numbers, level: Real = 0.5) -> Float[Array, " d"]:
        """Return when each λ_j crosses `level`, or infinity if it never does.

        τ_j = [ln(1/λ_j(0) − 1) − ln(1/level − 1)] / (8 γ_j). A mode never crosses if it starts
        above the level, or at or below 0, or if γ_j ≤ 0.
        """
        _check.require(0 < level < 1, "level", "a number between 0 and 1", level)
        _, lam0, gamma = self._leading_modes(jnp.zeros(1, self.gamma.dtype), lam0)
        crosses = (gamma > 0) & (lam0 > 0) & (lam0 <= level)
        safe_lam0, safe_gamma = jnp.where(crosses, lam0, level / 2), jnp.where(crosses, gamma, 1)
        odds = jnp.log1p(-safe_lam0) - jnp.log(safe_lam0) + jnp.log(level / (1 - level))
        return jnp.where(crosses, odds / (self.RATE * safe_gamma), jnp.inf)

    def amplitude(self, times: Numbers, lam0: Numbers) -> Float[Array, "T d"]:
        """Return s_j(t)/s_j(0) = e^{4γ_j t} / sqrt(1 + (e^{8γ_j t} − 1) λ_j(0)).

        This is eq. 10 of the slides, in a form that does not overflow. λ_j(0) and γ_j must have the
        same sign. If λ_j(0) = 0 and γ_j > 0, the row has no component along its mode, nothing
        grows, and the ratio is 1.
        """
        return super().amplitude(times, lam0)

    def takeover(self, j: Whole, k: Whole) -> Float[Array, ""]:
        """Return 0: no mode replaces a learned one."""
        return jnp.zeros((), self.gamma.dtype)

    def max_stable_lr(self) -> Float[Array, ""]:
        """Return min(1/(4 γ_1), 1/(2 |γ_min|)), below which descent is stable at C = I.

        One step multiplies the deviation of a positive mode from λ = 1 by 1 − 8 lr γ, and the
        amplitude of a negative mode near 0 by 1 − 4 lr |γ|. Infinite if every γ is 0.
        """
        gamma = self.gamma
        if self.lowest is not None:
            gamma = jnp.append(gamma, jnp.asarray(self.lowest, gamma.dtype))
        top, bottom = jnp.max(gamma, initial=0), jnp.max(-gamma, initial=0)
        return 1 / jnp.maximum(4 * top, 2 * bottom)

    def descent_delay(self, lr: Numbers, lam0: Numbers, level: Real = 0.5) -> Float[Array, " d"]:
        """Return the fraction 2 lr γ_j (1 − 3 I_j/τ_j) by which descent crosses `level` late.

        The delay is relative to the flow's crossing τ_j, and correct to first order in lr. Here
        I_j = ∫_0^τ λ_j dt = ln((1 − λ_j(0))/(1 − level))/(8γ_j). It is 0 for a mode that never
        crosses.

        Gradient descent is Euler's method, so it follows ds/dt = f − (lr/2) f'f with
        f = 4γ(1 − λ)s and f' = 4γ(1 − 3λ). On the plateau one step multiplies s by 1 + 4 lr γ, and
        the flow by e^{4 lr γ}, so descent is late by the fraction 2 lr γ. Near the solution it
        overshoots and catches up. At level 1/2 the factor is
        1 − 3 ln(2 − 2λ_j(0))/ln(1/λ_j(0) − 1), which is a tenth less than 1 at λ(0) = 1e-9.
        """
        lr = jnp.asarray(_check.real_array("lr", lr, ndim=0))
        _check.require(0 < level < 1, "level", "a number between 0 and 1", level)
        _, lam0, gamma = self._leading_modes(jnp.zeros(1, self.gamma.dtype), lam0)
        crosses = (gamma > 0) & (lam0 > 0) & (lam0 < level)
        safe = jnp.where(crosses, lam0, level / 2)
        odds = jnp.log1p(-safe) - jnp.log(safe) + jnp.log(level / (1 - level))
        return jnp.where(
            crosses, 2 * lr * gamma * (1 - 3 * (jnp.log1p(-safe) - jnp.log(1 - level)) / odds), 0
        )

    def _leading_modes(self, times: Numbers, lam0: Numbers) -> tuple[Array, Array, Array]:
        """Return times, λ(0) and the leading γ, one for each entry of λ(0)."""
        times, lam0, _ = self.check_arguments(times, lam0)
        return times, lam0, self.gamma[: lam0.shape[0]]
