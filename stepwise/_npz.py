"""One .npz a result: arrays and a JSON header, no pickle, written whole or not at all."""

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
"""What zipfile, NumPy and json raise at bytes that are not what they should be."""


def write(
    path: str | os.PathLike[str], kind: str, arrays: dict[str, Any], about: dict[str, Any]
) -> None:
    """Write arrays and a header to a temporary name beside `path`, then rename; `.npz` is not
    appended.
    """
    target = Path(path)
    header = np.asarray(json.dumps({"kind": kind, **about}))
    plain = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in plain.items():
        if array.dtype.hasobject:  # np.savez would pickle it, and `read` then refuse the file
            raise ValueError(
                f"{name}: expected an array of numbers, received {array.dtype} {list(array.shape)}"
            )
    with _files.replacing(target) as temporary, temporary.open("xb") as file:
        np.savez(file, header=header, **plain)  # type: ignore[arg-type]


def read(
    path: str | os.PathLike[str], kind: str, required: tuple[str, ...]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `write` wrote; refuses, by name, a file of another kind."""
    with Path(path).open("rb") as stream:
        try:
            with np.load(stream, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            about = json.loads(str(arrays.pop("header")))
            found = about.pop("kind")
        except UNREADABLE as error:
            raise ValueError(
                f"{path}: expected a saved {kind} (.npz), received something else ({error})"
            ) from error
    missing = sorted(set(required) - set(arrays))
    if found != kind or missing:
        lacks = f" without {missing}" if missing else ""
        raise ValueError(f"{path}: expected a saved {kind}, received a {found}{lacks}")
    return arrays, about
