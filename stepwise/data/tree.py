"""Files below a folder: each real file once, without hidden files and without our own results."""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stepwise.data.images import DataError, printable, require

FOREIGN = frozenset(
    {
        "thumbs.db",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "icon\r",
        "zbthumbnail.info",
        "__macosx",
        "__pycache__",
        "@eadir",
        "@recycle",
        "@recently-snapshot",
        "@tmp",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "lost+found",
        "lost.dir",
        "found.000",
        "node_modules",
    }
)
"""Names, in lower case, under which operating systems and storage devices write beside the data."""
RESULT = {"config.json", "arrays.npz"}
"""Files in every folder of results (`record.write`). An interrupted call leaves no summary.json."""
RUN = {"config.json", "checkpoints", "log.jsonl"}
"""Names in every folder of a training run (`training.runs`). Other programs write the first two."""
HIDDEN, OWN, REPEATED = "hidden", "results of stepwise", "links to what is read already"
BROKEN, SPECIAL = "broken links", "neither files nor folders"

Parts = tuple[str, ...]
"""The path of a file below the folder, one name for each level."""


@dataclass
class Tree:
    """The files below a folder.

    Attributes:
        top: the folder.
        files: the files' paths below `top`, sorted.
        skipped: number of entries that were left out, by reason.
        unreadable: folders that could not be read, with the reason.
    """

    top: Path
    files: list[Parts] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)


def is_foreign(name: str) -> bool:
    """Return whether a name is hidden or belongs to another program, such as Thumbs.db."""
    return name.startswith(".") or name.lower() in FOREIGN


def is_own(names: set[str]) -> bool:
    """Return whether a folder with these names was written by this package."""
    return names >= RESULT or names >= RUN


def walk(top: Path) -> Tree:
    """List the files below a folder, each real file once.

    Links are followed after everything that is no link, so that a file has the name of its real
    place if that lies below `top`. A link to a folder that is listed already, or that contains
    `top`, is left out. Two names of one file (hard links) count once.
    """
    tree = Tree(top)
    seen = {_identity(path.stat(), path) for path in (top, *Path(os.path.realpath(top)).parents)}
    links = _enter(tree, (), seen)
    while links:
        links.sort()
        deeper: list[Parts] = []
        for parts in links:
            deeper += _follow(tree, parts, seen)
        links = deeper
    tree.files.sort()
    return tree


def sub_folders(path: Path) -> list[str]:
    """Return the sorted names of the sub-folders that may hold data, links to folders included.

    Raises:
        DataError: if the folder cannot be read.
    """
    try:
        names = [entry.name for entry in path.iterdir() if not is_foreign(entry.name)]
    except OSError as error:
        raise DataError(
            f"{printable(path)}: expected a folder that can be read, received an error: "
            f"{error.strerror or error}"
        ) from error
    return sorted(name for name in names if (path / name).is_dir() and not _is_result(path / name))


def require_readable(tree: Tree) -> None:
    """Raise DataError that names the folders that could not be read."""
    require(
        not tree.unreadable,
        printable(tree.top),
        "folders that can be read",
        f"{len(tree.unreadable)} that cannot: {join_names(tree.unreadable)}; change their "
        "permissions, or pass skip_damaged=True (--skip-damaged) to leave them out",
    )


def join_names(items: list[str], most: int = 10) -> str:
    """Join at most `most` items, and say how many more there are."""
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + rest


def _is_result(folder: Path) -> bool:
    try:
        return is_own({entry.name for entry in folder.iterdir()})
    except OSError:
        return False


def _identity(status: os.stat_result, path: Path) -> object:
    """Return what two names of one file or folder have in common."""
    # some file systems number no files
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def _enter(tree: Tree, start: Parts, seen: set[object]) -> list[Parts]:
    """Add the files of a folder and its sub-folders, and return the links that they contain."""
    files: list[tuple[Parts, object]] = []
    links: list[Parts] = []
    stack = [start]
    while stack:
        parts = stack.pop()
        try:
            with os.scandir(tree.top.joinpath(*parts)) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            name = printable("/".join(parts) or tree.top)
            tree.unreadable.append(f"{name} ({error.strerror or error})")
            continue
        if is_own({entry.name for entry in entries}):
            tree.skipped[OWN] += 1
            continue
        for entry in entries:
            place = (*parts, entry.name)
            if is_foreign(entry.name):
                tree.skipped[HIDDEN] += 1
            elif entry.is_symlink():
                links.append(place)
            else:
                files += _sort_entry(tree, place, entry.stat(follow_symlinks=False), stack, seen)
    _add(tree, files, seen)
    return links


def _sort_entry(
    tree: Tree, place: Parts, status: os.stat_result, stack: list[Parts], seen: set[object]
) -> Iterator[tuple[Parts, object]]:
    """Yield a file with its identity; push a folder that was not entered before."""
    identity = _identity(status, tree.top.joinpath(*place))
    if stat.S_ISDIR(status.st_mode):
        if identity not in seen:
            seen.add(identity)
            stack.append(place)
    elif stat.S_ISREG(status.st_mode):
        yield place, identity
    else:
        tree.skipped[SPECIAL] += 1


def _add(tree: Tree, files: list[tuple[Parts, object]], seen: set[object]) -> None:
    for parts, identity in sorted(files, key=lambda file: file[0]):
        if identity in seen:
            tree.skipped[REPEATED] += 1
        else:
            seen.add(identity)
            tree.files.append(parts)


def _follow(tree: Tree, parts: Parts, seen: set[object]) -> list[Parts]:
    """Add what a link leads to, and return the links found below it."""
    path = tree.top.joinpath(*parts)
    try:
        status = path.stat()
    except OSError:  # its target is missing, or it leads to itself
        tree.skipped[BROKEN] += 1
        return []
    identity = _identity(status, path)
    if identity in seen:
        tree.skipped[REPEATED] += 1
    elif stat.S_ISDIR(status.st_mode):
        seen.add(identity)
        return _enter(tree, parts, seen)
    elif stat.S_ISREG(status.st_mode):
        _add(tree, [(parts, identity)], seen)
    else:
        tree.skipped[SPECIAL] += 1
    return []
