"""`stepwise data`, which describes or downloads images, and the loader of other commands."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from stepwise import data
from stepwise.cli.commands import Fetch, ImageOptions, Show
from stepwise.data import Images
from stepwise.data.images import LOG


def run(options: Show | Fetch) -> int:
    """Describe or download a set of images, and return the exit code."""
    if isinstance(options, Fetch):
        images = data.load(options.name, limit=1)
        print(f"{options.name}: available ({images.source})")
        return 0
    description = data.describe(
        options.name,
        split=options.split,
        root=options.data_dir,
        size=options.size,
        frames=options.frames,
        skip_damaged=options.skip_damaged,
        depth=options.depth,
    )
    print(description)
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
        **{name: getattr(options, name) for name in data.OPTIONS},
    )
    say_if_fewer(len(images), n)
    return images


def say_if_fewer(available: int, requested: int) -> None:
    """Print a line if fewer images are available than were requested."""
    if available < requested:
        print(f"only {available} of the {requested} requested images are available")


def move_outputs(options: Any) -> Any:
    """Move the default output folders of a command out of the images' folder, to beside it.

    In the folder of the images, `stepwise predict --data folder:.` would write among the images.
    Folders that the user passes stay.
    """
    source = getattr(options, "settings", options)
    kind, _, name = getattr(source, "data", "").partition(":")
    if kind != "folder" or not name:
        return options
    images = Path(source.data_dir or "").expanduser().joinpath(Path(name).expanduser()).resolve()
    if not Path.cwd().resolve().is_relative_to(images) or not os.access(images.parent, os.W_OK):
        return options
    defaults: dict[str, Any] = {field.name: field.default for field in fields(options)}
    changes = {
        name: images.parent / defaults[name]
        for name in ("out", "runs_dir")
        if name in defaults and getattr(options, name) == defaults[name]
    }
    return replace(options, **changes)


class _Printer(logging.Handler):
    """Prints each message once."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message that was not printed before."""
        line = f"note: {record.getMessage()}"
        if line not in self.lines:
            self.lines.add(line)
            print(line)


@contextmanager
def print_notes() -> Iterator[None]:
    """Print what `data.load` logs, instead of logging it: each note once for a command."""
    handler, before = _Printer(), LOG.propagate
    LOG.addHandler(handler)
    LOG.propagate = False
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        LOG.propagate = before
