"""What the ResNet figures share: the methods, two starts, their training runs, and what is read
off them.
"""

from dataclasses import dataclass, fields
from typing import Any, Literal, Self

import jax
import numpy as np

from experiments.contract import Check, Progress
from stepwise import staircase
from stepwise.dynamics import Trajectory
from stepwise.methods import METHODS, find
from stepwise.training import runs
from stepwise.training.loop import Trained

ALONE = 5
"""Modes that have to be learned alone for a method to count as stepwise."""
ABOVE = float(np.nextafter(1, 2))
"""A ratio that is above 1."""


@dataclass(frozen=True)
class Config:
    """Every knob of the training runs behind a figure."""

    data: str = "photos"
    """photos, cifar10, stl10, folder:PATH or npz:PATH."""
    data_dir: str | None = None
    """Where cifar10 or stl10 lie."""
    split: str = "train"
    n_images: int = 4096
    side: int = 32
    d: int = 10
    methods: tuple[str, ...] = ()
    """Rows of `methods.METHODS`; by default all that have a schedule for this occasion."""
    start: Literal["small", "standard"] = "small"
    """Which start and schedule of a method's row."""
    tiny: bool = False
    """Whether the schedule is that of a tiny network."""
    lr: float | None = None
    """Learning rate of all methods instead of their own."""
    steps: int | None = None
    """Steps of all methods instead of their own."""
    blocks: tuple[int, ...] = (1, 1, 1, 1)
    bottleneck: bool = False
    width: int = 16
    stem: Literal["small", "imagenet"] = "small"
    recipe: str = "small"
    """Of the views; "own": what the method was published with."""
    optimiser: Literal["sgd", "lars"] = "sgd"
    batch_size: int = 64
    probe: int = 256
    records: int = 150
    snapshots: int = 29
    """Networks kept on the way, beside the one at the start: every fourth is one of fig8's."""
    half: bool = False
    """Compute in bfloat16."""
    seed: int = 0
    runs_dir: str = "runs"
    """Folder of the training runs, which figures share."""

    def __post_init__(self) -> None:
        """Take all methods of the occasion if none is named; refuse one that is unknown."""
        known = tuple(name for name, row in METHODS.items() if self.occasion in row.schedules)
        if not set(self.methods) <= set(known):
            expected = f"some of {known}, which have a schedule {self.occasion!r}"
            raise ValueError(f"methods: expected {expected}, received {self.methods}")
        object.__setattr__(self, "methods", self.methods or known)

    @classmethod
    def smoke(cls) -> Self:
        """Seconds: one stage, tiny images, three modes."""
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
        """The embedded photographs, ten modes, minutes a method on two cores."""
        return cls()

    @classmethod
    def paper(cls) -> Self:
        """ResNet-50 on STL-10's unlabelled images at 96 px, d = 50, standard augmentations; wants
        an accelerator.
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
        """Which of a row's schedules the runs have."""
        return f"{self.start}, tiny" if self.tiny else self.start

    def training(self, method: str) -> runs.Config:
        """The run of a method."""
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
    """A method's run, trained or read.

    Raises:
        KeyboardInterrupt: it was stopped; its checkpoint is there.
    """
    training = config.training(method)
    progress(f"{find(method).title}, {training.steps} steps of {training.batch_size} pairs")
    with jax.enable_x64(False):
        found = runs.train(training, root=config.runs_dir)
    if not found.finished:
        raise KeyboardInterrupt
    return found


def digest(config: Config) -> str:
    """A hash of the images that all methods train on."""
    return runs.digest(runs.load(config.training(config.methods[0])))


def knn(config: Config, method: str, found: Trained, progress: Progress) -> dict[str, float] | None:
    """Nearest neighbours on the test split by what the run learned, where the images have labels
    (`runs.knn`).
    """
    if config.data not in ("cifar10", "stl10") or config.split != "train":
        return None
    progress(f"{find(method).title}, nearest neighbours on the test split")
    with jax.enable_x64(False):
        return runs.knn(config.training(method), found.encoder, root=config.runs_dir)


def arrays(method: str, run: Trajectory) -> dict[str, np.ndarray]:
    """What a figure keeps of a run (`staircase.curves`), the method's name before each."""
    return {f"{method}_{name}": values for name, values in staircase.curves(run).items()}


def checks(method: str, found: dict[str, Any], d: int, *, small: bool) -> list[Check]:
    """That a run did not diverge, began small if it should, learned its modes one at a time, and
    something of use.
    """
    name, gained, wanted = find(method).title, found.get("knn"), max(1, min(ALONE, d - 1))
    began = found["start"][0] / max(found["final"][0], float(np.finfo(float).tiny))
    return [
        Check(
            f"{name}: diverged",
            float(found["result"].startswith("diverged")),
            0,
            "==",
            premise=True,
        ),
        *(
            [Check(f"{name}: largest eigenvalue, start over end", began, 1e-3, "<=", premise=True)]
            if small
            else []
        ),
        Check(f"{name}: modes learned", found["crossed"], wanted, ">=", premise=True),
        Check(f"{name}: of these alone, the next below a tenth", found["alone"], wanted, ">="),
        *(
            Check(
                f"{name}: nearest neighbours, trained over {other}",
                gained["trained"] / gained[other],
                ABOVE,
                ">=",
            )
            for other in ("pixels", "untrained")
            if gained
        ),
    ]
