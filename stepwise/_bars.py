"""Progress bars of long work."""

from typing import Any

from tqdm import tqdm


def bar(*arguments: Any, progress: bool | None = None, **options: Any) -> Any:
    """A tqdm bar; with progress None it shows if stderr is a terminal."""
    return tqdm(*arguments, disable=None if progress is None else not progress, **options)
