"""Barlow Twins, SimCLR and VICReg from a small start: each learns one dimension at a time.

Claim          From a small start Barlow Twins (in the theory's form), SimCLR and VICReg (in their
               official forms) learn in steps: an eigenvalue of the embedding's cross-view moment C
               rises while the next is still near zero.
Paper          Simon et al. (2023), the figure of three methods from small initialisation: ResNet-50
               on STL-10
Command        make fig3 (PRESET=smoke|laptop|paper, DATA=..., DATA_DIR=...)
Time, 2 cores  smoke 60 s, laptop 25 min
Expected       for each method, at least five modes cross half of their final value while the next
               mode is below a tenth of its own
"""

from collections.abc import Generator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from experiments.contract import Check, Progress, Result, silent
from experiments.shared import images, resnets
from experiments.shared.resnets import digest
from stepwise import plotting, staircase
from stepwise.methods import find
from stepwise.plotting import Figure

__all__ = ["Config", "check", "digest", "plot", "run"]

SECONDS = {"smoke": 60, "laptop": 1500}
"""About what it takes on two cores, for the time left of `make figures`."""


@dataclass(frozen=True)
class Config(resnets.Config):
    """Training runs from small starts."""


def run(config: resnets.Config, progress: Progress = silent) -> Generator[Result, None, Result]:
    """Train the methods one after another, yielding a result after each."""
    arrays: dict[str, Any] = {}
    summaries: dict[str, Any] = {}
    result = Result(arrays, {})
    for i, method in enumerate(config.methods):
        trained = resnets.trained(config, method, progress)
        path = trained.trajectory
        if config.start == "standard":
            path = staircase.relative(path)
        arrays = arrays | resnets.arrays(method, path)
        knn = {"knn": resnets.knn(config, method, trained, progress)}
        summaries = summaries | {method: staircase.numbers(path) | knn}
        result = Result(arrays, {"methods": summaries, "config": asdict(config)})
        if i + 1 < len(config.methods):
            yield result
    return result


def check(result: Result) -> list[Check]:
    """Check for each method how many modes were learned one at a time."""
    config = result.numbers["config"]
    small = config["start"] == "small"
    checks = [
        resnets.checks(method, summary, config["d"], small=small)
        for method, summary in result.numbers["methods"].items()
    ]
    return [check for each in checks for check in each]


def plot(result: Result) -> Figure:
    """Draw loss, eigenvalues of C and of the embedding covariance, one column per method."""
    a, numbers = result.arrays, result.numbers
    config, methods = numbers["config"], numbers["methods"]
    fig = plotting.figure(max(8, 4 * len(methods) + 0.5), 8.5)
    axes: Any = fig.subplots(3, len(methods), squeeze=False, sharex="col")
    for column, (method, summary) in enumerate(methods.items()):
        times = a[f"{method}_times"]
        top, middle, bottom = axes[:, column]
        run = (times, a[f"{method}_eigenvalues"], a[f"{method}_loss"])
        plotting.loss(top, run, label="loss on the probe")
        top.set_title(find(method).title)
        plotting.eigenvalues(middle, run)
        if config["start"] == "standard":
            middle.set_ylabel("eigenvalues of C /\ntotal variance")
        middle.set_title(staircase.describe(summary))
        plotting.eigenvalues(bottom, (times, a[f"{method}_covariance"], a[f"{method}_loss"]))
        bottom.set_ylabel("eigenvalues of the covariance")
        for ax in (top, middle):
            ax.set_xlabel("")
        known = [step for step in summary["step_times"] if np.isfinite(step)]
        if len(times) > 2:  # the panels of a column share this axis
            first = np.interp(min(known), a[f"{method}_steps"], times) / 10 if known else times[1]
            bottom.set_xlim(first, times[-1])
    fig.suptitle(
        f"ResNet of {sum(config['blocks'])} blocks, width {config['width']}, "
        f"{config['start']} start\n"
        f"{config['n_images']} images: {images.title(config['data'])}, d = {config['d']}; "
        "one colour per mode, the first is the darkest",
        fontsize=12,
    )
    return fig
