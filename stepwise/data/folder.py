"""Folders of image files, decoded by Pillow."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from stepwise.data import picture
from stepwise.data.deep import DepthError
from stepwise.data.images import (
    DataError,
    Images,
    fit,
    plural,
    printable,
    require,
    shuffled,
    subset,
)
from stepwise.data.listing import Listing, describe_skipped, list_images
from stepwise.data.picture import Header, Reading


@dataclass
class _Report:
    """What happened while files were read."""

    transparent: int = 0
    more_frames: int = 0
    files_of_frames: int = 0
    damaged: list[str] = field(default_factory=list)


def load(
    path: Path, split: str, limit: int | None, size: int | None, seed: int, reading: Reading
) -> Images:
    """Read a folder's images as RGB, sorted by path and turned upright by their EXIF orientation.

    Each sub-folder is a class of the same name and may hold its images at any depth; a sub-folder
    without images is ignored. A folder of images without sub-folders is a set without labels.

    The sub-folders train, val and test are splits if at least two of them exist or if there are no
    other sub-folders with images. They are recognised in any case and under the names that common
    tools write, such as Training, valid, dev, test_set or val2017 (`splits`). Each split is then
    laid out in one of the two ways above. A folder without splits counts as train.

    Image files are recognised by their content, whatever their suffix. Each real file counts once:
    a link to a file or folder that is read already is ignored, and so are hidden files, what
    other programs store beside the images (Thumbs.db, __MACOSX, @eaDir, ...), and results and runs
    of this package.

    Transparent images are put on a background. Images of 16 bits per channel need `depth`, since a
    file does not say how many of its bits are used. Metadata that cannot be read is ignored.

    Raises:
        DataError: if files are damaged (all are named in one message), a folder cannot be read, an
            image has more than 8 bits per channel and no `depth` fits, it has more pixels than
            Pillow's limit, or sizes differ and no `size` is passed.
        MissingDataError: if the folder or split does not exist or holds no image.
    """
    listing = list_images(path, split, skip_unreadable=reading.skip_damaged)
    pixels, files, notes = read(listing, limit, size, seed, reading)
    labels = None if listing.labels is None else listing.labels[files]
    return Images(pixels, labels, listing.class_names, listing.source, notes)


def read(
    listing: Listing, limit: int | None, size: int | None, seed: int, reading: Reading
) -> tuple[np.ndarray, list[int], tuple[str, ...]]:
    """Read the images of a listing.

    Returns:
        Their pixels uint8 [n, h, w, 3], the index of each one's file, and notes on what was changed
        or left out.

    Raises:
        DataError: as in `load`.
    """
    report = _Report()
    if reading.frames == "all":
        headers, report.damaged = read_headers(listing, reading)
        entries = [(i, frame) for i, header in headers.items() for frame in header.frames]
    else:
        entries = [(i, 0) for i in range(len(listing.files))]
    pixels, kept = _read_images(listing, entries, limit, size, seed, reading, report)
    notes = (*_describe_report(report, len(kept), reading), *describe_skipped(listing.skipped))
    return pixels, [entries[i][0] for i in kept], notes


def read_headers(listing: Listing, reading: Reading) -> tuple[dict[int, Header], list[str]]:
    """Read the size and kind of every file without decoding it.

    Returns:
        The headers by the index of their file, and a message for each damaged file.

    Raises:
        DataError: if files are damaged, unless `reading.skip_damaged` is set and others are not.
    """
    headers: dict[int, Header] = {}
    damaged: list[str] = []
    for i, file in enumerate(_progress(listing.files, "reading headers")):
        try:
            headers[i] = picture.read_header(file)
        except DataError as error:
            damaged.append(str(error))
    if not reading.skip_damaged or not headers:
        _require_whole(listing, damaged)
    return headers, damaged


def _read_images(
    listing: Listing,
    entries: list[tuple[int, int]],
    limit: int | None,
    size: int | None,
    seed: int,
    reading: Reading,
    report: _Report,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels of the chosen entries, in ascending order, and their indices.

    If damaged files are skipped, the next entries in the order of the subset replace them.
    """
    queue = list(subset(len(entries), limit, seed))
    wanted, first = len(queue), listing.files[0]
    spare = iter(shuffled(len(entries), seed)[wanted:] if wanted < len(entries) else ())
    pixels = np.empty(0, np.uint8)
    kept: list[int] = []
    for i in _progress(queue, "reading images"):
        file, frame = listing.files[entries[i][0]], entries[i][1]
        try:
            image = picture.decode(file, reading, frame)
        except DepthError:
            raise
        except DataError as error:
            report.damaged.append(str(error))
            if reading.skip_damaged:
                queue += itertools.islice(spare, 1)
            continue
        if report.damaged and not reading.skip_damaged:
            continue  # the other damaged files are named too
        shown = image.pixels if size is None else fit(image.pixels, size)
        if not kept:
            pixels, first = np.empty((wanted, *shown.shape), np.uint8), file
        _require_shape(file, shown, first, pixels)
        pixels[len(kept)] = shown
        kept.append(i)
        report.transparent += image.transparent
        if reading.frames == "first" and image.frames > 1:
            report.more_frames += image.frames - 1
            report.files_of_frames += 1
    if not reading.skip_damaged or not kept:
        _require_whole(listing, report.damaged)
    indices = np.array(kept)
    if (np.diff(indices) < 0).any():
        order = np.argsort(indices)
        return pixels[order], indices[order]
    return pixels[: len(kept)], indices


def _require_shape(file: Path, image: np.ndarray, first: Path, pixels: np.ndarray) -> None:
    if image.shape != pixels.shape[1:]:
        (h, w, _), (other_h, other_w, _) = pixels.shape[1:], image.shape
        expected = f"{w} x {h} px like {printable(first)}, or a `size` for images of several sizes"
        raise DataError(
            f"{printable(file)}: expected {expected}, received {other_w} x {other_h} px"
        )


def _require_whole(listing: Listing, damaged: list[str]) -> None:
    """Raise DataError that names the damaged files."""
    way_out = "pass skip_damaged=True (--skip-damaged) to leave damaged files out"
    if len(damaged) == 1:
        raise DataError(f"{damaged[0]}; {way_out}")
    top, shared = f"{printable(listing.top)}/", " expected an image that Pillow can read, received"
    reasons = [each.removeprefix(top).replace(f"{shared} an error:", "") for each in damaged]
    require(
        not damaged,
        printable(listing.top),
        "images that Pillow can read",
        f"{len(damaged)} damaged files of {len(listing.files)}: "
        f"{'; '.join(reasons[:10])}{_more(len(reasons) - 10)}; {way_out}",
    )


def _more(count: int) -> str:
    return f"; and {count} more" if count > 0 else ""


def _describe_report(report: _Report, n: int, reading: Reading) -> Iterable[str]:
    """Yield what was changed or left out while files were read."""
    if report.damaged:
        yield f"left out: {plural(len(report.damaged), 'damaged file')}"
    if report.transparent:
        white = reading.background == (255, 255, 255)
        ground = "white" if white else "#{:02x}{:02x}{:02x}".format(*reading.background)
        yield (
            f"{report.transparent} of {plural(n, 'image')} are transparent and were put on "
            f"{ground}; background=COLOUR (--background) sets another"
        )
    if report.more_frames:
        yield (
            f"{plural(report.more_frames, 'page or frame', 'pages or frames')} beyond the first of "
            f"{plural(report.files_of_frames, 'file')} were not read; "
            'frames="all" (--frames all) reads them'
        )


def _progress(items: Sequence[Any], label: str) -> Any:
    return tqdm(items, label, delay=2, unit=" files", leave=False)
