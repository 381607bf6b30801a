"""Ownership of a run's folder: a fingerprint that checkpoints must match, and a lock for one
process.
"""

import contextlib
import functools
import json
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
"""Former name of each module that moved, by its present name."""


def identity(
    pixels: Numbers, objective: Objective, plan: Plan, log: RunLog, metadata: dict[str, Any] | None
) -> dict[str, Any]:
    """Return the fingerprint of a run, which its checkpoints must match.

    It covers the images, the objective, the plan and the metadata. A function enters by its module
    and name, and a `functools.partial` also by its arguments; values inside a closure do not enter.
    """
    images = _files.digest(pixels)
    plain = _files.jsonable(metadata or {})
    try:
        json.dumps(plain)
    except TypeError as error:
        raise ValueError(f"metadata: expected what JSON can hold, received {error}") from error
    fingerprint = {
        "about": plain,
        "images": [*map(int, np.shape(pixels)), images],
        "samples": log.at.tolist(),
    }
    fingerprint |= {
        name: getattr(plan, name) for name in ("seed", "batch_size", "probe", "covariance")
    }
    fingerprint |= {
        "times": log.times.tolist(),
        "recipe": repr(plan.recipe),
        "optimiser": _describe_function(plan.optimiser),
    }
    return fingerprint | {"objective": _describe_objective(objective)}


def _describe_objective(objective: Objective) -> list[Any]:
    """Return the fields of an objective as JSON types.

    The fields views, state, parameters and project are left out at their default values.
    """
    fields = [_describe_function(objective.loss), objective.predictor, objective.decay]
    extra: dict[str, Any] = {} if objective.views == 2 else {"views": objective.views}
    for name in ("state", "parameters", "project"):
        if getattr(objective, name) is not None:
            extra[name] = _describe_function(getattr(objective, name))
    return [*fields, extra] if extra else fields


def _describe_argument(value: Any) -> Any:
    """Return the value, or the name of a function, whose text holds an address in memory."""
    return _describe_function(value) if callable(value) else value


def _describe_function(function: Any) -> str:
    """Return the module and name of a function, with the arguments of a `functools.partial`."""
    if isinstance(function, functools.partial):
        inner = _describe_function(function.func)
        args = tuple(map(_describe_argument, function.args))
        keywords = {name: _describe_argument(value) for name, value in function.keywords.items()}
        return f"{inner}{args}{sorted(keywords.items())}"
    if hasattr(function, "init") and hasattr(function, "update"):  # an optax transformation
        return f"{_describe_function(function.init)}, {_describe_function(function.update)}"
    name = getattr(function, "__qualname__", type(function).__name__)
    module = getattr(function, "__module__", "")
    # the former name of a module that moved, so that runs from before the move still match
    return f"{FORMERLY.get(module, module)}.{name}"


def require_start(folder: Path, log: dict[str, Any], first: dict[str, Any]) -> None:
    """Reject a folder whose run began with another loss or spectrum on the probe.

    This detects another network, start or loss. The tolerance of 5% allows for devices that round
    differently.

    Args:
        folder: the folder of the run, for the message.
        log: the recorded samples of the run, as `RunLog.arrays`.
        first: the measurements of the present run at step 0.

    Raises:
        ValueError: if the first sample of the log differs from `first`.
    """
    for name in ("loss", "covariance_eigenvalues"):
        recorded, present = np.asarray(log[name])[0], np.asarray(first[name])
        near = np.allclose(
            recorded, present, rtol=0.05, atol=0.05 * np.abs(present).max(initial=0), equal_nan=True
        )
        number = np.array2string(present, precision=3)
        expected = f"a run that begins with {name.replace('_', ' ')} {number}"
        _check.require(
            near, str(folder), expected, f"one with {np.array2string(recorded, precision=3)}"
        )


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder inside the block.

    In a `jax.distributed` program only the first process takes the lock.

    Raises:
        ValueError: if another process holds the lock.
    """
    if jax.process_index() != 0:
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_files.locked(folder / ".lock", wait=False))
        except BlockingIOError:
            expected = "a folder that no other process trains in"
            received = "one that another process holds"
            raise ValueError(f"{folder}: expected {expected}, received {received}") from None
        yield
