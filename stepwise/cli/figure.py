"""`stepwise figure`: the figures of the paper, which need a clone of the repository."""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

ROOT = Path(__file__).resolve().parents[2]
"""The root of the clone that contains this package, if it is in one."""

ELSEWHERE = (
    "expected an installation from within a clone of the repository (make install, or "
    "pip install --editable .), which has the code of the figures, received one without it; in a "
    "clone, `python -m experiments NAME` also computes a figure"
)


@dataclass(frozen=True)
class Elsewhere:
    """Compute, check and draw one figure (needs a clone of the repository)."""

    name: tyro.conf.Positional[str]
    """Name of the figure."""

    def run(self) -> int:
        """Raise an error that says how to install the figures."""
        raise ValueError(f"figure: {ELSEWHERE}")


def command() -> Callable[..., Any]:
    """Return the command's dataclass: that of `python -m experiments` in a clone, or `Elsewhere`.

    The location of `experiments` is checked, because another package may have the same name.
    """
    spec = importlib.util.find_spec("experiments")
    ours = spec is not None and spec.origin == str(ROOT / "experiments" / "__init__.py")
    if not ours:
        return Elsewhere
    arguments: Callable[..., Any] = importlib.import_module("experiments.arguments").Arguments
    return arguments
