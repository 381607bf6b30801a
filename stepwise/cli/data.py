"""`stepwise data`, which describes or downloads images, and the loader of other commands."""

from collections import Counter

from stepwise import data
from stepwise.cli.commands import Fetch, ImageOptions, Show
from stepwise.data import Images


def run(options: Show | Fetch) -> int:
    """Describe or download a set of images, and return the exit code."""
    if isinstance(options, Fetch):
        images = data.load(options.name, limit=1)
        print(f"{options.name}: available ({images.source})")
        return 0
    images = data.load(options.name, split=options.split, root=options.data_dir, size=options.size)
    height, width, channels = images.pixels.shape[1:]
    print(f"{images.source}\n{len(images)} images of {height} x {width} px, {channels} channels")
    if images.labels is not None:
        counts = Counter(images.class_names[label] for label in images.labels.tolist())
        largest = ", ".join(f"{name} {count}" for name, count in counts.most_common(5))
        print(f"{len(images.class_names)} classes: {largest}{', ...' if len(counts) > 5 else ''}")
    return 0


def load(options: ImageOptions, n: int, seed: int) -> Images:
    """Load n images of a command's data set; if fewer are available, load all and print so."""
    images = data.load(
        options.data,
        split=options.split,
        root=options.data_dir,
        limit=n,
        size=options.side,
        seed=seed,
    )
    say_if_fewer(len(images), n)
    return images


def say_if_fewer(available: int, requested: int) -> None:
    """Print a line if fewer images are available than were requested."""
    if available < requested:
        print(f"only {available} of the {requested} requested images are available")
