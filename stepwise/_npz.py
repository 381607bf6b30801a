"""Storage of a result in one .npz: arrays and a JSON header, without pickle, written atomically."""

import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from stepwise import _files

UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
)
"""Errors that zipfile, NumPy and json raise for a damaged or foreign file."""


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
    path: str | os.PathLike[str], kind: str, required: tuple[str, ...]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a file of `write`, and return its arrays and its header without the kind.

    Raises:
        ValueError: if the file is damaged, is of another kind, or lacks a required array.
    """
    with Path(path).open("rb") as stream:
        try:
            with np.load(stream, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            about = json.loads(str(arrays.pop("header")))
            received = about.pop("kind")
        except UNREADABLE as error:
            raise ValueError(
                f"{path}: expected a saved {kind} (.npz), received something else ({error})"
            ) from error
    missing = sorted(set(required) - set(arrays))
    if received != kind or missing:
        lacks = f" without {missing}" if missing else ""
        raise ValueError(f"{path}: expected a saved {kind}, received a {received}{lacks}")
    return arrays, about
