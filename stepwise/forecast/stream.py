"""Files between a trainer and its monitor: arrays of a step, and reports as JSON lines.

A folder of arrays has one file `step_N.npz` for each sample, with the arrays of `NAMES`. Any
program can write it with `numpy.savez` under a temporary name that is then renamed.
"""

import json
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stepwise import _check, _files
from stepwise.types import Numbers, Whole

NAMES = ("z1", "z2", "features1", "features2", "head", "loss", "sensitivity")
"""Arrays of a file. The first two are required; loss and sensitivity are single numbers."""
NUMBERS = ("loss", "sensitivity")
FILE = re.compile(r"step_(\d+)\.npz")


def log_arrays(folder: str | os.PathLike[str], step: Whole, **arrays: Numbers) -> Path:
    """Write the arrays of a training step to folder/step_N.npz, under a temporary name first.

    Args:
        folder: of the run; it is created if it is missing.
        step: training step N.
        arrays: z1, z2 [n, d], the embeddings of both views, row i of both of one image; optionally
            features1, features2 [n, f] and head [d, f] (`forecast.next_step`), loss and
            sensitivity (numbers). None leaves an array out. `np.asarray` must accept them.

    Returns:
        The file.

    Raises:
        ValueError: if an array has another name, is missing, or does not hold real numbers.
    """
    _check.whole("step", step, 0)
    given = {name: np.asarray(value) for name, value in arrays.items() if value is not None}
    _require_names("arrays", given)
    for name, array in given.items():
        _check.require(array.dtype.kind in "fiu", name, "real numbers", array)
    path = Path(folder) / f"step_{int(step)}.npz"
    with _files.replacing(path) as temporary, temporary.open("xb") as file:
        np.savez(file, **given)  # type: ignore[arg-type]
    return path


def read_arrays(path: str | os.PathLike[str]) -> tuple[int, dict[str, Any]]:
    """Read a file of `log_arrays`, without pickle.

    Returns:
        The training step, and the arrays that `Monitor.add` takes; loss and sensitivity as numbers.

    Raises:
        ValueError: if the file has another name, is damaged or half-written, or lacks z1 or z2, or
            an array holds no real numbers.
    """
    path = Path(path)
    match = FILE.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path}: expected a file step_N.npz, received another name")
    arrays: dict[str, Any] = {}
    try:
        # opened here, because NumPy does not close a damaged file
        with path.open("rb") as opened, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers that Python 2 wrote
            with np.load(opened, allow_pickle=False) as file:
                for name in file.files:
                    arrays[name] = file[name]
    # zipfile, zlib, NumPy and the tokenizer that reads damaged headers raise many errors
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path}: expected arrays (.npz), received a damaged file ({reason})"
        ) from (error)
    _require_names(str(path), arrays)
    for name, array in arrays.items():
        fits = isinstance(array, np.ndarray) and array.dtype.kind in "fiu"
        fits = fits and (name not in NUMBERS or array.size == 1)
        expected = "one real number" if name in NUMBERS else "real numbers"
        received = array if isinstance(array, np.ndarray) else "another kind of member"
        _check.require(fits, f"{path}: {name}", expected, received)
    numbers = {name: float(arrays[name].reshape(())) for name in NUMBERS if name in arrays}
    return int(match[1]), arrays | numbers


def files(place: Path) -> list[Path]:
    """Return the files of a folder in the order of their steps, or the file itself."""
    if not place.is_dir():
        return [place]
    steps = {path: match for path in place.iterdir() if (match := FILE.fullmatch(path.name))}
    return sorted(steps, key=lambda path: int(steps[path][1]))


def append_line(path: Path, content: dict[str, Any]) -> None:
    """Append one line of strict JSON with a single write, and flush it."""
    text = json.dumps(_files.jsonable(content), allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        file.write(f"{text}\n".encode())


def drop_half_line(path: Path) -> None:
    """Remove a last line without its end, which a killed process leaves."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file of `append_line`, without a half-written last one.

    Raises:
        ValueError: if another line is no JSON object.
    """
    whole = path.read_bytes().rpartition(b"\n")[0]
    for i, line in enumerate(whole.split(b"\n") if whole else [], 1):
        try:
            content = json.loads(line)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise ValueError(f"{path}: expected a JSON object on line {i}, received something else")
        yield content


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """Replace a file of lines atomically."""
    text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
    with _files.replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _require_names(name: str, arrays: dict[str, Any]) -> None:
    """Raise ValueError unless z1 and z2 are present, and no array has an unknown name."""
    unknown = sorted(set(arrays) - set(NAMES))
    _check.require(not unknown, name, f"only {', '.join(NAMES)}", f"{', '.join(unknown)} too")
    missing = [each for each in NAMES[:2] if each not in arrays]
    _check.require(not missing, name, "z1 and z2", f"no {' and no '.join(missing)}")
