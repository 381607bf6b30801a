"""The course of the next mode: from a snapshot to its take-off, and from there to 1/2."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from stepwise import _check, methods
from stepwise.forecast import recursion, simulation
from stepwise.forecast.modes import Modes
from stepwise.forecast.recursion import LEVEL, TAKEOFF, Descent, Moments, Taken
from stepwise.types import Real, Whole

DRIFT = 0.25
"""Standard deviation of ln(remaining steps) from features that change in other ways than the
recursion knows. It was chosen so that 80% intervals cover about that many steps of real runs.
"""
HOVER, HOVER_DRIFT = 2.0, 0.9
"""Factor on the remaining steps of a mode that has taken off and is not learned, and the standard
deviation in the place of `DRIFT`. Such a mode hovers: the noise of the batches decides whether it
crosses 1/2 or is lost again, and the simulation has no noise of the backbone. Alone it was too
early by a factor of 2.4 in the median of the twelve such forecasts of two runs.
"""
PER_SAMPLE = 16
"""C is measured at least this many times in as many steps as training has taken, like the curves of
a run. Noise crosses 1/2 the sooner the more often it is measured.
"""
COARSEST = 128
"""Largest number of steps between two measurements, which also limits the error of a crossing."""
NOISY = 0.05
"""Standard deviation of ln(steps) over the members from which the noise of the batches matters."""
AVERAGED = 8
"""Batches of at least this many times the number of pairs count as full."""
PAD = 8
"""Rows and directions are padded with zeros to multiples of this, so that few programs compile."""
NORMAL_80 = 1.2816
"""An interval of ± this many standard deviations covers 80% of a normal distribution."""
ENOUGH = 3
"""Steps of a simulation in units of the time that the mean flow takes."""
POINTS = 40
"""Number of points of a path on each side of the take-off."""


class Start(NamedTuple):
    """Where the rows that are not learned start, and how.

    Attributes:
        modes: of the features.
        rows_velocity: momentum of the rows on the basis, or None for that of steady growth.
        factor: by which an amplitude grows in one step, in steady growth.
    """

    modes: Modes
    rows_velocity: np.ndarray | None
    factor: float


def require_sensitivity(value: Any) -> None:
    """Raise unless a sensitivity is a number of at least 0."""
    number = np.asarray(value)
    fits = number.shape == () and number.dtype.kind in "fiu" and bool(np.isfinite(number))
    _check.require(fits and number >= 0, "sensitivity", "a number of at least 0", value)


def drawn(batch_size: Whole | None, n: Whole) -> int | None:
    """Return how many of n pairs a simulation draws for a batch; None for all of them."""
    if batch_size is None or batch_size >= AVERAGED * n:
        return None
    return int(batch_size)


def take_off(start: Start, moments: Moments, optimiser: Descent) -> Taken:
    """Return where the rows are at the take-off, with their path until then."""
    own = start.modes.rows, start.rows_velocity, start.factor
    return jax.tree.map(np.asarray, _take(*own, moments, optimiser))


def take_off_steps(start: Start, moments: Moments, optimiser: Descent) -> np.ndarray:
    """Return the steps to the take-off for each of several sets of pairs [m]."""
    own = start.modes.rows, start.rows_velocity, start.factor
    return np.asarray(_take_each(*own, moments, optimiser))


@jax.jit
def _take(rows: Any, velocity: Any, factor: Any, moments: Any, optimiser: Any) -> Taken:
    V = _velocity(rows, velocity, factor, moments, optimiser)
    return recursion.takeoff(rows, V, moments, optimiser, record=True)


@jax.jit
def _take_each(rows: Any, velocity: Any, factor: Any, moments: Any, optimiser: Any) -> Any:
    def steps(part: Moments) -> Any:
        V = _velocity(rows, velocity, factor, part, optimiser)
        return recursion.takeoff(rows, V, part, optimiser).steps

    return jax.vmap(steps)(moments)


def _velocity(rows: Any, velocity: Any, factor: Any, moments: Any, optimiser: Any) -> Any:
    if velocity is not None:
        return velocity
    slope = jax.grad(recursion.batch_loss)(rows, moments, optimiser.batch)
    return slope / (factor - optimiser.momentum)


def direction(modes: Modes, moments: Moments, taken: Taken) -> Float[np.ndarray, " f"]:
    """Return the unit direction in the features of the largest row when it takes off."""
    end = np.asarray(taken.rows) * np.asarray(taken.strength)
    vectors = np.linalg.eigh(end @ moments.deflated @ end.T)[1]
    along = modes.basis @ (end.T @ vectors[:, -1])
    return along / np.linalg.norm(along)


def simulate(
    row: methods.Method,
    start: Start,
    taken: Taken,
    optimiser: Descent,
    batch_size: Whole | None,
    *,
    step: Whole,
    seed: Whole,
) -> Float[np.ndarray, " members"]:
    """Return the steps from the take-off to 1/2 of each member of a simulation.

    They are infinite for a member that noise undoes, and NaN for one that diverges.

    Args:
        row: the method.
        start: where the rows started.
        taken: where the rows take off.
        optimiser: how they descend.
        batch_size: number of pairs in a batch; None for full batches.
        step: training step of the snapshot, which says how often C is measured.
        seed: of the batches.
    """
    steps = _steps(start, taken, optimiser)
    if steps > simulation.LONGEST:  # so slow that the noise of the batches averages out
        return np.full(simulation.MEMBERS, steps / ENOUGH)
    modes = start.modes
    p, u = modes.basis.shape[1], np.asarray(taken.strength)
    outside = modes.learned_rows.T - modes.basis @ (modes.basis.T @ modes.learned_rows.T)
    others = np.linalg.qr(outside)[0][:, : modes.basis.shape[0] - p]
    size, rows = p + others.shape[1], modes.learned + len(taken.rows)
    wide, tall = (-(-count // PAD) * PAD for count in (size, rows))

    def on_basis(views: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        parts = [np.concatenate([view @ modes.basis * u, view @ others], 1) for view in views]
        first, second = (np.pad(part, ((0, 0), (0, wide - size))) for part in parts)
        return first, second

    learned = np.concatenate([modes.learned_rows @ modes.basis / u, modes.learned_rows @ others], 1)
    head, velocity = np.zeros((2, tall, wide))
    head[: modes.learned, :size] = learned
    head[modes.learned : rows, :p] = taken.rows
    velocity[modes.learned : rows, :p] = taken.velocity
    here, sensitivity = taken.steps == 0, float(optimiser.sensitivity)
    # powers of two, so that few programs compile
    count = simulation.STEPS * 2 ** max(0, math.ceil(math.log2(steps / simulation.STEPS)))
    apart = (float(step) + float(taken.steps)) / PER_SAMPLE
    every = 2 ** int(np.log2(np.clip(apart, 1, COARSEST)))
    values = simulation.curves(
        simulation.Head(
            simulation.strengthened,
            {"rows": head, "strength": np.ones(wide)},
            {"rows": velocity, "strength": np.zeros(wide)},
            {"rows": 1.0, "strength": np.where(np.arange(wide) < p, sensitivity, 0.0)},
        ),
        row.objective.loss,
        on_basis(modes.pair),
        on_basis(modes.probe if here else modes.pair),
        rates=optimiser.rates[int(taken.steps) :][:count],
        momentum=float(optimiser.momentum),
        batch=drawn(batch_size, len(modes.pair[0])),
        mode=modes.learned,
        every=every,
        until=LEVEL,
        seed=int(seed),
    )
    return simulation.first_crossing(values, every, LEVEL if here else simulation.EARLY)


def slows(start: Start, taken: Taken, optimiser: Descent) -> bool:
    """Return whether the learning rate falls so far that a mode that takes off is not learned.

    The test is whether the mean flow of all coming steps is less than half of what it needs.
    """
    rates = optimiser.rates[int(taken.steps) :]
    flow = 2 * math.log(start.factor) * float(np.sum(rates)) / float(optimiser.rates[0])
    return flow < math.log(1 / TAKEOFF - 1) / 2


def hovers(taken: Taken, members: np.ndarray) -> bool:
    """Return whether a mode has taken off, and the noise of the batches says when it is learned."""
    finite = np.maximum(members[np.isfinite(members)], 0.5)
    return bool(taken.steps == 0 and len(finite) > 1 and np.log(finite).std() > NOISY)


def _steps(start: Start, taken: Taken, optimiser: Descent) -> float:
    """Return how long a simulation has to be: `ENOUGH` times the mean flow from TAKEOFF to 1/2."""
    later = optimiser.rates[int(taken.steps)] / optimiser.rates[0]
    rate = 2 * math.log(start.factor) * max(float(later), 1e-12)
    return ENOUGH * math.log(1 / TAKEOFF - 1) / max(rate, 1e-12)


def spread(taken: Taken, resampled: np.ndarray, members: np.ndarray, drift: float) -> float:
    """Return the standard deviation of ln(remaining steps).

    Its square is the sum of that over resampled pairs, that over random batches, and drift².
    """
    typical = float(np.median(members))
    total, parts = float(taken.steps) + typical, [drift]
    for values in (resampled + typical, float(taken.steps) + members):
        finite = np.maximum(values[np.isfinite(values)], 0.5)
        parts.append(float(np.log(finite / max(total, 0.5)).std()) if len(finite) > 1 else 1.0)
    return float(np.linalg.norm(parts))


def path(taken: Taken, amplitude: Real, remaining: Real) -> Float[np.ndarray, "2 T"]:
    """Return the next eigenvalue from now until it is learned: steps from now, and values.

    Up to the take-off it is that of the recursion, from there to 1/2 a logistic curve, as along
    gradient flow.

    Args:
        taken: the take-off, with its path.
        amplitude: the eigenvalue now on the probe; that of the recursion may differ.
        remaining: number of steps until it crosses 1/2.
    """
    count = int(taken.steps)
    early = np.unique(np.linspace(0, count, POINTS).round().astype(int))
    values = np.asarray(taken.path)[early]
    start = min(float(amplitude), 0.49)
    if values[0] > 0 and start > 0:
        values = values * (start / values[0]) ** (1 - early / max(count, 1))
    first = min(values[-1] if count else start, 0.49)
    if remaining <= count or first <= 0:
        return np.stack([[0.0, float(remaining)], [max(start, 1e-300), LEVEL]])
    slope = np.log(1 / first - 1) / (remaining - count)
    late = np.linspace(count, remaining, POINTS)[1:]
    curve = 1 / (1 + np.exp(-slope * (late - remaining)))
    keep = early < count if count else early < 1
    joined = np.concatenate([values[keep], [first] if count else [], curve])
    return np.stack([np.concatenate([early[keep], [count] if count else [], late]), joined])
