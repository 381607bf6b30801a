"""Which images a command looks at, and `stepwise data`, which looks at or downloads them."""

from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from stepwise import data
from stepwise.data import Images


@dataclass(frozen=True)
class Source:
    """Which images."""

    data: str = "photos"
    """photos, cifar10, stl10, folder:PATH or npz:PATH."""
    data_dir: str | None = None
    """Where cifar10 or stl10 lie; without it they are downloaded."""
    split: str = "train"
    side: int = 32
    """Images are brought to this side, in px, before views are made of them."""

    def load(self, n: int, seed: int) -> Images:
        """So many of them, or all where there are fewer, which is said."""
        images = data.load(
            self.data, split=self.split, root=self.data_dir, limit=n, size=self.side, seed=seed
        )
        say_if_fewer(len(images), n)
        return images


def say_if_fewer(there: int, asked: int) -> None:
    """A line where there are not as many images as were asked for."""
    if there < asked:
        print(f"only {there} images there, of {asked} asked for")


@dataclass(frozen=True)
class Fetch:
    """Download and check a data set, so that nothing else has to."""

    name: tyro.conf.Positional[Literal["cifar10", "stl10"]]
    """Which: 170 MB and 2.6 GB."""

    def run(self) -> int:
        """Into the user's cache, or the folder that STEPWISE_CACHE names."""
        images = data.load(self.name, limit=1)
        print(f"{self.name}: here, {images.source}")
        return 0


@dataclass(frozen=True)
class Show:
    """Say what `--data NAME` is: how many images, their size, and their classes."""

    name: tyro.conf.Positional[str]
    """photos, cifar10, stl10, folder:PATH or npz:PATH."""
    data_dir: str | None = None
    """Where cifar10 or stl10 lie; without it they are downloaded."""
    split: str = "train"
    size: int | None = None
    """Bring images to this side; those of a folder have to be of one size otherwise."""

    def run(self) -> int:
        """Read all of it."""
        images = data.load(self.name, split=self.split, root=self.data_dir, size=self.size)
        height, width, channels = images.pixels.shape[1:]
        print(
            f"{images.source}\n{len(images)} images of {height} x {width} px, {channels} channels"
        )
        if images.labels is not None:
            counts = Counter(images.class_names[label] for label in images.labels.tolist())
            few = ", ".join(f"{name} {count}" for name, count in counts.most_common(5))
            print(f"{len(images.class_names)} classes: {few}{', ...' if len(counts) > 5 else ''}")
        return 0


@dataclass(frozen=True)
class Data:
    """Look at a set of images, or download one."""

    action: (
        Annotated[Show, tyro.conf.subcommand("show", prefix_name=False)]
        | Annotated[Fetch, tyro.conf.subcommand("fetch", prefix_name=False)]
    )

    def run(self) -> int:
        """What was asked."""
        return self.action.run()
