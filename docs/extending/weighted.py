"""A minimal law, which defines only what it must.

The loss is w ‖C − I‖², Barlow Twins with a weight. Curves, step times and the flow follow
numerically from this file.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from stepwise import laws


@dataclass(frozen=True)
class Weighted(laws.Law):
    """λ_j' = 8 w γ_j λ_j (1 − λ_j)."""

    gamma: jnp.ndarray
    weight: float

    domain = "any linear or kernel model, from an aligned or a small start"
    formula = "w ‖C − I‖²"
    follows_gamma = True

    def growth(self):
        """Return the growth rates d ln λ_j/dt near zero."""
        return 8 * self.weight * self.gamma

    def rest(self):
        """Return the final λ_j, 0 for a mode that does not grow."""
        return jnp.where(self.gamma > 0, 1.0, 0.0)

    def objective(self, A):
        """Return the loss of mode coordinates A [d, r]. Its gradient gives the flow."""
        C = (A * self.gamma[None]) @ A.T
        return self.weight * jnp.sum((C - jnp.eye(len(C), dtype=C.dtype)) ** 2)


def law(problem, d):
    """Return the law of a problem; pass this function as `law=`."""
    return Weighted(problem.gamma, 0.5)
