"""Three methods from a small start: each learns its embedding one dimension at a time.

Claim          From a small start Barlow Twins (in the theory's form), SimCLR and VICReg (in their
               official forms) learn in steps: an eigenvalue of the embedding's cross-view moment C
               rises while the next is still near zero.
Paper          Simon et al. 2023, the figure of three methods from small initialisation: ResNet-50
               on STL-10.
Command        make fig3 (PRESET=smoke|laptop|paper, DATA=..., DATA_DIR=...)
Time, 2 cores  see the README's table of figures
Expected       for each method at least five modes cross a half of their final value alone, the next
               below a tenth
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
    """Small starts."""


def run(config: resnets.Config, progress: Progress = silent) -> Generator[Result, None, Result]:
    """Train the methods one after another; each is drawn when it is there."""
    arrays: dict[str, Any] = {}
    found: dict[str, Any] = {}
    result = Result(arrays, {})
    for i, method in enumerate(config.methods):
        trained = resnets.trained(config, method, progress)
        arrays = arrays | resnets.arrays(method, trained.trajectory)
        knn = {"knn": resnets.knn(config, method, trained, progress)}
        found = found | {method: staircase.numbers(trained.trajectory) | knn}
        result = Result(arrays, {"methods": found, "config": asdict(config)})
        if i + 1 < len(config.methods):
            yield result
    return result


def check(result: Result) -> list[Check]:
    """Of every method, how many modes stepped alone."""
    config = result.numbers["config"]
    small = config["start"] == "small"
    checks = [
        resnets.checks(method, found, config["d"], small=small)
        for method, found in result.numbers["methods"].items()
    ]
    return [check for each in checks for check in each]


def plot(result: Result) -> Figure:
    """Loss, eigenvalues of C and of the embedding covariance, a column a method."""
    a, numbers = result.arrays, result.numbers
    config, methods = numbers["config"], numbers["methods"]
    fig = plotting.figure(max(8, 4 * len(methods) + 0.5), 8.5)
    axes: Any = fig.subplots(3, len(methods), squeeze=False, sharex="col")
    for column, (method, found) in enumerate(methods.items()):
        times = a[f"{method}_times"]
        top, middle, bottom = axes[:, column]
        run = (times, a[f"{method}_eigenvalues"], a[f"{method}_loss"])
        plotting.loss(top, run, label="loss on the probe")
        top.set_title(find(method).title)
        plotting.eigenvalues(middle, run)
        middle.set_title(staircase.describe(found))
        plotting.eigenvalues(bottom, (times, a[f"{method}_covariance"], a[f"{method}_loss"]))
        bottom.set_ylabel("eigenvalues of the covariance")
        for ax in (top, middle):
            ax.set_xlabel("")
        first = np.interp(found["step_times"][0], a[f"{method}_steps"], times)
        if len(times) > 2:  # shared by the column
            bottom.set_xlim(first / 10 if np.isfinite(first) else times[1], times[-1])
    fig.suptitle(
        f"ResNet of {sum(config['blocks'])} blocks, width {config['width']}, "
        f"{config['start']} start\n"
        f"{config['n_images']} images: {images.title(config['data'])}, d = {config['d']}; a colour "
        f"a mode, first dark",
        fontsize=12,
    )
    return fig
