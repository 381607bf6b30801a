"""Equations of one variable, integrated."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float


def integrate(slope: Callable[[Array], Array], start: Array, times: Array) -> Float[Array, " T"]:
    """Integrate x' = slope(x) from x(0) = start; return x at times [T] in any order.

    The solver is Tsitouras' 5(4), with tolerances of 1e-9 in float64 and 1e-5 in float32. Choose a
    variable in which the slope tends to a constant, such as the logarithm of a quantity that
    decays: its relative error then has these sizes, and the steps become long.
    """
    dtype = jnp.result_type(times, start)
    order = jnp.argsort(times)
    tolerance = 1e-9 if dtype == jnp.float64 else 1e-5

    def field(t: Any, x: Array, args: Any) -> Array:
        return slope(x)

    import diffrax  # here, because most laws do not need it and it is slow to import

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Tsit5(),
        jnp.zeros((), dtype),
        jnp.maximum(jnp.max(times), jnp.finfo(dtype).tiny).astype(dtype),
        None,
        start.astype(dtype),
        saveat=diffrax.SaveAt(ts=jnp.maximum(times[order], 0).astype(dtype)),
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        max_steps=100_000,
    )
    assert solution.ys is not None
    return jnp.zeros(times.shape, dtype).at[order].set(solution.ys)
