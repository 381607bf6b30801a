"""Atomic writes, strict JSON, digests, and locks between processes."""

import ast
import hashlib
import json
import math
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

PROJECT = ("stepwise", "experiments")
"""Packages whose files are this project's code."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` if the block succeeds.

    If the block fails, the temporary file is removed and `path` stays as it was. The folder is
    created if it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write strict JSON; `jsonable` converts the values that JSON cannot hold."""
    with replacing(path) as temporary:
        text = json.dumps(jsonable(content), indent=1, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def jsonable(value: Any) -> Any:
    """Convert a value to JSON's types: arrays to lists, paths to strings, NaN and ±∞ to null."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return jsonable(value.tolist())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def digest(*parts: Any, length: int = 16) -> str:
    """Hash texts, bytes and arrays. Of an array only the bytes count, not the shape."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            total.update(part.encode())
        elif isinstance(part, bytes):
            total.update(part)
        else:
            total.update(np.ascontiguousarray(part).tobytes())
    return total.hexdigest()[:length]


def code_digest(path: Path, root: Path, packages: Sequence[str] | None = PROJECT) -> str:
    """Hash a source file and all files that it imports; see `imported_files`."""
    files = sorted(imported_files(path, root, packages))
    parts = [part for file in files for part in (str(file.relative_to(root)), file.read_bytes())]
    return digest(*parts)


def imported_files(path: Path, root: Path, packages: Sequence[str] | None = PROJECT) -> set[Path]:
    """Return the source file and every file under `root` that it imports, directly or indirectly.

    Args:
        packages: follow imports of these packages only; None follows all imports.
    """
    root = root.resolve()
    files: set[Path] = set()
    queue = [path.resolve()]
    while queue:
        file = queue.pop()
        if file not in files:
            files.add(file)
            queue += [
                each
                for name in _imported_names(file)
                for each in _module_files(name, root, packages)
            ]
    return files


def _imported_names(path: Path) -> Iterator[str]:
    """Yield the dotted names of all that a file imports, inside functions as well."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _module_files(name: str, root: Path, packages: Sequence[str] | None) -> Iterator[Path]:
    """Yield the files of the module that a dotted name belongs to and of its parent packages."""
    base = root
    if packages is not None and name.partition(".")[0] not in packages:
        return
    for part in name.split("."):
        base = base / part
        for file in (base / "__init__.py", base.with_suffix(".py")):
            if file.is_file():
                yield file
        if not base.is_dir():
            return


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock file for the duration of the block. It is released if this process dies.

    Raises:
        BlockingIOError: if another process holds the lock and `wait` is False.
    """
    import filelock  # slow to import

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except filelock.Timeout as error:
        raise BlockingIOError(f"{path}: another process holds this lock") from error
    try:
        yield
    finally:
        lock.release()
