"""Stepwise learning: linear Barlow Twins follows the theory, and a ResNet learns in steps too.

Claim          The linear model learns one eigenvalue of C at a time, at the times that the closed
               form predicts. A ResNet trained with the same loss from a small start learns in the
               same way.
Paper          Simon et al. (2023), Figure 1: panels A and B linear, C and D a ResNet-50 on STL-10
Command        make fig1 (PRESET=smoke|laptop|paper, DATA=..., DATA_DIR=...; SET=network=none draws
               A and B only)
Time, 2 cores  smoke 40 s, laptop 12 min; the linear panels are written first
Expected       linear model: see experiments/shared/linear_model.py; ResNet: at least five modes
               cross half of their final value while the next mode is below a tenth of its own.
               The dashed curves of C and D are forecasts (`make forecast`), each from the first
               network that was saved on the plateau before its step, and from nothing later
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np

from experiments.contract import Check, Progress, Result, silent
from experiments.shared import images, linear_model, resnets
from stepwise import plotting, staircase
from stepwise.forecast import history, saved
from stepwise.methods import DEFAULT
from stepwise.plotting import Figure
from stepwise.training import runs
from stepwise.training.loop import Trained

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
    own = training(config)
    trained = resnets.trained(own, DEFAULT, progress)
    network = {"network": staircase.numbers(trained.trajectory), "network_d": own.d}
    arrays = resnets.arrays(DEFAULT, trained.trajectory)
    arrays["forecasts"] = forecasts(own, trained, progress)
    return Result(linear.arrays | arrays, linear.numbers | network)


def forecasts(config: resnets.Config, trained: Trained, progress: Progress) -> np.ndarray:
    """Return the forecast of each mode from the first saved network of the plateau before it.

    Returns:
        Paths of the eigenvalues against the training step, NaN after their end [k, 2, P]; none if
        the forecast does not know the optimiser of the run.
    """
    settings = config.training(DEFAULT)
    pictures = runs.load(settings)
    folder = runs.folder(settings, pictures, config.runs_dir)
    try:
        saved.require_supported(settings)
    except ValueError as error:
        progress(f"no forecasts: {error}")
        return history.joined([])
    network = saved.Network(settings, pictures, folder)
    paths = []
    for step in saved.first_of_each_mode(network, trained.trajectory):
        progress(f"forecast from step {step}")
        path = saved.forecast_at(network, trained.trajectory, step).path
        paths += [] if path is None else [path]
    return history.joined(paths)


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
    if len(a.get("forecasts", ())):
        draw_forecasts(left, right, a)
    rows[1].suptitle(
        "ResNet, Barlow Twins in the theory's form, initial weights of the head times 0.001",
        fontsize=12,
    )
    return fig


def draw_forecasts(left: Any, right: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Lay the forecasts of the eigenvalues over their curves, and what they say of the loss.

    While a mode grows from λ₀ to λ and the others rest, the loss changes by (1 − λ)² − (1 − λ₀)².
    """
    own = {name: arrays[f"{DEFAULT}_{name}"] for name in ("times", "steps", "loss")}
    paths = np.array(arrays["forecasts"])
    begun = np.interp(paths[:, 0, 0], own["steps"], own["loss"])
    values = paths[:, 1]
    losses = begun[:, None] + (1 - values) ** 2 - (1 - values[:, :1]) ** 2
    rate = own["times"][-1] / own["steps"][-1]
    times, earliest = paths[:, 0] * rate, own["times"][own["times"] > 0][0]
    label = "forecast from one network"
    plotting.dashes(left, np.stack([times, losses], axis=1), label, earliest=earliest)
    plotting.dashes(right, np.stack([times, values], axis=1), label, earliest=earliest)
    left.legend(loc="lower left")
    right.legend(loc="upper left")
