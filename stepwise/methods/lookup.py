"""Methods by name, from the table or from a file of the user's own."""

import runpy
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from stepwise import _check, _files
from stepwise._user import run_user_code
from stepwise.methods.row import Method
from stepwise.methods.table import DEFAULT, METHODS


def find(name: str) -> Method:
    """Return the method of a name.

    Args:
        name: a name in `METHODS`, or FILE.py:NAME for a `Method` that a file of your own defines;
            if empty, `DEFAULT`.

    Raises:
        ValueError: if the name is unknown; or the file is missing, fails when it is run, or defines
            no `Method` of that name.
    """
    name = name or DEFAULT
    if name in METHODS:
        return METHODS[name]
    file, colon, variable = name.rpartition(":")
    expected = f"one of {', '.join(METHODS)}, or FILE.py:NAME"
    _check.require(bool(file and colon and variable), "method", expected, repr(name))
    path = Path(file)
    _check.require(path.is_file(), "method", "an existing file in FILE.py:NAME", repr(name))
    return _from_file(name, str(path.resolve()), _own_code(path))


def run_with(name: str, call: Callable[[], Any]) -> Any:
    """Return the result of a call that runs the loss or the law of a method.

    Args:
        name: the method's name, as in `find`.
        call: a function without arguments.

    Raises:
        ValueError: if the method comes from a file of the user's own, and the call raises an error
            other than ValueError, OSError, MemoryError or ImportError; the message is one line
            that names the error and its line in the file.
    """
    if (name or DEFAULT) in METHODS:
        return call()
    expected_errors = (ValueError, OSError, MemoryError, ImportError)
    return run_user_code(
        name, "a loss and a law that run without error", call, passed_on=expected_errors
    )


def identity(name: str) -> str:
    """Return the text that identifies a method in the fingerprint of a run.

    For a method in `METHODS` it is the name. For a method in a file it also has a hash of the file
    and of the modules that it imports from its own folder. Data that the file reads do not enter.

    Raises:
        ValueError: as in `find`.
    """
    row = find(name)
    if row is METHODS.get(row.name):
        return row.name
    file, _, variable = name.rpartition(":")
    return f"{variable} of {_own_code(Path(file))}"


def _own_code(path: Path) -> str:
    """Return a hash of a file and of the modules that it imports from its own folder."""
    try:
        files = sorted(_files.imported_files(path, path.resolve().parent, None))
    except (SyntaxError, ValueError):  # running the file raises a clearer error later
        files = [path]
    return _files.digest(*(file.read_bytes() for file in files))


@lru_cache(maxsize=32)
def _from_file(name: str, path: str, _digest: str) -> Method:
    # as `python FILE.py` does, so that the file can import modules from its own folder
    sys.path.insert(0, str(Path(path).parent))
    try:
        variables = run_user_code(
            name, "a file that runs without error", lambda: runpy.run_path(path)
        )
    finally:
        sys.path.remove(str(Path(path).parent))
    row = variables.get(name.rpartition(":")[2])
    received = "nothing of that name" if row is None else f"a {type(row).__name__}"
    _check.require(isinstance(row, Method), name, "a stepwise.methods.Method", received)
    assert isinstance(row, Method)
    return row
