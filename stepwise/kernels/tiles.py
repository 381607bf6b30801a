"""A kernel's values on many inputs: symmetric tiles, bounded memory, on all devices, resumable."""

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

from stepwise import _bars, _check
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
    """K [n, n'] of a kernel on inputs x [n, ...] and x2 [n', ...], on the host.

    Without x2 only tiles on and above the diagonal are evaluated and the others mirrored, so that K
    is symmetric to the bit. A tile's rows are shared out over all devices. Beyond K itself the
    memory is that of one tile.

    Args:
        kernel: k(a [p, ...], b [q, ...]) -> [p, q].
        tile: side of a tile; the last of a row or column is filled up with repeated inputs, so that
            one shape is compiled.
        rounding: how far the kernel may be from symmetric, relative to a tile's largest value,
            where that is more than what its dtype rounds. One that is computed in float32 and then
            widened wants 1e-6.
        path: keep K in this file (.npy, memory-mapped, read-only on return) instead of in memory. A
            run that was stopped, however, goes on after its last whole tile, to the same bits; a
            file that is whole is opened. A checksum of each tile is kept beside it: one that was
            damaged in a part is evaluated again, a whole file with such a tile is refused.
        progress: show a bar; by default if stderr is a terminal.

    Raises:
        ValueError: the inputs' shapes differ; a value is not finite or a tile not symmetric where
            it has to be (the tile is named); the file is no .npy file, or holds other shapes,
            inputs, tiles or another kernel's values, or was damaged (says which).
        MemoryError: one tile does not fit into memory.
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
    evaluate = _Evaluation(kernel, x, x2, tile, same, float(rounding or 0))
    if path is None:
        K = np.empty((len(x), len(x2)), evaluate.dtype)
        for i, j in _bars.bar(
            list(evaluate.tiles()),
            "kernel",
            unit="tile",
            progress=progress,
        ):
            evaluate.into(K, i, j)
        return K
    return _in_file(evaluate, Path(path), progress)


class _Evaluation:
    """One kernel on two sets of inputs, tile by tile."""

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
        self._first = self._evaluated(0, 0)
        self.dtype = self._first.dtype
        if same and len(x) > tile:
            self._symmetric(self._evaluated(0, tile), self._evaluated(tile, 0), 0, tile)

    def tiles(self) -> Iterator[tuple[int, int]]:
        """Corners, row by row."""
        for i in range(0, len(self.x), self.tile):
            for j in range(i if self.same else 0, len(self.x2), self.tile):
                yield i, j

    def value(self, i: int, j: int) -> np.ndarray:
        """The tile at a corner, cut to what is there, checked."""
        values = self._first if (i, j) == (0, 0) else self._evaluated(i, j)
        if self.same and i == j:
            self._symmetric(values, values, i, i)
            values = np.triu(values) + np.triu(values, 1).T
        return values

    def into(self, K: np.ndarray, i: int, j: int) -> None:
        """Write the tile, and its mirror image."""
        values = self.value(i, j)
        K[i : i + len(values), j : j + values.shape[1]] = values
        if self.same and i != j:
            K[j : j + values.shape[1], i : i + len(values)] = values.T

    def _evaluated(self, i: int, j: int) -> np.ndarray:
        a, b = _filled(self.x, i, self.tile), _filled(self.x2, j, self.tile)
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
                f"tile: expected one that fits into memory, received {size} ({error})"
            ) from error
        _check.require(
            np.shape(values) == (len(a), len(b)), "kernel", f"values [{len(a)}, {len(b)}]", values
        )
        values = np.asarray(values)[: len(self.x) - i, : len(self.x2) - j]
        bad = int(np.size(values) - np.isfinite(values).sum())
        where = f"kernel, inputs {i}... against {j}..."
        _check.require(bad == 0, where, "finite values", f"{bad} of {np.size(values)} not finite")
        return values

    def _symmetric(self, values: np.ndarray, other: np.ndarray, i: int, j: int) -> None:
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


def _filled(x: np.ndarray, start: int, size: int) -> np.ndarray:
    part = x[start : start + size]
    return (
        part
        if len(part) == size
        else np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
    )


def _in_file(evaluate: _Evaluation, path: Path, progress: bool | None) -> np.ndarray:
    """K in `path`, and what it is in `path.tiles`: a header, then corner and checksum of each tile
    of `path.part`.
    """
    part, journal = (path.with_name(path.name + suffix) for suffix in (".part", ".tiles"))
    shape, tiles = (len(evaluate.x), len(evaluate.x2)), list(evaluate.tiles())
    about = {
        "shape": list(shape),
        "dtype": evaluate.dtype.str,
        "tile": evaluate.tile,
        "inputs": _digest(evaluate),
    }
    header, done = _journal(journal)
    known: Path | None = None
    if path.is_file():
        known = path
    elif part.is_file() and header is not None:
        known = part
    if known is not None:
        done, strange = _intact(known, evaluate, about, header, done)
        lost = (
            [corner for corner in tiles if corner not in done]
            if known == path and not strange
            else []
        )
        if lost:
            where = "the first at inputs {}... against {}...".format(*lost[0])
            strange = (
                f"one with {len(lost)} of {len(tiles)} tiles damaged or not in {journal.name}, "
                f"{where}"
            )
        expected = (
            f"this kernel's values on these inputs, {evaluate.dtype} {list(shape)} in tiles of "
            f"{evaluate.tile}"
        )
        _check.require(not strange, str(known), expected, f"{strange}; remove it or name another")
    if path.is_file():
        return open_memmap(path, mode="r")
    if known is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        journal.unlink(missing_ok=True)
        open_memmap(part, mode="w+", dtype=evaluate.dtype, shape=shape).flush()
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
        for i, j in _bars.bar(
            left,
            "kernel",
            unit="tile",
            initial=len(done),
            total=len(tiles),
            progress=progress,
        ):
            evaluate.into(K, i, j)
            # what was written to the map stays, even if the process is killed, once this line is
            # there
            log.write(f"{json.dumps([i, j, _checksum(K, i, j, evaluate)])}\n")
            log.flush()
    K.flush()
    del K
    part.replace(path)
    return open_memmap(path, mode="r")


def _journal(path: Path) -> tuple[dict[str, Any] | None, dict[tuple[int, int], int]]:
    """The header and the tiles that are done, with their checksums; None where there is no journal,
    or no header.
    """
    header, done = None, {}
    try:
        first, *lines = path.read_text().splitlines()
        header = json.loads(first)
        for line in lines:
            i, j, checksum = json.loads(line)
            done[int(i), int(j)] = int(checksum)
    except (OSError, ValueError, TypeError):
        pass  # no journal, or half a line: killed while it was written
    return (header if isinstance(header, dict) else None), done


def _intact(
    path: Path,
    evaluate: _Evaluation,
    about: dict[str, Any],
    header: dict[str, Any] | None,
    done: dict[tuple[int, int], int],
) -> tuple[dict[tuple[int, int], int], str]:
    """The tiles that are what was written; what else the file holds, if it is not the beginning of
    this matrix.

    Another kernel differs in the first tile that is done, or the last.
    """
    try:
        K = open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        return {}, f"no .npy file ({error})"
    if header is None:
        return {}, f"{_check.describe(K)} without a journal beside it"
    said = {name: f"{name} {header.get(name)}" for name in about} | {"inputs": "other inputs"}
    other = [said[name] for name in about if header.get(name) != about[name]]
    if other:
        return {}, f"one of {', '.join(other)}"
    if K.shape != tuple(about["shape"]) or K.dtype != evaluate.dtype:
        return {}, _check.describe(K)
    kept = {
        corner: known for corner, known in done.items() if _checksum(K, *corner, evaluate) == known
    }
    for i, j in {min(kept), max(kept)} if kept else set():
        values = evaluate.value(i, j)
        stored = K[i : i + len(values), j : j + values.shape[1]]
        if not (stored == values).all():
            a, b = np.unravel_index(np.abs(stored - values).argmax(), values.shape)
            both = f"{stored[a, b]} where this one gives {values[a, b]}"
            return {}, f"another kernel's values: {both}, inputs {i + a} and {j + b}"
    return kept, ""


def _checksum(K: np.ndarray, i: int, j: int, evaluate: _Evaluation) -> int:
    """Of a tile and its mirror image."""
    tile = evaluate.tile
    checksum = zlib.crc32(K[i : i + tile, j : j + tile].tobytes())
    return (
        zlib.crc32(K[j : j + tile, i : i + tile].tobytes(), checksum) if evaluate.same else checksum
    )


def _digest(evaluate: _Evaluation) -> str:
    digest = hashlib.sha256()
    for inputs in (evaluate.x,) if evaluate.same else (evaluate.x, evaluate.x2):
        digest.update(
            f"{inputs.shape} {inputs.dtype}".encode() + np.ascontiguousarray(inputs).tobytes()
        )
    return digest.hexdigest()
