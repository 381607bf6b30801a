"""The forecast of one snapshot: when the next mode of a network is learned."""

import numbers
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from stepwise import _check, laws, methods
from stepwise._threads import one_blas_thread
from stepwise.forecast import course, rates, recursion, simulated, tangent
from stepwise.forecast.answer import Forecast, none_coming
from stepwise.forecast.extrapolation import extrapolate
from stepwise.forecast.modes import Modes, split
from stepwise.forecast.recursion import HORIZON, LEVEL, Descent, Moments
from stepwise.types import Numbers, Real, Whole

RESAMPLES = 16
"""Number of times that the pairs are resampled for the interval."""


@one_blas_thread()
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
    kernel: Numbers | None = None,
    level: Numbers = LEVEL,
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

    Other losses have no such recursion. There the head alone descends the method's own loss on
    random batches of these features (`forecast.simulated`). That foresees the growth of a small
    eigenvalue, and less well its rest, which rises while the features improve. If the level is not
    reached on these features, the answer is an extrapolation and says so.

    The interval is that of a normal distribution of ln(remaining steps). Its variance is the sum of
    that over resampled pairs, that over random batches, and `course.DRIFT`², or more for a mode
    that has taken off and hovers (`course.HOVER`).

    Args:
        features1, features2: features of both views before the last linear layer [n, f], row i of
            both of one image, normalised as in training. Use more pairs than features if you can.
        head: weights of the last layer [d, f]; the embedding is z = φ headᵀ + bias.
        step: training step of the snapshot.
        lr: learning rate, or a schedule: a function of the step.
        momentum: of SGD. Other optimisers have no forecast.
        batch_size: pairs in a batch; None for full batches.
        method: a name in `methods.METHODS`; by default Barlow Twins in the theory's form. A method
            with a predictor, a target network or a state of its loss has no forecast.
        bias: of the last layer [d]. It has no effect under a loss that centres the embedding.
        velocity: the optimiser's momentum buffer of the head [d, f], in the convention of optax and
            PyTorch (V ← momentum · V + gradient); by default that of steady growth.
        sensitivity: of the backbone (`forecast.sensitivity`), or a function that computes it from
            the direction of the next mode [f] and the learned rows of the head [k, f].
        probe: features of both views of the images on which the crossing is measured, if these are
            others. They decide how many modes are learned.
        history: (steps [T], amplitudes [T]): the next eigenvalue so far, for the extrapolation.
        kernel: the tangent kernel of the whole network, in one direction of the embedding that is
            not learned [2n, 2n], the first views and then the second. It takes the place of that of
            the head alone, φ φᵀ. With few pairs its forecasts are early, because it memorises them.
        level: eigenvalue of C from which a mode counts as learned, one for all or one each [d].
            It is 1/2 for Barlow Twins in the theory's form.
        seed: of the resampled pairs and of the batches.

    Returns:
        The forecast.

    Raises:
        ValueError: if a shape does not fit, a number is out of range or not finite, or there is no
            forecast for the method.
    """
    row, by_theory = methods.find(method), has_theory(method)
    simulated.require_plain(row.name, row.objective)
    _check.whole("step", step, 0)
    _check.whole("seed", seed, 0)
    fits = np.ndim(momentum) == 0 and isinstance(momentum, numbers.Real)
    fits = fits and 0 <= float(momentum) < 1
    _check.require(fits, "momentum", "a number in 0 ≤ x < 1", momentum)
    if not callable(sensitivity):
        course.require_sensitivity(sensitivity)
    if batch_size is not None:
        _check.whole("batch_size", batch_size, 2)
    if kernel is not None:
        features1, features2, head = _of_kernel(kernel, features1, features2, head)
        others = {"probe": probe, "velocity": velocity}
        given = [name for name, value in others.items() if value is not None]
        _check.require(not given, "kernel", f"no {' or '.join(others)}", " and ".join(given))
    if probe is not None:
        fits = isinstance(probe, tuple | list) and len(probe) == 2
        _check.require(fits, "probe", "the features of both views", type(probe).__name__)
    count = np.shape(head)[0] if np.ndim(head) == 2 else 0
    if bias is not None:
        bias = np.asarray(_check.real_array("bias", bias, ndim=1), np.float64)
        _check.require(
            len(bias) == count, "bias", f"shape [{count}], as many as head has rows", bias
        )
    levels = _level(level, by_theory, count)
    modes = split(features1, features2, head, probe, levels)
    past = _history(history, step)
    extrapolated = np.nan if past is None else extrapolate(*past)

    def none(reason: str) -> Forecast:
        values, k = modes.on_probe, modes.learned
        amplitude = float(values[k]) if k < len(values) else np.nan
        return none_coming(k, reason, amplitude, extrapolated)

    if modes.learned == len(modes.eigenvalues):
        return none(f"all {modes.learned} dimensions are learned")
    if not modes.rows.any():
        return none("the head has no component along a mode that grows")
    if not by_theory:
        for name, value in (("kernel", kernel), ("velocity", velocity)):
            _check.require(value is None, name, f"None for {row.name}", "an array")
        now = float(modes.on_probe[modes.learned])
        return simulated.from_features(
            row,
            modes,
            head,
            bias,
            sensitivity,
            step=step,
            rates=rates.coming(lr, int(step)),
            momentum=momentum,
            batch_size=batch_size,
            level=float(np.broadcast_to(levels, modes.on_probe.shape)[modes.learned]),
            past=past or (np.array([step]), np.array([now])),
            seed=seed,
        )
    with jax.enable_x64(True):
        batch = np.inf if batch_size is None else float(batch_size)
        schedule = rates.coming(lr, int(step))
        optimiser = Descent(schedule, float(momentum), batch, 0.0)
        n = len(modes.pair[0])
        here = modes.moments(np.full(n, 1 / n))
        gamma = float(np.linalg.eigvalsh(recursion.growth_operator(here, batch))[-1])
        reason = _refusal(here, gamma)
        if reason:
            return none(reason)
        z = float(recursion.factor(4 * optimiser.rates[0] * gamma, optimiser.momentum))
        start = course.Start(modes, _rows_of(velocity, modes, head), z)
        if callable(sensitivity):
            along = course.direction(modes, here, course.take_off(start, here, optimiser))
            sensitivity = sensitivity(along, modes.learned_rows)
            course.require_sensitivity(sensitivity)
        optimiser = optimiser._replace(sensitivity=float(sensitivity))
        taken = course.take_off(start, here, optimiser)
        if not np.isfinite(taken.steps):
            return none(f"none within the next {HORIZON:,} steps")
        if course.slows(start, taken, optimiser):
            return none("the learning rate falls before the next mode is learned")
        draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLES)
        resampled = course.take_off_steps(start, modes.moments(draws / n), optimiser)
    members = course.simulate(row, start, taken, optimiser, batch_size, step=step, seed=seed)
    if np.isnan(members).any():
        return none("descent of the head diverges at this learning rate")
    if not np.isfinite(np.median(members)):
        return none("it takes off, but the noise of the batches undoes it")
    hovers = course.hovers(taken, members)
    factor, drift = (course.HOVER, course.HOVER_DRIFT) if hovers else (1.0, course.DRIFT)
    remaining = max(factor * float(taken.steps + np.median(members)), 0.5)
    width = course.NORMAL_80 * course.spread(taken, resampled, members, drift)
    along = course.direction(modes, here, taken)
    scores = (modes.pair[0] + modes.pair[1]) @ along
    amplitude = float(modes.on_probe[modes.learned])
    path = course.path(taken, amplitude, remaining)
    return Forecast(
        modes.learned,
        amplitude,
        2 * float(np.log(z)),
        step + remaining,
        step + remaining * float(np.exp(-width)),
        step + remaining * float(np.exp(width)),
        scores / np.linalg.norm(scores),
        None if kernel is not None else along,
        "",
        extrapolated,
        path + np.array([[step], [0]]),
    )


def has_theory(method: str) -> bool:
    """Return whether the loss of a method has the flow that the recursion follows."""
    return methods.find(method).law == laws.DEFAULT


def _level(level: Numbers, by_theory: bool, count: int) -> np.ndarray:
    values = np.asarray(_check.real_array("level", level, ndim=(0, 1)), np.float64)
    fits = values.ndim == 0 or len(values) == count
    _check.require(fits, "level", f"one number, or one for each of {count} rows of head", values)
    _check.require((values > 0).all(), "level", "positive numbers", values)
    fits = not by_theory or bool((values == LEVEL).all())
    _check.require(fits, "level", "1/2, which the theory's form of Barlow Twins is about", values)
    return values


def _of_kernel(
    kernel: Numbers, features1: Numbers, features2: Numbers, head: Numbers
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features and a head that stand for a kernel at the embeddings of these features."""
    views = (
        np.asarray(_check.real_array(name, values, ndim=2), np.float64)
        for name, values in (("features1", features1), ("features2", features2))
    )
    rows = np.asarray(_check.real_array("head", head, ndim=2), np.float64)
    a, b = views
    fits = a.shape == b.shape and a.shape[1] == rows.shape[1]
    expected = f"features [n, f] of both views and a head [d, f], beside head {list(rows.shape)}"
    _check.require(fits, "features1", expected, f"{list(a.shape)} and {list(b.shape)}")
    return tangent.factorise(kernel, np.concatenate([a, b]) @ rows.T)


def _history(history: Any, step: Whole) -> tuple[np.ndarray, np.ndarray] | None:
    if history is None:
        return None
    fits = isinstance(history, tuple | list) and len(history) == 2
    _check.require(fits, "history", "(steps [T], amplitudes [T])", type(history).__name__)
    steps, values = (np.asarray(_check.as_array("history", part), np.float64) for part in history)
    fits = steps.ndim == 1 and steps.shape == values.shape and steps.size > 0
    _check.require(fits, "history", "(steps [T], amplitudes [T])", f"{steps.shape}, {values.shape}")
    increasing = bool((np.diff(steps) > 0).all() and np.isfinite(values).all())
    _check.require(increasing, "history", "increasing steps and finite amplitudes", "others")
    expected = f"steps up to {step}, the step of the snapshot"
    _check.require(steps[-1] <= step, "history", expected, f"{steps[-1]:g}")
    return steps, values


def _refusal(moments: Moments, gamma: float) -> str:
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
    return ""


def _rows_of(velocity: Numbers | None, modes: Modes, head: Numbers) -> np.ndarray | None:
    """Return the momentum of the rows that are followed, on the basis."""
    if velocity is None:
        return None
    V = np.asarray(_check.real_array("velocity", velocity, ndim=2), np.float64)
    _check.require(V.shape == np.shape(head), "velocity", f"{list(np.shape(head))} as head", V)
    count = len(modes.rows)
    return (modes.rotation.T @ V)[modes.learned : modes.learned + count] @ modes.basis


__all__ = ["LEVEL", "Forecast", "next_step"]
