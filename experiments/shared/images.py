"""Images of the linear experiments: two random 20 × 20 crops of each."""

from typing import Protocol

import jax
import numpy as np

from stepwise import _files, _random, data, plotting, views


class Source(Protocol):
    """Fields of a Config that determine the images."""

    @property
    def data(self) -> str: ...
    @property
    def data_dir(self) -> str | None: ...
    @property
    def side(self) -> int: ...
    @property
    def n_pairs(self) -> int: ...
    @property
    def seed(self) -> int: ...


def digest(config: Source) -> str:
    """Return a hash of the images, before they are cropped."""
    return _files.digest(load(config))


def crops(config: Source) -> tuple[np.ndarray, np.ndarray]:
    """Return two views [n, 20, 20, c] of n_pairs images of `side` pixels, as float64 with x64 on.

    Raises:
        ValueError: if there are fewer images than pairs.
    """
    pair = views.positive_pairs(load(config), _random.key(config.seed + 1), "crop20")
    dtype = jax.dtypes.canonicalize_dtype(float)
    return np.asarray(pair[0], dtype), np.asarray(pair[1], dtype)


def load(config: Source) -> np.ndarray:
    """Return the pixels of the images, uint8 [n_pairs, side, side, c].

    Raises:
        ValueError: if there are fewer images than pairs.
    """
    images = data.load(
        config.data, root=config.data_dir, limit=config.n_pairs, size=config.side, seed=config.seed
    )
    count = len(images.pixels)
    if count < config.n_pairs:
        raise ValueError(
            f"data: expected at least n_pairs = {config.n_pairs} images, received {config.data} "
            f"with {count}"
        )
    return images.pixels


def title(data_name: str) -> str:
    """Return the name of a data set for the title of a drawing, without special characters."""
    kind, _, path = data_name.partition(":")
    known = {"photos": "photographs", "cifar10": "CIFAR-10", "stl10": "STL-10", "glyphs": "glyphs"}
    return known.get(kind, plotting.plain(f"{kind} {path.rstrip('/').split('/')[-1]}"))
