"""Which source files a figure's numbers depend on: its own and all that it imports from this
repository.
"""

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def code(path: Path) -> str:
    """A hash of these files: stored arrays of another code are not used again."""
    digest = hashlib.sha256()
    for each in sorted(needed(path)):
        digest.update(str(each.relative_to(ROOT)).encode() + each.read_bytes())
    return digest.hexdigest()[:16]


def needed(path: Path) -> set[Path]:
    """The file, and every one of this repository that it imports, directly or not."""
    found: set[Path] = set()
    waiting = [path.resolve()]
    while waiting:
        here = waiting.pop()
        if here not in found:
            found.add(here)
            waiting += [file for name in _imported(here) for file in _files(name)]
    return found


def _imported(path: Path) -> Iterator[str]:
    """Dotted names, wherever in the file their import stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _files(name: str) -> Iterator[Path]:
    """The module that a dotted name is or lies in, and the packages around it; none of other
    distributions.
    """
    base = ROOT
    for part in name.split("."):
        base = base / part
        for file in (base / "__init__.py", base.with_suffix(".py")):
            if file.is_file():
                yield file
        if not base.is_dir():
            return
