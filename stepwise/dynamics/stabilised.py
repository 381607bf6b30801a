"""A Runge-Kutta-Chebyshev solver for diffrax, which takes long steps when fast modes are at rest.

A learned mode relaxes at its own rate (8γ_1 under Barlow Twins) long after it has converged. For
stability, this limits the steps of Dormand-Prince to 3.3 divided by that rate. An s-stage Chebyshev
step is stable up to 0.65 s² divided by the rate, so its cost grows as the root of the stiffness
(Sommeijer, Shampine, Verwer, "RKC: an explicit solver for parabolic PDEs", J. Comput. Appl. Math.
88, 1998).
"""

from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

MAX_STAGES = 60
"""The largest number of stages of one step."""
_DAMPING = 2 / 13


class RungeKuttaChebyshev(diffrax.AbstractAdaptiveSolver):
    """Second-order stabilised explicit solver of dy/dt = f(t, y) for an array y.

    The stiff eigenvalues of ∂f/∂y must be real and negative. The stages are
    y_j = (1 − μ_j − ν_j) y_0 + μ_j y_{j−1} + ν_j y_{j−2} + μ̃_j h f_{j−1} + γ̃_j h f_0.
    Their number s is the smallest with 0.65 (s² − 1) ≥ h · radius. Steps that would need more than
    `MAX_STAGES` stages are rejected.

    The loop over stages has no fixed length, so the solver cannot be differentiated in reverse.

    Attributes:
        radius: function (t, y, args) -> upper bound on the spectral radius of ∂f/∂y.
    """

    radius: Callable[[Any, Any, Any], Any] = eqx.field(static=True)

    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar = diffrax.ThirdOrderHermitePolynomialInterpolation.from_k

    def order(self, terms: Any) -> int:
        """Return the order of the method, 2."""
        return 2

    def error_order(self, terms: Any) -> int:
        """Return the order of the local error estimate, 3."""
        return 3

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> Any:
        """Return f at the start. Every later step reuses f from the end of the previous one."""
        return terms.vf(t0, y0, args)

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        """Return f(t, y)."""
        return terms.vf(t0, y0, args)

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: Any, made_jump: Any
    ) -> tuple:
        """Take one step.

        Returns y1, its local error 0.8 (y0 − y1) + 0.4 h (f0 + f1), the values for interpolation,
        f1, and the result code of a success.
        """
        f0 = jax.lax.cond(made_jump, lambda: terms.vf(t0, y0, args), lambda: solver_state)
        h = jnp.asarray(t1 - t0, y0.dtype)
        stiffness = h * self.radius(t0, y0, args)
        needed = jnp.ceil(jnp.sqrt(1 + 1.54 * stiffness))
        stages = jnp.clip(jnp.nan_to_num(needed, nan=MAX_STAGES), 2, MAX_STAGES).astype(int)
        rows = jnp.asarray(_TABLE, y0.dtype)[stages]

        def stage(j: Any, carry: tuple) -> tuple:
            before, y = carry
            own, start, mu, nu = (rows[j, i] for i in range(4))
            f = terms.vf(t0 + rows[j - 1, 4] * h, y, args)
            return y, (1 - mu - nu) * y0 + mu * y + nu * before + h * (own * f + start * f0)

        _, y1 = jax.lax.fori_loop(2, stages + 1, stage, (y0, y0 + rows[1, 0] * h * f0))
        # A step that is too long is unstable. Its result must not reach the controller, which an
        # error of inf/inf would stall.
        y1 = jnp.where(needed > MAX_STAGES, y0, y1)
        f1 = terms.vf(t1, y1, args)
        error = 0.8 * (y0 - y1) + 0.4 * h * (f0 + f1)
        # h f is accurate to h · radius units of rounding. A smaller error estimate counts as 0, or
        # the step could not grow at a state at rest.
        rounding = 4 * jnp.finfo(y0.dtype).eps * (1 + stiffness) * jnp.max(jnp.abs(y0))
        error = jnp.sign(error) * jnp.maximum(jnp.abs(error) - rounding, 0)
        error = jnp.where(needed > MAX_STAGES, jnp.inf, error)
        info = {"y0": y0, "y1": y1, "k": jnp.stack([h * f0, h * f1])}
        return y1, error, info, f1, diffrax.RESULTS.successful


def _coefficients(s: int) -> Float[np.ndarray, "stages 5"]:
    """Return (μ̃, γ̃, μ, ν, c) for every stage of an s-stage step.

    They follow from the Chebyshev polynomial T and its derivatives at w0 = 1 + ε/s².
    """
    w0 = 1 + _DAMPING / s**2
    T, D, E = np.zeros((3, s + 1))
    T[:2], D[1] = (1, w0), 1
    for j in range(2, s + 1):
        T[j] = 2 * w0 * T[j - 1] - T[j - 2]
        D[j] = 2 * T[j - 1] + 2 * w0 * D[j - 1] - D[j - 2]
        E[j] = 4 * D[j - 1] + 2 * w0 * E[j - 1] - E[j - 2]
    w1 = D[s] / E[s]
    b = np.append([0.0, 0.0], E[2:] / D[2:] ** 2)
    b[:2] = b[2]
    c = np.append([0.0, 0.0], w1 * E[2:] / D[2:])
    c[1] = c[2] / D[2]
    rows = np.zeros((s + 1, 5))
    rows[1] = b[1] * w1, 0, 0, 0, c[1]
    for j in range(2, s + 1):
        own = 2 * b[j] * w1 / b[j - 1]
        rows[j] = (
            own,
            (b[j - 1] * T[j - 1] - 1) * own,
            2 * b[j] * w0 / b[j - 1],
            -b[j] / b[j - 2],
            c[j],
        )
    return rows


_TABLE = np.zeros((MAX_STAGES + 1, MAX_STAGES + 1, 5))
for _s in range(2, MAX_STAGES + 1):
    _TABLE[_s, : _s + 1] = _coefficients(_s)
