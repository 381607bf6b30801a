"""Progress bars."""

from typing import Any

from tqdm import tqdm


def bar(*arguments: Any, progress: bool | None = None, **options: Any) -> Any:
    """Return a tqdm bar. If `progress` is None, it is shown only if stderr is a terminal."""
    return tqdm(*arguments, disable=None if progress is None else not progress, **options)
