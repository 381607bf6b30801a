"""Shared code of the ResNet figures: settings, training runs, and their checks."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Self

import jax
import numpy as np

from experiments.contract import Check, Progress
from stepwise import staircase
from stepwise.dynamics import Trajectory
from stepwise.methods import METHODS, find
from stepwise.training import runs
from stepwise.training.loop import Trained

ALONE = 5
"""Number of modes that a method must learn one at a time to count as stepwise."""
ABOVE = float(np.nextafter(1, 2))
"""Bound of a check that a ratio exceeds 1: the smallest float above 1."""


@dataclass(frozen=True)
class Config:
    """Settings of the training runs of a figure."""

    in_paper: ClassVar[bool] = True
    """Whether the default methods are those of the paper's figures, or all others."""
    data: str = "photos"
    """Images: photos, glyphs, cifar10, stl10, folder:PATH, pairs:PATH or npz:PATH."""
    data_dir: str | None = None
    """Folder that contains cifar10 or stl10."""
    split: str = "train"
    n_images: int = 4096
    side: int = 32
    d: int = 10
    methods: tuple[str, ...] = ()
    """Names of `methods.METHODS`; by default those of the paper's figures, with a schedule for
    `start` and `tiny`.
    """
    start: Literal["small", "standard"] = "small"
    """Start and schedule to use of each method."""
    tiny: bool = False
    """Use the schedule for a tiny network."""
    lr: float | None = None
    """Learning rate of all methods (default: each method's own)."""
    steps: int | None = None
    """Number of steps of all methods (default: each method's own)."""
    blocks: tuple[int, ...] = (1, 1, 1, 1)
    bottleneck: bool = False
    width: int = 16
    stem: Literal["small", "imagenet"] = "small"
    recipe: str = "small"
    """Recipe of the views; "own" is the recipe with which each method was published."""
    optimiser: Literal["sgd", "lars", "muon"] = "sgd"
    batch_size: int = 64
    probe: int = 256
    records: int = 150
    snapshots: int = 29
    """Number of networks stored in training, besides the initial one; fig8 uses every fourth."""
    half: bool = False
    """Compute in bfloat16."""
    seed: int = 0
    runs_dir: str = "runs"
    """Folder of the training runs, shared by all figures."""

    def __post_init__(self) -> None:
        """Fill in `methods` if it is empty, and reject unknown methods."""
        known = tuple(name for name, row in METHODS.items() if self.occasion in row.schedules)
        usual = tuple(name for name in known if METHODS[name].in_paper is self.in_paper)
        if not set(self.methods) <= set(known):
            expected = f"some of {known}, which have a schedule {self.occasion!r}"
            raise ValueError(f"methods: expected {expected}, received {self.methods}")
        object.__setattr__(self, "methods", self.methods or usual)

    @classmethod
    def smoke(cls) -> Self:
        """Return a configuration that runs in seconds: two blocks, tiny images, three modes."""
        small = {
            "n_images": 64,
            "side": 16,
            "blocks": (1, 1),
            "width": 8,
            "d": 3,
            "batch_size": 32,
            "probe": 64,
        }
        return cls(**small, tiny=True, records=60, snapshots=8)  # type: ignore[arg-type]

    @classmethod
    def laptop(cls) -> Self:
        """Return ten modes on the photographs of scikit-learn: minutes per method on two cores."""
        return cls()

    @classmethod
    def paper(cls) -> Self:
        """Return a ResNet-50 with d = 50 on STL-10's unlabelled images at 96 px.

        Views use each method's published augmentations. This needs an accelerator.
        """
        resnet50: dict[str, Any] = {
            "blocks": (3, 4, 6, 3),
            "bottleneck": True,
            "width": 64,
            "stem": "imagenet",
        }
        images: dict[str, Any] = {
            "data": "stl10",
            "split": "unlabeled",
            "n_images": 100_000,
            "side": 96,
        }
        return cls(
            **resnet50, **images, d=50, recipe="own", batch_size=256, steps=40_000, half=True
        )

    @property
    def occasion(self) -> str:
        """Name of the schedule of each method that the runs use."""
        return f"{self.start}, tiny" if self.tiny else self.start

    def training(self, method: str) -> runs.Config:
        """Return the configuration of a method's training run."""
        row = find(method)
        own = {"lr", "steps"}
        named = {field.name for field in fields(self)}
        named &= {field.name for field in fields(runs.Config)}
        shared = {name: getattr(self, name) for name in named - own - {"recipe"}}
        changed = {name: getattr(self, name) for name in own if getattr(self, name) is not None}
        recipe = row.recipe if self.recipe == "own" else self.recipe
        return runs.Config.for_method(
            method, self.occasion, head=(self.d,), recipe=recipe, **shared, **changed
        )


def trained(config: Config, method: str, progress: Progress) -> Trained:
    """Train a method, or load its run if it is finished.

    Raises:
        KeyboardInterrupt: if training was interrupted; a later call resumes it.
    """
    training = config.training(method)
    progress(f"{find(method).title}, {training.steps} steps of {training.batch_size} pairs")
    with jax.enable_x64(False):
        run = runs.train(training, root=config.runs_dir)
    if not run.finished:
        raise KeyboardInterrupt
    return run


def digest(config: Config) -> str:
    """Return a hash of the images on which all methods train."""
    return runs.digest(runs.load(config.training(config.methods[0])))


def knn(config: Config, method: str, run: Trained, progress: Progress) -> dict[str, float] | None:
    """Compute the nearest-neighbour accuracy of a run on the test split (`runs.knn`).

    Returns None unless the run trained on the labelled images of CIFAR-10 or STL-10.
    """
    if config.data not in ("cifar10", "stl10") or config.split != "train":
        return None
    progress(f"{find(method).title}, nearest-neighbour accuracy on the test split")
    with jax.enable_x64(False):
        return runs.knn(config.training(method), run.encoder, root=config.runs_dir)


def arrays(method: str, run: Trajectory) -> dict[str, np.ndarray]:
    """Return the curves of a run (`staircase.curves`), with the method's name as a prefix."""
    return {f"{method}_{name}": values for name, values in staircase.curves(run).items()}


def checks(method: str, summary: dict[str, Any], d: int, *, small: bool) -> list[Check]:
    """Check that a run converged and learned its modes one at a time.

    With `small`, a premise is that its eigenvalues start small. If the summary has accuracies of
    nearest neighbours, that of the trained network must be the highest.
    """
    name, accuracy, wanted = find(method).title, summary.get("knn"), max(1, min(ALONE, d - 1))
    ratio = summary["start"][0] / max(summary["final"][0], float(np.finfo(float).tiny))
    return [
        Check(
            f"{name}: run diverged (1) or not (0)",
            float(summary["result"].startswith("diverged")),
            0,
            "==",
            premise=True,
        ),
        *(
            [Check(f"{name}: largest eigenvalue, start / end", ratio, 1e-3, "<=", premise=True)]
            if small
            else []
        ),
        Check(f"{name}: modes learned", summary["crossed"], wanted, ">=", premise=True),
        Check(
            f"{name}: modes learned one at a time (next below 1/10)",
            summary["alone"],
            wanted,
            ">=",
        ),
        *(
            Check(
                f"{name}: nearest-neighbour accuracy, trained / {other}",
                accuracy["trained"] / accuracy[other],
                ABOVE,
                ">=",
            )
            for other in ("pixels", "untrained")
            if accuracy
        ),
    ]
