"""Forecasts without features, and learning rates of any program, for a monitor."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stepwise.forecast.extrapolation import extrapolate
from stepwise.forecast.recursion import HORIZON
from stepwise.forecast.snapshot import Forecast


def tabulate(lr: Any, step: int) -> Any:
    """Return a learning rate for `next_step`, a schedule as a table from this step on.

    A schedule in plain Python cannot be traced by JAX, and may end before `HORIZON` steps; its last
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
            rates = np.asarray(jax.vmap(lr)(step + np.arange(HORIZON)), np.float64)
    except Exception:  # of any kind, because the function is not written for JAX
        rates = _called(lr, step)
    rates = np.maximum(rates, 0)
    if not (np.isfinite(rates).all() and rates[0] > 0):
        return None
    return lambda later: jnp.asarray(rates)[later - step]


def extrapolated(
    past: tuple[np.ndarray, np.ndarray], learned: int, level: float, reason: str
) -> Forecast:
    """Return where ln λ of the next mode, continued along a line, crosses the level.

    Args:
        past: steps [T] and amplitudes [T] of that mode so far.
        learned: number of modes learned.
        level: the crossing.
        reason: why there is no other forecast.

    Returns:
        A forecast without an interval and a direction.
    """
    steps, amplitudes = past
    at, now = extrapolate(steps, amplitudes, level), float(amplitudes[-1])
    if not np.isfinite(at):
        few = len(steps) < 2
        why = "one sample is too few for a line" if few else "the next eigenvalue does not grow"
        return no_forecast(learned, f"{why} ({reason})", now)
    rate = 1 / (at - extrapolate(steps, amplitudes, level / np.e))
    nan, when = float("nan"), max(at, float(steps[-1]))
    return Forecast(learned, now, float(rate), when, nan, nan, None, None, reason, when)


def no_forecast(learned: int, reason: str, amplitude: float = float("nan")) -> Forecast:
    """Return a forecast that no mode is coming, with its reason."""
    inf, nan = float("inf"), float("nan")
    return Forecast(learned, amplitude, nan, inf, inf, inf, None, None, reason, nan)


def _called(lr: Any, step: int) -> np.ndarray:
    """Return the rates of the coming steps from one call for each."""
    rates = [float(lr(step))]
    for later in range(step + 1, step + HORIZON):
        try:
            rates.append(float(lr(later)))
        except (IndexError, KeyError, ValueError):  # the schedule has ended
            break
    return np.pad(np.array(rates), (0, HORIZON - len(rates)), mode="edge")
