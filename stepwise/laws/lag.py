"""What the laws of self-distillation share: a mode and its target, which follows with a lag.

A target (BYOL) or teacher (DINO) with amplitude v follows the trained amplitude w at the rate μ,
v' = μ (w − v). Without a lag, v = w, and μ is None.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stepwise import _check
from stepwise.types import Real


def check_rate(name: str, value: Real | None) -> None:
    """Raise ValueError unless the value is None, traced, or a positive number."""
    if value is not None and not _check.is_traced(value):
        _check.require(0 < value < np.inf, name, "None or a positive number", value)


def growth(pull: Array, drive: Array, ema: Real | None) -> Array:
    """Return the largest rate r of w' = drive · v − pull · w, v' = ema · (w − v).

    It solves (r + pull)(r + ema) = ema · drive. If the roots are complex, their real part is
    returned. Without a lag, r = drive − pull. In either case r > 0 if and only if drive > pull.
    """
    if ema is None:
        return drive - pull
    root = (ema - pull) ** 2 + 4 * ema * drive
    real = root >= 0
    total = ema + pull + jnp.sqrt(jnp.where(real, root, 1))
    return jnp.where(real, 2 * ema * (drive - pull) / total, -(ema + pull) / 2)


def decay(pull: Array, drive: Array, ema: Real | None) -> Array:
    """Return the largest decay rate −r of the same pair of equations, for drive ≥ 0."""
    if ema is None:
        return pull - drive
    return (ema + pull + jnp.sqrt((ema - pull) ** 2 + 4 * ema * jnp.maximum(drive, 0))) / 2


def solve(
    field: Callable[[Any, Any, Any], Array], start: Array, points: Array, args: Any
) -> Float[Array, "T d k"]:
    """Integrate the small systems y' = field(x, y, args) of d modes together, from x = 0.

    The solver is Tsitouras' 5(4) method (diffrax), with a relative tolerance of 1e-9 in float64 and
    1e-5 in float32. It is explicit: the number of steps is of the order of the largest rate times
    the largest x.

    Args:
        field: the derivative [d, k].
        start: states at x = 0 [d, k], in units in which they are about 1.
        points: x of the results [T], not negative and in any order.
        args: what `field` needs.
    """
    dtype = jnp.result_type(start, points)
    rtol = 1e-9 if dtype == jnp.float64 else 1e-5
    order = jnp.argsort(points)
    grid = jnp.maximum(points[order], 0).astype(dtype)
    import diffrax  # here, because most laws do not need it and it is slow to import

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Tsit5(),
        jnp.zeros((), dtype),
        grid[-1],
        None,
        start.astype(dtype),
        args,
        saveat=diffrax.SaveAt(ts=grid),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=1e-3 * rtol),
        max_steps=1_000_000,
    )
    assert solution.ys is not None
    return jnp.zeros_like(solution.ys).at[order].set(solution.ys)
