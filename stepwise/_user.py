"""The user's own code, named on the command line as FILE.py:NAME."""

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
    """Run the user's code, and turn any error into one line that names its place.

    Args:
        name: FILE.py:NAME, as the user wrote it.
        expected: what was expected, for the message.
        call: the function that runs the user's code; its value is returned.
        passed_on: errors that are raised unchanged.

    Raises:
        ValueError: if the code raises another error; the message has its type, text and line.
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
