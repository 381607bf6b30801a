"""Code of the user's own, named on the command line as FILE.py:NAME."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


def run_user_code(
    name: str,
    expected: str,
    call: Callable[[], Any],
    passed_on: tuple[type[Exception], ...] = (),
) -> Any:
    """Return what the call returns; turn whatever it raises into one line that names the place.

    Args:
        name: FILE.py:NAME, as the user gave it.
        expected: what the call should have been.
        call: runs the user's code.
        passed_on: errors of our own, which are raised as they are.

    Raises:
        ValueError: the code raised something else; says which error, and in which line of the file.
    """
    try:
        return call()
    except passed_on:
        raise
    except (Exception, SystemExit) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        file = str(Path(name.rpartition(":")[0]).resolve())
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if str(Path(frame.filename).resolve()) == file]
        where = f" (line {lines[-1]})" if lines else ""
        received = f"{type(error).__name__}: {first}{where}"
        raise ValueError(f"{name}: expected {expected}, received {received}") from error
