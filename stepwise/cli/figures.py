"""`stepwise figure`: the figures of the paper, which come with a clone of the repository."""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tyro

from stepwise import _check, record


@dataclass(frozen=True)
class Elsewhere:
    """Compute, check and draw one figure of the paper (in a clone of the repository; the wheel has
    none).
    """

    name: tyro.conf.Positional[str]
    """Which figure."""

    def run(self) -> int:
        """Say where the figures are."""
        _check.require(
            False,
            f"figure {self.name}",
            "a clone of the repository, with its `experiments`",
            "none here",
        )
        return 2


def command() -> Callable[..., Any]:
    """The dataclass of `python -m experiments`, where that is to be had: another package may have
    the name too.
    """
    spec = importlib.util.find_spec("experiments")
    ours = spec is not None and spec.origin == str(record.ROOT / "experiments" / "__init__.py")
    found: Callable[..., Any] = (
        importlib.import_module("experiments.run").Arguments if ours else Elsewhere
    )
    return found
