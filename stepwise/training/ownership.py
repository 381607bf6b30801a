"""Whose a run's folder is: recognised by what can be seen of a run, and held by one process at a
time.
"""

import contextlib
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from stepwise import _check, _files
from stepwise._moved import MOVED
from stepwise.methods import Objective
from stepwise.training.log import RunLog
from stepwise.training.plan import Plan
from stepwise.types import Numbers

FORMERLY = {new: old for old, new in MOVED.items()}


def identity(
    pixels: Numbers, objective: Objective, plan: Plan, log: RunLog, metadata: dict[str, Any] | None
) -> dict[str, Any]:
    """What a checkpoint has to be of, as far as it can be seen."""
    images = _files.digest(pixels)
    what = {
        "about": metadata or {},
        "images": [*map(int, np.shape(pixels)), images],
        "samples": log.at.tolist(),
    }
    what |= {name: getattr(plan, name) for name in ("seed", "batch_size", "probe", "covariance")}
    what |= {
        "times": log.times.tolist(),
        "recipe": repr(plan.recipe),
        "optimiser": _said(plan.optimiser),
    }
    return what | {"objective": _objective(objective)}


def _objective(objective: Objective) -> list[Any]:
    """What can be seen of an objective; fields at their defaults are left out."""
    known = [_said(objective.loss), objective.predictor, objective.decay]
    more: dict[str, Any] = {} if objective.views == 2 else {"views": objective.views}
    for name in ("state", "parameters"):
        if getattr(objective, name) is not None:
            more[name] = _said(getattr(objective, name))
    return [*known, more] if more else known


def _said(function: Any) -> str:
    """A function by its name, a partial one with what it was given."""
    if isinstance(function, functools.partial):
        return f"{_said(function.func)}{function.args}{sorted(function.keywords.items())}"
    name = getattr(function, "__qualname__", type(function).__name__)
    module = getattr(function, "__module__", "")
    # runs that were made before a module moved are still recognised
    return f"{FORMERLY.get(module, module)}.{name}"


def require_start(folder: Path, log: dict[str, Any], first: dict[str, Any]) -> None:
    """Refuse a run that began with other numbers, as another network, start or loss does; devices
    round differently.
    """
    for name in ("loss", "covariance_eigenvalues"):
        there, here = np.asarray(log[name])[0], np.asarray(first[name])
        near = np.allclose(
            there, here, rtol=0.05, atol=0.05 * np.abs(here).max(initial=0), equal_nan=True
        )
        expected = (
            f"a run that begins with {name.replace('_', ' ')} {np.array2string(here, precision=3)}"
        )
        _check.require(
            near, str(folder), expected, f"one with {np.array2string(there, precision=3)}"
        )


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; refuse a folder that another process holds."""
    if jax.process_index() != 0:
        yield
        return
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(_files.locked(folder / ".lock", wait=False))
        except BlockingIOError:
            expected = "a folder that no other process trains in"
            received = "one that another process holds"
            raise ValueError(f"{folder}: expected {expected}, received {received}") from None
        yield
