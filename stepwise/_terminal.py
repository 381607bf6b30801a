"""Output to the terminal: progress bars, and text in any encoding."""

import io
import sys
from typing import Any

from tqdm import tqdm


def bar(*arguments: Any, progress: bool | None = None, **options: Any) -> Any:
    """Return a tqdm bar. If `progress` is None, it is shown only if stderr is a terminal."""
    return tqdm(*arguments, disable=None if progress is None else not progress, **options)


def escape_output() -> None:
    """Escape the characters that the encoding of stdout or stderr lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
