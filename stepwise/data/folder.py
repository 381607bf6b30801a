"""Folders of image files, decoded by Pillow."""

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
# Pillow modes with more than 8 bits per channel, which Pillow would clip or shift to 8 bits.
DEEP_MODES = ("I", "F")


def load(path: Path, split: str, limit: int | None, size: int | None, seed: int) -> Images:
    """Read a folder's images as RGB, sorted by path and turned upright by their EXIF orientation.

    Each sub-folder is a class of the same name and may hold its images at any depth; a sub-folder
    without images is ignored. A folder of images without sub-folders is a set without labels.

    The sub-folders train, val and test are splits if at least two of them exist or if there are no
    other sub-folders. Each split is then laid out in one of the two ways above. A folder without
    splits counts as train. Image files are recognised by their suffix (.png, .jpg, ...); hidden
    files and other suffixes are ignored.

    Raises:
        DataError: if a file with an image suffix is no image, is damaged or truncated, has more
            than 8 bits per channel or more pixels than Pillow considers safe, or if sizes differ
            and no `size` is passed.
        MissingDataError: if the folder or split does not exist or holds no image.
    """
    require_split(f"folder:{path}", split, SPLITS)
    top = _split_folder(path, split)
    files, labels, names = _list_images(top)
    keep = subset(len(files), limit, seed)
    pixels = _read_images([files[i] for i in keep], size)
    return Images(pixels, None if labels is None else labels[keep], names, f"folder:{top}")


def _split_folder(path: Path, split: str) -> Path:
    if not path.is_dir():
        raise MissingDataError(
            f"{path}: expected a folder of images, received a path with no folder"
        )
    folders = {
        entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    }
    splits = folders.intersection(SPLITS)
    if len(splits) > 1 or (splits and splits == folders):
        if split not in splits:
            raise MissingDataError(
                f"{path}: expected a sub-folder {split!r}, received the splits {sorted(splits)}"
            )
        return path / split
    if split != "train":
        raise MissingDataError(
            f"{path}: expected a sub-folder {split!r}, received a folder without splits, "
            "which counts as 'train'"
        )
    return path


def _list_images(top: Path) -> tuple[list[Path], np.ndarray | None, tuple[str, ...]]:
    """Return the image files sorted by path, their labels, and the names of the classes."""
    paths = sorted(path.relative_to(top).parts for path in _find_images(top))
    if not paths:
        known = " ".join(sorted(SUFFIXES))
        raise MissingDataError(f"{top}: expected at least one image ({known}), received none")
    files = [top.joinpath(*parts) for parts in paths]
    loose = [file for file, parts in zip(files, paths, strict=True) if len(parts) == 1]
    if len(loose) == len(files):
        return files, None, ()
    if loose:
        inside = next(file for file in files if file.parent != top)
        raise DataError(
            f"{top}: expected all images in sub-folders or none, received {loose[0]} and {inside}"
        )
    names = sorted({parts[0] for parts in paths})
    index = {name: i for i, name in enumerate(names)}
    return files, np.array([index[parts[0]] for parts in paths], np.int32), tuple(names)


def _find_images(top: Path) -> Iterator[Path]:
    for folder, inner, names in os.walk(top, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith(".")]
        files = (Path(folder, name) for name in names if not name.startswith("."))
        yield from (file for file in files if file.suffix.lower() in SUFFIXES)


def _read_images(files: list[Path], size: int | None) -> UInt8[np.ndarray, "n h w 3"]:
    for i, file in enumerate(tqdm(files, "reading images", delay=2, unit=" files", leave=False)):
        image = _decode(file)
        if size is not None:
            image = fit(image, size)
        if i == 0:
            pixels = np.empty((len(files), *image.shape), np.uint8)
        if image.shape != pixels.shape[1:]:
            (h, w, _), (other_h, other_w, _) = pixels.shape[1:], image.shape
            expected = f"{w} x {h} px like {files[0]}, or a `size` for images of several sizes"
            raise DataError(f"{file}: expected {expected}, received {other_w} x {other_h} px")
        pixels[i] = image
    return pixels


def _decode(file: Path) -> UInt8[np.ndarray, "h w 3"]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as opened:
                image = ImageOps.exif_transpose(opened)
                # Converted through RGBA, because Pillow warns about palettes with transparency.
                picture = image.convert("RGBA") if image.has_transparency_data else image
                pixels = np.asarray(picture.convert("RGB"))
    # For damaged files, Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and
    # other exceptions.
    except Exception as error:
        raise DataError(
            f"{file}: expected an image that Pillow can read, received an error: {error}"
        ) from error
    require(
        not image.mode.startswith(DEEP_MODES),
        file,
        "8 bits per channel",
        f"Pillow mode {image.mode!r}",
    )
    return pixels
