"""What a law says of a generic start: which modes, from where, and with which error."""

from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stepwise.types import Numbers, Whole


class GenericStart:
    """The part of a law that solvers need for starts that are not aligned with its modes.

    The defaults are those of a loss that is invariant under rotations of the embedding. A law of
    another loss that knows what a generic start does overrides them.
    """

    growth: Any
    unit: Any
    to_modes: Any

    def reason(self, mode: Whole) -> str:
        """Return why a mode does not grow, as half a sentence."""
        return f"its growth rate {float(self.growth()[mode]):.3g} is not positive"

    def free_rows(self, d: Whole) -> int:
        """Return the number of dimensions in which modes can grow, of d: by default all."""
        return int(d)

    def known_modes(self, d: Whole) -> int:
        """Return the number k of modes whose curves are known from a generic start of d rows."""
        return min(self.free_rows(d), jnp.shape(self.unit())[0])

    def generic_start(self, A: Numbers) -> Float[Array, " k"]:
        """Return λ(0) [k] of the aligned start as which a small generic start A [d, r] acts.

        By default it is λ_j/s_j² times the squares of `laws.effective_start`.

        Raises:
            ValueError: if the loss is not invariant under rotations of the embedding.
        """
        from stepwise.laws import start  # here, because that module imports laws

        A = jnp.asarray(A)
        modes = start.leading_modes(cast(Any, self), self.known_modes(len(A)))
        s0 = jnp.abs(jnp.diagonal(jnp.linalg.qr(self.to_modes(A)[:, modes], mode="r")))
        return self.unit()[modes] * s0**2

    def expected_start(self, d: Whole) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
        """Return mean and standard deviation of ln λ_j(0) [k] over Gaussian starts of scale 1.

        Raises:
            ValueError: if the loss is not invariant under rotations of the embedding.
        """
        from stepwise.laws import start  # here, because that module imports laws

        modes = start.leading_modes(cast(Any, self), self.known_modes(d))
        mean, deviation = start.expected_start(max(self.free_rows(d), 1))
        k = modes.shape[0]
        return mean[:k] + jnp.log(jnp.abs(self.unit()[modes])), deviation[:k]

    def neglected(self, tau: Numbers, d: Whole) -> Float[np.ndarray, " k"]:
        """Return the relative error [k] of step times tau that the law's own approximations leave.

        By default it is 0.

        Args:
            tau: the law's step times [k], in order.
            d: dimension of the embedding.
        """
        return np.zeros(np.shape(tau))
