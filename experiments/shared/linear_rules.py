"""Update rules on the linear model: when ten modes are learned, and what speed costs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.contract import Progress
from stepwise import _random, dynamics, spectra, updates
from stepwise.laws import BarlowTwins
from stepwise.problem import Problem, from_views

TIMES, POLAR, EXPONENTS = 0.02, 0.03, 0.1
"""Bounds: relative error of step times, of those of the relative polar rule, and of exponents."""
ROWS = 2
"""Dimension of the embedding, in units of the modes whose times are compared.

The last modes of an embedding share it with the next ones while their rows still turn.
"""
RECORDS = 2500
"""Number of samples on the geometric grid of steps: their spacing is below 1% of the step."""
MUON_STEPS, FAST_STEPS = 400, 40
"""Steps of Muon until its last mode is learned: where its law is tested, and in use."""
SPECTRUM = (1.0, 0.9, 0.8, 0.4, 0.3, 0.2, 0.1, 0.05)
"""Modes of the problem on which the selection of the first three is measured: γ_4/γ_3 = 1/2."""
MARKERS = "osD^vP"
"""One marker for each rule, so that rules do not differ by colour alone."""
LEADING = 3
"""Number of these modes that an embedding of this dimension should learn."""


@dataclass(frozen=True)
class Rule:
    """An update rule in a figure.

    Attributes:
        title: its name.
        make: function of γ [r] and the number d of modes to learn that returns the rule at a small
            learning rate, at which its law is exact.
        fast: function of γ [r], the smallest γ and d that returns it at a rate for use: half of the
            limit of gradient descent, at which momentum does not overshoot too far, or as many
            steps of Muon as it needs to end near 1.
        colour: of its curves.
        exponent: function of γ_{d+1}/γ_d, the rule and γ: the predicted slope of ln sin θ against
            the logarithm of the start.
        delayed: whether the law knows how late descent is at a finite learning rate.
        scales: smallest and largest start at which the slope is measured.
    """

    title: str
    make: Callable[[np.ndarray, int], Any]
    fast: Callable[[np.ndarray, float, int], Any]
    colour: str
    exponent: Callable[[float, Any, np.ndarray], float]
    delayed: bool = False
    scales: tuple[float, float] = (1e-6, 1e-3)


def _left(ratio: float, rule: Any, gamma: np.ndarray) -> float:
    return 1 - ratio


def _momentum(ratio: float, rule: Any, gamma: np.ndarray) -> float:
    growth = np.asarray(rule.law(gamma).growth())
    return float(1 - growth[LEADING] / growth[LEADING - 1])


def _half_limit(gamma: np.ndarray, lowest: float) -> float:
    """Return half of the largest stable learning rate of gradient descent."""
    return 0.5 * float(BarlowTwins(gamma, lowest).max_stable_lr())


RULES: dict[str, Rule] = {
    "descent": Rule(
        "gradient descent",
        lambda gamma, d: updates.GradientDescent(0.01 / float(gamma[0])),
        lambda gamma, lowest, d: updates.GradientDescent(_half_limit(gamma, lowest)),
        "#0072B2",
        _left,
        delayed=True,
    ),
    "momentum": Rule(
        "heavy ball, β = 0.9",
        lambda gamma, d: updates.HeavyBall(0.01 / float(gamma[0]), 0.9),
        lambda gamma, lowest, d: updates.HeavyBall(_half_limit(gamma, lowest), 0.9),
        "#56B4E9",
        _momentum,
    ),
    "muon": Rule(
        "Muon",
        lambda gamma, d: updates.Muon(float(np.sqrt(0.5 / gamma[d - 1])) / MUON_STEPS),
        lambda gamma, lowest, d: updates.Muon(float(np.sqrt(0.5 / gamma[d - 1])) / FAST_STEPS),
        "#D55E00",
        _left,
        scales=(0.03, 0.3),
    ),
    "embedding": Rule(
        "(C + ε)^−½",
        lambda gamma, d: updates.EmbeddingPower(0.0005 / float(gamma[0]), 0.5, 1e-2),
        lambda gamma, lowest, d: updates.EmbeddingPower(
            0.1 * _half_limit(gamma, lowest), 0.5, 1e-2
        ),
        "#009E73",
        _left,
    ),
    "input": Rule(
        "Γ^−½",
        lambda gamma, d: updates.InputPower(0.01 / float(np.sqrt(gamma[0])), 0.5),
        lambda gamma, lowest, d: updates.InputPower(0.125 / float(np.sqrt(gamma[0])), 0.5),
        "#CC79A7",
        lambda ratio, rule, gamma: 1 - ratio**0.5,
        delayed=True,
    ),
    "polar": Rule(
        "relative polar",
        lambda gamma, d: updates.RelativePolar(0.02),
        lambda gamma, lowest, d: updates.RelativePolar(0.05),
        "#E69F00",
        _left,
        delayed=True,
    ),
}
"""The rules by name."""


def step_times(
    problem: Problem, modes: int, scale: float, starts: int, seed: int, progress: Progress
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Descend under each rule from random starts, beside its law.

    Returns:
        Arrays with the first start's curves of each rule and of its law, and the numbers: for each
        rule, the steps at which modes reach 1/2 by law, and the ratios of descent to it [starts,
        modes].
    """
    d = ROWS * modes
    gamma = np.asarray(problem.gamma)
    arrays: dict[str, np.ndarray] = {}
    numbers: dict[str, Any] = {}
    for name, row in RULES.items():
        progress(f"{row.title}, {starts} starts")
        rule = row.make(gamma, modes)
        law = rule.law(gamma, problem.lowest)
        ratios = []
        for i in range(starts):
            key = jax.random.fold_in(_random.key(seed), i)
            A0 = scale * jax.random.normal(key, (d, gamma.size), problem.gamma.dtype)
            lam0 = np.asarray(law.generic_start(A0))
            tau = np.asarray(law.step_times(lam0))
            if row.delayed:
                tau = tau * (1 + np.asarray(law.descent_delay(rule.lr, lam0)))
            tau = np.sort(tau)[:modes]
            steps = int(1.2 * tau[-1] / rule.lr) + 20
            grid = np.unique(np.geomspace(1, steps, RECORDS).astype(int))
            run = dynamics.descent(problem, A0, rule.lr, steps, update=rule, record_at=grid)
            times, curves = np.asarray(run.times), np.asarray(run.eigenvalues)[:, :modes]
            seen = np.asarray(spectra.step_times(times, curves))
            ratios.append((seen / tau).tolist())
            if i == 0:
                theory = np.sort(np.asarray(law.eigenvalues(times, lam0)))[:, ::-1]
                arrays |= {
                    f"rule_{name}_steps": times / rule.lr,
                    f"rule_{name}_curves": curves,
                    f"rule_{name}_law": theory[:, :modes],
                }
                numbers[name] = {"law": (tau / rule.lr).tolist(), "lr": float(rule.lr)}
        numbers[name]["ratios"] = ratios
    return arrays, numbers


def from_spectrum(gamma: Any) -> Problem:
    """Return a problem with these positive modes, in the coordinates of its inputs."""
    gamma = np.asarray(gamma, np.float64)
    m = gamma.size
    draws = np.random.default_rng(0).normal(size=(2 * m, m))
    x = np.sqrt(2 * m) * np.linalg.qr(draws)[0] * np.sqrt(gamma)
    return from_views(x, x, center="none")


def angle(A: Any, d: int) -> np.ndarray:
    """Return sin θ [...], θ the largest angle between the rows of A [..., d, r] and d modes."""
    Q = np.linalg.qr(np.swapaxes(np.asarray(A, np.float64), -1, -2))[0]
    return np.linalg.norm(Q[..., d:, :], 2, axis=(-2, -1))


def selection(starts: int, seed: int, progress: Progress) -> dict[str, Any]:
    """Measure the angle between what each rule learns and the first modes, by start scale.

    Returns:
        For each rule, the scales, the geometric means of sin θ over the starts, the slope of their
        logarithms, and the slope that the theorem predicts.
    """
    problem, gamma = from_spectrum(SPECTRUM), np.asarray(SPECTRUM)
    key = jax.random.fold_in(_random.key(seed), 1000)
    draws = np.asarray(jax.random.normal(key, (starts, LEADING, gamma.size), problem.gamma.dtype))
    numbers = {}
    for name, row in RULES.items():
        progress(f"{row.title}, selection of {LEADING} modes")
        rule = row.make(gamma, LEADING)
        scales = np.geomspace(*row.scales, 4)
        sines = [_selected(problem, rule, scale * draws) for scale in scales]
        slope = float(np.polyfit(np.log(scales), np.log(sines), 1)[0])
        expected = row.exponent(gamma[LEADING] / gamma[LEADING - 1], rule, gamma)
        numbers[name] = {
            "scales": scales.tolist(),
            "sines": sines,
            "slope": slope,
            "expected": float(expected),
        }
    return numbers


def _selected(problem: Problem, rule: Any, starts: np.ndarray) -> float:
    """Return the geometric mean of sin θ over starts [k, d, r], once all modes are learned."""
    law, d = rule.law(np.asarray(problem.gamma)), starts.shape[1]
    level = 0.99
    tau = max(
        float(np.max(law.step_times(np.asarray(law.generic_start(A0)), level))) for A0 in starts
    )
    steps = int(1.3 * tau / rule.lr) + 50

    def last(A0: Any) -> Any:
        run = dynamics.descent(problem, A0, rule.lr, steps, update=rule, record_every=steps)
        return jnp.asarray(run.snapshots)[-1]

    ends = jax.vmap(last)(starts)
    return float(np.exp(np.mean(np.log(angle(ends, d)))))


def speed(
    problem: Problem, d: int, scale: float, seed: int, progress: Progress
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Run each rule at a rate for use, until all modes are learned.

    Returns:
        Arrays with the number of modes above 1/2 after each step, and the numbers: the step at
        which the last mode is learned, sin θ between the rows and the first d modes there and at
        the end, and the bounds of any rule with as many gradients.
    """
    gamma, lowest = np.asarray(problem.gamma), float(problem.lowest)
    A0 = scale * jax.random.normal(_random.key(seed), (d, gamma.size), problem.gamma.dtype)
    arrays: dict[str, np.ndarray] = {}
    numbers: dict[str, Any] = {}
    for name, row in RULES.items():
        progress(f"{row.title}, at a rate for use")
        rule = row.fast(gamma, lowest, d)
        law = rule.law(gamma, lowest)
        tau = np.max(law.step_times(np.asarray(law.generic_start(A0))))
        steps = int(2 * tau / rule.lr) + 60
        grid = np.unique(np.geomspace(1, steps, 400).astype(int))
        run = dynamics.descent(
            problem, A0, rule.lr, steps, update=rule, record_at=grid, snapshots=True
        )
        done = np.rint(np.asarray(run.times) / rule.lr)
        learned = np.sum(np.asarray(run.eigenvalues) > 0.5, axis=1)
        last = int(np.argmax(learned >= d)) if (learned >= d).any() else len(done) - 1
        ends = np.asarray(run.snapshots)[[last, -1]]
        sines = angle(ends, d) if np.isfinite(ends).all() else np.full(2, np.nan)
        arrays |= {f"fast_{name}_steps": done, f"fast_{name}_learned": learned}
        numbers[name] = {
            "lr": float(rule.lr),
            "steps": float(done[last]) if learned[last] >= d else None,
            "sine": float(sines[0]),
            "final_sine": float(sines[1]),
            "result": str(run.result),
        }
    most = max(int(row["steps"] or 0) for row in numbers.values())
    longest = min(most, gamma.size // d - 1)  # then the span is the whole space
    arrays["krylov"] = krylov_bound(gamma, np.asarray(A0), longest)
    return arrays, numbers


def krylov_bound(gamma: np.ndarray, W0: np.ndarray, steps: int) -> np.ndarray:
    """Return the least sin θ that any rule can reach with N = 0 ... steps gradients [steps + 1].

    N gradients of the linear model at the start W0 [d, r] reach rows in the span of W0 Γ^n for
    n = 0 ... N alone. The sine is that of the largest angle between the first d modes and this
    span.
    """
    d = len(W0)
    block, basis = np.linalg.qr(W0.T)[0], np.zeros((gamma.size, 0))
    sines = []
    for _ in range(steps + 1):
        for _ in range(2):  # twice, for orthogonality to rounding
            block = block - basis @ (basis.T @ block)
        block = np.linalg.qr(block)[0]
        basis = np.concatenate([basis, block], axis=1)
        rest = np.eye(gamma.size)[:, :d] - basis @ basis[:d].T
        sines.append(min(1.0, float(np.linalg.norm(rest, 2))))
        block = gamma[:, None] * block
    return np.array(sines)
