"""Steps in theory and in a real network: linear Barlow Twins, and a ResNet.

Claim          The linear model learns one eigenvalue of C at a time, when the closed form says; a
               ResNet trained with the same loss from a small start shows the same staircase.
Paper          Simon et al. 2023, Figure 1: panels A and B linear, C and D a ResNet-50 on STL-10.
Command        make fig1 (PRESET=smoke|laptop|paper, DATA=..., DATA_DIR=...; SET=network=none: A and
               B only)
Time, 2 cores  see the README's table of figures; the linear panels are written first
Expected       `linear_model`'s, and of the ResNet's modes at least five learned alone
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
    """The linear part's knobs, and which network goes beside it."""

    network: Literal["none", "smoke", "laptop", "paper"] = "laptop"
    """A preset of fig3's, whose run this is."""
    runs_dir: str = "runs"
    """Folder of the training runs, which figures share."""

    @classmethod
    def smoke(cls) -> Self:
        """Seconds."""
        return replace(super().smoke(), network="smoke")

    @classmethod
    def paper(cls) -> Self:
        """The source's size and images; the network's are STL-10's."""
        return replace(super().paper(), network="paper")


def training(config: Config) -> resnets.Config:
    """The network's run."""
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
    """A hash of the images of both parts."""
    network = [] if config.network == "none" else [resnets.digest(training(config))]
    return "-".join([images.digest(config), *network])


def run(config: Config, progress: Progress = silent) -> Generator[Result, None, Result]:
    """The linear part, then the network."""
    linear = linear_model.run(config, progress)
    if config.network == "none":
        return linear
    yield linear
    trajectory = resnets.trained(training(config), DEFAULT, progress).trajectory
    network = {"network": staircase.numbers(trajectory), "network_d": training(config).d}
    return Result(linear.arrays | resnets.arrays(DEFAULT, trajectory), linear.numbers | network)


def check(result: Result) -> list[Check]:
    """The linear part's checks, and the network's where it is there."""
    numbers = result.numbers
    if "network" not in numbers:
        return linear_model.check(result)
    return [
        *linear_model.check(result),
        *resnets.checks(DEFAULT, numbers["network"], numbers["network_d"], small=True),
    ]


def plot(result: Result) -> Figure:
    """A and B, below them C and D where the network is there, then what the linear part adds."""
    if "network" not in result.numbers:
        return linear_model.plot(result)
    a, found = result.arrays, result.numbers["network"]
    fig = plotting.figure(11, 12.5)
    rows: Any = fig.subfigures(4, 1, height_ratios=[3.4, 3.2, 1.25, 3])
    linear_model.draw((rows[0], rows[2], rows[3]), result)
    left, right = rows[1].subplots(1, 2)
    curves = (a[f"{DEFAULT}_times"], a[f"{DEFAULT}_eigenvalues"], a[f"{DEFAULT}_loss"])
    plotting.loss(left, curves, label="loss on the probe  ‖C − I‖²")
    left.set_title("C  So it does for a ResNet")
    plotting.eigenvalues(right, curves)
    right.set_title(f"D  {staircase.describe(found)}")
    rows[1].suptitle(
        "ResNet, Barlow Twins in the theory's form, head's start weights times 0.001", fontsize=12
    )
    return fig
