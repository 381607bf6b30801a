"""Laws that a user might write, none of which the package contains."""

from dataclasses import dataclass

import jax.numpy as jnp

from stepwise.laws import BarlowTwins, Law
from stepwise.types import Numbers


@dataclass(frozen=True)
class Half(Law):
    """Barlow Twins at half its rates, L = ‖C − I‖²/2, with only the methods that a law needs."""

    gamma: Numbers

    follows_gamma = True

    def growth(self):
        return 4 * self.gamma

    def rest(self):
        return jnp.where(self.gamma > 0, 1.0, 0.0)

    def objective(self, A):
        C = self.measure(A)
        return jnp.sum((C - jnp.eye(len(C))) ** 2) / 2


@dataclass(frozen=True)
class HalfKnown(Half):
    """The same law with closed forms: curves, form of the flow, loss and stability limit."""

    def eigenvalues(self, times, lam0):
        return BarlowTwins(self.gamma).eigenvalues(jnp.asarray(times) / 2, lam0)

    def contraction(self):
        return 2.0

    def loss_of(self, eigenvalues):
        return ((1 - eigenvalues) ** 2).sum(axis=-1) / 2

    def max_stable_lr(self):
        return 2 * BarlowTwins(self.gamma).max_stable_lr()


@dataclass(frozen=True)
class Pencil(Law):
    """L = −2 tr WAWᵀ + tr (WΣWᵀ)² with A = Σ − a(Σ − Γ). Modes grow in the order of A, not of γ."""

    gamma: Numbers
    sigma: Numbers
    a: float = 1.0

    domain = "Γ and Σ of one eigenbasis"
    observable = "covariance"

    @property
    def drive(self):
        return self.sigma - self.a * (self.sigma - self.gamma)

    def unit(self):
        return self.sigma

    def growth(self):
        return 8 * self.drive

    def rest(self):
        return jnp.maximum(self.drive / self.sigma, 0)

    def objective(self, A):
        return jnp.sum(self.measure(A) ** 2) - 2 * jnp.sum(A**2 * self.drive[None])
