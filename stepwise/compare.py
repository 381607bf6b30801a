"""Theory against experiment: how far apart two trajectories are, in named numbers."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import Float

from stepwise import _check, _files, laws, spectra
from stepwise._moved import Renamed
from stepwise.dynamics import Trajectory
from stepwise.laws import Law, LawOf, Modes
from stepwise.types import Numbers, Real

Curves: TypeAlias = Trajectory | tuple[Any, ...] | dict[str, Any]
"""A trajectory, a tuple (times [T], eigenvalues [T, d]) or (..., loss [T]), or a dict with those
names.
"""


@dataclass(frozen=True)
class Comparison:
    """The gaps between a theory and an experiment.

    Attributes:
        theory_steps, experiment_steps: when each eigenvalue crosses the level [d], infinite where
            it does not.
        step_time_error: |τ_experiment − τ_theory| / τ_theory [d]; 0 where neither crosses, infinite
            where only one does.
        eigenvalue_rms: root mean square of λ_experiment − λ_theory over modes and over ln t.
        loss_rms: the same of the loss; None with unlike d, where the losses have other constants,
            and where the law does not have a plain curve's loss from its eigenvalues.
        alignment: of the two final subspaces in mode coordinates, where both hold a snapshot of
            full rank.
    """

    theory_steps: Float[np.ndarray, " d"]
    experiment_steps: Float[np.ndarray, " d"]
    step_time_error: Float[np.ndarray, " d"]
    eigenvalue_rms: float
    loss_rms: float | None
    alignment: float | None

    learned = Renamed("n_learned")
    within = Renamed("count_within")

    @property
    def n_learned(self) -> int:
        """How many modes take their step in both."""
        return int(np.sum(np.isfinite(self.theory_steps) & np.isfinite(self.experiment_steps)))

    def __str__(self) -> str:
        """The summary as text, a line for each mode."""
        lines = [f"{'mode':>4} {'theory':>11} {'experiment':>11} {'error':>8}"]
        rows = zip(self.theory_steps, self.experiment_steps, self.step_time_error, strict=True)
        for j, (theory, run, error) in enumerate(rows):
            told = f"{error:>8.2%}" if np.isfinite(theory) and np.isfinite(run) else f"{'-':>8}"
            lines.append(f"{j + 1:>4} {theory:>11.4g} {run:>11.4g} {told}")
        gaps = [f"eigenvalue rms {self.eigenvalue_rms:.2g}"]
        gaps += [] if self.loss_rms is None else [f"loss rms {self.loss_rms:.2g}"]
        gaps += [] if self.alignment is None else [f"final subspace alignment {self.alignment:.6f}"]
        return "\n".join(
            [
                *lines,
                f"{self.n_learned} of {len(self.theory_steps)} modes learned; {', '.join(gaps)}",
            ]
        )

    def count_within(self, tolerance: Real) -> int:
        """How many modes have a step time within this relative tolerance, of those that the theory
        says are learned.
        """
        return int(np.sum((self.step_time_error <= tolerance) & np.isfinite(self.theory_steps)))

    def summary(self) -> dict[str, Any]:
        """All of it as numbers and lists that JSON can hold; an infinite time is None."""
        names = ("eigenvalue_rms", "loss_rms", "alignment")
        lists = ("theory_steps", "experiment_steps", "step_time_error")
        numbers = {name: getattr(self, name) for name in lists + names}
        summary: dict[str, Any] = _files.jsonable({"learned": self.n_learned, **numbers})
        return summary


def compare(
    theory: Curves,
    experiment: Curves,
    *,
    level: Real = 0.5,
    law: LawOf = None,
    problem: Any = None,
) -> Comparison:
    """Lay an experiment over a theory.

    Both are read on the experiment's own times within what the two share; the theory is
    interpolated in ln t there. A run that diverged is read up to there.
    Averages are over ln t (trapezoid weights), so that they do not depend on how densely a run was
    logged. Eigenvalues are compared in order of size; with unlike d, as many as the smaller has.

    Args:
        theory, experiment: trajectories, or plain arrays of logged curves (see `Curves`).
        level: the height that counts as a step (`spectra.step_times`), relative to where the law
            says the i-th largest eigenvalue rests. A theory that is a trajectory brings that along.
        law: of plain curves, a function (problem, d) -> Law or a law; `laws.DEFAULT` without one,
            whose eigenvalues rest at 1.
        problem: of the law, where it is a function.

    Raises:
        ValueError: times do not increase, shapes do not fit, the two share no stretch of time, or a
            curve is not finite; the two are trajectories of different matrices (C, a covariance).
    """
    _require_one_observable(theory, experiment)
    if isinstance(theory, Trajectory) and theory.rest is not None and problem is None:
        law = law if isinstance(law, Law) else None  # a trajectory brings along what counts here
    options = {"law": law, "problem": problem}
    t_theory, theory_curves, theory_loss, theory_end = curves("theory", theory, **options)
    t_run, run_curves, run_loss, run_end = curves("experiment", experiment, **options)
    d, same = (
        min(theory_curves.shape[1], run_curves.shape[1]),
        theory_curves.shape[1] == run_curves.shape[1],
    )
    theory_curves, run_curves = theory_curves[:, :d], run_curves[:, :d]
    first, last = max(t_theory[0], t_run[0]), min(t_theory[-1], t_run[-1])
    shared = (t_run >= first) & (t_run <= last) & (t_run > 0)
    span = f"{t_run[0]:.4g} ... {t_run[-1]:.4g} and {t_theory[0]:.4g} ... {t_theory[-1]:.4g}"
    _check.require(
        int(shared.sum()) >= 2,
        "experiment",
        "at least two samples at times that the theory covers",
        span,
    )
    t = t_run[shared]
    weights = np.gradient(np.log(t))
    weights[[0, -1]] /= 2
    weights /= weights.sum()

    gap = run_curves[shared] - _interpolated(t, t_theory, theory_curves)
    loss_rms = None
    if same and theory_loss is not None and run_loss is not None:
        loss_gap = run_loss[shared] - _interpolated(t, t_theory, theory_loss[:, None])[:, 0]
        loss_rms = float(np.sqrt(weights @ loss_gap**2))
    rest = _rests(theory, law_of_curves(d, **options), d)
    theory_steps = spectra.step_times(t_theory, theory_curves / rest, level)
    run_steps = spectra.step_times(t_run, run_curves / rest, level)
    return Comparison(
        theory_steps,
        run_steps,
        _relative(theory_steps, run_steps),
        float(np.sqrt(np.mean(weights @ gap**2))),
        loss_rms,
        _alignment(theory_end, run_end),
    )


def law_of_curves(d: int, *, law: LawOf = None, problem: Any = None) -> Law:
    """The law of d plain curves: of its problem, or, as the default is, of any d modes alike.

    Raises:
        ValueError: the law is a function, and no problem is given.
    """
    alone = law is None or isinstance(law, Law)
    expected = "the problem that law= is a function of, or law=law_of(problem, d)"
    _check.require(alone or problem is not None, "problem", expected, "None")
    if isinstance(law, Law):
        return law
    return laws.law_of(law, Modes(np.ones(d)) if problem is None else problem, d)


def curves(
    name: str, given: Curves, *, law: LawOf = None, problem: Any = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """(times [T], eigenvalues [T, d], loss [T], last snapshot or None) of a trajectory or of plain
    arrays; without a loss, the law's of these eigenvalues, or None where they do not determine it.

    Raises:
        ValueError: times do not increase, shapes do not fit, or a curve is not finite; `name` says
            whose.
    """
    if isinstance(given, Trajectory):
        keep = (
            slice(None)
            if given.result.name != "diverged"
            else slice(int(np.argmin(np.isfinite(given.loss))))
        )
        times, values, loss = given.times[keep], given.eigenvalues[keep], given.loss[keep]
        _check.require(
            len(times) > 1, name, "a run of at least two finite samples", f"one that {given.result}"
        )
        whole = isinstance(given.snapshots, jax.Array | np.ndarray)  # and not a tree of parts
        end = np.asarray(given.snapshots)[-1] if whole else None
    elif isinstance(given, dict):
        known = {"times", "eigenvalues"} <= given.keys()
        _check.require(known, name, "a dict with times and eigenvalues", f"keys {sorted(given)}")
        times, values, loss, end = given["times"], given["eigenvalues"], given.get("loss"), None
    else:
        _check.require(
            len(given) in (2, 3),
            name,
            "(times, eigenvalues) or (times, eigenvalues, loss)",
            str(len(given)),
        )
        times, values, loss, end = given[0], given[1], given[2] if len(given) == 3 else None, None
    t = np.asarray(_check.real_array(f"{name} times", times, ndim=1), np.float64)
    _check.require(
        t.size > 0 and bool((np.diff(t) > 0).all()), f"{name} times", "increasing numbers", t
    )
    values = np.asarray(_check.real_array(f"{name} eigenvalues", values, ndim=2), np.float64)
    _check.require(
        len(values) == t.size, f"{name} eigenvalues", f"[{t.size}, d], a row for each time", values
    )
    if loss is not None:
        return t, values, _loss(name, loss, t.size), end
    known = law_of_curves(values.shape[1], law=law, problem=problem).loss_of(values)
    return t, values, None if known is None else np.asarray(known, np.float64), end


def _require_one_observable(theory: Curves, experiment: Curves) -> None:
    if isinstance(theory, Trajectory) and isinstance(experiment, Trajectory):
        _check.require(
            theory.observable == experiment.observable,
            "experiment",
            f"eigenvalues of the {theory.observable}, as the theory's",
            f"those of the {experiment.observable}",
        )


def _rests(theory: Curves, law: Law, d: int) -> np.ndarray:
    """What the d largest eigenvalues rest at; for one that does not grow, the largest of them."""
    if isinstance(theory, Trajectory) and theory.rest is not None:
        rest = np.asarray(theory.rest, np.float64)[:d]
    else:
        ends = np.asarray(law.rest()[law.final_modes(d)], np.float64)
        rest = np.pad(ends, (0, d - len(ends)))
    return np.where(rest > 0, rest, rest.max(initial=0) or 1.0)


def _loss(name: str, loss: Numbers, size: int) -> np.ndarray:
    loss = np.asarray(_check.real_array(f"{name} loss", loss, ndim=1), np.float64)
    _check.require(loss.size == size, f"{name} loss", f"[{size}], one a time", loss)
    return loss


def _interpolated(t: np.ndarray, known: np.ndarray, curves: np.ndarray) -> np.ndarray:
    if known[0] == 0:  # ln 0: the start stands a little before the first sample
        known = (
            np.concatenate([[min(t[0], known[1]) * 1e-3], known[1:]]) if known.size > 1 else known
        )
    return np.stack([np.interp(np.log(t), np.log(known), curve) for curve in curves.T], axis=1)


def _relative(theory: np.ndarray, run: np.ndarray) -> np.ndarray:
    both = np.isfinite(theory) & np.isfinite(run)
    out = np.where(np.isfinite(theory) == np.isfinite(run), 0.0, np.inf)
    out[both] = np.abs(run[both] - theory[both]) / theory[both]
    return out


def _alignment(theory: np.ndarray | None, run: np.ndarray | None) -> float | None:
    if theory is None or run is None or len(theory) != len(run) or not np.isfinite(run).all():
        return None
    # a truncated problem holds nothing of the modes that it left out
    modes = max(theory.shape[1], run.shape[1])
    theory, run = (np.pad(A, ((0, 0), (0, modes - A.shape[1]))) for A in (theory, run))
    if min(np.linalg.matrix_rank(theory), np.linalg.matrix_rank(run)) < theory.shape[0]:
        return None
    return spectra.subspace_alignment(theory.T, run.T)
