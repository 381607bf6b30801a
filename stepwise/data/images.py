"""The `Images` and errors of every reader, and the steps they share: subset, resize, labels."""

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image
from tqdm import tqdm

LOG = logging.getLogger("stepwise.data")


class DataError(ValueError):
    """An invalid argument or file; the message states what was expected and what was received."""


class MissingDataError(DataError, FileNotFoundError):
    """A file or folder that does not exist."""


def require(condition: bool, name: object, expected: str, received: object) -> None:
    """Raise DataError `name: expected ..., received ...` unless the condition holds."""
    if not condition:
        raise DataError(f"{name}: expected {expected}, received {received}")


def require_split(name: object, split: str, known: Iterable[str]) -> None:
    """Raise DataError unless `split` is one of the known splits."""
    known = tuple(known)
    require(split in known, f"split of {name}", " or ".join(map(repr, known)), repr(split))


@dataclass(frozen=True, eq=False)
class Images:
    """A set of at least one image, all of one size, with optional labels.

    Attributes:
        pixels: uint8 [n, H, W, C] in [0, 255]; may be a read-only view of a memory-mapped file, and
            need not be contiguous.
        labels: int32 [n], indices into `class_names`; None without labels.
        class_names: name of each class.
        source: where the images come from.
        notes: sentences about what was changed or left out while reading, such as transparency on
            a background; `data.load` logs them.
        captions: a text for each image; empty without captions.

    Raises:
        DataError: if the pixels or labels have another type, shape or range.
    """

    pixels: np.ndarray
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    source: str
    notes: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        pixels, labels = self.pixels, self.labels
        require(
            pixels.dtype == np.uint8 and pixels.ndim == 4 and pixels.size > 0,
            f"pixels of {self.source}",
            "uint8 [n, H, W, C] with at least one image",
            f"{pixels.dtype} {list(pixels.shape)}",
        )
        require(
            len(self.captions) in (0, len(pixels)),
            f"captions of {self.source}",
            f"{len(pixels)}, one for each image, or none",
            str(len(self.captions)),
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


def printable(name: str | os.PathLike[str]) -> str:
    r"""Return a file name in one line of valid text, with escapes such as `\xe9` or `\n`.

    Bytes that are not UTF-8, control characters and other unprintable characters are escaped.
    """
    return "".join(char if char.isprintable() else _escape(char) for char in os.fspath(name))


def plural(count: int, noun: str, nouns: str = "") -> str:
    """Return a number with its noun, such as `1 file` or `2 files`."""
    return f"{count} {noun if count == 1 else nouns or noun + 's'}"


def _escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # how Python represents a byte of a name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


def align_labels(images: Images, reference: Images) -> Int[np.ndarray, " n"]:
    """Return the labels of `images` as indices into the class names of `reference`.

    Two splits number their classes separately: a split without the first class calls the second
    one 0. Classes that `reference` lacks have indices from len(reference.class_names) on, which a
    logged warning says.

    Raises:
        DataError: if one of the sets has no labels, two classes of a set have the same name, or the
            sets have no class in common.
    """
    for each in (images, reference):
        names = each.class_names
        require(each.labels is not None, f"labels of {each.source}", "one for each image", "none")
        repeated = sorted({name for name in names if names.count(name) > 1})
        expected = "a different name for each class"
        require(not repeated, f"class names of {each.source}", expected, f"{repeated[:5]} repeated")
    missing = [name for name in images.class_names if name not in reference.class_names]
    if missing:
        lacking = ", ".join(missing[:5])
        LOG.warning("%s: classes that %s lacks: %s", images.source, reference.source, lacking)
    index = {name: i for i, name in enumerate((*reference.class_names, *missing))}
    labels = np.array([index[name] for name in images.class_names], np.int32)[images.labels]
    require(
        not set(images.class_names).isdisjoint(reference.class_names),
        f"class names of {images.source}",
        f"names that also occur in {reference.source}: {', '.join(reference.class_names[:5])}",
        ", ".join(images.class_names[:5]),
    )
    return labels


def subset(n: int, limit: int | None, seed: int) -> Int[np.ndarray, " kept"]:
    """Choose min(n, limit) of n indices at random, in ascending order.

    With one seed, the indices of a smaller limit are among those of a larger one.
    """
    if limit is None or limit >= n:
        return np.arange(n)
    return np.sort(shuffled(n, seed)[:limit])


def shuffled(n: int, seed: int) -> Int[np.ndarray, " n"]:
    """Return n indices in the order in which `subset` chooses them."""
    return np.random.default_rng(seed).permutation(n)


def fit(image: UInt8[np.ndarray, "h w c"], size: int) -> UInt8[np.ndarray, "{size} {size} c"]:
    """Resize the central square to size x size px by antialiased bicubic interpolation.

    A square of this size is returned unchanged.
    """
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    square = image[top : top + side, left : left + side]
    if side == size:
        return square
    # Pillow would treat four channels as RGBA and weight the colours by the fourth.
    planes = [square] if image.shape[2] == 3 else np.moveaxis(square, 2, 0)
    pictures = [Image.fromarray(np.ascontiguousarray(plane)) for plane in planes]
    resized = [
        np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC)) for picture in pictures
    ]
    return resized[0] if image.shape[2] == 3 else np.stack(resized, axis=-1)


def fit_all(
    pixels: UInt8[np.ndarray, "n h w c"], size: int | None
) -> UInt8[np.ndarray, "n h2 w2 c"]:
    """Fit every image to size x size px, one at a time.

    Images of this size are returned as they are, without a copy.
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
