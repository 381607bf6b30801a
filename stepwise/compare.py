"""Comparison of a theory with an experiment: the differences between two trajectories."""

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
"""Curves to compare: a trajectory; a tuple (times [T], eigenvalues [T, d]) or (times, eigenvalues,
loss [T]); or a dict with these keys, of which "loss" is optional.
"""


@dataclass(frozen=True)
class Comparison:
    """The differences between a theory and an experiment.

    Attributes:
        theory_steps, experiment_steps: time at which each eigenvalue crosses the level [d],
            infinite if it does not.
        step_time_error: |τ_experiment − τ_theory| / τ_theory [d]. 0 if neither crosses, infinite if
            only one does.
        eigenvalue_rms: root mean square of λ_experiment − λ_theory over modes and over ln t.
        loss_rms: root mean square of the difference of the losses over ln t. None if the two have
            different d, because their losses then differ by a constant, or if the law cannot
            compute the loss of a plain curve from its eigenvalues.
        alignment: alignment of the two final subspaces in mode coordinates. None unless both have a
            final snapshot of full rank.
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
        """The number of modes that cross the level in both."""
        return int(np.sum(np.isfinite(self.theory_steps) & np.isfinite(self.experiment_steps)))

    def __str__(self) -> str:
        """Format a table of step times with one line for each mode, and a summary line."""
        lines = ["mode  theory step time  experiment step time  relative error"]
        rows = zip(self.theory_steps, self.experiment_steps, self.step_time_error, strict=True)
        for j, (theory, run, error) in enumerate(rows):
            percent = f"{error:.2%}" if np.isfinite(theory) and np.isfinite(run) else "-"
            lines.append(f"{j + 1:>4} {theory:>17.4g} {run:>21.4g} {percent:>15}")
        gaps = [f"eigenvalue rms error {self.eigenvalue_rms:.2g}"]
        gaps += [] if self.loss_rms is None else [f"loss rms error {self.loss_rms:.2g}"]
        gaps += [] if self.alignment is None else [f"final subspace alignment {self.alignment:.6f}"]
        learned = f"{self.n_learned} of {len(self.theory_steps)} modes learned in both"
        return "\n".join([*lines, f"{learned}; {', '.join(gaps)}"])

    def count_within(self, tolerance: Real) -> int:
        """Return the number of modes with a step time within this relative tolerance.

        Only modes that are learned in the theory count.
        """
        return int(np.sum((self.step_time_error <= tolerance) & np.isfinite(self.theory_steps)))

    def summary(self) -> dict[str, Any]:
        """Return all attributes as JSON values, with None for an infinite time."""
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
    """Compare an experiment with a theory.

    Both are evaluated at the experiment's times within their common range, where the theory is
    interpolated in ln t. A run that diverged is compared up to the divergence. Averages are over
    ln t (trapezoid weights), so they do not depend on how densely a run was logged. Eigenvalues are
    compared in order of size. If d differs, the largest ones are compared, up to the smaller d.

    Args:
        theory, experiment: trajectories, or plain arrays of logged curves (see `Curves`).
        level: the fraction of its final value at which an eigenvalue takes its step
            (`spectra.step_times`). The final value of the i-th largest eigenvalue is that of the
            theory's trajectory, or that of `law` for plain curves.
        law: the law of plain curves: a law, or a function (problem, d) -> Law. The default is
            Barlow Twins (`laws.DEFAULT`), whose eigenvalues converge to 1.
        problem: the problem of the law, if `law` is a function.

    Returns:
        The differences, which print as a table.

    Raises:
        ValueError: if times do not increase, shapes do not fit, the two share no time range, or a
            curve is not finite; if the two are trajectories of different matrices (C, a
            covariance).
    """
    _require_one_observable(theory, experiment)
    if isinstance(theory, Trajectory) and theory.rest is not None and problem is None:
        law = law if isinstance(law, Law) else None  # the trajectory holds the final values
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

    gap = run_curves[shared] - _interpolate(t, t_theory, theory_curves)
    loss_rms = None
    if same and theory_loss is not None and run_loss is not None:
        loss_gap = run_loss[shared] - _interpolate(t, t_theory, theory_loss[:, None])[:, 0]
        loss_rms = float(np.sqrt(weights @ loss_gap**2))
    rest = _rests(theory, law_of_curves(d, **options), d)
    theory_steps = spectra.step_times(t_theory, theory_curves / rest, level)
    run_steps = spectra.step_times(t_run, run_curves / rest, level)
    return Comparison(
        theory_steps,
        run_steps,
        _relative_errors(theory_steps, run_steps),
        float(np.sqrt(np.mean(weights @ gap**2))),
        loss_rms,
        _alignment(theory_end, run_end),
    )


def law_of_curves(d: int, *, law: LawOf = None, problem: Any = None) -> Law:
    """Return the law of d plain curves.

    A function is called with the problem. Without a problem, the default law is that of d equal
    modes.

    Raises:
        ValueError: if the law is a function and no problem is given.
    """
    complete = law is None or isinstance(law, Law)
    expected = "the problem of the function law= (or pass a law, law=law_of(law, problem, d))"
    _check.require(complete or problem is not None, "problem", expected, "None")
    if isinstance(law, Law):
        return law
    return laws.law_of(law, Modes(np.ones(d)) if problem is None else problem, d)


def curves(
    name: str, given: Curves, *, law: LawOf = None, problem: Any = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Return (times [T], eigenvalues [T, d], loss [T], last snapshot) of a trajectory or of arrays.

    If there is no loss, the law's loss of these eigenvalues is returned, or None if they do not
    determine it. The snapshot is None for arrays.

    Raises:
        ValueError: if times do not increase, shapes do not fit, or a curve is not finite. `name`
            names the curves in the message.
    """
    if isinstance(given, Trajectory):
        valid = (
            slice(None)
            if given.result.name != "diverged"
            else slice(int(np.argmin(np.isfinite(given.loss))))
        )
        times, values, loss = given.times[valid], given.eigenvalues[valid], given.loss[valid]
        _check.require(
            len(times) > 1,
            name,
            "a run of at least two finite samples",
            f"one that {given.result}",
        )
        whole = isinstance(given.snapshots, jax.Array | np.ndarray)  # not a pytree of parts
        end = np.asarray(given.snapshots)[-1] if whole else None
    elif isinstance(given, dict):
        complete = {"times", "eigenvalues"} <= given.keys()
        received = f"keys {sorted(given)}"
        _check.require(complete, name, "a dict with times and eigenvalues", received)
        times, values, loss, end = given["times"], given["eigenvalues"], given.get("loss"), None
    else:
        _check.require(
            len(given) in (2, 3),
            name,
            "(times, eigenvalues) or (times, eigenvalues, loss)",
            f"a sequence of length {len(given)}",
        )
        times, values, end = given[0], given[1], None
        loss = given[2] if len(given) == 3 else None
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
    derived = law_of_curves(values.shape[1], law=law, problem=problem).loss_of(values)
    return t, values, None if derived is None else np.asarray(derived, np.float64), end


def _require_one_observable(theory: Curves, experiment: Curves) -> None:
    if isinstance(theory, Trajectory) and isinstance(experiment, Trajectory):
        _check.require(
            theory.observable == experiment.observable,
            "experiment",
            f"eigenvalues of the same matrix as the theory's, {theory.observable}",
            f"those of {experiment.observable}",
        )


def _rests(theory: Curves, law: Law, d: int) -> np.ndarray:
    """Return the final values of the d largest eigenvalues.

    An eigenvalue that does not grow gets the largest of them, as the scale of its level.
    """
    if isinstance(theory, Trajectory) and theory.rest is not None:
        rest = np.asarray(theory.rest, np.float64)[:d]
    else:
        ends = np.asarray(law.rest()[law.final_modes(d)], np.float64)
        rest = np.pad(ends, (0, d - len(ends)))
    return np.where(rest > 0, rest, rest.max(initial=0) or 1.0)


def _loss(name: str, loss: Numbers, size: int) -> np.ndarray:
    loss = np.asarray(_check.real_array(f"{name} loss", loss, ndim=1), np.float64)
    _check.require(loss.size == size, f"{name} loss", f"[{size}], one for each time", loss)
    return loss


def _interpolate(t: np.ndarray, grid: np.ndarray, curves: np.ndarray) -> np.ndarray:
    if grid[0] == 0:  # has no logarithm, so the start is placed shortly before the first sample
        grid = np.concatenate([[min(t[0], grid[1]) * 1e-3], grid[1:]]) if grid.size > 1 else grid
    return np.stack([np.interp(np.log(t), np.log(grid), curve) for curve in curves.T], axis=1)


def _relative_errors(theory: np.ndarray, run: np.ndarray) -> np.ndarray:
    both = np.isfinite(theory) & np.isfinite(run)
    out = np.where(np.isfinite(theory) == np.isfinite(run), 0.0, np.inf)
    out[both] = np.abs(run[both] - theory[both]) / theory[both]
    return out


def _alignment(theory: np.ndarray | None, run: np.ndarray | None) -> float | None:
    if theory is None or run is None or len(theory) != len(run) or not np.isfinite(run).all():
        return None
    # In a truncated problem, the modes that were left out have coordinates of zero.
    modes = max(theory.shape[1], run.shape[1])
    theory, run = (np.pad(A, ((0, 0), (0, modes - A.shape[1]))) for A in (theory, run))
    if min(np.linalg.matrix_rank(theory), np.linalg.matrix_rank(run)) < theory.shape[0]:
        return None
    return spectra.subspace_alignment(theory.T, run.T)
