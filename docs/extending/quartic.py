"""A method in one file, invented for this page: its loss, its law, and its row.

    stepwise predict --method quartic.py:METHOD --data folder:PATH
    stepwise train   --method quartic.py:METHOD --data folder:PATH

The loss is L = −tr C + ¼ tr C⁴ of the cross-view moment C.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from stepwise import laws
from stepwise.methods import Method, Objective, Schedule, Start


def quartic(z1, z2):
    """Return −tr C + ¼ tr C⁴, C = (z1ᵀ z2 + z2ᵀ z1)/2n, after centring at the common mean."""
    mean = (z1.mean(0, keepdims=True) + z2.mean(0, keepdims=True)) / 2
    C = (z1 - mean).T @ (z2 - mean) / len(z1)
    return _loss_of_moment((C + C.T) / 2)


def _loss_of_moment(C):
    square = C @ C
    return -jnp.trace(C) + jnp.sum(square**2) / 4


@dataclass(frozen=True)
class Quartic(laws.Law):
    """λ_j' = 4 γ_j λ_j (1 − λ_j³), from dA/dt = 2 (1 − C³) A diag(γ)."""

    gamma: jnp.ndarray

    domain = "any linear or kernel model, from an aligned or a small start"
    formula = "−tr C + ¼ tr C⁴"
    follows_gamma = True

    @classmethod
    def from_problem(cls, problem, d):
        """Return the law of a problem."""
        return cls(problem.gamma)

    def growth(self):
        """Return the growth rates d ln λ/dt = 4γ near zero."""
        return 4 * self.gamma

    def rest(self):
        """Return the final eigenvalues: 1 for a mode that grows, else 0."""
        return jnp.where(self.gamma > 0, 1.0, 0.0)

    def objective(self, A):
        """Return the loss of mode coordinates A [d, r]."""
        return _loss_of_moment((A * self.gamma[None]) @ A.T)

    def eigenvalues(self, times, lam0):
        """Return (1 + (1/λ_j(0)³ − 1) e^{−12 γ_j t})^{−1/3}, whose cube is a logistic curve."""
        times, lam0, modes = self.check_arguments(times, lam0)
        start = jnp.log(lam0**3) - jnp.log1p(-(lam0**3))
        odds = start[None] + 12 * times[:, None] * self.gamma[modes][None]
        return jnp.exp(-jnp.logaddexp(0.0, -odds) / 3)

    def max_stable_lr(self):
        """Return min(1/(6 γ_1), 1/|γ_min|), the largest stable learning rate.

        Near λ = 1, a step multiplies a deviation by 1 − 12 lr γ.
        """
        return 1 / jnp.maximum(6 * self.gamma.max(), -self.gamma.min())


METHOD = Method(
    name="quartic",
    title="Quartic",
    paper="invented for this page",
    objective=Objective(quartic),
    law=Quartic.from_problem,
    start=Start(scale=1e-3),
    schedules={"small": Schedule(lr=0.01, steps=1500)},
)
