"""Hidden layers learn in steps too, at the times at which the embedding does.

Claim          When a mode of the embedding is learned, a hidden eigenvalue leaves the bulk. The
               covariance of hidden representations gains its large eigenvalues one at a time too.
Paper          Simon et al. (2023), the figure of the hidden representations' eigenvalues: ResNet-50
               on STL-10, three methods
Command        make fig6 (PRESET=smoke|laptop|paper, DATA=..., DATA_DIR=...); it reads fig3's runs
Time, 2 cores  smoke 5 s, laptop 20 s, both with fig3's runs finished
Expected       in the last stage, the ratio of eigenvalue j to the first makes half of its largest
               rise within a factor of 1.5 of the step time of the embedding's mode j (median over
               the learned modes from the second on)

Eigenvalues are compared with the first one because a head can make up for a representation that
shrinks or grows as a whole, as VICReg's does. A rise counts from the start, because the hidden
eigenvalues of a network at its start are not small: half of the largest value may be below it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.contract import Check, Progress, Result, finished, silent
from experiments.figures import fig3_small_start
from experiments.shared import images, resnets
from experiments.shared.resnets import digest
from stepwise import plotting, spectra
from stepwise.methods import find
from stepwise.plotting import Figure

__all__ = ["Config", "check", "digest", "plot", "run"]

SECONDS = {"smoke": 5, "laptop": 20}
"""About what it takes on two cores, for the time left of `make figures`."""

SHOWN = 16
"""Hidden eigenvalues drawn in a panel."""
FACTOR = 1.5
"""Largest median factor between hidden and embedding step times for the claim to hold."""


@dataclass(frozen=True)
class Config(resnets.Config):
    """fig3's training runs; the smoke preset's network is too small for the claim."""


def run(config: resnets.Config, progress: Progress = silent) -> Result:
    """Train or load fig3's runs, and compute the step times of their hidden modes."""
    whole = finished(fig3_small_start.run(config, progress), lambda _: None)
    rises = {
        method: _rises(whole.arrays, method, stages(whole.arrays, method)[-1], summary)
        for method, summary in whole.numbers["methods"].items()
    }
    return Result(whole.arrays, whole.numbers | {"hidden": rises})


def stages(arrays: dict[str, np.ndarray], method: str) -> list[str]:
    """Return the names of a run's hidden representations, first to last, without the stem."""
    names = [name[len(method) + 1 :] for name in arrays if name.startswith(f"{method}_stage")]
    return sorted(names, key=lambda name: int(name.removeprefix("stage")))


def _rises(
    arrays: dict[str, np.ndarray], method: str, stage: str, summary: dict[str, Any]
) -> dict[str, Any]:
    """Compare the step times of a stage's eigenvalues h_j, j ≥ 2, with the embedding's.

    The step time of h_j is the step at which h_j/h_1 − its start first reaches half of its maximum.
    """
    expected = np.asarray(summary["step_times"], np.float64)
    values = np.asarray(arrays[f"{method}_{stage}"], np.float64)[:, : len(expected)]
    shares = values / values[:, :1]
    rises = shares - shares[0]
    largest = np.maximum(rises.max(axis=0), np.finfo(float).tiny)
    hidden = spectra.step_times(arrays[f"{method}_steps"], rises / largest)
    expected = expected[: len(hidden)]
    # this leaves out the first mode: its ratio is always 1 and has no step
    both = np.isfinite(expected) & np.isfinite(hidden)
    off = np.abs(np.log(hidden[both] / expected[both]))
    factor = float(np.exp(np.median(off))) if both.any() else float("nan")
    return {
        "stage": stage,
        "step_times": hidden.tolist(),
        "compared": int(both.sum()),
        "median_factor": factor,
    }


def check(result: Result) -> list[Check]:
    """Check that hidden modes rise when the embedding's modes do."""
    checks = []
    for method, rise in result.numbers["hidden"].items():
        name = find(method).title
        learned = min(resnets.ALONE, result.numbers["config"]["d"] - 1) - 1
        checks += [
            Check(f"{name}: modes compared", rise["compared"], learned, ">=", premise=True),
            Check(
                f"{name}: hidden and embedding step times, median factor",
                rise["median_factor"],
                FACTOR,
                "<=",
            ),
        ]
    return checks


def plot(result: Result) -> Figure:
    """Draw hidden eigenvalues, one row per stage and one column per method.

    Vertical lines mark the embedding's step times, in the colours of the modes. In the last stage a
    dot on each eigenvalue marks its own step time, which the check compares.
    """
    a, numbers = result.arrays, result.numbers
    config, methods = numbers["config"], numbers["methods"]
    rows = max(len(stages(a, method)) for method in methods)
    fig = plotting.figure(max(8, 4 * len(methods) + 0.5), 2.6 * rows + 1)
    axes: Any = fig.subplots(rows, len(methods), squeeze=False, sharex="col")
    for column, (method, summary) in enumerate(methods.items()):
        steps = a[f"{method}_steps"]
        for ax, stage in zip(axes[:, column], stages(a, method), strict=False):
            values = a[f"{method}_{stage}"][:, :SHOWN]
            colours = plotting.mode_colours(config["d"])
            for j, colour in enumerate(colours):
                ax.axvline(
                    summary["step_times"][j], color=colour, lw=0.8, ls=(0, (1, 1.5)), zorder=0
                )
            for j in range(values.shape[1] - 1, -1, -1):
                coloured = j < config["d"]
                ax.plot(
                    steps[1:],
                    values[1:, j],
                    color=colours[j] if coloured else "0.75",
                    lw=1.6 if coloured else 0.8,
                )
            ax.set(xscale="log", yscale="log", xlim=(max(1, steps[-1] / 300), steps[-1]))
            top = values.max()
            ax.set_ylim(top / 300, top * 1.5)
            title = stage.replace("stage", "stage ")
            rise = numbers["hidden"][method]
            if stage == stages(a, method)[0]:
                title = f"{find(method).title}, {title}"
            if stage == rise["stage"]:
                title += f", off by a factor of {rise['median_factor']:.3g} (median)"
                for j, (step, colour) in enumerate(zip(rise["step_times"], colours, strict=False)):
                    if j > 0 and np.isfinite(step) and np.isfinite(summary["step_times"][j]):
                        height = np.interp(step, steps, values[:, j])
                        ax.plot(step, height, "o", color=colour, mec="white", ms=7, zorder=5)
            ax.set_title(title)
        axes[-1, column].set_xlabel("step")
    for ax in axes[:, 0]:
        ax.set_ylabel("eigenvalues of the\nhidden covariance")
    fig.suptitle(
        f"Hidden representations, {config['start']} start, "
        f"images: {images.title(config['data'])}\n"
        "dotted lines: step times of the embedding; dots: step times of the last stage; "
        f"grey: modes beyond d = {config['d']}",
        fontsize=12,
    )
    return fig
