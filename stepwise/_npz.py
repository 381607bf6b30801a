"""Storage of a result in one .npz: arrays and a JSON header, without pickle, written atomically."""

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stepwise import _files

NUMBERS = "biufc"
"""Kinds of numbers that an array may hold (`numpy.dtype.kind`)."""


class Form(NamedTuple):
    """What a stored array must be.

    Attributes:
        axes: a name for each axis; axes of the same name have the same length. None allows any
            shape.
        finite: whether each number must be finite.
        batched: whether leading axes may precede these.
    """

    axes: tuple[str, ...] | None
    finite: bool = True
    batched: bool = False


def write(
    path: str | os.PathLike[str], kind: str, arrays: dict[str, Any], about: dict[str, Any]
) -> None:
    """Write arrays and a header to a temporary file, then rename it to `path`.

    The suffix `.npz` is not appended.

    Raises:
        ValueError: if an array holds Python objects.
    """
    target = Path(path)
    header = np.asarray(json.dumps({"kind": kind, **about}))
    plain = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in plain.items():
        if array.dtype.hasobject:  # np.savez would pickle it, and `read` would reject the file
            raise ValueError(
                f"{name}: expected an array of numbers, received {array.dtype} {list(array.shape)}"
            )
    with _files.replacing(target) as temporary, temporary.open("xb") as file:
        np.savez(file, header=header, **plain)  # type: ignore[arg-type]


def read(
    path: str | os.PathLike[str],
    kind: str,
    required: tuple[str, ...],
    forms: Mapping[str, Form] | None = None,
    keys: tuple[str, ...] = (),
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a file of `write`, and return its arrays and its header without the kind.

    Args:
        path: the file.
        kind: the kind that was passed to `write`.
        required: names of arrays that it must have.
        forms: what its arrays must be; arrays without a form may have any shape.
        keys: entries that its header must have.

    Raises:
        ValueError: if the file is damaged, is of another kind, lacks a required array, or an array
            does not hold numbers or has another form. The message names the array.
    """
    arrays: dict[str, Any] = {}
    about: Any = None
    with Path(path).open("rb") as stream:
        try:
            with warnings.catch_warnings(), np.load(stream, allow_pickle=False) as file:
                warnings.simplefilter("ignore")  # about headers that Python 2 wrote
                for name in file.files:
                    arrays[name] = file[name]
            about = json.loads(str(arrays.pop("header")))
            received = about.pop("kind")
        # zipfile, zlib, NumPy, json and the tokenizer that reads damaged headers raise many errors
        except Exception as error:
            raise ValueError(
                f"{path}: expected a saved {kind} (.npz), received something else ({error})"
            ) from error
    missing = sorted(set(required) - set(arrays)) or sorted(set(keys) - set(about))
    if received != kind or missing:
        lacks = f" without {missing}" if missing else ""
        raise ValueError(f"{path}: expected a saved {kind}, received a {received}{lacks}")
    lengths: dict[str, int] = {}
    for name, array in arrays.items():
        _require_numbers(path, name, array)
        if forms and name in forms:
            _require_form(path, name, array, forms[name], lengths)
    return arrays, about


def _require_numbers(path: str | os.PathLike[str], name: str, array: Any) -> None:
    """Raise ValueError unless this is an array of numbers; NumPy returns other members as bytes."""
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path}: {name}: expected an array, received another kind of member")
    # a dtype that NumPy does not know, such as bfloat16, is stored as bytes of that length
    if array.dtype.kind not in NUMBERS and array.dtype.str != "|V2":
        received = f"{array.dtype} {list(array.shape)}"
        raise ValueError(f"{path}: {name}: expected an array of numbers, received {received}")


def _require_form(
    path: str | os.PathLike[str], name: str, array: np.ndarray, form: Form, lengths: dict[str, int]
) -> None:
    """Raise ValueError unless the array has its form; record the lengths of its axes."""
    axes = form.axes if form.axes is not None else tuple(map(str, range(array.ndim)))
    shape = array.shape[max(0, array.ndim - len(axes)) :] if form.batched else array.shape
    same = form.axes is None or len(shape) == len(axes)
    for axis, length in zip(axes, shape, strict=False):
        same = same and (form.axes is None or lengths.setdefault(axis, length) == length)
    if not same or array.dtype.kind not in "iuf":
        known = [f"{axis} = {lengths[axis]}" if axis in lengths else axis for axis in axes]
        received = f"{array.dtype} {list(array.shape)}"
        raise ValueError(
            f"{path}: {name}: expected real numbers [{', '.join(known)}], received {received}"
        )
    bad = int(array.size - np.isfinite(array).sum()) if form.finite else 0
    if bad:
        raise ValueError(
            f"{path}: {name}: expected finite numbers, received {bad} of {array.size} not finite"
        )
