"""Limits of the linear theory: its error by start scale, and descent's delay by learning rate."""

from typing import Any, Protocol

import jax
import numpy as np

from experiments.contract import Result
from stepwise import _random, dynamics, laws, plotting, spectra, validity
from stepwise.compare import compare
from stepwise.dynamics import reduction
from stepwise.problem import Problem


class Sweeps(Protocol):
    """Fields of a Config that determine the sweeps."""

    @property
    def d(self) -> int: ...
    @property
    def scales(self) -> tuple[float, ...]: ...
    @property
    def scale_starts(self) -> int: ...
    @property
    def scale_modes(self) -> int: ...
    @property
    def lr_gammas(self) -> tuple[float, ...]: ...
    @property
    def records(self) -> int: ...
    @property
    def seed(self) -> int: ...


MARKS = "osD^vP"
"""One marker per mode, so that modes do not differ by colour alone."""
LEVELS = (0.5, 1e-3)
"""Eigenvalues at which descent's delay is measured: half of a step, and its foot.

At the foot the delay is due to the plateau alone.
"""


def error_against_scale(experiment: Problem, config: Sweeps) -> dict[str, Any]:
    """Compute step-time errors of the closed form relative to the flow [scales, starts, d].

    Also returned are the errors that `stepwise.validity` expects.
    """
    d = config.d
    top = float(experiment.gamma[0])
    truncated = experiment.truncate(min(config.scale_modes, experiment.gamma.size))
    size = (config.scale_starts, d, truncated.gamma.size)
    shapes = jax.random.normal(_random.key(config.seed + 2), size, truncated.gamma.dtype)
    errors, expected = [], []
    for scale in config.scales:
        row, row_expected = [], []
        for shape in shapes:
            A0 = scale / np.sqrt(top) * shape
            report = validity.report(truncated, d, A0=A0)
            taus = report.step_times[np.isfinite(report.step_times)]
            times = np.geomspace(taus.min() / 3, 1.5 * taus.max(), config.records)
            flow = dynamics.flow(truncated, A0, times, rtol=1e-9, atol=1e-15, reduce=False)
            gap = compare(dynamics.closed_form(truncated, A0, times), flow)
            row.append(np.where(np.isfinite(gap.step_time_error), gap.step_time_error, np.nan))
            row_expected.append(report.expected_error)
        errors.append(row)
        expected.append(row_expected)
    return {"scales": config.scales, "scale_errors": errors, "scale_expected": expected}


def delay_against_lr(experiment: Problem, A0: jax.Array, config: Sweeps) -> dict[str, Any]:
    """Compute τ_descent/τ_flow − 1 [levels, lrs, modes] for the first modes from one start.

    Also returned is the slope in the learning rate that the law predicts.
    """
    modes = min(3, config.d)
    gamma = np.asarray(experiment.gamma)
    taus = np.asarray(validity.report(experiment, config.d, A0=A0).step_times)[: modes + 1]
    until = 1.2 * float(taus[np.isfinite(taus)].max())
    k, _ = reduction.leading(gamma, np.asarray(A0), until, 1e-9)
    truncated = experiment.truncate(max(k, config.d))
    start = A0[:, : truncated.gamma.size]
    times = np.geomspace(float(taus.min()) / 3, until, 4000)
    flow = dynamics.flow(truncated, start, times, rtol=1e-10, atol=1e-15, reduce=False)
    delays = []
    for lr_gamma in config.lr_gammas:
        lr = lr_gamma / float(gamma[0])
        steps = int(until / lr)
        grid = np.unique(
            np.geomspace(max(1, 0.2 * float(taus.min()) / lr), steps, 4000).astype(int)
        )
        descent = dynamics.descent(truncated, start, lr, steps, record_at=grid)
        delays.append(
            [
                spectra.step_times(descent.times, descent.eigenvalues, level)[:modes]
                / spectra.step_times(times, flow.eigenvalues, level)[:modes]
                - 1
                for level in LEVELS
            ]
        )
    law = laws.law_of(None, truncated, config.d)
    lam0 = law.unit()[:modes] * laws.effective_start(start[:, law.order])[:modes] ** 2
    return {
        "lrs": np.asarray(config.lr_gammas) / float(gamma[0]),
        "delays": np.swapaxes(delays, 0, 1),
        "delay_laws": [law.descent_delay(1.0, lam0, level) for level in LEVELS],
        "delay_plateau": law.growth()[:modes] / 4,
        "delay_gamma": gamma[:modes],
    }


def delay_slopes(result: Result) -> np.ndarray:
    """Fit the slope of the delay in lr at lr → 0 [levels, modes]."""
    lrs, delays = result.arrays["lrs"], result.arrays["delays"]
    # delay = a lr + b lr²; the quadratic term keeps the larger rates from bending the slope
    design = np.stack([np.ones_like(lrs), lrs], axis=1)
    return np.stack(
        [np.linalg.lstsq(design, level / lrs[:, None], rcond=None)[0][0] for level in delays]
    )


def scale_factor(result: Result) -> float:
    """Return the typical factor between measured and expected error, median e^|ln(error/expected)|.

    It is NaN if no error is in the range in which it can be compared.
    """
    errors, expected = result.arrays["scale_errors"], result.arrays["scale_expected"]
    use = (expected > 1e-7) & (expected < 0.02) & (errors > 0)
    return (
        float(np.exp(np.median(np.abs(np.log(errors[use] / expected[use])))))
        if use.any()
        else np.nan
    )


def scale_slopes(result: Result) -> tuple[np.ndarray, np.ndarray]:
    """Return measured and predicted d ln(error)/d ln α of the modes with resolved, small errors.

    In theory, the error is θ²/ln(1/λ(0)) with θ ∝ α^{1 − γ_k/γ_j}, where k is the nearest mode that
    grows beside mode j.
    """
    scales = np.asarray(result.arrays["scales"])
    errors, expected = (
        np.nanmedian(result.arrays[f"scale_{name}"], axis=1) for name in ("errors", "expected")
    )
    measured, predicted = [], []
    for error, prediction in zip(errors.T, expected.T, strict=True):
        use = (prediction > 1e-7) & (prediction < 0.02) & (error > 0)
        if use.sum() >= 3:
            measured.append(np.polyfit(np.log(scales[use]), np.log(error[use]), 1)[0])
            predicted.append(np.polyfit(np.log(scales[use]), np.log(prediction[use]), 1)[0])
    return np.asarray(measured), np.asarray(predicted)


def plot_scale(ax: Any, result: Result) -> None:
    """Draw measured and predicted errors of a few modes against the start scale."""
    a = result.arrays
    errors, expected = (np.nanmedian(a[f"scale_{name}"], axis=1) for name in ("errors", "expected"))
    colours = plotting.mode_colours(errors.shape[1])
    for mark, j in zip(MARKS, _modes_to_draw(errors.shape[1]), strict=False):
        # below 1e-7 the error is that of the flow's own tolerance
        resolved = np.where(expected[:, j] > 1e-7, errors[:, j], np.nan)
        ax.loglog(a["scales"], resolved, mark, ms=4.5, color=colours[j], label=f"mode {j + 1}")
        ax.loglog(a["scales"], expected[:, j], color=colours[j], ls=(0, (4, 2)), lw=1.2)
    ax.plot([], [], color=plotting.INK, ls=(0, (4, 2)), lw=1.2, label="predicted")
    ax.set(ylim=(1e-8, 10), xlabel="start scale α √γ₁", ylabel="relative error of the step time")
    ax.set_title("The theory improves for smaller starts")
    ax.legend(loc="upper left", ncols=2)


def plot_delay(ax: Any, result: Result) -> None:
    """Draw measured delays of the first modes against the learning rate, and their law."""
    a = result.arrays
    top = a["delay_gamma"][0]
    colours = plotting.mode_colours(a["eigenvalues"].shape[1])[: len(a["delay_gamma"])]
    for j, (mark, colour) in enumerate(zip(MARKS, colours, strict=False)):
        ax.loglog(
            a["lrs"] * top, a["delays"][0][:, j], mark, ms=4.5, color=colour, label=f"mode {j + 1}"
        )
        ax.loglog(
            a["lrs"] * top, a["lrs"] * a["delay_laws"][0][j], color=colour, ls=(0, (4, 2)), lw=1.2
        )
    ax.plot([], [], color=plotting.INK, ls=(0, (4, 2)), lw=1.2, label="predicted")
    ax.set(xlabel="learning rate × γ₁", ylabel="relative delay behind the flow")
    ax.set_title("Descent lags in proportion to lr × γⱼ")
    ax.legend(loc="upper left")


def _modes_to_draw(d: int) -> list[int]:
    return sorted({0, 1, 2, 5, 8} & set(range(d)) | {min(d - 1, 8)})
