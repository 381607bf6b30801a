"""The calls of a run's callbacks: their numbers, their states and their failures."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from stepwise import _check, _files, _npz, models
from stepwise.training.callbacks import CallbackError, Event
from stepwise.training.log import RunLog

LOG = logging.getLogger(__name__)
KIND = "state of callbacks"


class Calls:
    """The callbacks of one run, their numbers in callbacks.jsonl, and their states.

    The states that belong to the checkpoint of step N are in callbacks/step_N.npz. That file exists
    only if a callback has a state, or has failed at step N.

    Args:
        functions: functions of an `Event`.
        encoder: the module that is trained; `Event.network` returns copies of it.
        folder: the folder of the run; None writes no files.

    Raises:
        ValueError: if a callback is not callable, or has only one of the methods `state` and
            `load`.
    """

    def __init__(
        self,
        functions: Sequence[Any],
        encoder: nnx.Module,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        fits = isinstance(functions, list | tuple)
        _check.require(fits, "callbacks", "a list of functions", type(functions).__name__)
        self._functions: dict[str, Any] = {}
        for i, function in enumerate(functions):
            _check.require(callable(function), f"callbacks[{i}]", "a function", function)
            fits = hasattr(function, "state") == hasattr(function, "load")
            expected = "a function with both methods state and load, or with neither"
            _check.require(fits, f"callbacks[{i}]", expected, "one with only one of them")
            self._functions[_name(function, self._functions)] = function
        self._encoder = encoder
        self._folder = None if folder is None else Path(folder)
        self._writes = folder is not None and jax.process_index() == 0
        self._before: tuple[list[np.ndarray], dict[str, Any]] = ([], {})

    def begin(self, step: int | None) -> bool:
        """Prepare for a new run, or resume from the checkpoint of a step.

        Numbers after this checkpoint are removed from callbacks.jsonl.

        Args:
            step: the step of the checkpoint; None for a new run.

        Returns:
            Whether the callbacks must still be called for the sample of the present step. This is
            so in a new run, and if a callback failed at this step.

        Raises:
            ValueError: if the state of a callback is not a tree of numbers, or its file is damaged.
        """
        if not self._functions:
            return False
        self._pack()  # rejects a state that cannot be saved, before the training
        due = step is None or self._load(step)
        last = -1 if step is None else step - due
        path = None if self._folder is None else self._folder / "callbacks.jsonl"
        if path is not None and self._writes and path.is_file():
            lines = path.read_text().splitlines(keepends=True)
            # a run that was killed may have left half a line, without its end
            kept = [x for x in lines if x.endswith("\n") and json.loads(x)["step"] <= last]
            if kept != lines:
                with _files.replacing(path) as temporary:
                    temporary.write_text("".join(kept))
        return due

    def call(
        self, step: int, measured: dict[str, Any], outputs: tuple[Any, ...], state: Any, log: RunLog
    ) -> dict[str, float]:
        """Call all callbacks for a sample, record the numbers that they return, and return them.

        Args:
            step: the step.
            measured: the measurements.
            outputs: embeddings z1 and z2 [n, d], and the hidden representations by name.
            state: the state of the run.
            log: the log of the run, whose TensorBoard writer records the numbers too.

        Raises:
            CallbackError: if a callback raises an exception, or returns neither None nor a dict of
                numbers.
        """
        if not self._functions:
            return {}
        self._before = self._pack()
        build = partial(_copy, self._encoder, state["params"]["encoder"], state["stats"]["encoder"])
        z1, z2, hidden = outputs
        event = Event(step, dict(measured), (z1, z2), hidden, self._folder, build)
        for name, function in self._functions.items():
            try:
                returned = _numbers(function(event), event.numbers)
            except Exception as error:
                saved = "" if self._folder is None else "; the run is saved and can be resumed"
                kind = type(error).__name__
                raise CallbackError(
                    f"the callback {name} failed at step {step} ({kind}: {error}){saved}"
                ) from error
            event = replace(event, numbers=event.numbers | returned)
        if event.numbers and self._folder is not None and self._writes:
            row = _files.jsonable({"step": step, **event.numbers})
            with (self._folder / "callbacks.jsonl").open("a") as file:
                file.write(json.dumps(row, allow_nan=False) + "\n")
        for name, value in event.numbers.items():
            log.add_scalar(f"callback/{name}", value, step)
        return event.numbers

    def save(self, step: int, *, failed: bool = False) -> None:
        """Write the states that belong to the checkpoint of a step; call this before it is written.

        Args:
            step: the step.
            failed: whether a callback has failed at this step. Then the states from before the
                sample are written, with a mark that the callbacks must be called for it again.
        """
        if not self._functions or not self._writes:
            return
        arrays, states = self._before if failed else self._pack()
        if states or failed:
            about = {"step": step, "failed": failed, "states": states}
            named = {f"leaf{i}": array for i, array in enumerate(arrays)}
            _npz.write(self._path(step), KIND, named, about)
        else:
            self._path(step).unlink(missing_ok=True)

    def settle(self, step: int) -> None:
        """Record that the callbacks, of which one had failed at this step, have now succeeded."""
        if self._functions and self._writes and self._path(step).is_file():
            self.save(step)

    def prune(self, steps: list[int]) -> None:
        """Remove the states of all steps but these, which have a checkpoint."""
        if self._functions and self._writes:
            for path in self._path(0).parent.glob("step_*.npz"):
                if int(path.stem.removeprefix("step_")) not in steps:
                    path.unlink()

    def _path(self, step: int) -> Path:
        assert self._folder is not None
        return self._folder / "callbacks" / f"step_{step}.npz"

    def _stateful(self) -> dict[str, Any]:
        return {name: each for name, each in self._functions.items() if hasattr(each, "load")}

    def _pack(self) -> tuple[list[np.ndarray], dict[str, Any]]:
        """Return copies of the arrays of all states, and the structure of each state by name."""
        arrays: list[np.ndarray] = []
        stateful = self._stateful()
        return arrays, {name: _pack(name, each.state(), arrays) for name, each in stateful.items()}

    def _load(self, step: int) -> bool:
        """Load the states of a checkpoint. Return whether a callback failed there."""
        path = self._path(step)
        arrays: dict[str, np.ndarray] = {}
        about: dict[str, Any] = {"failed": False, "states": {}}
        if path.is_file():
            arrays, about = _npz.read(path, KIND, (), keys=("failed", "states"))
        for name, function in self._stateful().items():
            if name in about["states"]:
                function.load(_unpack(about["states"][name], arrays))
            else:
                message = "%s: the checkpoint of step %d has no state of the callback %s"
                LOG.warning(message, self._folder, step, name)
        return bool(about["failed"])


def _name(function: Any, taken: Mapping[str, Any]) -> str:
    """Return the name of a callback, with a number if it is taken."""
    inner = function.func if isinstance(function, partial) else function
    name = getattr(inner, "__name__", type(inner).__name__)
    same = sum(each.partition("#")[0] == name for each in taken)
    return f"{name}#{same + 1}" if same else name


def _copy(encoder: nnx.Module, params: Any, stats: Any) -> nnx.Module:
    # copies, because the next step of the run reuses the memory of its parameters
    params, stats = jax.tree.map(lambda leaf: jnp.asarray(np.array(leaf)), (params, stats))
    return models.restore(nnx.clone(encoder), params, stats)


def _numbers(returned: Any, taken: Mapping[str, float]) -> dict[str, float]:
    """Return what a callback returned as floats, after checks of its form and its names."""
    if returned is None:
        return {}
    fits = isinstance(returned, Mapping)
    _check.require(fits, "its value", "None or a dict of numbers", type(returned).__name__)
    for name, value in returned.items():
        fits = isinstance(name, str) and name != "step" and name not in taken
        _check.require(fits, "its value", "names that no other number has", repr(name))
        dtype = np.asarray(value).dtype
        fits = np.ndim(value) == 0 and (dtype.kind in "biu" or jnp.issubdtype(dtype, jnp.floating))
        _check.require(fits, name, "a real number", _check.describe(value))
    return {name: float(value) for name, value in returned.items()}


def _pack(name: str, tree: Any, arrays: list[np.ndarray]) -> Any:
    """Append copies of the leaves to `arrays`, and return the structure as JSON types."""
    if tree is None:
        return None
    if type(tree) is dict and all(isinstance(key, str) for key in tree):
        return {"dict": {key: _pack(name, each, arrays) for key, each in tree.items()}}
    if type(tree) in (list, tuple):
        return {type(tree).__name__: [_pack(name, each, arrays) for each in tree]}
    array = np.array(tree)
    expected = "dicts with names as keys, lists and tuples of arrays of numbers"
    fits = array.dtype.kind in _npz.NUMBERS
    _check.require(fits, f"state of {name}", expected, type(tree).__name__)
    arrays.append(array)
    return len(arrays) - 1


def _unpack(structure: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Return the tree of `_pack`, with NumPy arrays as leaves."""
    if structure is None:
        return None
    if isinstance(structure, int):
        return arrays[f"leaf{structure}"]
    ((kind, inner),) = structure.items()
    if kind == "dict":
        return {key: _unpack(each, arrays) for key, each in inner.items()}
    leaves = [_unpack(each, arrays) for each in inner]
    return tuple(leaves) if kind == "tuple" else leaves
