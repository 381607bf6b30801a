"""Any folder of images, decoded by Pillow."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps
from tqdm import tqdm

from stepwise.data.images import (
    DataError,
    Images,
    MissingDataError,
    fit,
    require,
    require_split,
    subset,
)

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
SPLITS = ("train", "val", "test")
# More bits than eight in a channel: Pillow would clip or shift them to fit.
DEEP_MODES = ("I", "F")


def load(path: Path, split: str, limit: int | None, size: int | None, seed: int) -> Images:
    """Read the images of a folder, in the order of their names, as RGB, upright by their EXIF
    orientation.

    A sub-folder is a class, named after it, and holds its images at any depth; sub-folders without
    images are no class. A folder of images without sub-folders is one set without labels. Where the
    sub-folders are called train, val and test (two of the three names among them, or none but
    these), they are the splits, each laid out in one of the two ways; a folder that has no splits
    is train. Files are told by their suffix (.png, .jpg, ...), hidden ones and other suffixes
    passed over.

    Raises DataError for a file that has the suffix of an image and is none, is damaged or cut
    short, has more than 8 bits a channel or more pixels than Pillow deems safe, and for images of
    several sizes where no `size` is given; MissingDataError for a folder or split that is not
    there, or holds no image.
    """
    require_split(f"folder:{path}", split, SPLITS)
    top = _split_folder(path, split)
    files, labels, names = _listing(top)
    keep = subset(len(files), limit, seed)
    pixels = _read([files[i] for i in keep], size)
    return Images(pixels, None if labels is None else labels[keep], names, f"folder:{top}")


def _split_folder(path: Path, split: str) -> Path:
    if not path.is_dir():
        raise MissingDataError(f"{path}: expected a folder of images, found no such folder")
    folders = {
        entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    }
    splits = folders.intersection(SPLITS)
    if len(splits) > 1 or (splits and splits == folders):
        if split not in splits:
            raise MissingDataError(
                f"{path}: expected a sub-folder {split!r}, found the splits {sorted(splits)}"
            )
        return path / split
    if split != "train":
        raise MissingDataError(
            f"{path}: expected a sub-folder {split!r}, found a folder without splits, which is "
            f"'train'"
        )
    return path


def _listing(top: Path) -> tuple[list[Path], np.ndarray | None, tuple[str, ...]]:
    """List the image files in the order of their names, with their labels and the names of the
    classes.
    """
    found = sorted(path.relative_to(top).parts for path in _walk(top))
    if not found:
        known = " ".join(sorted(SUFFIXES))
        raise MissingDataError(f"{top}: expected at least one image ({known}), found none")
    files = [top.joinpath(*parts) for parts in found]
    loose = [file for file, parts in zip(files, found, strict=True) if len(parts) == 1]
    if len(loose) == len(files):
        return files, None, ()
    if loose:
        inside = next(file for file in files if file.parent != top)
        raise DataError(
            f"{top}: expected all images in sub-folders or none, found {loose[0]} and {inside}"
        )
    names = sorted({parts[0] for parts in found})
    index = {name: i for i, name in enumerate(names)}
    return files, np.array([index[parts[0]] for parts in found], np.int32), tuple(names)


def _walk(top: Path) -> Iterator[Path]:
    for folder, inner, names in os.walk(top, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith(".")]
        files = (Path(folder, name) for name in names if not name.startswith("."))
        yield from (file for file in files if file.suffix.lower() in SUFFIXES)


def _read(files: list[Path], size: int | None) -> UInt8[np.ndarray, "n h w 3"]:
    for i, file in enumerate(tqdm(files, "reading images", delay=2, unit=" files", leave=False)):
        image = _decode(file)
        if size is not None:
            image = fit(image, size)
        if i == 0:
            pixels = np.empty((len(files), *image.shape), np.uint8)
        if image.shape != pixels.shape[1:]:
            (h, w, _), (other_h, other_w, _) = pixels.shape[1:], image.shape
            expected = f"{w} x {h} px like {files[0]}, or a `size` for images of several sizes"
            raise DataError(f"{file}: expected {expected}, found {other_w} x {other_h} px")
        pixels[i] = image
    return pixels


def _decode(file: Path) -> UInt8[np.ndarray, "h w 3"]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as opened:
                image = ImageOps.exif_transpose(opened)
                # By way of RGBA, because Pillow warns of palettes with transparency.
                picture = image.convert("RGBA") if image.has_transparency_data else image
                pixels = np.asarray(picture.convert("RGB"))
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others for damaged
    # files.
    except Exception as error:
        raise DataError(
            f"{file}: expected an image that Pillow can read, found: {error}"
        ) from error
    require(
        not image.mode.startswith(DEEP_MODES),
        file,
        "8 bits a channel",
        f"Pillow mode {image.mode!r}",
    )
    return pixels
