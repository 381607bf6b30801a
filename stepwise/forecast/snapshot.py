"""The forecast of one snapshot: when the next mode of a network is learned."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from stepwise import _check, laws, methods
from stepwise.forecast import recursion, simulation
from stepwise.forecast.extrapolation import extrapolate
from stepwise.forecast.modes import Modes, split
from stepwise.forecast.recursion import HORIZON, LEVEL, Descent, Moments, Taken
from stepwise.types import Numbers, Real, Whole

RESAMPLES = 16
"""Number of times that the pairs are resampled for the interval."""
DRIFT = 0.25
"""Standard deviation of ln(remaining steps) from features that change in other ways than the
recursion knows. It was chosen so that 80% intervals cover about that many steps of real runs.
"""
PER_SAMPLE = 16
"""C is measured at least this many times in as many steps as training has taken, like the curves of
a run. Noise crosses 1/2 the sooner the more often it is measured.
"""
PAD = 8
"""Rows and directions are padded with zeros to multiples of this, so that few programs compile."""
NORMAL_80 = 1.2816
"""An interval of ± this many standard deviations covers 80% of a normal distribution."""


@dataclass(frozen=True)
class Forecast:
    """What a snapshot says of the next mode.

    Attributes:
        learned: number of modes learned, with an eigenvalue of C of at least 1/2.
        amplitude: the next eigenvalue of C, NaN if all d modes are learned.
        rate: growth rate d ln λ of that eigenvalue per training step, under the optimiser, at this
            batch size, and beside the learned modes. NaN if it does not grow.
        step: training step at which it crosses 1/2; infinite if none is coming.
        low, high: 80% interval of `step`.
        direction: score of each image along the next mode [n], the mean of both views, with mean 0
            and norm 1; None if none is coming.
        weights: the same direction in the features [f], so that scores are features @ weights.
        reason: why none is coming, or why the step is an extrapolation; empty otherwise.
        extrapolated: step at which the curve so far, continued in ln λ, crosses 1/2; NaN without a
            history.
    """

    learned: int
    amplitude: Real
    rate: Real
    step: Real
    low: Real
    high: Real
    direction: Float[np.ndarray, " n"] | None
    weights: Float[np.ndarray, " f"] | None
    reason: str = ""
    extrapolated: Real = float("nan")

    @property
    def coming(self) -> bool:
        """Whether a next mode is coming."""
        return bool(np.isfinite(self.step))

    def __str__(self) -> str:
        """Say the forecast in one line."""
        known = f"{self.learned} mode{'' if self.learned == 1 else 's'} learned"
        if not self.coming:
            return f"{known}; none is coming: {self.reason}"
        when = f"step {self.step:,.0f} (80%: {self.low:,.0f} to {self.high:,.0f})"
        reason = f"; {self.reason}" if self.reason else ""
        return f"{known}; the next one is expected at {when}{reason}"


def next_step(
    features1: Numbers,
    features2: Numbers,
    head: Numbers,
    *,
    step: Whole,
    lr: Real | Callable[[Any], Any],
    momentum: Real = 0.0,
    batch_size: Whole | None = None,
    method: str = "",
    bias: Numbers | None = None,
    velocity: Numbers | None = None,
    sensitivity: Real | Callable[[np.ndarray, np.ndarray], float] = 0.0,
    probe: tuple[Numbers, Numbers] | None = None,
    history: tuple[Numbers, Numbers] | None = None,
    seed: Whole = 0,
) -> Forecast:
    r"""Forecast the step at which a network learns its next mode, from one snapshot of it.

    From a small start the head's weights are near zero along every direction of the embedding that
    is not learned yet. There the network moves by its head alone, a linear model of the features,
    whose next mode grows at the rate 8 λ_max(D) per unit of lr · step, with D as in
    `forecast.recursion`. The optimiser's own recursion is run from the snapshot on, for the mean
    loss of a batch of this size, until the next eigenvalue of C is 0.1. From there all rows descend
    on random batches until it crosses 1/2 (`forecast.simulation`).

    The features also change, because the backbone strengthens a mode while its row grows. Pass
    `sensitivity` to include that; without it, forecasts shortly before a step are late.

    The interval is that of a normal distribution of ln(remaining steps). Its variance is the sum of
    that over resampled pairs, that over random batches, and `DRIFT`².

    Args:
        features1, features2: features of both views before the last linear layer [n, f], row i of
            both of one image, normalised as in training. Use more pairs than features if you can.
        head: weights of the last layer [d, f]; the embedding is z = φ headᵀ + bias.
        step: training step of the snapshot.
        lr: learning rate, or a schedule: a function of the step.
        momentum: of SGD. Other optimisers have no forecast.
        batch_size: pairs in a batch; None for full batches.
        method: a name in `methods.METHODS`, whose law must be that of Barlow Twins in the theory's
            form; by default that method.
        bias: of the last layer. The loss centres the embedding, so it has no effect.
        velocity: the optimiser's momentum buffer of the head [d, f], in the convention of optax and
            PyTorch (V ← momentum · V + gradient); by default that of steady growth.
        sensitivity: of the backbone (`forecast.sensitivity`), or a function that computes it from
            the direction of the next mode [f] and the learned rows of the head [k, f].
        probe: features of both views of the images on which the crossing is measured, if these are
            others. They decide how many modes are learned.
        history: (steps [T], amplitudes [T]): the next eigenvalue so far, for the extrapolation.
        seed: of the resampled pairs.

    Returns:
        The forecast.

    Raises:
        ValueError: if a shape does not fit, a number is out of range or not finite, or the method
            has another law.
    """
    row = require_law(method)
    _check.whole("step", step, 0)
    _check.require(0 <= momentum < 1, "momentum", "a number in 0 ≤ x < 1", momentum)
    if not callable(sensitivity):
        _require_sensitivity(sensitivity)
    if batch_size is not None:
        _check.whole("batch_size", batch_size, 2)
    modes = split(features1, features2, head, probe)
    past = _history(history)
    extrapolated = np.nan if past is None else extrapolate(*past)
    if modes.learned == len(modes.eigenvalues):
        return _none(modes, f"all {modes.learned} dimensions are learned", extrapolated)
    with jax.enable_x64(True):
        batch = np.inf if batch_size is None else float(batch_size)
        optimiser = Descent(_rates(lr, int(step)), float(momentum), batch, 0.0)
        n = len(modes.pair[0])
        draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLES)
        moments = modes.moments(np.concatenate([np.ones((1, n)), draws]) / n)
        here = Moments(*(np.asarray(part)[0] for part in moments))
        gamma = float(np.linalg.eigvalsh(recursion.growth_operator(here, batch))[-1])
        reason = _refusal(here, gamma, modes)
        if reason:
            return _none(modes, reason, extrapolated)
        z = float(recursion.factor(4 * optimiser.rates[0] * gamma, optimiser.momentum))
        V = None if velocity is None else _rows_of(velocity, modes, head)
        if callable(sensitivity):
            first = jax.tree.map(lambda part: np.asarray(part)[None], here)
            direction = _direction(modes, here, _take_off(modes, first, optimiser, z, V)[1])
            sensitivity = sensitivity(direction, modes.learned_rows)
            _require_sensitivity(sensitivity)
        optimiser = optimiser._replace(sensitivity=float(sensitivity))
        steps, taken = _take_off(modes, moments, optimiser, z, V)
    if not np.isfinite(steps[0]):
        return _none(modes, f"none within {HORIZON:,} steps", extrapolated)
    # a power of two, so that few programs compile
    every = 2 ** int(np.log2(max(1.0, (step + steps[0]) / PER_SAMPLE)))
    members = _simulate(row, modes, taken, optimiser, batch_size, every, seed)
    if not np.isfinite(np.median(members)):
        return _none(modes, "it takes off, but the noise of the batches undoes it", extrapolated)
    remaining = max(float(steps[0] + np.median(members)), 0.5)
    spread = _spread(steps, members, DRIFT)
    low, high = (remaining * float(np.exp(sign * NORMAL_80 * spread)) for sign in (-1, 1))
    along = _direction(modes, here, taken)
    scores = (modes.pair[0] + modes.pair[1]) @ along
    return Forecast(
        modes.learned,
        float(modes.on_probe[modes.learned]),
        2 * float(np.log(z)),
        step + remaining,
        step + low,
        step + high,
        scores / np.linalg.norm(scores),
        along,
        "",
        extrapolated,
    )


def _require_sensitivity(value: Any) -> None:
    fits = np.isfinite(value) and value >= 0
    _check.require(fits, "sensitivity", "a number of at least 0", value)


def _direction(modes: Modes, moments: Moments, taken: Taken) -> np.ndarray:
    """Return the unit direction in the features [f] of the largest row when it takes off."""
    end = np.asarray(taken.rows) * np.asarray(taken.strength)
    vectors = np.linalg.eigh(end @ moments.deflated @ end.T)[1]
    along = modes.basis @ (end.T @ vectors[:, -1])
    return along / np.linalg.norm(along)


def _take_off(
    modes: Modes, moments: Moments, optimiser: Descent, z: float, velocity: np.ndarray | None
) -> tuple[np.ndarray, Taken]:
    """Return the steps to the take-off for each set of pairs, and where the first set ends."""
    rows = modes.rows

    def run(part: Moments, optimiser: Descent) -> Taken:
        slope = jax.grad(recursion.batch_loss)(rows, part, optimiser.batch)
        start = slope / (z - optimiser.momentum) if velocity is None else velocity
        return recursion.takeoff(rows, start, part, optimiser)

    every = jax.vmap(run, in_axes=(0, None))(moments, optimiser)
    return np.asarray(every.steps), jax.tree.map(lambda leaf: np.asarray(leaf[0]), every)


def _simulate(
    row: methods.Method,
    modes: Modes,
    taken: Taken,
    optimiser: Descent,
    batch_size: Whole | None,
    every: int,
    seed: Whole,
) -> np.ndarray:
    """Return the steps from the take-off to 1/2 of each member."""
    p, u = modes.basis.shape[1], np.asarray(taken.strength)
    outside = modes.learned_rows.T - modes.basis @ (modes.basis.T @ modes.learned_rows.T)
    others = np.linalg.qr(outside)[0][:, : modes.basis.shape[0] - p]
    size, rows = p + others.shape[1], modes.learned + len(taken.rows)
    wide, tall = (-(-count // PAD) * PAD for count in (size, rows))

    def pairs(views: tuple[np.ndarray, np.ndarray]) -> simulation.Pairs:
        parts = (np.concatenate([view @ modes.basis * u, view @ others], 1) for view in views)
        return simulation.Pairs(*(np.pad(part, ((0, 0), (0, wide - size))) for part in parts))

    learned = np.concatenate([modes.learned_rows @ modes.basis / u, modes.learned_rows @ others], 1)
    head = np.zeros((tall, wide))
    head[: modes.learned, :size] = learned
    head[modes.learned : rows, :p] = taken.rows
    velocity = np.zeros((tall, wide))
    velocity[modes.learned : rows, :p] = taken.velocity
    here = taken.steps == 0
    sensitivity = np.where(np.arange(wide) < p, optimiser.sensitivity, 0.0)
    return simulation.crossings(
        row.objective.loss,
        pairs(modes.pair),
        pairs(modes.probe if here else modes.pair),
        simulation.Head(head, velocity),
        sensitivity,
        rates=optimiser.rates[int(taken.steps) :],
        momentum=float(optimiser.momentum),
        batch=len(modes.pair[0]) if batch_size is None else int(batch_size),
        learned=modes.learned,
        every=every,
        level=LEVEL if here else simulation.EARLY,
        seed=int(seed),
    )


def require_law(method: str) -> methods.Method:
    """Return the method, or raise unless its loss has the flow that the recursion follows."""
    row = methods.find(method)
    known = [name for name, each in methods.METHODS.items() if each.law == laws.DEFAULT]
    fits = row.law == laws.DEFAULT
    _check.require(fits, "method", f"one of {', '.join(known)}", repr(row.name))
    return row


def _rates(lr: Any, step: int) -> np.ndarray:
    """Return the learning rates of the steps up to a take-off, and of the simulation after it."""
    count = HORIZON + simulation.STEPS
    if not callable(lr):
        fits = np.isfinite(lr) and lr > 0
        _check.require(fits, "lr", "a positive number, or a function of the step", lr)
        return np.full(count, float(lr))
    rates = np.asarray(jax.vmap(lr)(step + np.arange(count)), np.float64)
    fits = bool(np.isfinite(rates).all() and (rates >= 0).all() and rates[0] > 0)
    _check.require(fits, "lr", "a schedule of positive learning rates", f"{rates[:3]}")
    return rates


def _history(history: Any) -> tuple[np.ndarray, np.ndarray] | None:
    if history is None:
        return None
    steps, values = (np.asarray(part, np.float64) for part in history)
    fits = steps.ndim == 1 and steps.shape == values.shape and steps.size > 0
    _check.require(fits, "history", "(steps [T], amplitudes [T])", f"{steps.shape}, {values.shape}")
    increasing = bool((np.diff(steps) > 0).all() and np.isfinite(values).all())
    _check.require(increasing, "history", "increasing steps and finite amplitudes", "others")
    return steps, values


def _refusal(moments: Moments, gamma: float, modes: Modes) -> str:
    """Say why no mode is coming, or return an empty text."""
    top = float(np.linalg.eigvalsh(moments.deflated)[-1])
    largest = float(np.linalg.eigvalsh(moments.cross)[-1])
    if top <= 1e-10 * max(largest, 0) or top <= 0:
        return "the features hold no further mode that these views agree on"
    if gamma <= 0:
        return (
            "at this batch size the noise of the batches outweighs every further mode; use larger "
            "batches"
        )
    if not (modes.eigenvalues[modes.learned] > 0):
        return "the head has no component along a mode that grows"
    return ""


def _rows_of(velocity: Numbers, modes: Modes, head: Numbers) -> np.ndarray:
    """Return the momentum of the rows that are followed, on the basis."""
    V = np.asarray(_check.real_array("velocity", velocity, ndim=2), np.float64)
    _check.require(V.shape == np.shape(head), "velocity", f"{list(np.shape(head))} as head", V)
    count = len(modes.rows)
    return (modes.rotation.T @ V)[modes.learned : modes.learned + count] @ modes.basis


def _spread(steps: np.ndarray, members: np.ndarray, drift: float) -> float:
    """Return the standard deviation of ln(remaining steps)."""
    total = float(steps[0] + np.median(members))
    parts = [drift]
    for values in (steps[1:] + np.median(members), steps[0] + members):
        finite = np.maximum(values[np.isfinite(values)], 0.5)
        parts.append(float(np.log(finite / max(total, 0.5)).std()) if len(finite) > 1 else 1.0)
    return float(np.linalg.norm(parts))


def _none(modes: Modes, reason: str, extrapolated: float) -> Forecast:
    values, k = modes.on_probe, modes.learned
    amplitude = float(values[k]) if k < len(values) else np.nan
    inf = float("inf")
    return Forecast(k, amplitude, np.nan, inf, inf, inf, None, None, reason, extrapolated)


__all__ = ["LEVEL", "Forecast", "next_step"]
