"""Hidden layers learn step by step too: their eigenvalues beside the embedding's steps.

Claim          When a mode of the embedding is learned, a hidden eigenvalue leaves the bulk: the
               covariance of hidden representations gains its large eigenvalues one at a time as
               well.
Paper          Simon et al. 2023, the figure of hidden representations' eigenvalues: ResNet-50 on
               STL-10, three methods.
Command        make fig6 (PRESET=smoke|laptop|paper, DATA=..., DATA_DIR=...); it reads fig3's runs
Time, 2 cores  see the README's table of figures
Expected       in the last stage, mode j's eigenvalue relative to the first reaches half of its
               largest share within a factor 1.5 of the step of the embedding's mode j, in the
               median over the modes learned from the second on

Relative to the first, because a head makes up for a representation that shrinks or grows as a whole
(VICReg's does).
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
"""Hidden eigenvalues in a panel."""
FACTOR = 1.5


@dataclass(frozen=True)
class Config(resnets.Config):
    """Small starts, as fig3's; the smoke preset's network is too small for the claim."""


def run(config: resnets.Config, progress: Progress = silent) -> Result:
    """fig3's runs, and when their hidden modes rise."""
    whole = finished(fig3_small_start.run(config, progress), lambda _: None)
    found = whole.numbers["methods"]
    rises = {
        method: _rises(whole.arrays, method, stages(whole.arrays, method)[-1], found[method])
        for method in found
    }
    return Result(whole.arrays, whole.numbers | {"hidden": rises})


def stages(arrays: dict[str, np.ndarray], method: str) -> list[str]:
    """The hidden representations of a run, first to last, without the stem."""
    found = [name[len(method) + 1 :] for name in arrays if name.startswith(f"{method}_stage")]
    return sorted(found, key=lambda name: int(name.removeprefix("stage")))


def _rises(
    arrays: dict[str, np.ndarray], method: str, stage: str, found: dict[str, Any]
) -> dict[str, Any]:
    """Steps at which h_j/h_1 of a stage first reaches half of its largest value, j ≥ 2; the
    embedding's steps.
    """
    expected = np.asarray(found["step_times"], np.float64)
    values = np.asarray(arrays[f"{method}_{stage}"], np.float64)[:, : len(expected)]
    shares = values / values[:, :1]
    hidden = spectra.step_times(arrays[f"{method}_steps"], shares / shares.max(axis=0))
    expected = expected[: len(hidden)]
    both = np.isfinite(expected) & np.isfinite(
        hidden
    )  # the first mode's share, 1 throughout, has no step
    off = np.abs(np.log(hidden[both] / expected[both]))
    factor = float(np.exp(np.median(off))) if both.any() else float("nan")
    return {
        "stage": stage,
        "step_times": hidden.tolist(),
        "compared": int(both.sum()),
        "median_factor": factor,
    }


def check(result: Result) -> list[Check]:
    """That hidden modes rise when the embedding's do."""
    checks = []
    for method, found in result.numbers["hidden"].items():
        name = find(method).title
        learned = min(resnets.ALONE, result.numbers["config"]["d"] - 1) - 1
        checks += [
            Check(f"{name}: modes compared", found["compared"], learned, ">=", premise=True),
            Check(
                f"{name}: hidden step over the embedding's, median factor",
                found["median_factor"],
                FACTOR,
                "<=",
            ),
        ]
    return checks


def plot(result: Result) -> Figure:
    """A row a stage, a column a method: hidden eigenvalues, and the embedding's steps as lines of
    their colours.

    In the last stage a dot on each eigenvalue marks its own step, which the check compares.
    """
    a, numbers = result.arrays, result.numbers
    config, methods = numbers["config"], numbers["methods"]
    rows = max(len(stages(a, method)) for method in methods)
    fig = plotting.figure(max(8, 4 * len(methods) + 0.5), 2.6 * rows + 1)
    axes: Any = fig.subplots(rows, len(methods), squeeze=False, sharex="col")
    for column, (method, found) in enumerate(methods.items()):
        steps = a[f"{method}_steps"]
        for ax, stage in zip(axes[:, column], stages(a, method), strict=False):
            values = a[f"{method}_{stage}"][:, :SHOWN]
            colours = plotting.mode_colours(config["d"])
            for j, colour in enumerate(colours):
                ax.axvline(found["step_times"][j], color=colour, lw=0.8, ls=(0, (1, 1.5)), zorder=0)
            for j in range(values.shape[1] - 1, -1, -1):
                own = j < config["d"]
                ax.plot(
                    steps[1:],
                    values[1:, j],
                    color=colours[j] if own else "0.75",
                    lw=1.6 if own else 0.8,
                )
            ax.set(xscale="log", yscale="log", xlim=(max(1, steps[-1] / 300), steps[-1]))
            top = values.max()
            ax.set_ylim(top / 300, top * 1.5)
            title = f"{find(method).title}, {stage.replace('stage', 'stage ')}"
            own = numbers["hidden"][method]
            if stage == own["stage"]:
                title += f": off by a factor {own['median_factor']:.3g}"
                for j, (step, colour) in enumerate(zip(own["step_times"], colours, strict=False)):
                    if j > 0 and np.isfinite(step) and np.isfinite(found["step_times"][j]):
                        at = np.interp(step, steps, values[:, j])
                        ax.plot(step, at, "o", color=colour, mec="white", ms=7, zorder=5)
            ax.set_title(title)
        axes[-1, column].set_xlabel("step")
    for ax in axes[:, 0]:
        ax.set_ylabel("eigenvalues of the\nhidden covariance")
    fig.suptitle(
        f"Hidden representations, {config['start']} start, "
        f"images: {images.title(config['data'])}\n"
        f"dotted: the embedding's steps; dots: the last stage's own; grey: modes beyond d = "
        f"{config['d']}",
        fontsize=12,
    )
    return fig
