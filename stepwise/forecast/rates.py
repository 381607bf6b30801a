"""The learning rates of the coming steps."""

import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stepwise import _check
from stepwise.forecast.recursion import HORIZON
from stepwise.forecast.simulation import LONGEST
from stepwise.types import Whole

COUNT = HORIZON + LONGEST
"""Number of coming steps whose rates a forecast may need: up to a take-off, and after it."""


def coming(lr: Any, step: Whole) -> Float[np.ndarray, " count"]:
    """Return the learning rates of the next `COUNT` steps.

    Args:
        lr: a number, or a function of the step that JAX can trace.
        step: training step.

    Raises:
        ValueError: if the rate of this step is not positive, or a rate is negative or not finite.
    """
    if not callable(lr):
        fits = isinstance(lr, numbers.Real) or np.shape(lr) == ()
        _check.require(fits, "lr", "a positive number, or a function of the step", repr(lr))
        fits = bool(np.isfinite(lr) and lr > 0)
        _check.require(fits, "lr", "a positive number, or a function of the step", lr)
        return np.full(COUNT, float(lr))
    rates = np.asarray(jax.vmap(lr)(step + np.arange(COUNT)), np.float64)
    fits = bool(np.isfinite(rates).all() and (rates >= 0).all() and rates[0] > 0)
    _check.require(fits, "lr", "a schedule of positive learning rates", f"{rates[:3]}")
    return rates


def tabulate(lr: Any, step: Whole) -> Any:
    """Return a learning rate for `next_step`, a schedule as a table from this step on.

    A schedule in plain Python cannot be traced by JAX, and may end before `COUNT` steps; its last
    rate then counts from there on. Negative rates count as 0.

    Args:
        lr: a number, None, or a function of the step.
        step: training step.

    Returns:
        The number, a function of the step that JAX can trace, or None if the rate of this step is
        not positive or a rate is not finite.
    """
    if not callable(lr):
        return lr
    try:
        with jax.enable_x64(True):
            rates = np.asarray(jax.vmap(lr)(step + np.arange(COUNT)), np.float64)
    except Exception:  # of any kind, because the function is not written for JAX
        rates = _called(lr, int(step))
    rates = np.maximum(rates, 0)
    if not (np.isfinite(rates).all() and rates[0] > 0):
        return None
    return lambda later: jnp.asarray(rates)[later - step]


def _called(lr: Any, step: int) -> np.ndarray:
    """Return the rates of the coming steps from one call for each."""
    rates = [float(lr(step))]
    for later in range(step + 1, step + COUNT):
        try:
            rates.append(float(lr(later)))
        except (IndexError, KeyError, ValueError):  # the schedule has ended
            break
    return np.pad(np.array(rates), (0, COUNT - len(rates)), mode="edge")
