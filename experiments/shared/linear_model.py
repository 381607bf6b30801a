"""Linear Barlow Twins on real images: eigenvalues rise one at a time, when theory predicts it.

Claim          Gradient descent on the linear model follows the closed form λ_j(t), a sigmoid in
               8 γ_j (t − τ_j).
Paper          Simon et al. (2023), Figure 1, panels A and B: n = 500 pairs of 20 × 20 × 3 crops,
               d = 10
Command        make fig1; this module computes panels A and B
Time, 2 cores  less than a minute (laptop)
Expected       at least 8 of 10 modes within 2% of their predicted step time (median of 10 starts);
               rms error of the eigenvalues below 0.01; relative delay of descent on the plateau
               2 lr γ_j; every mode beyond 2% named in advance by the validity report

Four more panels show the top eigenvectors of Γ as pictures, all eigenvalues of all starts on one
sigmoid, the theory's error against start scale (with the error that `stepwise.validity` predicts),
and descent's delay against the learning rate.
"""

from dataclasses import asdict, dataclass
from typing import Any, Self

import jax
import numpy as np

from experiments.contract import Check, Progress, Result, silent
from experiments.shared import images, sweeps
from stepwise import _random, dynamics, laws, plotting, problem, validity
from stepwise.compare import Comparison, compare
from stepwise.dynamics import Trajectory, reduction
from stepwise.moments import Center
from stepwise.plotting import Figure
from stepwise.problem import Problem


@dataclass(frozen=True)
class Config:
    """Settings of the linear model."""

    data: str = "photos"
    """Images: photos, glyphs, cifar10, stl10, folder:PATH, pairs:PATH or npz:PATH."""
    data_dir: str | None = None
    """Folder that contains cifar10 or stl10."""
    side: int = 32
    """Side in pixels to which images are resized before they are cropped to 20 px."""
    n_pairs: int = 500
    d: int = 10
    center: Center = "pooled"
    start_scale: float = 1e-6
    """α, standard deviation of W(0)'s entries."""
    lr_gamma: float = 0.005
    """Learning rate times γ_1; descent lags the flow by twice this fraction in the first mode."""
    starts: int = 10
    until: float = 1.5
    """Training time as a multiple of the last predicted step time."""
    records: int = 600
    """Number of samples on the logarithmic grid of times."""
    scales: tuple[float, ...] = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4, 1e-5, 1e-6)
    """Start scales, in units where γ_1 = 1, at which the flow is compared with the closed form."""
    scale_starts: int = 6
    scale_modes: int = 100
    """Number of modes of the problem on which that comparison is made."""
    lr_gammas: tuple[float, ...] = (0.003, 0.006, 0.0125, 0.025, 0.05, 0.1)
    """Learning rates times γ_1 at which descent is compared with the flow."""
    tolerance: float = 0.02
    """Relative error of a step time up to which it counts as predicted."""
    seed: int = 0
    x64: bool = True

    def __post_init__(self) -> None:
        """Reject settings that are not positive before any image is loaded."""
        names = "n_pairs d start_scale lr_gamma starts until records tolerance"
        for name in names.split():
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"{name}: expected a positive number, received {getattr(self, name)!r}"
                )

    @classmethod
    def smoke(cls) -> Self:
        """Return a configuration that runs in seconds: fewer pairs, modes and starts."""
        small = {"scales": (1e-1, 1e-2, 1e-3, 1e-5), "lr_gammas": (0.01, 0.03, 0.1)}
        return cls(n_pairs=100, d=4, starts=3, records=200, scale_starts=4, **small)  # type: ignore[arg-type]

    @classmethod
    def laptop(cls) -> Self:
        """Return the paper's sizes, on the photographs of scikit-learn."""
        return cls()

    @classmethod
    def paper(cls) -> Self:
        """Return the paper's sizes and images."""
        return cls(data="cifar10")


def run(config: Config, progress: Progress = silent) -> Result:
    """Draw views, predict, descend from every start, and compare."""
    progress("views and the spectrum of Γ")
    x, x2 = images.crops(config)
    experiment = problem.from_views(x, x2, center=config.center)
    m, d = experiment.basis.shape[0], config.d
    key = _random.key(config.seed)
    W0 = config.start_scale * jax.random.normal(key, (config.starts, d, m), experiment.gamma.dtype)
    lr = config.lr_gamma / float(experiment.gamma[0])

    model = theory_problem(x, x2, config)
    reports = [
        validity.report(model, d, A0=model.coordinates(W), lr=lr, tolerance=config.tolerance)
        for W in W0
    ]
    steps, grid = _grid(reports, lr, config)
    before = validity.report(
        model, d, start_scale=config.start_scale, lr=lr, tolerance=config.tolerance
    )
    for line in str(before).splitlines():
        progress(line)

    progress(f"gradient descent, {steps} steps, {experiment.gamma.size} modes")
    A0 = jax.vmap(experiment.coordinates)(W0)
    whole = dynamics.descent(experiment, A0[0], lr, steps, record_at=grid)
    k, bound = _leading_modes(experiment, A0, lr * steps)
    progress(
        f"gradient descent from {config.starts} starts on the {k} leading modes (error at most "
        f"{bound:.0e})"
    )
    truncated = experiment.truncate(k)
    descend = jax.jit(jax.vmap(lambda A: dynamics.descent(truncated, A, lr, steps, record_at=grid)))
    runs = descend(A0[:, :, :k]).unbatch()
    theories = [predict(model, W, whole.times) for W in W0]
    gaps = [
        compare(theory, each) for theory, each in zip(theories, [whole, *runs[1:]], strict=True)
    ]

    progress("the theory's error against start scale")
    by_scale = sweeps.error_against_scale(experiment, config)
    progress("descent's delay against the learning rate")
    by_lr = sweeps.delay_against_lr(experiment, A0[0], config)

    taus = np.stack([np.asarray(model_steps(model, W)) for W in W0])
    arrays = {
        "times": whole.times,
        "loss": whole.loss,
        "eigenvalues": whole.eigenvalues,
        "theory_loss": theories[0].loss,
        "theory_eigenvalues": theories[0].eigenvalues,
        "step_times": taus,
        "all_eigenvalues": np.stack([whole.eigenvalues, *(each.eigenvalues for each in runs[1:])]),
        "gamma": experiment.gamma,
        "pictures": experiment.basis[:, :d].T.reshape(d, *_picture_shape(m)),
        **by_scale,
        **by_lr,
    }
    truncation = float(
        np.max(np.abs(np.asarray(whole.eigenvalues) - np.asarray(runs[0].eigenvalues)))
    )
    numbers = {
        "gaps": [gap.summary() for gap in gaps],
        "within": [gap.count_within(config.tolerance) for gap in gaps],
        "exceptions": _exceptions(gaps, reports, config.tolerance),
        "validity": before.summary(),
        "validity_by_start": [report.summary() for report in reports],
        "gamma": np.asarray(experiment.gamma[: d + 1]).tolist(),
        "kappa": float(experiment.gamma[0] / experiment.gamma[d - 1]),
        "n_pairs": experiment.n_pairs,
        "m": m,
        "rank": int(experiment.gamma.size),
        "lr": lr,
        "steps": steps,
        "result": str(whole.result),
        "modes_of_all_starts": k,
        "truncation": truncation,
        "truncation_bound": bound,
        "config": asdict(config),
    }
    return Result({name: np.asarray(array) for name, array in arrays.items()}, numbers)


def theory_problem(x: np.ndarray, x2: np.ndarray, config: Config) -> Problem:
    """Return the problem on which the theory is evaluated; the same as the experiment's."""
    return problem.from_views(x, x2, center=config.center)


def predict(model: Problem, W0: jax.Array, times: jax.Array) -> Trajectory:
    """Return the theory's curves from a start in pixel space."""
    return dynamics.closed_form(model, model.coordinates(W0), times)


def model_steps(model: Problem, W0: jax.Array) -> jax.Array:
    """Return the predicted step times τ_j [d] from a start in pixel space."""
    A0 = model.coordinates(W0)
    law = laws.law_of(None, model, len(A0))
    return law.step_times(law.unit()[: len(A0)] * laws.effective_start(A0[:, law.order]) ** 2)


def _grid(reports: list[validity.Report], lr: float, config: Config) -> tuple[int, np.ndarray]:
    """Return the number of steps and the steps to record.

    The recorded steps are a geometric grid from a fifth of the first predicted step time.

    Raises:
        ValueError: if no mode of Γ is positive, so that nothing can be learned.
    """
    taus = np.stack([report.step_times for report in reports])
    if not np.isfinite(taus).any():
        raise ValueError(
            f"data: expected images with positive modes of Γ, received {config.data} with none"
        )
    first, last = taus[np.isfinite(taus)].min(), taus[np.isfinite(taus)].max()
    steps = int(np.ceil(config.until * last / lr))
    return steps, np.unique(np.geomspace(max(1, first / lr / 5), steps, config.records).astype(int))


def _leading_modes(experiment: Problem, A0: jax.Array, until: float) -> tuple[int, float]:
    """Return how many leading modes reproduce descent from every start to 1e-7, and the bound."""
    cuts = [reduction.leading(np.asarray(experiment.gamma), np.asarray(A), until, 1e-7) for A in A0]
    return max(k for k, _ in cuts), max(bound for _, bound in cuts)


def _exceptions(
    gaps: list[Comparison], reports: list[validity.Report], tolerance: float
) -> list[dict[str, Any]]:
    """List the modes whose step-time error exceeds the tolerance, and whether it was predicted."""
    exceptions = []
    for i, (gap, report) in enumerate(zip(gaps, reports, strict=True)):
        for j in np.flatnonzero(~(gap.step_time_error <= tolerance)):
            about = {"start": i, "mode": int(j) + 1, "error": float(gap.step_time_error[j])}
            exceptions.append(
                about
                | {
                    "expected": float(report.expected_error[j]),
                    "predicted": bool(report.at_risk[j]),
                }
            )
    return exceptions


def _picture_shape(m: int) -> tuple[int, int, int]:
    channels = 3 if m % 3 == 0 and round((m / 3) ** 0.5) ** 2 * 3 == m else 1
    side = round((m / channels) ** 0.5)
    return side, side, channels


def collapse_rms(result: Result) -> np.ndarray:
    """Return the rms distance [starts] of eigenvalues from one sigmoid in 8 γ_j (t − τ_j)."""
    u, values = _collapsed(result)
    near = np.abs(u) < 20
    squares = np.where(near, (values - 1 / (1 + np.exp(-np.clip(u, -20, 20)))) ** 2, 0)
    return np.sqrt(squares.sum(axis=(1, 2)) / near.sum(axis=(1, 2)))


def check(result: Result) -> list[Check]:
    """Check the claim of the header and its premises."""
    numbers, config = result.numbers, result.numbers["config"]
    positive = numbers["validity"]["n_positive"]
    d = min(config["d"], positive)
    rms = [gap["eigenvalue_rms"] for gap in numbers["gaps"]]
    alignment = [
        gap["alignment"] if gap["alignment"] is not None else np.nan for gap in numbers["gaps"]
    ]
    missed = [each for each in numbers["exceptions"] if not each["predicted"]]
    half, foot = sweeps.delay_slopes(result)
    law, plateau = result.arrays["delay_laws"][0], result.arrays["delay_plateau"]
    measured, predicted = sweeps.scale_slopes(result)
    off_slope = float(np.median(np.abs(measured - predicted))) if measured.size else np.nan
    return [
        Check("number of positive modes", positive, config["d"], ">=", premise=True),
        Check("learning rate times gamma_1", config["lr_gamma"], 0.01, "<=", premise=True),
        Check(
            "learning rate / largest stable learning rate",
            numbers["lr"] / numbers["validity"]["lr_limit"],
            0.5,
            "<=",
            premise=True,
        ),
        Check(
            "eigenvalue error from omitted modes", numbers["truncation"], 1e-5, "<=", premise=True
        ),
        Check(
            "modes within tolerance, median over starts",
            float(np.median(numbers["within"])),
            np.ceil(0.8 * d),
            ">=",
        ),
        Check("rms eigenvalue error, median over starts", float(np.median(rms)), 0.01, "<="),
        Check("modes beyond tolerance without a warning", len(missed), 0, "=="),
        Check(
            "final subspace alignment, median over starts",
            float(np.median(alignment)),
            0.99,
            ">=",
        ),
        Check(
            "rms loss error, median over starts",
            float(np.median([gap["loss_rms"] for gap in numbers["gaps"]])),
            0.05,
            "<=",
        ),
        Check(
            "rms distance from one sigmoid, median over starts",
            float(np.median(collapse_rms(result))),
            0.02,
            "<=",
        ),
        Check(
            "plateau: slope of the delay / 2 gamma_j, largest error",
            _largest(foot / plateau - 1),
            0.02,
            "<=",
        ),
        Check(
            "step: slope of the delay / its law, largest error",
            _largest(half / law - 1),
            0.03,
            "<=",
        ),
        Check("theory's error: slope in start scale, median error", off_slope, 0.25, "<="),
        Check(
            "theory's error / expected error, median factor",
            sweeps.scale_factor(result),
            2,
            "<=",
        ),
    ]


def _largest(values: np.ndarray) -> float:
    return float(np.max(np.abs(values)))


def plot(result: Result) -> Figure:
    """Draw panels A and B, the eigenvectors, and three panels on the limits of the theory."""
    fig = plotting.figure(11, 9.5)
    draw(fig.subfigures(3, 1, height_ratios=[3.4, 1.25, 3]), result)
    return fig


def draw(rows: Any, result: Result) -> None:
    """Draw the three rows of the figure, each into a subfigure."""
    a, numbers = result.arrays, result.numbers
    d = a["eigenvalues"].shape[1]
    top = rows[0].subplots(1, 2)
    experiment, theory = (
        (a["times"], a["eigenvalues"], a["loss"]),
        (a["times"], a["theory_eigenvalues"], a["theory_loss"]),
    )
    plotting.loss(top[0], experiment, theory, a["step_times"][0])
    top[0].set_title("A  The loss falls in steps")
    plotting.eigenvalues(top[1], experiment, theory, a["step_times"][0])
    top[1].set_title("B  Eigenvalues rise one at a time")
    rows[0].suptitle(
        f"Linear Barlow Twins, {numbers['n_pairs']} pairs of "
        f"{images.title(numbers['config']['data'])}, "
        f"m = {numbers['m']}, d = {d}",
        fontsize=12,
    )
    strip = rows[1].subplots(1, d)
    titles = [f"γ = {gamma:.3g}" for gamma in a["gamma"][:d]]
    plotting.pictures(list(np.atleast_1d(strip)), a["pictures"], titles, plotting.mode_colours(d))
    rows[1].suptitle(
        "Top eigenvectors of Γ, in the order in which they are learned "
        "(each stretched to full contrast; the sign is arbitrary)",
        fontsize=10.5,
    )
    bottom = rows[2].subplots(1, 3)
    _plot_collapse(bottom[0], result)
    sweeps.plot_scale(bottom[1], result)
    sweeps.plot_delay(bottom[2], result)


def _plot_collapse(ax: Any, result: Result) -> None:
    u, values = _collapsed(result)
    d = values.shape[2]
    for j, colour in enumerate(plotting.mode_colours(d)):
        inside = np.abs(u[:, :, j]) < 12
        ax.plot(
            u[:, :, j][inside], values[:, :, j][inside], ".", ms=2, color=colour, rasterized=True
        )
    grid = np.linspace(-12, 12, 200)
    ax.plot(
        grid, 1 / (1 + np.exp(-grid)), color=plotting.INK, ls=(0, (4, 2)), lw=1.2, label="sigmoid"
    )
    ax.set(
        xlabel="8 γⱼ (t − τⱼ)",
        ylabel="eigenvalues of C",
        title=f"{d} modes of {len(u)} starts on one sigmoid",
    )
    ax.legend(loc="upper left")


def _collapsed(result: Result) -> tuple[np.ndarray, np.ndarray]:
    """Return u = 8 γ_j (t − τ_j) and λ_j [starts, T, d]; the modes are sorted by step time."""
    a = result.arrays
    taus = a["step_times"]
    order = np.argsort(taus, axis=1)
    growth = laws.law_of(None, laws.Modes(a["gamma"]), taus.shape[1]).growth()
    rate = np.asarray(growth, np.float64)[: taus.shape[1]][order]
    u = rate[:, None] * (a["times"][None, :, None] - np.take_along_axis(taus, order, 1)[:, None])
    return u, a["all_eigenvalues"]
