"""`stepwise figure`: the figures of the paper, which come with a clone of the repository."""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

ROOT = Path(__file__).resolve().parents[2]
"""The clone that the package lies in, if it lies in one."""


ELSEWHERE = (
    "expected an installation from within a clone of the repository (make install, or "
    "pip install --editable .), whose `experiments` hold the figures; received one without them. "
    "In a clone, `python -m experiments NAME` makes a figure too"
)


@dataclass(frozen=True)
class Elsewhere:
    """Compute, check and draw one figure (needs a clone of the repository; the wheel has none)."""

    name: tyro.conf.Positional[str]
    """Which figure."""

    def run(self) -> int:
        """Say where the figures are."""
        raise ValueError(f"figure: {ELSEWHERE}")


def command() -> Callable[..., Any]:
    """The dataclass of `python -m experiments` if this is a clone; another package may have the
    name too.
    """
    spec = importlib.util.find_spec("experiments")
    ours = spec is not None and spec.origin == str(ROOT / "experiments" / "__init__.py")
    if not ours:
        return Elsewhere
    found: Callable[..., Any] = importlib.import_module("experiments.arguments").Arguments
    return found
