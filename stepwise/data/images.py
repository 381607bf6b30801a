"""What every reader returns and raises, and the two things that each does: choose a subset, set a
size.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image
from tqdm import tqdm


class DataError(ValueError):
    """An argument or a file that is not what it should be; the message says what was expected and
    found.
    """


class MissingDataError(DataError, FileNotFoundError):
    """A file or folder that is not there."""


def require(condition: bool, name: object, expected: str, found: object) -> None:
    """Raise DataError `name: expected ..., found ...` unless the condition holds."""
    if not condition:
        raise DataError(f"{name}: expected {expected}, found {found}")


def require_split(name: object, split: str, known: Iterable[str]) -> None:
    """Raise DataError unless the split is one of those known."""
    known = tuple(known)
    require(split in known, f"split of {name}", " or ".join(map(repr, known)), repr(split))


@dataclass(frozen=True, eq=False)
class Images:
    """At least one image of one size, with its label where there is one.

    Pixels are uint8 in [0, 255], [n, H, W, C], often a read-only view of a memory-mapped file with
    strides of its own. Labels are int32 [n], indices into `class_names`. `source` says where they
    come from. Raises DataError if any of this is untrue.
    """

    pixels: np.ndarray
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        pixels, labels = self.pixels, self.labels
        require(
            pixels.dtype == np.uint8 and pixels.ndim == 4 and pixels.size > 0,
            f"pixels of {self.source}",
            "uint8 [n, H, W, C] with at least one image",
            f"{pixels.dtype} {list(pixels.shape)}",
        )
        if labels is None:
            return
        require(
            labels.dtype == np.int32 and labels.shape == pixels.shape[:1],
            f"labels of {self.source}",
            f"int32 [{len(pixels)}], one for each image",
            f"{labels.dtype} {list(labels.shape)}",
        )
        low, high, classes = int(labels.min()), int(labels.max()), len(self.class_names)
        require(
            low >= 0 and high < classes,
            f"labels of {self.source}",
            f"0 to {classes - 1}, an index into its {classes} class names",
            f"{low} to {high}",
        )

    def __len__(self) -> int:
        return len(self.pixels)


def subset(n: int, limit: int | None, seed: int) -> Int[np.ndarray, " kept"]:
    """Choose min(n, limit) of n indices by the seed, ascending; a smaller limit's are in a larger
    one's.
    """
    if limit is None or limit >= n:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).permutation(n)[:limit])


def fit(image: UInt8[np.ndarray, "h w c"], size: int) -> UInt8[np.ndarray, "{size} {size} c"]:
    """Resize the central square to size x size px, antialiased bicubic; exact where it has that
    side.
    """
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    square = image[top : top + side, left : left + side]
    if side == size:
        return square
    # Pillow would take four channels for RGBA and weight the colours by the fourth.
    planes = [square] if image.shape[2] == 3 else np.moveaxis(square, 2, 0)
    pictures = [Image.fromarray(np.ascontiguousarray(plane)) for plane in planes]
    done = [
        np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC)) for picture in pictures
    ]
    return done[0] if image.shape[2] == 3 else np.stack(done, axis=-1)


def fit_all(
    pixels: UInt8[np.ndarray, "n h w c"], size: int | None
) -> UInt8[np.ndarray, "n h2 w2 c"]:
    """Fit every image to size x size px, one at a time; the array itself where there is nothing to
    do.
    """
    n, height, width, channels = pixels.shape
    if size is None or height == width == size:
        return pixels
    out = np.empty((n, size, size, channels), np.uint8)
    for image, place in zip(
        tqdm(pixels, "resizing", delay=2, unit=" images", leave=False), out, strict=True
    ):
        place[...] = fit(image, size)
    return out
