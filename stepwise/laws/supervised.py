"""The supervised counterpart: exponential relaxation, the contrast to symmetry breaking."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stepwise import _check
from stepwise.types import Numbers


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Supervised:
    """Growth of the singular values of a linear model trained on targets with the squared loss.

    s_j' = γ_j (s*_j − s_j), so s_j(t) = s*_j + (s_j(0) − s*_j) e^{−γ_j t}: one fixed point, of one
    sign, no plateau. The self-supervised mode, s' = γ s (1 − s²) in units where s* = 1, is a
    pitchfork instead: s = 0 is unstable and s = ±1 are both stable (slides, "symmetry breaking").

    Args:
        gamma: modes [r], eigenvalues of the inputs' second moment, non-negative.
        target: s* [r], the singular values at the solution.

    Raises:
        ValueError: gamma or target is not a vector of finite numbers, or their sizes differ.
    """

    gamma: Numbers
    target: Numbers

    def __post_init__(self) -> None:
        if isinstance(
            self.gamma, jax.Array | np.ndarray | list | tuple
        ):  # not a placeholder of a tree transformation
            gamma = jnp.asarray(_check.real_array("gamma", self.gamma, ndim=1))
            target = jnp.asarray(_check.real_array("target", self.target, ndim=1))
            _check.require(
                gamma.shape == target.shape, "target", f"shape {list(gamma.shape)} as gamma", target
            )
            object.__setattr__(self, "gamma", gamma)
            object.__setattr__(self, "target", target)

    def singular_values(self, times: Numbers, s0: Numbers) -> Float[Array, "T r"]:
        """s_j(t) = s*_j + (s_j(0) − s*_j) e^{−γ_j t} at times [T] from s(0) [r]."""
        times = jnp.asarray(_check.real_array("times", times, ndim=1))
        s0 = jnp.asarray(_check.real_array("s0", s0, ndim=1))
        _check.require(
            s0.shape == self.gamma.shape, "s0", f"shape {list(self.gamma.shape)} as gamma", s0
        )
        return self.target + (s0 - self.target) * jnp.exp(-self.gamma * times[:, None])
