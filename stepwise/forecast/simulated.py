"""Forecasts of any loss and any head: descent of the head on the features that there are.

A mode that is small grows as its head alone says, under any loss. The value at which it rests is
another matter: under most losses it rises while the backbone improves. If the head alone does not
bring the mode to the level, the answer is an extrapolation, with the reason.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stepwise import _check, methods
from stepwise.forecast import course, simulation
from stepwise.forecast.answer import Forecast
from stepwise.forecast.extrapolation import extrapolated
from stepwise.forecast.modes import Modes
from stepwise.forecast.recursion import LARGEST_STRENGTH, factor
from stepwise.types import Numbers, Real, Whole

MEMBERS = 4
"""Number of runs on different batches."""
LEAST, MOST = 128, 1024
"""Number of steps that are simulated: as many as training has taken, between these."""
GROWS = 0.5
"""Least growth of ln λ over the second half of the simulation of a mode that does not rest yet."""
SAMPLES = 32
"""Number of measurements of C."""


def require_plain(name: str, o: methods.Objective) -> None:
    """Raise unless the loss of a method is a function of two embeddings alone.

    Args:
        name: of the method, for the message.
        o: its objective, or that of a run.

    Raises:
        ValueError: if it has a predictor, a target network, a state, trained parameters, or more
            than two views, which a snapshot does not hold.
    """
    plain = not o.predictor and o.decay is None and o.state is None and o.parameters is None
    fits = plain and o.views == 2
    expected = "one whose loss depends on the embeddings of two views alone"
    _check.require(fits, "method", expected, f"{name!r}, which has more state")


def from_features(
    row: methods.Method,
    modes: Modes,
    head: Numbers,
    bias: Numbers | None,
    sensitivity: Real | Callable[[np.ndarray, np.ndarray], float],
    **options: Any,
) -> Forecast:
    """Forecast the next mode of a linear head, whose features strengthen along it.

    Args:
        row: the method.
        modes: of the features.
        head, bias: weights [d, f] and bias [d] of the last layer.
        sensitivity: of the backbone, or a function of the direction and the learned rows.
        options: the further arguments of `forecast`.
    """
    H, n = np.asarray(head, np.float64), len(modes.pair[0])
    here = modes.moments(np.full(n, 1 / n))
    along = modes.basis @ (here.deflated @ modes.rows[0])
    along = along / max(float(np.linalg.norm(along)), 1e-300)
    if callable(sensitivity):
        sensitivity = sensitivity(along, modes.learned_rows)
        course.require_sensitivity(sensitivity)
    f, p = modes.basis.shape
    Q = np.linalg.qr(np.concatenate([modes.basis, np.eye(f)], axis=1))[0]
    Q[:, :p] = modes.basis  # of which the factorisation may change signs
    params = {
        "rows": H @ Q,
        "strength": np.ones(f),
        "bias": np.zeros(len(H)) if bias is None else np.asarray(bias, np.float64),
        "mean": modes.mean @ Q,
    }
    strength = np.where(np.arange(f) < p, float(sensitivity), 0.0)
    factors = {"rows": 1.0, "strength": strength, "bias": 1.0, "mean": 0.0}
    moving = simulation.Head(_offset, params, jax.tree.map(np.zeros_like, params), factors)
    first, second = (view @ Q for view in modes.pair)
    probe, probe2 = (view @ Q for view in modes.probe)
    slope = _gradient(moving, row, (first, second))["rows"]
    turn = modes.rotation[:, modes.learned]
    size = float(np.sum((turn @ H) ** 2))
    growth = -float((turn @ slope) @ (turn @ params["rows"])) / size if size > 0 else 0.0
    said = forecast(
        moving,
        row,
        (first, second),
        (probe, probe2),
        learned=modes.learned,
        growth=growth,
        **options,
    )
    said = replace(said, amplitude=float(modes.on_probe[modes.learned]))
    if not said.coming:
        return said
    scores = (modes.pair[0] + modes.pair[1]) @ along
    return replace(said, direction=scores / np.linalg.norm(scores), weights=along)


def _offset(params: Any, features: Array) -> Array:
    strength = jnp.clip(params["strength"], 1 / LARGEST_STRENGTH, LARGEST_STRENGTH)
    return (features * strength[None] + params["mean"][None]) @ params["rows"].T + params["bias"][
        None
    ]


def forecast(
    head: simulation.Head,
    row: methods.Method,
    pairs: tuple[Numbers, Numbers],
    probe: tuple[Numbers, Numbers],
    *,
    step: Whole,
    rates: Numbers,
    momentum: Real,
    batch_size: Whole | None,
    learned: Whole,
    level: Real,
    past: tuple[Numbers, Numbers],
    growth: Real | None = None,
    seed: Whole = 0,
) -> Forecast:
    """Forecast when the next eigenvalue of C crosses a level, from descent of the head.

    Args:
        head: the head. Its momentum is replaced by gradient/(z − β), that of steady growth by the
            factor z in each step.
        row: the method.
        pairs: what the head expects of both views [n, p]; batches are drawn from it.
        probe: the same of the images on which C is measured.
        step: training step.
        rates: learning rates of the coming steps.
        momentum: β of SGD.
        batch_size: pairs in a batch; None for full batches.
        learned: number of modes learned.
        level: eigenvalue of C at which the next one counts as learned.
        past: steps and values of that eigenvalue until now.
        growth: rate of the next mode's amplitude per unit of lr · step, from which z follows; by
            default z is that of the last samples in `past`.
        seed: of the batches.

    Returns:
        The forecast, without a direction. If the level is not reached, it is an extrapolation.
    """
    horizon = 2 ** int(np.ceil(np.log2(np.clip(int(step), LEAST, MOST))))
    every, beta = horizon // SAMPLES, float(momentum)
    z = _factor(past) if growth is None else float(factor(max(growth * rates[0], 0.0), beta))
    velocity = jax.tree.map(
        lambda v, f: np.asarray(v) * f / (z - beta), _gradient(head, row, pairs), head.factors
    )
    curves = simulation.curves(
        head._replace(velocity=velocity),
        row.objective.loss,
        pairs,
        probe,
        rates=np.asarray(rates)[:horizon],
        momentum=beta,
        batch=course.drawn(batch_size, len(pairs[0])),
        mode=int(learned),
        every=every,
        until=np.inf,
        seed=int(seed),
        members=MEMBERS,
    )
    line = extrapolated(past, learned, level, "extrapolated")
    if line.coming:
        line = replace(line, step=max(float(line.step), float(step)))
    finite = curves[np.isfinite(curves).all(axis=1)]
    if not len(finite):
        return _because(line, "the head alone diverges", line.step)
    finite = finite[(finite > 0).all(axis=1)]
    if not len(finite):
        return _because(line, "the next eigenvalue does not stay positive", line.step)
    mean = np.exp(np.log(finite).mean(axis=0))
    steps = every * np.arange(len(mean))
    path = np.stack([step + steps, mean])
    crossings = np.array([_crossing(steps, curve, float(level)) for curve in finite])
    if not np.isfinite(np.median(crossings)):
        crossings = np.array([_continued(steps, curve, float(level)) for curve in finite])
    remaining = float(np.median(crossings))
    if not np.isfinite(remaining):
        rest = float(np.median(mean[len(mean) // 2 :]))
        why = f"on the present features this eigenvalue rests at {rest:.2g}, below {level:.2g}"
        return _because(line, why, line.step, path)
    remaining = max(remaining, 0.5)
    spread = np.log(np.maximum(crossings[np.isfinite(crossings)], 0.5) / remaining).std()
    width = course.NORMAL_80 * float(np.hypot(course.DRIFT, spread))
    rate = float(np.log(mean[1] / mean[0]) / every)
    low, high = (step + remaining * float(np.exp(sign * width)) for sign in (-1, 1))
    return Forecast(
        int(learned),
        float(past[1][-1]),
        rate if rate > 0 else float("nan"),
        step + remaining,
        low,
        high,
        None,
        None,
        "",
        line.step if line.coming else float("inf"),
        path,
    )


def _because(line: Forecast, why: str, step: Real, path: Any = None) -> Forecast:
    reason = f"extrapolated, because {why}" if line.coming else why
    return replace(line, reason=reason, extrapolated=step, path=path)


def _continued(steps: np.ndarray, curve: np.ndarray, level: float) -> float:
    """Return when a curve that still grows at its end crosses a level, or infinity.

    ln λ continues along the line of its second half, if it has grown by `GROWS` there.
    """
    half = len(curve) // 2
    grown = float(np.log(curve[-1] / curve[half]))
    if grown < GROWS or curve[-1] >= level:
        return _crossing(steps, curve, level)
    slope = grown / float(steps[-1] - steps[half])
    return float(steps[-1] + np.log(level / curve[-1]) / slope)


def _factor(past: tuple[Numbers, Numbers]) -> float:
    """Return the factor by which an amplitude grew in one step between the last two samples."""
    steps, values = (np.asarray(part, np.float64)[-2:] for part in past)
    if len(steps) < 2 or not (values > 0).all():
        return 1.0
    return max(float(np.exp(np.log(values[1] / values[0]) / (2 * (steps[1] - steps[0])))), 1.0)


def _gradient(head: simulation.Head, row: methods.Method, pairs: Any) -> Any:
    """Return the gradient of the loss over all pairs at once."""
    both = np.stack(pairs, axis=1).reshape(-1, np.shape(pairs[0])[1]).astype(np.float32)

    def value(params: Any) -> Array:
        z = head.forward(params, jnp.asarray(both))
        return row.objective.loss(z[0::2], z[1::2])

    return jax.grad(value)(jax.tree.map(jnp.float32, head.params))


def _crossing(steps: np.ndarray, curve: np.ndarray, level: float) -> float:
    """Return when a curve first rises through a level, interpolated in its logarithm."""
    above = np.flatnonzero(curve >= level)
    if not above.size:
        return float("inf")
    j = int(above[0])
    if j == 0:
        return 0.0
    return float(np.interp(np.log(level), np.log(curve[j - 1 : j + 1]), steps[j - 1 : j + 1]))
