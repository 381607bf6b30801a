"""Before running: where the small-start theory will hold, and how far it will be off where it does
not.
"""

from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stepwise import _check, _files, laws
from stepwise.laws import LawOf
from stepwise.laws.start import leading_modes
from stepwise.problem import Problem
from stepwise.types import Numbers, Real, Whole

UNLUCKY = 10.0
"""Safety factor on the estimate for a random start; `KNOWN` is the one for a start that is given.

Measured on seven problems (the photographs' spectrum, a power law, close pairs; α√γ_1 from 1e-5 to
1e-2; 20 starts each, closed form against flow): of 82 step times off by more than 2%, 80 were
flagged by the first and 81 by the second, which flags far fewer modes. Measured errors were 0.7 to
1 times the estimate for a given start in the median, and at most 4 times in 95% of the cases.
"""

KNOWN = 3.0


@dataclass(frozen=True)
class Report:
    """What to expect of the d leading modes; see `report`.

    Attributes:
        d, start_scale, lr, tolerance: what was asked.
        n_positive: modes that can be learned; for each dimension beyond them the loss keeps what
            learning one would take from it.
        step_times: τ_j expected [d] (at the mean of ln λ_j(0), or of the start given).
        spread: standard deviation of τ_j over Gaussian starts, relative to τ_j [d].
        gap: the gap criterion (1 − g_{j+1}/g_j) ln(1/α_j) [d], with growth rates g and α_j² =
            λ_j(0) over what λ_j rests at; the law needs it ≫ 1. g_{j+1}/g_j = γ_{j+1}/γ_j for
            Barlow Twins.
        expected_error: typical relative error of the step time [d] from modes that grow side by
            side.
        delay: by which fraction gradient descent's steps come later than the flow's [d]
            (`Law.descent_delay`; 2 lr γ_j and a little less for Barlow Twins); 0 without lr.
        at_risk: modes [d] whose step time may be off by more than the tolerance.
        lr_limit: the law's largest stable rate, None where none is known; min(1/(4 γ_1), 1/(2
            |γ_min|)) for Barlow Twins.
        stable: whether lr is below that limit; None without lr, or without a limit.
        small: whether the observable at the start is small against what it rests at, as the law of
            a generic start assumes (below 0.01).
    """

    d: int
    start_scale: float
    lr: float | None
    tolerance: float
    n_positive: int
    step_times: Float[np.ndarray, " d"]
    spread: Float[np.ndarray, " d"]
    gap: Float[np.ndarray, " d"]
    expected_error: Float[np.ndarray, " d"]
    delay: Float[np.ndarray, " d"]
    at_risk: np.ndarray
    lr_limit: float | None
    stable: bool | None
    small: bool

    def __str__(self) -> str:
        """A table, a line for each mode that can be learned, and a sentence for each thing that is
        wrong.
        """
        lines = [
            f"{'mode':>4} {'step time':>11} {'spread':>8} {'gap':>7} {'error':>9} {'delay':>8}"
        ]
        for j in range(min(self.d, self.n_positive)):
            mark = "  at risk" if self.at_risk[j] else ""
            delay = "-" if self.lr is None else f"{self.delay[j]:.2%}"
            lines.append(
                f"{j + 1:>4} {self.step_times[j]:>11.4g} {self.spread[j]:>8.1%} "
                f"{self.gap[j]:>7.2f} "
                f"{self.expected_error[j]:>9.2%} {delay:>8}{mark}"
            )
        return "\n".join(lines + self.warnings())

    def warnings(self) -> list[str]:
        """Each thing that breaks an assumption, as a sentence."""
        found = []
        if self.n_positive < self.d:
            missing = self.d - self.n_positive
            found.append(
                f"{missing} of {self.d} dimensions cannot be learned: only {self.n_positive} modes "
                f"are positive"
            )
        if not self.small:
            found.append(
                f"the start is not small: C(0) is not below 0.01 at scale {self.start_scale:.3g}"
            )
        if self.stable is False and self.lr_limit is not None:
            found.append(f"lr = {self.lr:.4g} is not below the stability limit {self.lr_limit:.4g}")
        if self.at_risk.any():
            names = _ranges(np.flatnonzero(self.at_risk) + 1)
            often = "errors given are typical, not the worst"
            found.append(
                f"step times may be off by more than {self.tolerance:.1%}: mode {names} ({often})"
            )
        return found

    def summary(self) -> dict[str, Any]:
        """All of it as numbers and lists that JSON can hold; an infinite number is None."""
        summary: dict[str, Any] = _files.jsonable(asdict(self))
        return summary | {"warnings": self.warnings()}


def report(
    problem: Problem,
    d: Whole,
    *,
    law: LawOf = None,
    start_scale: Real | None = None,
    A0: Numbers | None = None,
    lr: Real | None = None,
    tolerance: Real = 0.02,
) -> Report:
    """Say, before anything is run, where `dynamics.closed_form` will hold.

    From a start in general position row j learns mode j while mode k > j has grown beside it to a
    relative amplitude θ_jk. That adds Σ_k θ_jk² to ln λ_j(0), and so moves the step by the fraction
    Σ_k θ_jk² / ln(1/λ_j(0)). Mode k, for its part, then grows beside a row that is not aligned:
    C_jk = 0 changes its rate by the factor 1 + θ_jk² (1 − g_k/g_j) from τ_j on (growth rates g),
    which moves its own step by the fraction θ_jk² (1 − g_k/g_j)(1 − τ_j/τ_k) more.

    For a Gaussian start the typical θ_jk is λ_j(0)^{(1 − g_k/g_j)/2}: small exactly when the gap
    criterion (1 − g_k/g_j) ln(1/α_j) ≫ 1 holds. This was derived and measured for Barlow Twins,
    where g = 8γ; under another law it is an estimate by the same rates, in the law's order, and
    λ(0) is relative to what it rests at. A mode is at risk when the estimate times `UNLUCKY`
    (`KNOWN` where A0 is given), or descent's delay, exceeds the tolerance; and when it starts above
    1/2, where it has no step.

    Args:
        problem: its γ, and its lowest eigenvalue for the limit of lr.
        d: dimension of the embedding.
        law: a function (problem, d) -> Law; `laws.DEFAULT`, Barlow Twins, without one.
        start_scale: α, the standard deviation of W(0)'s entries; or
        A0: the very start [d, r], when it is known: its own θ_jk are used, and α is its root mean
            square.
        lr: learning rate of the descent to come.
        tolerance: relative error of a step time that counts as an exception.

    Raises:
        ValueError: neither or both of start_scale and A0 are given, or a number is not positive;
            the law has no growth from a small start, or its loss sees rotations of the embedding.
    """
    _check.require(
        (start_scale is None) != (A0 is None), "start_scale, A0", "one of them", "none or both"
    )
    _check.require(d >= 1, "d", "a positive number of dimensions", d)
    _check.require(tolerance > 0, "tolerance", "a positive number", tolerance)
    _check.require(lr is None or lr > 0, "lr", "a positive learning rate", lr)
    found = laws.cast(laws.law_of(law, problem, d), jax.dtypes.canonicalize_dtype(float))
    modes = int(np.size(problem.gamma))
    k = min(d, modes)
    order = np.asarray(found.order)
    at = np.asarray(leading_modes(found, k))
    unit, growth, rest = (
        np.asarray(part, np.float64)[order] for part in (found.unit(), found.growth(), found.rest())
    )
    mean, deviation = (np.asarray(part, np.float64)[:k] for part in laws.expected_start(d))
    if A0 is None:
        assert start_scale is not None
        _check.require(start_scale > 0, "start_scale", "a positive number", start_scale)
        scale = float(start_scale)
        lam0 = unit[:k] * scale**2 * np.exp(mean)
        upper = None
        largest = scale**2 * max(abs(unit[0]) * d, np.abs(unit).sum())
    else:
        A0 = np.asarray(_check.real_array("A0", A0, ndim=2), np.float64)
        _check.require(A0.shape == (d, modes), "A0", f"shape [{d}, {modes}]", A0)
        scale = float(np.sqrt(np.mean(A0**2)))
        q, _ = np.linalg.qr(A0[:, at])
        upper = np.abs(q.T @ A0)[:, order]
        lam0 = unit[:k] * np.diagonal(upper) ** 2
        largest = float(np.abs(np.linalg.eigvalsh((A0[:, order] * unit) @ A0[:, order].T)).max())
    tau = np.asarray(found.step_times(jnp.asarray(lam0)), np.float64)
    learned = np.asarray(found.grows())[order]
    goal = np.where(rest[:k] > 0, rest[:k], 1)
    plateau = np.log(1 / np.clip(lam0 / goal, 1e-300, 0.5))
    error = _side_by_side(growth, unit, plateau, tau, upper, learned)
    delay = (
        np.zeros(k)
        if lr is None
        else np.asarray(found.descent_delay(lr, jnp.asarray(lam0)), np.float64)
    )
    ratio = np.append(growth, 0)[1 : k + 1] / np.where(growth[:k] > 0, growth[:k], np.inf)
    limit: float | None
    try:
        limit = float(found.max_stable_lr())
    except laws.NotKnownError:
        limit = None
    count, safety = int(learned.sum()), UNLUCKY if upper is None else KNOWN
    learned = learned[:k]

    def full(values: np.ndarray, beyond: float) -> np.ndarray:
        return np.pad(np.where(learned, values, beyond), (0, d - k), constant_values=beyond)

    return Report(
        d=int(d),
        start_scale=scale,
        lr=None if lr is None else float(lr),
        tolerance=float(tolerance),
        n_positive=count,
        step_times=full(tau, np.inf),
        spread=full(deviation / plateau, 0.0),
        gap=full((1 - ratio) * plateau / 2, 0.0),
        expected_error=full(error, 0.0),
        delay=full(delay, 0.0),
        at_risk=full(
            (safety * error > tolerance) | (delay > tolerance) | ~np.isfinite(tau), 0.0
        ).astype(bool),
        lr_limit=limit,
        stable=None if lr is None or limit is None else bool(lr < limit),
        small=bool(largest < 0.01 * goal.min()),
    )


def _ranges(numbers: np.ndarray) -> str:
    """1, 2, 3, 7 as "1 to 3, 7"."""
    parts = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    listed = [
        f"{part[0]} to {part[-1]}" if len(part) > 2 else ", ".join(map(str, part)) for part in parts
    ]
    return ", ".join(listed)


def _side_by_side(
    growth: np.ndarray,
    unit: np.ndarray,
    plateau: np.ndarray,
    tau: np.ndarray,
    upper: np.ndarray | None,
    learned: np.ndarray,
) -> np.ndarray:
    """The estimate of `report`: from the modes that grow beside mode j, and from those beside which
    it grew itself; all in the order of growth.
    """
    d = plateau.size
    share = np.zeros((d, growth.size))
    size = np.maximum(unit, 1e-300)
    for j in range(d):
        if not learned[j] or not np.isfinite(tau[j]):
            continue
        later = np.arange(growth.size) > j
        exponent = (growth - growth[j]) * tau[j] + np.log(size / unit[j])
        start = 1.0 if upper is None else (upper[j] / max(upper[j, j], 1e-300)) ** 2
        share[j] = np.where(later & learned, start * np.exp(np.minimum(exponent, 0)), 0)
    known = np.isfinite(tau[:, None]) & np.isfinite(tau[None]) & (tau[None] > 0)
    learned_later = np.clip(
        1 - np.divide(tau[:, None], tau[None], out=np.full((d, d), np.inf), where=known), 0, 1
    )
    rates = np.where(growth[:d] > 0, growth[:d], 1)
    faster = (1 - growth[None, :d] / rates[:, None]) * learned_later
    return share.sum(axis=1) / plateau + np.sum(
        share[:, :d] * (1 / plateau + np.maximum(faster, 0)), axis=0
    )
