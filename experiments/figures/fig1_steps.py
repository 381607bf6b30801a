"""Stepwise learning: linear Barlow Twins follows the theory, and a ResNet learns in steps too.

Claim          The linear model learns one eigenvalue of C at a time, at the times that the closed
               form predicts. A ResNet trained with the same loss from a small start learns in the
               same way.
Paper          Simon et al. (2023), Figure 1: panels A and B linear, C and D a ResNet-50 on STL-10
Command        make fig1 (PRESET=smoke|laptop|paper, DATA=..., DATA_DIR=...; SET=network=none draws
               A and B only)
Time, 2 cores  smoke 40 s, laptop 12 min; the linear panels are written first
Expected       linear model: see experiments/shared/linear_model.py; ResNet: at least five modes
               cross half of their final value while the next mode is below a tenth of its own
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from experiments.contract import Check, Progress, Result, silent
from experiments.shared import images, linear_model, resnets
from stepwise import plotting, staircase
from stepwise.methods import DEFAULT
from stepwise.plotting import Figure

SECONDS = {"smoke": 40, "laptop": 700}
"""About what it takes on two cores, for the time left of `make figures`."""


@dataclass(frozen=True)
class Config(linear_model.Config):
    """Settings of the linear model, and the choice of network."""

    network: Literal["none", "smoke", "laptop", "paper"] = "laptop"
    """Preset of fig3 whose Barlow Twins run is shown; "none" draws the linear model only."""
    runs_dir: str = "runs"
    """Folder of the training runs, shared by all figures."""

    @classmethod
    def smoke(cls) -> Self:
        """Return a configuration that runs in seconds."""
        return replace(super().smoke(), network="smoke")

    @classmethod
    def paper(cls) -> Self:
        """Return the paper's sizes and images; the network trains on STL-10."""
        return replace(super().paper(), network="paper")


def training(config: Config) -> resnets.Config:
    """Return the configuration of the network's training."""
    preset: resnets.Config = getattr(resnets.Config, config.network)()
    source = {} if config.network == "paper" else {"data": config.data}
    shared: dict[str, Any] = {
        "data_dir": config.data_dir,
        "runs_dir": config.runs_dir,
        "seed": config.seed,
        **source,
    }
    return replace(preset, methods=(DEFAULT,), **shared)


def digest(config: Config) -> str:
    """Return a hash of the images of the linear model and of the network."""
    network = [] if config.network == "none" else [resnets.digest(training(config))]
    return "-".join([images.digest(config), *network])


def run(config: Config, progress: Progress = silent) -> Generator[Result, None, Result]:
    """Compute the linear model, then the network."""
    linear = linear_model.run(config, progress)
    if config.network == "none":
        return linear
    yield linear
    trajectory = resnets.trained(training(config), DEFAULT, progress).trajectory
    network = {"network": staircase.numbers(trajectory), "network_d": training(config).d}
    return Result(linear.arrays | resnets.arrays(DEFAULT, trajectory), linear.numbers | network)


def check(result: Result) -> list[Check]:
    """Check the linear model, and the network if there is one."""
    numbers = result.numbers
    if "network" not in numbers:
        return linear_model.check(result)
    return [
        *linear_model.check(result),
        *resnets.checks(DEFAULT, numbers["network"], numbers["network_d"], small=True),
    ]


def plot(result: Result) -> Figure:
    """Draw panels A and B, then C and D if there is a network, then the linear model's details."""
    if "network" not in result.numbers:
        return linear_model.plot(result)
    a, summary = result.arrays, result.numbers["network"]
    fig = plotting.figure(11, 12.5)
    rows: Any = fig.subfigures(4, 1, height_ratios=[3.4, 3.2, 1.25, 3])
    linear_model.draw((rows[0], rows[2], rows[3]), result)
    left, right = rows[1].subplots(1, 2)
    curves = (a[f"{DEFAULT}_times"], a[f"{DEFAULT}_eigenvalues"], a[f"{DEFAULT}_loss"])
    plotting.loss(left, curves, label="loss on the probe  ‖C − I‖²")
    left.set_title("C  The loss of a ResNet falls in steps too")
    plotting.eigenvalues(right, curves)
    right.set_title(f"D  {staircase.describe(summary)}")
    rows[1].suptitle(
        "ResNet, Barlow Twins in the theory's form, initial weights of the head times 0.001",
        fontsize=12,
    )
    return fig
