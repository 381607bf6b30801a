"""What can be typed: one dataclass a command, whose fields are its flags.

Nothing here imports JAX or matplotlib, so that `--help` answers at once. `run` imports the module
that does the work when the command runs.
"""

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from stepwise.training.config import Config


@dataclass(frozen=True)
class ImageOptions:
    """Which images."""

    data: str = "photos"
    """photos, cifar10, stl10, folder:PATH or npz:PATH."""
    data_dir: str | None = None
    """Folder that holds cifar10 or stl10; without it they are downloaded."""
    split: str = "train"
    side: int = 32
    """Resize images to this side, in px, before views are made of them."""


@dataclass(frozen=True)
class Predict(ImageOptions):
    """Predict what a method will learn of your images, in which order, and when.

    Needs no training. The prediction is for a linear model, or for an infinitely wide network, from
    a small start: its modes, the step at which each is learned, and how far to trust the closed
    form.
    """

    method: str = ""
    """A method with a law: a name in `stepwise.methods`, or FILE.py:NAME of your own; by default
    the form of Barlow Twins that the theory solves."""
    n_pairs: int = 500
    """Number of images; two views are made of each."""
    recipe: str = "crop20"
    """How views are made: a name in `views.RECIPES`."""
    model: Literal["linear", "infinite_width"] = "linear"
    """infinite_width: the NTK of a ReLU network with one hidden layer."""
    center: Literal["pooled", "per_view", "none"] = "pooled"
    """Centre the views at the mean of all, at each view's own mean, or not at all."""
    d: int = 10
    """Dimensions of the embedding."""
    start_scale: float = 1e-6
    """Standard deviation of the starting weights, in mode coordinates."""
    lr: float | None = None
    """Learning rate of the descent to predict; by default a hundredth of the largest stable one."""
    seed: int = 0
    """Seed of the choice of images and of their views."""
    out: Path = Path("results/predict")
    """Folder for summary.json, arrays.npz, config.json and the figure; the next call overwrites
    them."""

    def run(self) -> int:
        """Print the report and write its files."""
        return _run("predict", self)


@dataclass(frozen=True)
class _Given(Config):
    """Settings of the training run."""

    lr: float | None = None  # type: ignore[assignment]
    """Learning rate; by default the method's own, as are steps, warm-up, cosine and the start."""
    steps: int | None = None  # type: ignore[assignment]
    """How many steps to take."""
    warmup: int | None = None  # type: ignore[assignment]
    """Steps of linear warm-up."""
    cosine: bool | None = None  # type: ignore[assignment]
    """Whether the rate then falls to a thousandth as a cosine."""
    start_scale: float | None = None  # type: ignore[assignment]
    """Factor on the starting weights; 1 is a standard start."""
    offset: float | None = None  # type: ignore[assignment]
    """Norm of the head's bias at the start, the small start of a loss that is blind to scale."""

    def __post_init__(self) -> None:
        """Refuse nothing yet."""


@dataclass(frozen=True)
class Train:
    """Train an encoder, and count the modes that it learns one at a time.

    The run is kept under RUNS-DIR/HASH-OF-CONFIG with its checkpoints and log. If it is killed, the
    same command resumes it to the same bits.
    """

    settings: tyro.conf.OmitArgPrefixes[_Given] = field(default_factory=_Given)
    runs_dir: Path = Path("runs")
    """Folder of the training runs."""
    out: Path = Path("results/train")
    """Folder in which the run gets a folder of its own for summary.json, arrays.npz, config.json
    and the figure."""

    def run(self) -> int:
        """Train, resume or load the run; then write its files."""
        return _run("train", self)


@dataclass(frozen=True)
class NetworkOptions(ImageOptions):
    """Which network, and the views to look at it with."""

    run_dir: Path | None = None
    """Folder of a run of `stepwise train` or of a figure, runs/HASH, with its own images and
    recipe. Give --data, --data-dir or --split only if the images have moved since training."""
    network: str | None = None
    """Instead of a run, FILE.py:NAME of your own, where NAME() -> (apply, params), and
    apply(params, x) -> [n, d] of views x float32 [n, h, w, c] in [0, 1]."""
    n_pairs: int = 256
    """Number of images, with two fresh views of each; all images if there are fewer."""
    recipe: str = "small"
    """How views of your own network's images are made, a name in `views.RECIPES`: small, crop20,
    simclr, byol, ..."""
    step: int | None = None
    """Look at the network after this step of a run, one of those that it kept; by default the
    last."""
    d: int | None = None
    """Number of leading principal directions of the embedding to use; by default the modes that a
    run learned, and all directions of your own network."""
    seed: int = 0
    """Seed of your own network's choice of images and of their views."""


@dataclass(frozen=True)
class Entk(NetworkOptions):
    """Compute the empirical NTK of a trained network on fresh views, and its spectrum.

    K is stored with the run (for your own network, in OUT) while it is computed: a call that was
    killed resumes.
    """

    out: Path = Path("results/entk")
    """Folder for summary.json, arrays.npz with K, config.json and the figure; the next call
    overwrites them."""

    def run(self) -> int:
        """Print the kernel's leading modes and write its files."""
        return _run("entk", self)


@dataclass(frozen=True)
class Align(NetworkOptions):
    """Score how near a network's embedding is to the subspace that its own kernel predicts.

    For comparison it scores what the kernel at the start of a run and the pixels alone predict, and
    chance.
    """

    resamples: int = 200
    """Random halves of the pairs, for the 95% intervals."""
    out: Path = Path("results/align")
    """Folder for summary.json, arrays.npz, config.json and the figure; the next call overwrites
    them."""

    def run(self) -> int:
        """Print a line for each kernel and write the files."""
        return _run("align", self)


@dataclass(frozen=True)
class Fetch:
    """Download and check a data set, so that nothing else has to."""

    name: tyro.conf.Positional[Literal["cifar10", "stl10"]]
    """Which: 170 MB and 2.6 GB."""

    def run(self) -> int:
        """Download into the user's cache, or the folder that STEPWISE_CACHE names."""
        return _run("data", self)


@dataclass(frozen=True)
class Show:
    """Describe what `--data NAME` is: how many images, their size, and their classes."""

    name: tyro.conf.Positional[str]
    """photos, cifar10, stl10, folder:PATH or npz:PATH."""
    data_dir: str | None = None
    """Folder that holds cifar10 or stl10; without it they are downloaded."""
    split: str = "train"
    size: int | None = None
    """Resize images to this side; otherwise those of a folder must all have one size."""

    def run(self) -> int:
        """Read all images and print the description."""
        return _run("data", self)


@dataclass(frozen=True)
class Data:
    """Look at a set of images, or download one."""

    action: (
        Annotated[Show, tyro.conf.subcommand("show", prefix_name=False)]
        | Annotated[Fetch, tyro.conf.subcommand("fetch", prefix_name=False)]
    )

    def run(self) -> int:
        """Show or fetch."""
        return self.action.run()


def _run(module: str, options: object) -> int:
    """Import the module of a command and let it do what the options say."""
    return int(importlib.import_module(f"stepwise.cli.{module}").run(options))
