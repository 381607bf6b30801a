"""Image data sets, loaded as uint8 arrays.

`load` is the entry point, and `describe` describes a set without decoding a folder's images.
`download` fetches the official archives; `binary`, `folder`, `npz` and `photos` read one layout
each; `glyphs` draws characters, and `pairs` reads images with captions; `images` defines the
`Images` that they return. `folder` is assembled from `tree` and `splits` (its files), `listing`
(the images among them), and `opening`, `picture` and `deep` (one image). No file is unpickled, and
JAX is not needed.
"""

import os
import zipfile
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from stepwise.data import binary, folder, glyphs, npz, pairs, photos, picture
from stepwise.data.describe import Description, describe_folder, describe_images
from stepwise.data.images import (
    LOG,
    DataError,
    Images,
    MissingDataError,
    align_labels,
    printable,
    require,
)

__all__ = [
    "DataError",
    "Description",
    "Images",
    "MissingDataError",
    "align_labels",
    "describe",
    "load",
]

OPTIONS = ("frames", "background", "depth", "skip_damaged")
"""Arguments of `load` that say how a folder's files are read."""

KNOWN = "'photos', 'glyphs', 'cifar10', 'stl10', 'folder:PATH', 'pairs:PATH' or 'npz:PATH'"


def load(
    name: str,
    *,
    split: str = "train",
    root: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    size: int | None = None,
    seed: int = 0,
    frames: str = "first",
    background: str | tuple[int, int, int] = "white",
    depth: int | None = None,
    skip_damaged: bool = False,
) -> Images:
    """Load a set of images: pixels uint8 [n, H, W, C], labels int32 [n] or None.

    Args:
        name: the data set:

            - `photos`: patches of two photographs that are part of scikit-learn (no download);
              splits train and test (`photos.load`).
            - `glyphs`: characters of fonts that are part of matplotlib, with their Unicode names as
              captions (no download); splits train and test (`glyphs.load`).
            - `cifar10`, `stl10`: the official binary layouts; splits train and test, and unlabeled
              for stl10 (`binary`).
            - `folder:PATH`: a folder of images, either flat or with one sub-folder per class;
              splits train, val and test (`folder.load`).
            - `pairs:PATH`: a folder of images and a table of captions (`pairs.load`), which
              `Images.captions` holds.
            - `npz:PATH`: an archive of the arrays pixels and labels; one split, train (`npz.load`).
        split: the split to load.
        root: for cifar10 and stl10, the folder of their files, its parent folder, or a folder that
            contains the official archive. By default they are downloaded once (170 MB and 2.6 GB)
            to the folder named by the environment variable STEPWISE_CACHE, or else to the user's
            cache. For folder and npz, a relative PATH starts at `root`.
        limit: number of images to load: a random subset, determined by `seed` alone and in the
            order of the files, so that a set sorted by class keeps all its classes. The subset of
            a smaller limit is part of that of a larger one. A limit of n or more loads all images;
            photos have a maximum instead. Only the images of the subset are read, except for npz.
        size: side of the returned square images in px. The central square is resized with Pillow's
            antialiased bicubic filter; an image of this size is returned unchanged.
        seed: seed of the random subset.
        frames: "first" reads the first page or frame of each file, "all" reads every one as an
            image. This and the next three are for folders alone.
        background: the colour on which transparent images are put: a name, a code such as
            "#808080", or (red, green, blue).
        depth: number of bits, from 9 to 16, that the values of images of 16 bits per channel use:
            2^depth − 1 is white. By default such images are rejected, because their files do not
            say it. Images of 8 bits are not affected.
        skip_damaged: leave out damaged files and folders that cannot be read. Within a limit, other
            files replace them. By default an error names them all.

    What was changed or left out is logged as a warning, and recorded in `Images.notes`.

    Raises:
        DataError: if an argument or a file is invalid; a ValueError whose message names the
            argument or file, what was expected and what was received.
        MissingDataError: if a file or folder does not exist; also a FileNotFoundError.
    """
    for argument, value in (("limit", limit), ("size", size)):
        fits = isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 1
        require(value is None or fits, argument, "a positive integer or None", value)
    whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool) and seed >= 0
    require(whole, "seed", "a whole number from 0", repr(seed))
    reading = _reading(frames, background, depth, skip_damaged)
    kind, place = _locate(name, root)
    _require_name("split", split)
    arguments = (split, limit, size, seed)
    match kind:
        case "photos":
            images = photos.load(*arguments)
        case "glyphs":
            images = glyphs.load(*arguments)
        case "pairs":
            images = pairs.load(_required(place), *arguments, reading)
        case "cifar10":
            images = binary.cifar10(place, *arguments)
        case "stl10":
            images = binary.stl10(place, *arguments)
        case "npz":
            images = npz.load(_required(place), *arguments)
        case _:
            images = folder.load(_required(place), *arguments, reading)
    for note in images.notes:
        LOG.warning("%s: %s", images.source, note)
    return images


def describe(
    name: str,
    *,
    split: str = "train",
    root: str | os.PathLike[str] | None = None,
    size: int | None = None,
    **options: Any,
) -> Description:
    """Describe a set of images: how many there are, their sizes and classes, and what is left out.

    The images of a folder are not decoded; only the first bytes of their files are read.

    Args:
        name, split, root, size: as in `load`.
        options: `frames`, `background`, `depth` and `skip_damaged`, as in `load`.

    Raises:
        DataError, MissingDataError: as in `load`, except for damage that only decoding shows.
    """
    kind, place = _locate(name, root)
    _require_name("split", split)
    if kind != "folder":
        return describe_images(load(name, split=split, root=root, size=size))
    reading = _reading(**{"frames": "first", "background": "white"} | options)
    return describe_folder(_required(place), split, size, reading)


def _reading(
    frames: str,
    background: str | tuple[int, int, int],
    depth: int | None = None,
    skip_damaged: bool = False,
) -> picture.Reading:
    require(frames in ("first", "all"), "frames", "'first' or 'all'", repr(frames))
    whole = isinstance(depth, int | np.integer) and not isinstance(depth, bool)
    fits = depth is None or (whole and 9 <= depth <= 16)
    require(fits, "depth", "a whole number from 9 to 16, or None", repr(depth))
    is_bool = isinstance(skip_damaged, bool | np.bool_)
    require(is_bool, "skip_damaged", "True or False", repr(skip_damaged))
    return picture.Reading(picture.colour(background), depth, frames, bool(skip_damaged))


def _require_name(argument: str, value: Any) -> None:
    require(isinstance(value, str), argument, "a name", repr(value))


def _locate(name: str, root: str | os.PathLike[str] | None) -> tuple[str, Path | None]:
    """Return the kind of a data set and its path, or its root if the name has no path."""
    base = Path(root).expanduser() if root is not None else None
    if isinstance(name, os.PathLike):
        received = f"{type(name).__name__}{_suggest(os.fspath(name), base)}"
        raise DataError(f"name: expected {KNOWN}, received {received}")
    require(isinstance(name, str), "name", KNOWN, repr(name))
    kind, colon, path = name.partition(":")
    named, placed = ("photos", "glyphs", "cifar10", "stl10"), ("folder", "pairs", "npz")
    if (kind in named and not colon) or (kind in placed and path):
        return kind, (base or Path()) / Path(path).expanduser() if path else base
    raise DataError(
        f"name: expected {KNOWN}, received {printable(repr(name))}{_suggest(name, base)}"
    )


def _suggest(name: str, base: Path | None) -> str:
    """Name the argument that works, if the name is a path or is known in another form."""
    kind, colon, rest = name.partition(":")
    known = ("folder", "pairs", "npz", "file", "dir", "directory")
    if colon and rest and kind.strip().lower() in known:
        name = rest.removeprefix("//") if kind.strip().lower() == "file" else rest.strip()
    plain = "".join(filter(str.isalnum, name.lower()))
    if plain in ("photos", "glyphs", "cifar10", "stl10"):
        return f"; pass {plain!r}"
    path = (base or Path()) / Path(name).expanduser()
    if not name or not path.exists():
        return ""
    if path.is_dir():
        return f"; pass 'folder:{printable(name)}'"
    if path.suffix.lower() == ".npz":
        return f"; pass 'npz:{printable(name)}'"
    if zipfile.is_zipfile(path):
        target = printable(str(Path(name).with_suffix("")))
        command = f"unzip {quote(printable(name))} -d {quote(target)}"
        return f", a zip archive; run `{command}`, and pass 'folder:{target}'"
    return f", a file; pass the folder that holds it, 'folder:{printable(str(Path(name).parent))}'"


def _required(place: Path | None) -> Path:
    """Return the path, which names with a colon always have."""
    assert place is not None
    return place
