"""Update rules on the linear model: when ten modes are learned, and what speed costs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from experiments.contract import Progress
from stepwise import _random, dynamics, spectra, updates
from stepwise.problem import Problem

TIMES, POLAR, EXPONENTS = 0.02, 0.03, 0.1
"""Bounds: relative error of step times, of those of the relative polar rule, and of exponents."""
MUON_STEPS = 400
"""Steps of Muon until its last mode is learned, in the comparison of step times."""
SPECTRUM = (1.0, 0.9, 0.8, 0.4, 0.3, 0.2, 0.1, 0.05)
"""Modes of the problem on which the selection of the first three is measured: γ_4/γ_3 = 1/2."""
LEADING = 3
"""Number of these modes that an embedding of this dimension should learn."""


@dataclass(frozen=True)
class Rule:
    """An update rule in a figure.

    Attributes:
        title: its name.
        make: function of the modes γ [r] and the dimension d that returns the rule at a small
            learning rate.
        colour: of its curves.
        exponent: function of γ_{d+1}/γ_d and the modes γ: the predicted slope of ln sin θ against
            the logarithm of the start; None where the theorem makes no statement.
        delayed: whether the law knows how late descent is at a finite learning rate.
    """

    title: str
    make: Callable[[np.ndarray, int], Any]
    colour: str
    exponent: Callable[[float, Any, np.ndarray], float]
    delayed: bool = False


def _left(ratio: float, rule: Any, gamma: np.ndarray) -> float:
    return 1 - ratio


def _momentum(ratio: float, rule: Any, gamma: np.ndarray) -> float:
    growth = np.asarray(rule.law(gamma).growth())
    return float(1 - growth[LEADING] / growth[LEADING - 1])


RULES: dict[str, Rule] = {
    "descent": Rule(
        "gradient descent",
        lambda gamma, d: updates.GradientDescent(0.01 / float(gamma[0])),
        "#0072B2",
        _left,
        delayed=True,
    ),
    "momentum": Rule(
        "heavy ball, β = 0.9",
        lambda gamma, d: updates.HeavyBall(0.01 / float(gamma[0]), 0.9),
        "#56B4E9",
        _momentum,
    ),
    "muon": Rule(
        "Muon",
        lambda gamma, d: updates.Muon(float(np.sqrt(0.5 / gamma[d - 1])) / MUON_STEPS),
        "#D55E00",
        _left,
    ),
    "embedding": Rule(
        "(C + ε)$^{-1/2}$",
        lambda gamma, d: updates.EmbeddingPower(0.0005 / float(gamma[0]), 0.5, 1e-2),
        "#009E73",
        _left,
    ),
    "input": Rule(
        "Γ$^{-1/2}$",
        lambda gamma, d: updates.InputPower(0.01 / float(np.sqrt(gamma[0])), 0.5),
        "#CC79A7",
        lambda ratio, rule, gamma: 1 - ratio**0.5,
        delayed=True,
    ),
    "polar": Rule(
        "relative polar",
        lambda gamma, d: updates.RelativePolar(0.02),
        "#E69F00",
        _left,
        delayed=True,
    ),
}
"""The rules by name."""


def step_times(
    problem: Problem, d: int, scale: float, starts: int, seed: int, progress: Progress
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Descend under each rule from random starts, beside its law.

    Returns:
        Arrays with the first start's curves of each rule and of its law, and the numbers: for each
        rule, the steps at which modes reach 1/2 by law, and the ratios of descent to it [starts,
        d].
    """
    gamma = np.asarray(problem.gamma)
    arrays: dict[str, np.ndarray] = {}
    numbers: dict[str, Any] = {}
    for name, row in RULES.items():
        progress(f"{row.title}, {starts} starts")
        rule = row.make(gamma, d)
        law = rule.law(gamma, problem.lowest)
        ratios = []
        for i in range(starts):
            key = jax.random.fold_in(_random.key(seed), i)
            A0 = scale * jax.random.normal(key, (d, gamma.size), problem.gamma.dtype)
            lam0 = np.asarray(law.generic_start(A0))
            tau = np.asarray(law.step_times(lam0))
            if row.delayed:
                tau = tau * (1 + np.asarray(law.descent_delay(rule.lr, lam0)))
            steps = int(1.2 * tau.max() / rule.lr) + 20
            every = max(1, steps // 2000)
            run = dynamics.descent(problem, A0, rule.lr, steps, update=rule, record_every=every)
            times, curves = np.asarray(run.times), np.asarray(run.eigenvalues)
            seen = np.asarray(spectra.step_times(times, curves))
            ratios.append((seen / np.sort(tau)).tolist())
            if i == 0:
                arrays |= {
                    f"rule_{name}_steps": times / rule.lr,
                    f"rule_{name}_curves": curves,
                    f"rule_{name}_law": np.sort(np.asarray(law.eigenvalues(times, lam0)))[:, ::-1],
                }
                numbers[name] = {"law": (np.sort(tau) / rule.lr).tolist(), "lr": float(rule.lr)}
        numbers[name]["ratios"] = ratios
    return arrays, numbers


def angle(A: Any, leading: int = LEADING) -> float:
    """Return the sine of the largest angle between the rows of A [d, r] and the first modes."""
    Q = np.linalg.qr(np.asarray(A, np.float64).T)[0]
    return float(np.linalg.norm(Q[leading:], 2))
