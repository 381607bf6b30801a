"""One .npz a result: arrays and a JSON header, no pickle, written whole or not at all."""

import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np


def write(path: str | os.PathLike[str], kind: str, arrays: dict[str, Any], about: dict[str, Any]) -> None:
    """Write arrays and a header to a temporary name beside `path`, then rename; `.npz` is not appended."""
    target = Path(path)
    header = np.asarray(json.dumps({"kind": kind, **about}))
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(
                file, allow_pickle=False, header=header, **{name: np.asarray(array) for name, array in arrays.items()}
            )
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read(
    path: str | os.PathLike[str], kind: str, required: tuple[str, ...]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `write` wrote; refuses, by name, a file of another kind."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(str(arrays.pop("header")))
        found = about.pop("kind")
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: expected a saved {kind} (.npz), received something else ({error})") from error
    missing = sorted(set(required) - set(arrays))
    if found != kind or missing:
        lacks = f" without {missing}" if missing else ""
        raise ValueError(f"{path}: expected a saved {kind}, received a {found}{lacks}")
    return arrays, about
