"""Predictions, before a run, of where the small-start theory holds and how large its errors are."""

from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stepwise import _check, _files, laws
from stepwise.laws import LawOf
from stepwise.problem import Problem
from stepwise.types import Numbers, Real, Whole

UNLUCKY = 10.0
"""Safety factor on the estimated error for a random start. `KNOWN` is the one for a given start.

Both were measured on seven problems (the spectrum of the photographs, a power law, close pairs;
α√γ_1 from 1e-5 to 1e-2; 20 starts each), comparing the closed form with the flow. Of 82 step times
off by more than 2%, `UNLUCKY` flagged 80 and `KNOWN` 81; `KNOWN` flags far fewer modes. For a given
start, the measured errors were 0.7 to 1 times the estimate in the median, and at most 4 times the
estimate in 95% of the cases.
"""

DEPENDENT = 0.4
"""Largest dependence between the squares of modes up to which views count as Gaussian.

On 100 to 300 pairs of crops of the photographs, second modes (0.17 to 0.24) came within 4% of their
step times under CLIP, and third modes (0.5 to 0.65) were 4% to 11% off. Under LeJEPA, beside a
first mode with an excess kurtosis of −0.7 to −0.8, second modes were 1% to 16% off, and third ones
more than 30%.
"""

SHOWN = 3
"""Number of modes whose refusal `Report.warnings` explains one by one."""

KNOWN = 3.0
"""Safety factor on the estimated error for a given start; see `UNLUCKY`."""


@dataclass(frozen=True)
class Report:
    """Predictions for the d leading modes, returned by `report`.

    Attributes:
        d, start_scale, lr, tolerance: the arguments of `report`. start_scale is the root mean
            square of A0 if A0 was given.
        n_positive: number of modes that can be learned. For each dimension beyond this number, the
            loss keeps the part that learning a mode would remove.
        n_free: number of dimensions in which modes can grow: d, or d − 1 if an offset takes one.
        n_known: number of modes whose curves the law gives, at most d: for example 1 if the law
            describes the first mode only.
        refused: why modes are not learned although their γ is one of the d largest: pairs of the
            mode's number, in descending order of vᵀΓv, and the reason.
        step_times: predicted step times τ_j [d], at the mean of ln λ_j(0), or for the given start.
        spread: standard deviation of τ_j over Gaussian starts, relative to τ_j [d].
        gap: the gap criterion (1 − g_{j+1}/g_j) ln(1/α_j) [d], which must be ≫ 1 for the law to
            hold. g are growth rates (g_{j+1}/g_j = γ_{j+1}/γ_j for Barlow Twins), and α_j² is
            λ_j(0) divided by the final λ_j.
        expected_error: typical relative error of the step time [d], caused by modes that grow
            side by side, and by moments without a common eigenbasis.
        delay: fraction by which gradient descent's steps come later than the flow's [d]
            (`Law.descent_delay`; slightly less than 2 lr γ_j for Barlow Twins). 0 without lr.
        at_risk: whether the step time of each mode may be off by more than the tolerance, or is not
            known [d].
        lr_limit: the law's largest stable learning rate, or None if it is not known;
            min(1/(4 γ_1), 1/(2 |γ_min|)) for Barlow Twins.
        stable: whether lr is below that limit. None without lr or without a limit.
        dependence: largest |E u_i² u_j²/(E u_i² E u_j²) − 1| of the views u along mode j and the
            earlier modes i [d], 0 for Gaussian views; computed if the law assumes such views. If it
            needs normal modes, also their excess kurtosis |E u_i⁴/(E u_i²)² − 3|.
        small: whether the observable at the start is below 0.01 of its final value, as the law of
            a generic start assumes.
    """

    d: int
    start_scale: float
    lr: float | None
    tolerance: float
    n_positive: int
    n_free: int
    n_known: int
    refused: tuple[tuple[int, str], ...]
    step_times: Float[np.ndarray, " d"]
    spread: Float[np.ndarray, " d"]
    gap: Float[np.ndarray, " d"]
    expected_error: Float[np.ndarray, " d"]
    delay: Float[np.ndarray, " d"]
    at_risk: np.ndarray
    lr_limit: float | None
    stable: bool | None
    small: bool
    dependence: Float[np.ndarray, " d"]

    def __str__(self) -> str:
        """Format a table with one line for each mode that can be learned, and the warnings."""
        lines = [
            "mode  step time (lr × steps)  spread over starts  gap to next  typical error  "
            "descent delay"
        ]
        for j in range(min(self.n_known, self.n_positive)):
            mark = "  at risk" if self.at_risk[j] else ""
            delay = "-" if self.lr is None else f"{self.delay[j]:.2%}"
            lines.append(
                f"{j + 1:>4} {self.step_times[j]:>23.4g} {self.spread[j]:>19.1%} "
                f"{self.gap[j]:>12.2f} {self.expected_error[j]:>14.2%} {delay:>14}{mark}"
            )
        return "\n".join(lines + self.warnings())

    def warnings(self) -> list[str]:
        """Return one sentence for each assumption that does not hold."""
        sentences = []
        if self.n_positive < self.d:
            missing = self.d - self.n_positive
            sentences.append(
                f"{missing} of {self.d} dimensions cannot be learned: only {self.n_positive} modes "
                f"grow"
            )
        if self.n_known < min(self.n_free, self.n_positive):
            sentences.append(
                f"the law gives the step of {_modes(self.n_known)} only; later steps of this loss "
                f"depend on the whole start"
            )
        for number, reason in self.refused[:SHOWN]:
            sentences.append(f"mode {number} by size of γ is not learned: {reason}")
        if len(self.refused) > SHOWN:
            others = ", ".join(str(number) for number, _ in self.refused[SHOWN:])
            sentences.append(f"nor are modes {others}, for the same kind of reason")
        if not self.small:
            sentences.append(
                f"the start is not small: at scale {self.start_scale:.3g} its eigenvalues are not "
                f"below 0.01 of their final values"
            )
        if self.stable is False and self.lr_limit is not None:
            sentences.append(
                f"lr = {self.lr:.4g} is not below the stability limit {self.lr_limit:.4g}"
            )
        if self.dependence.max(initial=0) > DEPENDENT:
            mode = int(np.argmax(self.dependence > DEPENDENT)) + 1
            sentences.append(
                f"the law assumes Gaussian views, which these are not: fourth moments of the modes "
                f"up to mode {mode} are off by {self.dependence[mode - 1]:.2f}"
            )
        if self.at_risk[: self.n_known].any():
            names = _ranges(np.flatnonzero(self.at_risk[: self.n_known]) + 1)
            sentences.append(
                f"at risk: step times may be off by more than {self.tolerance:.1%}: mode {names} "
                f"(typical errors are not upper bounds)"
            )
        return sentences

    def summary(self) -> dict[str, Any]:
        """Return all attributes and warnings as JSON values, with None for an infinite number."""
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
    """Predict, before a run, for which modes `dynamics.closed_form` holds.

    From a generic start, row j learns mode j while another mode k > j grows in the same row, to a
    relative amplitude θ_jk. This adds Σ_k θ_jk² to ln λ_j(0), and so moves the step of mode j by
    the fraction Σ_k θ_jk² / ln(1/λ_j(0)). Mode k then grows beside a row that is not aligned.
    C_jk = 0 changes its rate by the factor 1 + θ_jk² (1 − g_k/g_j) from τ_j on, where g are growth
    rates. This moves the step of mode k by a further fraction θ_jk² (1 − g_k/g_j)(1 − τ_j/τ_k).

    For a Gaussian start the typical θ_jk is λ_j(0)^{(1 − g_k/g_j)/2}, which is small exactly if the
    gap criterion (1 − g_k/g_j) ln(1/α_j) ≫ 1 holds. The estimate was derived and measured for
    Barlow Twins, where g = 8γ. For another law it uses that law's rates and order, and λ(0)
    relative to the final λ.

    A mode is at risk if the estimate times `UNLUCKY` (`KNOWN` if A0 is given) exceeds the
    tolerance, if the delay of descent exceeds it, or if the mode starts above 1/2 of its final
    value, because it then has no step. The error that moments without a common eigenbasis leave
    (`Law.neglected`) is added without a safety factor.

    Args:
        problem: the problem. Its γ is used, and its lowest eigenvalue for the limit of lr.
        d: dimension of the embedding.
        law: a function (problem, d) -> Law; Barlow Twins (`laws.DEFAULT`) by default.
        start_scale: α, the standard deviation of the entries of W(0). Give this or A0.
        A0: mode coordinates of the start [d, r]. Its own θ_jk are used, and α is its root mean
            square.
        lr: learning rate of the descent, if its delay and stability are to be predicted.
        tolerance: largest relative error of a step time that is accepted.

    Returns:
        The predictions, which print as a table.

    Raises:
        ValueError: if neither or both of start_scale and A0 are given; if a number is not positive;
            if the law has no growth from a small start, or no curves from a generic one.
    """
    _check.require(
        (start_scale is None) != (A0 is None),
        "start_scale, A0",
        "exactly one of them",
        "none or both",
    )
    _check.require(d >= 1, "d", "a positive number of dimensions", d)
    _check.require(tolerance > 0, "tolerance", "a positive number", tolerance)
    _check.require(lr is None or lr > 0, "lr", "a positive learning rate", lr)
    resolved = laws.cast(laws.law_of(law, problem, d), jax.dtypes.canonicalize_dtype(float))
    modes = int(np.size(problem.gamma))
    k = resolved.known_modes(d)
    mean, deviation = (np.asarray(part, np.float64) for part in resolved.expected_start(d))
    order = np.asarray(resolved.order)
    unit, growth, rest = (
        np.asarray(part, np.float64)[order]
        for part in (resolved.unit(), resolved.growth(), resolved.rest())
    )
    if A0 is None:
        assert start_scale is not None
        _check.require(start_scale > 0, "start_scale", "a positive number", start_scale)
        scale = float(start_scale)
        lam0 = scale**2 * np.exp(mean)
        upper = None
        largest = scale**2 * max(abs(unit[0]) * d, np.abs(unit).sum())
    else:
        A0 = np.asarray(_check.real_array("A0", A0, ndim=2), np.float64)
        _check.require(A0.shape == (d, modes), "A0", f"shape [{d}, {modes}]", A0)
        scale = float(np.sqrt(np.mean(A0**2)))
        lam0 = np.asarray(resolved.generic_start(A0), np.float64)
        rows = np.asarray(resolved.to_modes(A0), np.float64)[:, order]
        upper = _upper(rows, k) if resolved.rotates else None
        largest = float(np.abs(np.linalg.eigvalsh((rows * unit) @ rows.T)).max())
    tau = np.asarray(resolved.step_times(jnp.asarray(lam0)), np.float64)
    learned = np.asarray(resolved.grows())[order]
    goal = np.where(rest[:k] > 0, rest[:k], 1)
    plateau = np.log(1 / np.clip(lam0 / goal, 1e-300, 0.5))
    error = _estimate_errors(growth, unit, plateau, tau, upper, learned)
    neglected = np.asarray(resolved.neglected(tau, d), np.float64)
    delay = (
        np.zeros(k)
        if lr is None
        else np.asarray(resolved.descent_delay(lr, jnp.asarray(lam0)), np.float64)
    )
    ratio = np.append(growth, 0)[1 : k + 1] / np.where(growth[:k] > 0, growth[:k], np.inf)
    limit: float | None
    try:
        limit = float(resolved.max_stable_lr())
    except laws.NotKnownError:
        limit = None
    count, safety = int(learned.sum()), UNLUCKY if upper is None else KNOWN
    learned = learned[:k]

    def pad(values: np.ndarray, fill: float) -> np.ndarray:
        return np.pad(np.where(learned, values, fill), (0, d - k), constant_values=fill)

    risk = safety * error + neglected > tolerance
    risk = risk | (delay > tolerance) | ~np.isfinite(tau)
    dependence = _dependence(problem, resolved, order[:k])
    risk = risk | (dependence > DEPENDENT)
    unknown = (np.arange(d) >= k) & (np.arange(d) < min(count, resolved.free_rows(d)))
    return Report(
        d=int(d),
        start_scale=scale,
        lr=None if lr is None else float(lr),
        tolerance=float(tolerance),
        n_positive=count,
        n_free=resolved.free_rows(d),
        n_known=k,
        refused=_refused(resolved, np.asarray(problem.gamma, np.float64), int(d)),
        step_times=pad(tau, np.inf),
        spread=pad(deviation / plateau, 0.0),
        gap=pad((1 - ratio) * plateau / 2, 0.0),
        expected_error=pad(error + neglected, 0.0),
        delay=pad(delay, 0.0),
        at_risk=pad(risk, 0.0).astype(bool) | unknown,
        lr_limit=limit,
        stable=None if lr is None or limit is None else bool(lr < limit),
        dependence=pad(dependence, 0.0),
        small=bool(largest < 0.01 * goal.min()),
    )


def _ranges(numbers: np.ndarray) -> str:
    """Format increasing numbers as ranges: 1, 2, 3, 7 becomes "1 to 3, 7"."""
    parts = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    listed = [
        f"{part[0]} to {part[-1]}" if len(part) > 2 else ", ".join(map(str, part)) for part in parts
    ]
    return ", ".join(listed)


def _refused(law: laws.Law, gamma: np.ndarray, d: int) -> tuple[tuple[int, str], ...]:
    """Return the modes with one of the d largest positive vᵀΓv that do not grow, and why."""
    if law.basis is not None:
        gamma = np.asarray(law.basis, np.float64) ** 2 @ gamma
    grows = np.asarray(law.grows())
    largest = np.argsort(-gamma, kind="stable")[:d]
    return tuple(
        (number + 1, law.reason(int(mode)))
        for number, mode in enumerate(largest)
        if gamma[mode] > 0 and not grows[mode]
    )


def _dependence(problem: Problem, law: laws.Law, modes: np.ndarray) -> np.ndarray:
    """Return how much the squares of the views along each mode depend on earlier modes [k].

    Beside a learned mode i, the negatives of a contrastive loss and the slices of LeJEPA weigh
    views by u_i², so that mode j grows at another rate if u_j² depends on it.
    """
    if law.gaussian == "no":
        return np.zeros(len(modes))
    rows = np.asarray(law.from_modes(jnp.eye(np.size(problem.gamma))[modes]), np.float64)
    values = np.asarray(problem.features, np.float64) @ rows.T
    squares = (values - values.mean(axis=0)) ** 2
    means = squares.mean(axis=0)
    excess = squares.T @ squares / len(squares) / np.outer(means, means) - 1
    gaps = np.abs(np.triu(excess, 1)).max(axis=0, initial=0)
    if law.gaussian == "normal":  # E u⁴/(E u²)² is 3 for a normal mode
        kurtosis = np.maximum.accumulate(np.abs(np.diagonal(excess) - 2))
        gaps = np.maximum(gaps, np.append(0, kurtosis[:-1]))
    return gaps


def _modes(count: int) -> str:
    return "mode 1" if count == 1 else f"modes 1 to {count}"


def _upper(rows: np.ndarray, k: int) -> np.ndarray:
    """Return |Qᵀ A| [k, r] of a start A = rows, Q from the QR factorisation of its first k columns.

    The columns are the modes in the order of growth.
    """
    q, _ = np.linalg.qr(rows[:, :k])
    return np.abs(q.T @ rows)


def _estimate_errors(
    growth: np.ndarray,
    unit: np.ndarray,
    plateau: np.ndarray,
    tau: np.ndarray,
    upper: np.ndarray | None,
    learned: np.ndarray,
) -> np.ndarray:
    """Return the error estimate of `report` for each mode, in the order of growth.

    It adds the effects of the modes that grow beside mode j and of those beside which mode j grows.
    """
    d = plateau.size
    share = np.zeros((d, growth.size))
    size = np.maximum(unit, 1e-300)
    for j in range(d):
        if not learned[j] or not np.isfinite(tau[j]):
            continue
        later = np.arange(growth.size) > j
        exponent = (growth / growth[j] - 1) * plateau[j] + np.log(size / unit[j])
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
