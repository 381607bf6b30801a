"""The output-traced empirical NTK of any pure function: one pass, mixed per layer, bounded memory, resumable."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from stepwise import _check, _npz
from stepwise.entk.engine import Engine, engine
from stepwise.entk.plan import Plan, Unit, pieces, plan
from stepwise.types import Numbers, Whole

KIND = "eNTK in the making"
Apply = Callable[[Any, Any], Any]
POSITIONS = 4096
"""Rows of a block of A_i A_jᵀ over samples and positions, at most."""


def gram(
    apply: Apply,
    params: Any,
    x: Numbers,
    x2: Numbers | None = None,
    *,
    probes: Whole | None = None,
    only: str | Callable[[str], bool] | None = None,
    seed: Whole = 0,
    budget: Whole = 2**31,
    path: str | os.PathLike[str] | None = None,
    devices: Sequence[Any] | None = None,
    progress: bool = False,
) -> np.ndarray:
    """K_ij = (1/O) Σ_o ⟨∂f_o(x_i)/∂θ, ∂f_o(x'_j)/∂θ⟩ [n, n'], the mean over all O outputs (source, section 6).

    Exact: f is traced at one sample, and every place where a parameter meets data is taken on its own (`entk.graph`);
    one backward pass an output gives every sample's cotangents there. Dense layers, convolutions and embeddings never
    form what is dearer than its products (`entk.plan`); every other place goes through its own derivative. No gradient
    of a whole network is ever kept, none is worked out twice but where the budget is too small for all samples' at
    once, and of a symmetric K only one half is multiplied. Products are in the network's dtype at full precision, their
    sum over layers and outputs in float64.

    Args:
        apply: pure function (params, inputs [k, ...]) -> outputs [k, ...] whose samples do not see one another (batch
            norm in evaluation mode). Kept, with what was compiled, for the next call with the same function and shapes.
        params: a tree of arrays; those that are not floating count as constants.
        x, x2: inputs [n, ...] and [n', ...]; without x2 K is symmetric. Whole numbers, such as tokens, stay so.
        probes: instead of all O outputs, so many directions of a random orthonormal basis of them; exact at O. See
            `entk.estimate` for its error.
        only: of the parameters, those whose path starts with this ("backbone.stages.3") or for which it is true; the
            kernel is the sum of the parts.
        seed: of the probes.
        budget: bytes for what is kept of all samples and worked on, beside the network, its inputs and K.
        path: a file that keeps the sum so far, and at the end K. A call that was stopped, however, goes on there after
            its last whole unit of work, to the same bits.
        devices: units of work are shared out over these; by default all of this process.
        progress: show a bar.

    Returns:
        K in the network's dtype.

    Raises:
        ValueError: no output, or not one row a sample; samples are coupled; a gradient is not finite (names the
            parameter); no parameter matches; the file holds another kernel.
    """
    leaves, names, tree, dtype = _parameters(params)
    x, x2 = _inputs(x, x2)
    count = _outputs(apply, params, x)
    fits = probes is None or (isinstance(probes, int | np.integer) and 1 <= probes <= count)
    _check.require(fits, "probes", f"a whole number in 1 ... {count}, the outputs", probes)
    made = _engine(apply, tree, leaves, x[:1])
    chosen = _chosen(only, names)
    parts = pieces(made.graph, chosen)
    V = directions(count, probes, seed).astype(dtype)
    on = list(devices or jax.local_devices())
    n2 = 0 if x2 is None else len(x2)
    size = np.dtype(dtype).itemsize
    work = plan(made.graph, parts, len(x), n2, len(V), budget=int(budget), itemsize=size, devices=len(on))
    kernel = _Kernel(made, work, leaves, names, x, x2, V, dtype, on)
    done, K = 0, np.zeros((len(x), n2 or len(x)))
    of = ""
    if path is not None:
        of = _digest(kernel)
        done, K = _read(Path(path), of, K)
    with tqdm(total=len(work.units), initial=done, desc="eNTK", unit="unit", disable=not progress) as bar:
        for term in kernel.terms(work.units[done:]):
            K, done = K + term, done + 1
            bar.update()
            if path is not None:
                _npz.write(path, KIND, {"K": K}, {"done": done, "of": of})
    return (K if x2 is not None else np.tril(K) + np.tril(K, -1).T).astype(dtype)


def directions(outputs: int, probes: int | None, seed: Whole) -> np.ndarray:
    """Rows V with K = Σ_r ⟨∂(v_r·f)(x)/∂θ, ∂(v_r·f)(x')/∂θ⟩: all outputs, or probes of a random orthonormal basis."""
    if probes is None:
        return np.eye(outputs) / np.sqrt(outputs)
    basis, triangle = np.linalg.qr(np.random.default_rng(seed).normal(size=(outputs, outputs)))
    return (basis * np.sign(np.diag(triangle))).T[:probes] / np.sqrt(probes)


class _Kernel:
    """What the terms of one kernel are made of."""

    def __init__(
        self,
        made: Engine,
        work: Plan,
        leaves: list[Any],
        names: list[str],
        x: np.ndarray,
        x2: np.ndarray | None,
        V: np.ndarray,
        dtype: Any,
        devices: list[Any],
    ) -> None:
        self.engine, self.plan, self.leaves, self.names, self.dtype = made, work, leaves, names, dtype
        self.x = x if x2 is None else np.concatenate([x, x2])
        self.n, self.symmetric = len(x), x2 is None
        padded = max((unit.first + unit.outputs for unit in work.units), default=len(V))
        self.V = np.concatenate([V, np.zeros((padded - len(V), V.shape[1]), V.dtype)])
        self.devices = devices
        self.at = {device: jax.device_put((leaves, self.x), device) for device in devices}

    def terms(self, units: Sequence[Unit]) -> Iterator[np.ndarray]:
        """Each unit's term of K [n, n'], its lower half where K is symmetric, in order; a unit a device at a time."""
        for first in range(0, len(units), len(self.devices)):
            together = units[first : first + len(self.devices)]
            started = [self._started(unit, device) for unit, device in zip(together, self.devices, strict=False)]
            for unit in together:
                parts, blocks = started.pop(0)
                yield self._term(unit, parts, blocks)

    def _started(self, unit: Unit, device: Any) -> tuple[list[Any], list[tuple[bool, int, int, Any]]]:
        leaves, x = self.at[device]
        chunk, total = self.plan.chunk, len(self.x)
        with jax.default_device(device):
            parts = self.engine.empty(unit.pieces, unit.outputs, total, self.dtype)
            V = jax.device_put(self.V[unit.first : unit.first + unit.outputs], device)
            for start in range(0, total, chunk):
                at = np.int32(min(start, total - chunk))  # the last chunk overlaps: the same samples, the same parts
                parts = self.engine.collect(unit.pieces, chunk, leaves, x, at, V, parts)
            blocks = []
            for ghost in (False, True):
                some = [k for k, piece in enumerate(unit.pieces) if (piece.form == "ghost") == ghost]
                if not some:
                    continue
                side = self._side(max(unit.pieces[k].sizes[0] for k in some) if ghost else 1)
                forms = tuple(unit.pieces[k].form for k in some)
                for i, j in self._blocks(side):
                    block = self.engine.product(forms, side, [parts[k] for k in some], np.int32(i), np.int32(j))
                    blocks.append((ghost, i, j, block))
        return parts, blocks

    def _side(self, positions: int) -> int:
        """Of a block: small enough to save half of a symmetric kernel, and for the products over positions."""
        least = min(self.n, len(self.x) - self.n) if not self.symmetric else self.n
        return max(1, min(least, max(-(-self.n // 8), 64), 1024, POSITIONS // positions))

    def _blocks(self, side: int) -> list[tuple[int, int]]:
        rows = _starts(0, self.n, side)
        columns = rows if self.symmetric else _starts(self.n, len(self.x), side)
        return [(i, j) for i in rows for j in columns if not self.symmetric or j <= i]

    def _term(self, unit: Unit, parts: list[Any], blocks: list[tuple[bool, int, int, Any]]) -> np.ndarray:
        offset = 0 if self.symmetric else self.n
        term = np.zeros((self.n, len(self.x) - offset))
        kinds = {ghost: np.zeros_like(term) for ghost in {block[0] for block in blocks}}
        for ghost, i, j, block in blocks:  # blocks of one kind overlap at the end: they are set, the kinds are added
            rows, columns = block.shape
            kinds[ghost][i : i + rows, j - offset : j - offset + columns] = np.asarray(block)
        for kind in kinds.values():
            term += kind
        if not np.isfinite(term).all():
            self._refuse(unit, parts)
        return term

    def _refuse(self, unit: Unit, parts: list[Any]) -> None:
        for piece, part in zip(unit.pieces, parts, strict=True):
            bad = sum(int(np.size(each) - np.isfinite(np.asarray(each)).sum()) for each in jax.tree.leaves(part))
            name = self.names[piece.leaf]
            _check.require(bad == 0, name, "finite gradients in this parameter", f"{bad} numbers that are not")
        _check.require(False, "apply", "gradients whose products are finite", "products that overflow")


def _starts(first: int, stop: int, side: int) -> list[int]:
    """Of blocks that cover first ... stop, the last one overlapping."""
    return [min(at, stop - side) for at in range(first, stop, side)]


def _parameters(params: Any) -> tuple[list[Any], list[str], Any, Any]:
    """Leaves, their paths, the tree, and the dtype that they promote to."""
    paths, tree = jax.tree_util.tree_flatten_with_path(params)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]
    leaves = [jnp.asarray(leaf) for _, leaf in paths]
    floats = [leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    _check.require(floats, "params", "a tree with floating arrays", f"{[str(leaf.dtype) for leaf in leaves]}")
    dtype = jnp.promote_types(jnp.result_type(*floats), jnp.float32)
    return leaves, names, tree, dtype


def _inputs(x: Numbers, x2: Numbers | None) -> tuple[np.ndarray, np.ndarray | None]:
    found = []
    for name, value in (("x", x), ("x2", x2)):
        if value is None:
            continue
        array = np.asarray(value)
        whole = array.dtype.kind in "iub"
        array = array if whole else np.asarray(_check.real_array(name, array))
        _check.require(array.ndim > 0 and len(array) > 0, name, "at least one input", array)
        found.append(array.astype(jax.dtypes.canonicalize_dtype(array.dtype)))
    if x2 is None:
        return found[0], None
    fits = found[1].shape[1:] == found[0].shape[1:]
    _check.require(fits, "x2", f"inputs {list(found[0].shape[1:])} as x", found[1])
    return found[0], found[1].astype(found[0].dtype)


def _outputs(apply: Apply, params: Any, x: np.ndarray) -> int:
    """How many numbers the function gives a sample; refuses one whose samples see one another."""
    some = x[:2] if len(x) > 1 else np.concatenate([x, x])
    out = jax.eval_shape(apply, params, some)
    fits = hasattr(out, "shape") and len(out.shape) > 0 and out.shape[0] == 2 and 0 not in out.shape
    received = f"{list(out.shape)} of 2 inputs" if hasattr(out, "shape") else f"{type(out).__name__}"
    _check.require(fits, "apply", "one array of outputs [k, ...] of k inputs", received)
    other = some[[0, 0]] if len(x) > 1 else np.stack([x[0], x[0][::-1] if x.ndim > 1 else x[0] + 1])
    ran = jax.jit(apply)
    alone, first, second = (np.asarray(ran(params, each), np.float64)[0] for each in (x[:1], some, other))
    size = max(np.abs(alone).max(), 1e-30)
    moved = float(max(np.abs(first - alone).max(), np.abs(second - alone).max()) / size)
    far = 1e-3 if out.dtype != np.float64 else 1e-7
    _check.require(
        moved <= far or not np.isfinite(moved),
        "apply",
        "samples that do not see one another (batch norm in evaluation mode)",
        f"an output that changes by {moved:.1e} of its size with the other samples of its batch",
    )
    return int(np.prod(out.shape[1:]))


def _engine(apply: Apply, tree: Any, leaves: list[Any], sample: np.ndarray) -> Engine:
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    of = jax.ShapeDtypeStruct(sample.shape, sample.dtype)
    try:
        hash(apply)
    except TypeError:
        return Engine(apply, tree, shapes, of)
    return engine(apply, tree, shapes, of)


def _chosen(only: str | Callable[[str], bool] | None, names: list[str]) -> Callable[[int], bool]:
    if only is None:
        return lambda leaf: True
    prefix = only
    match = only if callable(only) else lambda name: f"{name}.".startswith(f"{prefix}.")
    kept = {k for k, name in enumerate(names) if match(name)}
    _check.require(kept, "only", f"parameters, some of {names[:20]}", f"{only!r}, which matches none")
    return lambda leaf: leaf in kept


def _digest(kernel: _Kernel) -> str:
    """What a kernel in the making is of: function, numbers, inputs, and its division into units."""
    found = hashlib.sha256()
    nodes = [re.sub(" at 0x[0-9a-f]+", "", f"{node.inputs} {node.eqn}") for node in kernel.engine.graph.nodes]
    units = [
        (unit.first, unit.outputs, [(piece.leaf, piece.form, piece.first, piece.last) for piece in unit.pieces])
        for unit in kernel.plan.units
    ]
    found.update(repr((nodes, units, kernel.names, kernel.n, kernel.symmetric, str(kernel.dtype))).encode())
    for array in [*kernel.leaves, kernel.x, kernel.V, *kernel.engine.graph.consts.values()]:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _read(path: Path, of: str, zeros: np.ndarray) -> tuple[int, np.ndarray]:
    """How many units are in the file, and their sum."""
    if not path.exists():
        return 0, zeros
    arrays, about = _npz.read(path, KIND, ("K",))
    fits = about.get("of") == of and arrays["K"].shape == zeros.shape
    _check.require(fits, str(path), "this kernel in the making", "another function's, or of other inputs or a budget")
    return int(about["done"]), arrays["K"]
