"""The flags of every command: one dataclass for each command, one field for each flag.

This module imports neither JAX nor matplotlib, so `--help` is fast. `run` imports the module that
does the work.
"""

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from stepwise.training.config import Config

METHODS = (
    "barlow_twins_unnormalised, barlow_twins, simclr, vicreg, spectral_contrastive, byol, simsiam, "
    "dino, clip_one_tower, lejepa, isoloss"
)
"""Names in `methods.METHODS`, which needs JAX."""
RECIPES = (
    "crop20, small, simclr, simclr_cifar, barlow_twins, vicreg, byol, simsiam, simsiam_cifar, "
    "spectral, spectral_cifar, dino, dino_multicrop, clip"
)
"""Names in `views.RECIPES`, which needs JAX."""
RECIPE = tyro.conf.arg(help=f"Augmentations that make the views, one of {RECIPES}.")


def _flag(metavar: str, default: str, text: str | None = None) -> object:
    """Return how `--help` shows a flag whose default is not a value: its default in words.

    A text replaces the field's docstring; tyro keeps the line breaks of a docstring.
    """
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})", help=text)


@dataclass(frozen=True)
class ImageOptions:
    """Which images to load."""

    data: str = "photos"
    """Images: photos, glyphs, cifar10, stl10, folder:PATH, pairs:PATH or npz:PATH."""
    data_dir: Annotated[str | None, _flag("STR", "downloaded once to a cache")] = None
    """Folder of the cifar10 or stl10 files."""
    split: str = "train"
    """Part of the data set: train, test, val (folders) or unlabeled (stl10)."""
    side: int = 32
    """Side of the square images, in pixels, before views are made from them."""
    frames: Literal["first", "all"] = "first"
    """Pages or frames to read of each file of a folder: the first, or all as separate images."""
    background: str = "white"
    """Colour on which transparent images of a folder are put: a name, or a code such as #808080."""
    depth: Annotated[int | None, _flag("INT", "such images are rejected")] = None
    """Bits that a folder's images of 16 bits per channel use, 9 to 16: 2^depth - 1 is white."""
    skip_damaged: bool = False
    """Leave out a folder's damaged files and unreadable sub-folders, and print how many."""


@dataclass(frozen=True)
class Predict(ImageOptions):
    """Predict what a method will learn from your images, in which order, and when.

    No training is needed. The prediction holds for a linear model or an infinitely wide network
    that starts from small weights. It gives the modes, the step at which each is learned, and the
    expected error of the closed form.
    """

    method: Annotated[
        str,
        _flag(
            "STR",
            "Barlow Twins in the form that the theory solves",
            f"Method to predict: one of {METHODS}, or FILE.py:NAME for a method of your own, "
            "which needs a law.",
        ),
    ] = ""
    n_pairs: int = 500
    """Number of images; two views are made of each."""
    recipe: Annotated[str, RECIPE] = "crop20"
    model: Literal["linear", "infinite_width"] = "linear"
    """Model: linear, or the NTK of an infinitely wide ReLU network with one hidden layer."""
    center: Literal["pooled", "per_view", "none"] = "pooled"
    """Mean to subtract: of all views (pooled), of first and second views separately, or none."""
    d: int = 10
    """Dimension of the embedding."""
    start_scale: float = 1e-6
    """Standard deviation of the starting weights, in mode coordinates."""
    lr: Annotated[
        float | None, _flag("FLOAT", "a hundredth of the largest stable rate, if it is known")
    ] = None
    """Learning rate of gradient descent, which converts times to steps."""
    seed: int = 0
    """Seed for the choice of images and for their views."""
    out: Path = Path("results/predict")
    """Folder for summary.json, arrays.npz, config.json and the figure; later calls replace them."""

    def run(self) -> int:
        """Print the report and write its files."""
        return _run("predict", self)


@dataclass(frozen=True)
class _Settings(Config):
    """Settings of the training run."""

    data_dir: Annotated[str | None, _flag("STR", "downloaded once to a cache")] = None
    """Folder of the cifar10 or stl10 files."""
    recipe: Annotated[str, RECIPE] = "small"
    method: Annotated[
        str,
        _flag(
            "STR",
            "barlow_twins_unnormalised, the form that the theory solves",
            f"Method to train with: one of {METHODS}, or FILE.py:NAME for a method of your own.",
        ),
    ] = ""
    temperature: Annotated[float | None, _flag("FLOAT", "the official value")] = None
    """Temperature of the loss, for a loss that has one."""
    decay: Annotated[float | None, _flag("FLOAT", "the method's")] = None
    """Decay rate of the target network, for a method that has one."""
    lr: Annotated[float | None, _flag("FLOAT", "the method's")] = None  # type: ignore[assignment]
    """Learning rate, after any warm-up and before any cosine decay."""
    depth: Annotated[int | None, _flag("INT", "such images are rejected")] = None
    """Bits that a folder's images of 16 bits per channel use, 9 to 16: 2^depth - 1 is white."""
    steps: Annotated[int | None, _flag("INT", "the method's")] = None  # type: ignore[assignment]
    """Number of training steps."""
    warmup: Annotated[int | None, _flag("INT", "the method's")] = None  # type: ignore[assignment]
    """Number of steps over which the learning rate rises linearly; 0 means no warm-up."""
    cosine: Annotated[bool | None, _flag("{True,False}", "the method's")] = None  # type: ignore[assignment]
    """Lower the learning rate to a thousandth along a cosine, over the steps after the warm-up."""
    start_scale: Annotated[float | None, _flag("FLOAT", "the method's")] = None  # type: ignore[assignment]
    """Factor on the starting weights; 1 is a standard start."""
    offset: Annotated[float | None, _flag("FLOAT", "the method's")] = None  # type: ignore[assignment]
    """Norm of the head's bias at the start; 0 means a head without bias."""

    def __post_init__(self) -> None:
        """Skip the checks of `Config`, which apply once the method's defaults are filled in."""


@dataclass(frozen=True)
class Train:
    """Train an encoder, and count the modes that it learns one at a time.

    Checkpoints and log are stored in RUNS-DIR/HASH-OF-CONFIG. If the run is interrupted, the same
    command resumes it, and the result is the same to the last bit.
    """

    settings: Annotated[tyro.conf.OmitArgPrefixes[_Settings], tyro.conf.arg(name="training")] = (
        field(default_factory=_Settings)
    )
    runs_dir: Path = Path("runs")
    """Folder of all training runs."""
    out: Path = Path("results/train")
    """Parent of the run's results folder (summary.json, arrays.npz, config.json and the figure)."""
    forecast: bool = True
    """Forecast at each measurement when the next mode comes, for a run that has a forecast."""

    def run(self) -> int:
        """Train, resume or load the run; then write its files."""
        return _run("train", self)


@dataclass(frozen=True)
class NetworkOptions(ImageOptions):
    """Which network to analyse, and on which views."""

    run_dir: Annotated[
        Path | None,
        _flag(
            "PATH",
            "none; give this or --network",
            "Folder of a training run, RUNS-DIR/HASH. The run sets its own images, side, recipe "
            "and seed; use --data, --data-dir or --split only if the images have moved since "
            "training.",
        ),
    ] = None
    network: Annotated[
        str | None,
        _flag(
            "FILE.py:NAME",
            "none; give this or --run-dir",
            "Network of your own: a function NAME() that returns (apply, params), where "
            "apply(params, x) maps views x, float32 [n, h, w, c] in [0, 1], to embeddings [n, d].",
        ),
    ] = None
    n_pairs: int = 256
    """Number of images, with two fresh views of each; all images if there are fewer."""
    recipe: Annotated[
        str,
        tyro.conf.arg(
            help=f"Augmentations that make the views for your own network, one of {RECIPES}."
        ),
    ] = "small"
    step: Annotated[int | None, _flag("INT", "the last")] = None
    """Training step of the run's network to analyse: 0, a snapshot's or the last."""
    d: Annotated[
        int | None, _flag("INT", "the modes that the run learned, or all of your own network's")
    ] = None
    """Number of leading principal directions of the embedding to use."""
    seed: int = 0
    """Seed for the choice of images and for their views, for your own network."""


@dataclass(frozen=True)
class Entk(NetworkOptions):
    """Compute the empirical NTK of a trained network on fresh views, and its spectrum.

    The partial kernel is saved with the run, or in OUT for your own network. If the call is
    interrupted, the same command resumes it.
    """

    out: Path = Path("results/entk")
    """Folder for summary.json, arrays.npz (with the kernel K), config.json and the figure."""

    def run(self) -> int:
        """Print the kernel's leading modes and write its files."""
        return _run("entk", self)


@dataclass(frozen=True)
class Align(NetworkOptions):
    """Score how well a network's empirical NTK predicts the subspace that its embedding spans.

    The score is the alignment of the predicted and the real subspace, 1 if they are equal. For
    comparison, random subspaces and the pixel kernel are scored too, and for a training run also
    the kernel before training.
    """

    resamples: int = 200
    """Number of random halves of the pairs, for the 95% intervals; 0 means no intervals."""
    out: Path = Path("results/align")
    """Folder for summary.json, arrays.npz, config.json and the figure; later calls replace them."""

    def run(self) -> int:
        """Print a line for each kernel and write the files."""
        return _run("align", self)


@dataclass(frozen=True)
class Forecast:
    """Forecast the next step of a training run from each of its saved networks, and score it.

    The run needs saved networks (`stepwise train --snapshots 29`). Every forecast uses only what
    was known at that step; it is then compared with what happened.
    """

    run_dir: Path
    """Folder of a finished training run, RUNS-DIR/HASH."""
    n_pairs: int = 1024
    """Number of images, with two fresh views of each; all images if there are fewer."""
    data: Annotated[str, _flag("STR", "the run's")] = ImageOptions.data
    """Images, only if they have moved since training."""
    data_dir: Annotated[str | None, _flag("STR", "the run's")] = None
    """Folder of the cifar10 or stl10 files, only if they have moved since training."""
    out: Path = Path("results/forecast")
    """Folder for summary.json, arrays.npz, config.json and the figure; later calls replace them."""

    def run(self) -> int:
        """Print a line for each saved network, and write the files."""
        return _run("forecast", self)


@dataclass(frozen=True)
class Watch:
    """Report on another trainer's run while it trains: modes learned, the next step, the diagnosis.

    The trainer writes a file step_N.npz for each sample, with the embeddings z1 and z2 [n, d] of
    both views and optionally features1, features2, head, loss and sensitivity
    (forecast.log_arrays). The command follows the folder until it is interrupted.
    """

    file: tyro.conf.Positional[Path]
    """Folder of files step_N.npz, or one such file."""
    method: Annotated[
        str,
        _flag(
            "STR",
            "Barlow Twins in the form that the theory solves",
            f"Method of the loss: one of {METHODS}, or FILE.py:NAME for a method of your own.",
        ),
    ] = ""
    lr: Annotated[float | None, _flag("FLOAT", "none, and forecasts are extrapolations")] = None
    """Learning rate of SGD."""
    momentum: float = 0.0
    """Momentum of SGD."""
    batch_size: Annotated[int | None, _flag("INT", "full batches")] = None
    """Number of pairs in a training batch."""
    once: bool = False
    """Report on the files that exist, and end."""
    out: Annotated[Path | None, _flag("PATH", "none")] = None
    """File for the reports, one JSON line each; an existing one is continued."""

    def run(self) -> int:
        """Print a report for each file."""
        return _run("watch", self)


@dataclass(frozen=True)
class Fetch:
    """Download a data set to the cache and check it."""

    name: tyro.conf.Positional[Literal["cifar10", "stl10"]]
    """Data set: cifar10 (170 MB) or stl10 (2.6 GB)."""

    def run(self) -> int:
        """Download to the user's cache, or to the folder that STEPWISE_CACHE names."""
        return _run("data", self)


@dataclass(frozen=True)
class Show:
    """Describe a set of images: how many there are, their size, and their classes."""

    name: tyro.conf.Positional[str]
    """Images: photos, glyphs, cifar10, stl10, folder:PATH, pairs:PATH or npz:PATH."""
    data_dir: Annotated[str | None, _flag("STR", "downloaded once to a cache")] = None
    """Folder of the cifar10 or stl10 files."""
    split: str = "train"
    """Part of the data set: train, test, val (folders) or unlabeled (stl10)."""
    size: Annotated[int | None, _flag("INT", "their own size")] = None
    """Side to which images are resized, in pixels; required if their sizes differ."""
    frames: Literal["first", "all"] = "first"
    """Pages or frames to read of each file of a folder: the first, or all as separate images."""
    depth: Annotated[int | None, _flag("INT", "such images are rejected")] = None
    """Bits that a folder's images of 16 bits per channel use, 9 to 16: 2^depth - 1 is white."""
    skip_damaged: bool = False
    """Leave out a folder's damaged files and unreadable sub-folders, and print how many."""

    def run(self) -> int:
        """Print the description; of a folder, without decoding its images."""
        return _run("data", self)


@dataclass(frozen=True)
class Data:
    """Describe a set of images, or download one."""

    action: (
        Annotated[Show, tyro.conf.subcommand("show", prefix_name=False)]
        | Annotated[Fetch, tyro.conf.subcommand("fetch", prefix_name=False)]
    )

    def run(self) -> int:
        """Show or fetch."""
        return self.action.run()


def _run(module: str, options: object) -> int:
    """Import the command's module and run it with these options."""
    command = importlib.import_module(f"stepwise.cli.{module}")
    data = importlib.import_module("stepwise.cli.data")
    with data.print_notes():
        return int(command.run(data.move_outputs(options)))
