"""Kernel matrices of many inputs, computed in tiles on all devices and resumable from a file."""

import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.lib.format import open_memmap

from stepwise import _check, _terminal
from stepwise.kernels.functions import Kernel
from stepwise.types import Numbers, Real, Whole


def gram(
    kernel: Kernel,
    x: Numbers,
    x2: Numbers | None = None,
    *,
    tile: Whole = 1024,
    rounding: Real | None = None,
    path: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> np.ndarray:
    """Compute the kernel matrix K_ij = k(x_i, x2_j) [n, n'], on the host.

    Without x2 the kernel is evaluated on the tiles on and above the diagonal, and these are
    mirrored: K is symmetric to the bit. The rows of a tile are divided among all devices if their
    number is divisible by the number of devices. Besides K, the memory of one tile is used.

    Args:
        kernel: a function k(a [p, ...], b [q, ...]) -> [p, q].
        x: inputs [n, ...].
        x2: inputs [n', ...]; x by default.
        tile: rows and columns of a tile. The last tile of a row or column is padded with repeated
            inputs, so that the kernel is compiled for one shape.
        rounding: allowed asymmetry of the kernel, relative to the largest value of a tile, if it
            is larger than the rounding of its dtype. Use 1e-6 for a kernel that is computed in
            float32 and then converted to float64.
        path: a file (.npy) for K, which is then returned memory-mapped and read-only. An
            interrupted run resumes after its last complete tile, to the same bits; a complete file
            is opened. A checksum of each tile is stored in a second file, `path.tiles`. A damaged
            tile of an incomplete file is evaluated again; a complete file with a damaged tile
            raises an error.
        progress: whether to show a progress bar; by default if stderr is a terminal.

    Returns:
        K in the dtype of the kernel's values.

    Raises:
        ValueError: if the shapes of the inputs differ; a value is not finite or a tile is not
            symmetric (the message names the tile); or the file is not a .npy file, is damaged, or
            holds a matrix of other shape, inputs, tile or kernel (the message names which).
        MemoryError: if one tile does not fit into memory.
    """
    same = x2 is None
    x = np.asarray(_check.real_array("x", x))
    x2 = x if x2 is None else np.asarray(_check.real_array("x2", x2))
    _check.require(x.ndim > 0 and len(x) > 0, "x", "at least one input", x)
    _check.require(
        x2.ndim > 0 and len(x2) > 0 and x2.shape[1:] == x.shape[1:],
        "x2",
        f"[n, *{x.shape[1:]}] as x",
        x2,
    )
    _check.whole("tile", tile)
    tile = int(min(tile, max(len(x), len(x2))))
    _check.require(
        rounding is None or 0 <= rounding < 1, "rounding", "a number in [0, 1)", rounding
    )
    evaluation = _Evaluation(kernel, x, x2, tile, same, float(rounding or 0))
    if path is None:
        K = np.empty((len(x), len(x2)), evaluation.dtype)
        for i, j in _terminal.bar(
            list(evaluation.tiles()),
            "kernel",
            unit="tile",
            progress=progress,
        ):
            evaluation.write_tile(K, i, j)
        return K
    return _evaluate_in_file(evaluation, Path(path), progress)


class _Evaluation:
    """A kernel on two sets of inputs, evaluated tile by tile."""

    def __init__(
        self, kernel: Kernel, x: np.ndarray, x2: np.ndarray, tile: int, same: bool, rounding: float
    ) -> None:
        self.kernel, self.x, self.x2, self.tile, self.same = kernel, x, x2, tile, same
        self.rounding = rounding
        devices = np.array(jax.devices())
        shared = devices.size > 1 and tile % devices.size == 0
        self.rows = (
            NamedSharding(Mesh(devices, ("rows",)), PartitionSpec("rows")) if shared else None
        )
        self.whole = NamedSharding(Mesh(devices, ("rows",)), PartitionSpec()) if shared else None
        self._first = self._evaluate(0, 0)
        self.dtype = self._first.dtype
        if same and len(x) > tile:
            self._require_symmetric(self._evaluate(0, tile), self._evaluate(tile, 0), 0, tile)

    def tiles(self) -> Iterator[tuple[int, int]]:
        """Yield the first row i and the first column j of each tile, row by row."""
        for i in range(0, len(self.x), self.tile):
            for j in range(i if self.same else 0, len(self.x2), self.tile):
                yield i, j

    def value(self, i: int, j: int) -> np.ndarray:
        """Return the tile with first row i and first column j, without padding.

        A tile on the diagonal of a symmetric K is checked for symmetry, and its lower half is
        replaced by its upper half.
        """
        values = self._first if (i, j) == (0, 0) else self._evaluate(i, j)
        if self.same and i == j:
            self._require_symmetric(values, values, i, i)
            values = np.triu(values) + np.triu(values, 1).T
        return values

    def write_tile(self, K: np.ndarray, i: int, j: int) -> None:
        """Write a tile into K, and its mirror image if K is symmetric."""
        values = self.value(i, j)
        K[i : i + len(values), j : j + values.shape[1]] = values
        if self.same and i != j:
            K[j : j + values.shape[1], i : i + len(values)] = values.T

    def _evaluate(self, i: int, j: int) -> np.ndarray:
        """Evaluate the kernel on a padded tile, check it, and return it without the padding."""
        a, b = _pad_inputs(self.x, i, self.tile), _pad_inputs(self.x2, j, self.tile)
        a, b = (
            (jax.device_put(a, self.rows), jax.device_put(b, self.whole)) if self.rows else (a, b)
        )
        try:
            values: Any = self.kernel(jnp.asarray(a), jnp.asarray(b))
            values = values.block_until_ready() if isinstance(values, jax.Array) else values
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            size = f"{self.tile} × {self.tile}"
            raise MemoryError(
                f"tile: expected a size that fits into memory, received {size} ({error})"
            ) from error
        _check.require(
            np.shape(values) == (len(a), len(b)), "kernel", f"values [{len(a)}, {len(b)}]", values
        )
        values = np.asarray(values)[: len(self.x) - i, : len(self.x2) - j]
        bad = int(np.size(values) - np.isfinite(values).sum())
        where = f"kernel, inputs {i}... against {j}..."
        _check.require(bad == 0, where, "finite values", f"{bad} of {np.size(values)} not finite")
        return values

    def _require_symmetric(self, values: np.ndarray, other: np.ndarray, i: int, j: int) -> None:
        """Raise ValueError unless `values` is the transpose of `other`, up to rounding."""
        scale = np.abs(values).max()
        bound = (
            max(64 * np.sqrt(len(values)) * float(jnp.finfo(values.dtype).eps), self.rounding)
            * scale
        )
        skew = float(np.abs(values - other.T).max())
        where = f"kernel, inputs {i}... against {j}..."
        _check.require(
            skew <= bound,
            where,
            f"a symmetric kernel (to {bound:.1e})",
            f"|K - Kᵀ| up to {skew:.1e}",
        )


def _pad_inputs(x: np.ndarray, start: int, size: int) -> np.ndarray:
    """Return `size` inputs from `start`, with the last input repeated beyond the end of x."""
    part = x[start : start + size]
    return (
        part
        if len(part) == size
        else np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
    )


def _evaluate_in_file(evaluation: _Evaluation, path: Path, progress: bool | None) -> np.ndarray:
    """Evaluate K into the file `path`, or resume or open it if present.

    An incomplete K is the file `path.part`, renamed to `path` when all tiles are written. The
    journal `path.tiles` has a header line that identifies the matrix, then one line per written
    tile: its first row, its first column and its checksum.
    """
    part, journal = (path.with_name(path.name + suffix) for suffix in (".part", ".tiles"))
    shape, tiles = (len(evaluation.x), len(evaluation.x2)), list(evaluation.tiles())
    about = {
        "shape": list(shape),
        "dtype": evaluation.dtype.str,
        "tile": evaluation.tile,
        "inputs": _digest(evaluation),
    }
    header, done = _read_journal(journal)
    present: Path | None = None
    if path.is_file():
        present = path
    elif part.is_file() and header is not None:
        present = part
    if present is not None:
        done, contents = _check_tiles(present, evaluation, about, header, done)
        lost = (
            [corner for corner in tiles if corner not in done]
            if present == path and not contents
            else []
        )
        if lost:
            where = "the first at inputs {}... against {}...".format(*lost[0])
            contents = (
                f"a file with {len(lost)} of {len(tiles)} tiles damaged or not in {journal.name}, "
                f"{where}"
            )
        expected = (
            f"this kernel's values on these inputs, {evaluation.dtype} {list(shape)} in tiles of "
            f"{evaluation.tile}"
        )
        _check.require(
            not contents, str(present), expected, f"{contents}; remove it or name another file"
        )
    if path.is_file():
        return open_memmap(path, mode="r")
    if present is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        journal.unlink(missing_ok=True)
        open_memmap(part, mode="w+", dtype=evaluation.dtype, shape=shape).flush()
        done = {}
    lines = [
        json.dumps(about),
        *(json.dumps([*corner, sums]) for corner, sums in sorted(done.items())),
    ]
    journal.with_suffix(".new").write_text("\n".join(lines) + "\n")
    journal.with_suffix(".new").replace(journal)
    K = open_memmap(part, mode="r+")
    with journal.open("a") as log:
        left = [corner for corner in tiles if corner not in done]
        for i, j in _terminal.bar(
            left,
            "kernel",
            unit="tile",
            initial=len(done),
            total=len(tiles),
            progress=progress,
        ):
            evaluation.write_tile(K, i, j)
            # The journal names a tile only after it is written to the map: a killed process leaves
            # no journal line without its tile.
            log.write(f"{json.dumps([i, j, _checksum(K, i, j, evaluation)])}\n")
            log.flush()
    K.flush()
    del K
    part.replace(path)
    return open_memmap(path, mode="r")


def _read_journal(path: Path) -> tuple[dict[str, Any] | None, dict[tuple[int, int], int]]:
    """Return the header of a journal and the checksum of each written tile.

    The header is None if there is no journal or its first line is not a header.
    """
    header, done = None, {}
    try:
        first, *lines = path.read_text(encoding="utf-8").splitlines()
        header = json.loads(first)
        for line in lines:
            i, j, checksum = json.loads(line)
            done[int(i), int(j)] = int(checksum)
    except (OSError, ValueError, TypeError):
        pass  # no journal, or an incomplete line of a killed process
    return (header if isinstance(header, dict) else None), done


def _check_tiles(
    path: Path,
    evaluation: _Evaluation,
    about: dict[str, Any],
    header: dict[str, Any] | None,
    done: dict[tuple[int, int], int],
) -> tuple[dict[tuple[int, int], int], str]:
    """Return the undamaged tiles of a file, and a description of the file if it is another matrix.

    The description is empty if the file holds this matrix. To recognise another kernel, the first
    and the last undamaged tile are evaluated again and compared.
    """
    try:
        K = open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        return {}, f"a file that is not .npy ({error})"
    if header is None:
        return {}, f"{_check.describe(K)} without a journal beside it"
    labels = {name: f"{name} {header.get(name)}" for name in about} | {"inputs": "other inputs"}
    differences = [labels[name] for name in about if header.get(name) != about[name]]
    if differences:
        return {}, f"a matrix of {', '.join(differences)}"
    if K.shape != tuple(about["shape"]) or K.dtype != evaluation.dtype:
        return {}, _check.describe(K)
    intact = {
        corner: checksum
        for corner, checksum in done.items()
        if _checksum(K, *corner, evaluation) == checksum
    }
    for i, j in {min(intact), max(intact)} if intact else set():
        values = evaluation.value(i, j)
        stored = K[i : i + len(values), j : j + values.shape[1]]
        if not (stored == values).all():
            a, b = np.unravel_index(np.abs(stored - values).argmax(), values.shape)
            both = f"{stored[a, b]} where this kernel has {values[a, b]}"
            return {}, f"another kernel's values: {both}, inputs {i + a} and {j + b}"
    return intact, ""


def _checksum(K: np.ndarray, i: int, j: int, evaluation: _Evaluation) -> int:
    """Return the checksum of a tile, and of its mirror image if K is symmetric."""
    tile = evaluation.tile
    checksum = zlib.crc32(K[i : i + tile, j : j + tile].tobytes())
    return (
        zlib.crc32(K[j : j + tile, i : i + tile].tobytes(), checksum)
        if evaluation.same
        else checksum
    )


def _digest(evaluation: _Evaluation) -> str:
    """Return a digest of the inputs: their shapes, dtypes and values."""
    digest = hashlib.sha256()
    for inputs in (evaluation.x,) if evaluation.same else (evaluation.x, evaluation.x2):
        digest.update(
            f"{inputs.shape} {inputs.dtype}".encode() + np.ascontiguousarray(inputs).tobytes()
        )
    return digest.hexdigest()
