"""The image files of a folder's split, their classes, and what is left out."""

import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import numpy as np

from stepwise.data import opening, splits, tree
from stepwise.data.images import DataError, MissingDataError, printable, require_split

HARMLESS = frozenset({
    ".cfg", ".csv", ".db", ".html", ".ini", ".json", ".log", ".md", ".py", ".toml", ".tsv", ".txt",
    ".xml", ".yaml", ".yml",
})  # fmt: skip
"""Suffixes that nobody expects to be read as an image."""


NAMELESS = "files without suffix that are no images"
UNREADABLE = "folders that cannot be read"


@dataclass(frozen=True)
class Listing:
    """The image files of a split, before they are decoded.

    Attributes:
        top: folder of the split.
        files: the image files, sorted by path.
        labels: the class of each [n]; None for a flat folder.
        class_names: name of each class.
        skipped: number of files and folders that were left out, by reason.
    """

    top: Path
    files: list[Path]
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    skipped: Counter[str]

    @property
    def source(self) -> str:
        """What `Images.source` says."""
        return f"folder:{printable(self.top)}"


def list_images(path: Path, split: str, *, skip_unreadable: bool = False) -> Listing:
    """List the image files of a split without decoding them.

    Raises:
        DataError: if a folder cannot be read, or the layout is unclear.
        MissingDataError: if the folder or split does not exist or holds no image.
    """
    require_split(f"folder:{printable(path)}", splits.canonical(split), splits.SPLITS)
    _require_no_file(path)
    if not path.is_dir():
        raise MissingDataError(
            f"{printable(path)}: expected a folder of images, received a path that does not exist"
        )
    top = splits.choose(path, split)
    content = tree.walk(top)
    if skip_unreadable:
        content.skipped[UNREADABLE] += len(content.unreadable)
    else:
        tree.require_readable(content)
    paths = []
    for parts in content.files:
        if opening.is_image(top.joinpath(*parts)):
            paths.append(parts)
        else:
            suffix = printable(Path(parts[-1]).suffix.lower())
            content.skipped[suffix if suffix.startswith(".") else NAMELESS] += 1
    skipped = Counter({reason: count for reason, count in content.skipped.items() if count})
    if not paths:
        known = " ".join(sorted(opening.SUFFIXES))
        rest = f"; left out: {count_reasons(skipped)}" if skipped else ""
        raise MissingDataError(
            f"{printable(top)}: expected at least one image ({known}), received none{rest}"
        )
    splits.require_one_level(top, paths)
    labels, names = _classes(top, paths)
    return Listing(top, [top.joinpath(*parts) for parts in paths], labels, names, skipped)


def count_reasons(skipped: Counter[str]) -> str:
    """Describe what was left out, such as `no image that Pillow can read (20 .heic)`."""
    suffixes = [(key, n) for key, n in skipped.most_common() if key.startswith(".")]
    unread = ", ".join(f"{count} {suffix}" for suffix, count in suffixes)
    parts = [f"no image that Pillow can read ({unread})"] if unread else []
    others = [(key, n) for key, n in skipped.most_common() if not key.startswith(".")]
    return ", ".join([*parts, *(f"{reason} ({count})" for reason, count in others)])


def describe_skipped(skipped: Counter[str]) -> tuple[str, ...]:
    """Return a note on what was left out, except what nobody expects to be read."""
    quiet = {tree.HIDDEN, tree.OWN, *HARMLESS}
    shown = Counter({reason: n for reason, n in skipped.items() if reason not in quiet})
    return (f"left out: {count_reasons(shown)}",) if shown else ()


def _require_no_file(path: Path) -> None:
    """Raise DataError with the name that works, for a path that is a file."""
    if not path.is_file():
        return
    name, suffix, folder = printable(path), path.suffix.lower(), printable(path.parent)
    place = printable(path.with_suffix(""))
    if suffix == ".npz":
        way_out = f"an .npz archive; pass npz:{name}"
    elif zipfile.is_zipfile(path):
        way_out = f"a zip archive; run `unzip {quote(name)} -d {quote(place)}`, pass folder:{place}"
    elif suffix in (".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar", ".zip"):
        way_out = f"an archive; unpack it to {place}, and pass folder:{place}"
    else:
        way_out = f"a file; pass the folder that holds it, folder:{folder}"
    raise DataError(f"{name}: expected a folder of images, received {way_out}")


def _classes(top: Path, paths: list[tree.Parts]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Return the labels of the files and the names of the classes."""
    loose = [parts for parts in paths if len(parts) == 1]
    if len(loose) == len(paths):
        return None, ()
    if loose:
        inside = next(parts for parts in paths if len(parts) > 1)
        outer, inner = (printable(top.joinpath(*parts)) for parts in (loose[0], inside))
        raise DataError(
            f"{printable(top)}: expected all images in sub-folders or none, received {outer} and "
            f"{inner}"
        )
    names = sorted({parts[0] for parts in paths})
    index = {name: i for i, name in enumerate(names)}
    labels = np.array([index[parts[0]] for parts in paths], np.int32)
    return labels, tuple(map(printable, names))
