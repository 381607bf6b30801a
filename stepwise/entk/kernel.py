"""One kernel about to be worked out: what was asked, checked at the door, and its terms, a unit of
work each.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stepwise import _check, _random
from stepwise.entk.engine import Engine, engine, projections
from stepwise.entk.plan import Plan, Unit, form_gradients, pieces, plan
from stepwise.types import Numbers, Whole

Apply = Callable[[Any, Any], Any]
Only = str | Callable[[str], bool] | None
SEEN, COUPLED = 4, {64: 1e-9, 32: 1e-4, 16: 0.1, 8: 0.5}
"""Samples together and alone, and how far their outputs may differ, by the bits of the network's
numbers.
"""
LEAST, POSITIONS = 128, (1024, 4096)
"""Rows of a block at which a product reaches its rate, over samples; over samples and positions
these, and at most.
"""


@dataclass(frozen=True)
class Work:
    """A kernel's units, the directions V [R, O] of the outputs that it sums over, and the key of
    its sketches.

    With copies the terms are of so many kernels [copies, n, n'], alike but for their sketches.
    """

    plan: Plan
    V: np.ndarray
    key: Any
    copies: int


class Kernel:
    """A function at its parameters and inputs.

    Attributes:
        outputs: how many numbers the function gives a sample.
        dtype: of the network, in which products are taken.
    """

    def __init__(
        self,
        apply: Apply,
        params: Any,
        x: Numbers,
        x2: Numbers | None = None,
        *,
        only: Only = None,
        budget: Whole = 2**31,
        devices: Sequence[Any] | None = None,
    ) -> None:
        """Check everything, and trace the function at one sample."""
        fits = isinstance(budget, int | float | np.number) and 0 < budget < np.inf
        _check.require(fits, "budget", "a positive number of bytes", repr(budget))
        self.leaves, self.names, tree, self.dtype = _parameters(params)
        first, second = _inputs(x, x2)
        self.outputs = _outputs(apply, params, first)
        self.engine = _engine(apply, tree, self.leaves, first[:1])
        self.parts = pieces(self.engine.graph, _chosen(only, self.names, self.engine.graph.real))
        self.x = first if second is None else np.concatenate([first, second])
        self.n, self.symmetric, self.budget = len(first), second is None, int(budget)
        self.devices = list(devices or jax.local_devices())
        self.at = {device: (jax.device_put(self.leaves, device), self.x) for device in self.devices}

    @property
    def shape(self) -> tuple[int, int]:
        """Of K."""
        return self.n, len(self.x) - self._offset

    @property
    def _offset(self) -> int:
        return 0 if self.symmetric else self.n

    def work(
        self,
        V: np.ndarray,
        sketch: int = 0,
        copies: int = 1,
        seed: int = 0,
        batch: int = 0,
        columns: int = 0,
    ) -> Work:
        """How Σ_r ⟨∂(v_r·f)(x)/∂θ, ∂(v_r·f)(x')/∂θ⟩ over the rows of V [R, O] is worked out.

        With columns its products with so many vectors instead, for which every gradient is formed.
        """
        made = plan(
            self.engine.graph,
            [form_gradients(part) for part in self.parts] if columns else self.parts,
            columns or self.n,
            0 if columns else len(self.x) - self.n,
            len(V),
            budget=self.budget,
            itemsize=np.dtype(self.dtype).itemsize,
            devices=len(self.devices),
            sketch=sketch,
            copies=copies,
            formed=columns > 0,
        )
        padded = max((unit.first + unit.outputs for unit in made.units), default=len(V))
        V = np.concatenate([V, np.zeros((padded - len(V), V.shape[1]))]).astype(self.dtype)
        return Work(made, V, jax.random.fold_in(_random.key(seed), batch), copies)

    def whole(self, K: np.ndarray) -> np.ndarray:
        """K from the sum of its terms, in the network's dtype."""
        return (np.tril(K) + np.tril(K, -1).T if self.symmetric else K).astype(self.dtype)

    def terms(self, work: Work, first: int = 0) -> Iterator[np.ndarray]:
        """Each unit's term of K, its lower half where K is symmetric, in order; a unit a device at
        a time.

        Raises:
            ValueError: a gradient is not finite (names the parameter).
        """
        for at in range(first, len(work.plan.units), len(self.devices)):
            together = list(range(at, min(at + len(self.devices), len(work.plan.units))))
            started = [
                self._started(work, k, device)
                for k, device in zip(together, self.devices, strict=False)
            ]
            for k in together:
                yield self._term(work, work.plan.units[k], *started.pop(0))

    def chunks(self, size: int) -> Iterator[tuple[int, int]]:
        """Where each chunk of so many samples begins, and how many of it the one before it had: the
        last overlaps.
        """
        for start in range(0, len(self.x), size):
            at = min(start, len(self.x) - size)
            yield at, start - at

    def _started(
        self, work: Work, k: int, device: Any
    ) -> tuple[list[Any], list[tuple[bool, int, int, Any]]]:
        (leaves, x), unit = self.at[device], work.plan.units[k]
        chunk, total = work.plan.chunk, len(self.x)
        with jax.default_device(device):
            parts = self.engine.empty(unit.pieces, unit.outputs, total, self.dtype)
            V = jax.device_put(work.V[unit.first : unit.first + unit.outputs], device)
            key = jax.random.fold_in(work.key, unit.first)
            into = jax.device_put(projections(unit.pieces, len(V), key, V.dtype), device)
            for at, _ in self.chunks(chunk):
                some = self.engine.parts(unit.pieces, leaves, x[at : at + chunk], V, into)
                parts = self.engine.put(parts, some, np.int32(at))
            blocks = []
            for ghost in (False, True):
                some = [
                    i for i, piece in enumerate(unit.pieces) if (piece.form == "ghost") == ghost
                ]
                if not some:
                    continue
                side = self._side(max(unit.pieces[i].sizes[0] for i in some) if ghost else 1)
                forms = tuple((unit.pieces[i].form, unit.pieces[i].copies) for i in some)
                for i, j in self._blocks(side):
                    block = self.engine.product(
                        forms, side, [parts[k] for k in some], np.int32(i), np.int32(j)
                    )
                    blocks.append((ghost, i, j, block))
        return parts, blocks

    def _side(self, positions: int) -> int:
        """Of a block: small enough to save half of a symmetric kernel, and for the products over
        positions.
        """
        enough, most = (rows // positions for rows in POSITIONS)
        return max(1, min(*self.shape, max(-(-self.n // 8), min(LEAST, enough)), 1024, most))

    def _blocks(self, side: int) -> list[tuple[int, int]]:
        rows = _starts(0, self.n, side)
        columns = rows if self.symmetric else _starts(self.n, len(self.x), side)
        return [(i, j) for i in rows for j in columns if not self.symmetric or j <= i]

    def _term(
        self, work: Work, unit: Unit, parts: list[Any], blocks: list[tuple[bool, int, int, Any]]
    ) -> np.ndarray:
        shape = self.shape if work.copies == 1 else (work.copies, *self.shape)
        kinds = {ghost: np.zeros(shape) for ghost in {block[0] for block in blocks}}
        for (
            ghost,
            i,
            j,
            block,
        ) in blocks:  # blocks of one kind overlap at the end: they are set, the kinds are added
            rows, columns = block.shape[-2:]
            at = j - self._offset
            kinds[ghost][..., i : i + rows, at : at + columns] = np.asarray(block)
        term = sum(kinds.values(), np.zeros(shape))
        if not np.isfinite(term).all():
            self.refuse(unit, parts)
            _check.require(
                False, "apply", "gradients whose products are finite", "products that overflow"
            )
        return term

    def refuse(self, unit: Unit, parts: list[Any]) -> None:
        """Refuse parts of a unit's pieces that are not finite, by the parameter's name."""
        for piece, part in zip(unit.pieces, parts, strict=True):
            bad = sum(
                int(np.size(each) - np.isfinite(np.asarray(each)).sum())
                for each in jax.tree.leaves(part)
            )
            name = self.names[piece.leaf]
            _check.require(
                bad == 0, name, "finite gradients in this parameter", f"{bad} numbers that are not"
            )


def _starts(first: int, stop: int, side: int) -> list[int]:
    """Of blocks that cover first ... stop, the last one overlapping."""
    return [min(at, stop - side) for at in range(first, stop, side)]


def _parameters(params: Any) -> tuple[list[Any], list[str], Any, Any]:
    """Leaves, their paths, the tree, and the dtype that they promote to."""
    paths, tree = jax.tree_util.tree_flatten_with_path(params)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]
    leaves = [jnp.asarray(leaf) for _, leaf in paths]
    floats = [leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    _check.require(
        floats, "params", "a tree with floating arrays", f"{[str(leaf.dtype) for leaf in leaves]}"
    )
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
    kinds = [array.dtype.kind in "iub" for array in found]
    _check.require(
        kinds[0] == kinds[1], "x2", f"{found[0].dtype}, or what it goes with, as x", found[1]
    )
    dtype = jax.dtypes.canonicalize_dtype(np.promote_types(found[0].dtype, found[1].dtype))
    return found[0].astype(dtype), found[1].astype(dtype)


def _outputs(apply: Apply, params: Any, x: np.ndarray) -> int:
    """How many numbers the function gives a sample; refuses one whose samples see one another.

    Whether they do is asked at parameters and inputs with noise on them: a head of zeros hides it,
    equal inputs do, and an output near zero would make rounding look like it.
    """
    rng = np.random.default_rng(0)
    rows = np.stack(
        [_noisy(rng, x[k], j) for j, k in enumerate(np.linspace(0, len(x) - 1, SEEN).astype(int))]
    )
    for some in (rows[:1], rows):
        out = jax.eval_shape(apply, params, some)
        fits = (
            hasattr(out, "shape")
            and len(out.shape) > 0
            and out.shape[0] == len(some)
            and 0 not in out.shape
        )
        received = (
            f"{list(out.shape)} of {len(some)} inputs"
            if hasattr(out, "shape")
            else f"{type(out).__name__}"
        )
        _check.require(fits, "apply", "one array of outputs [k, ...] of k inputs", received)
    _check.require(
        jnp.issubdtype(out.dtype, jnp.floating),
        "apply",
        "outputs that are real numbers",
        f"{out.dtype}",
    )
    moved = jax.tree.map(lambda leaf: _shaken(rng, leaf), params)
    ran = jax.jit(apply)
    alone = np.concatenate([np.asarray(ran(moved, row[None]), np.float64) for row in rows])
    far = np.abs(np.asarray(ran(moved, rows), np.float64) - alone).max() / max(
        np.abs(alone).max(), 1e-30
    )
    real = [leaf for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    least = min(jnp.finfo(array.dtype).bits for array in (out, *real))
    _check.require(
        not far > COUPLED[least],
        "apply",
        "samples that do not see one another (batch norm in evaluation mode)",
        f"an output that changes by {far:.1e} of its size with the other samples of its batch, and "
        f"its place there",
    )
    return int(np.prod(out.shape[1:]))


def _noisy(rng: np.random.Generator, row: np.ndarray, j: int) -> np.ndarray:
    """An input unlike the others; whole numbers stay ones that occur in it."""
    if row.dtype.kind in "iub":
        return np.roll(row.reshape(-1), j).reshape(row.shape)
    return (row + 0.1 * (row.std() or 1.0) * rng.normal(size=row.shape)).astype(row.dtype)


def _shaken(rng: np.random.Generator, leaf: Any) -> Any:
    """A parameter moved by a tenth of itself, or away from zero."""
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf
    values = np.asarray(leaf, np.float64)
    noise = 0.1 * rng.normal(size=values.shape)
    return jnp.asarray(np.where(values == 0, noise, values * (1 + noise)), leaf.dtype)


def _engine(apply: Apply, tree: Any, leaves: list[Any], sample: np.ndarray) -> Engine:
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    of = jax.ShapeDtypeStruct(sample.shape, sample.dtype)
    try:
        hash(apply)
    except TypeError:
        return Engine(apply, tree, shapes, of)
    return engine(apply, tree, shapes, of)


def _chosen(only: Only, names: list[str], real: list[bool]) -> Callable[[int], bool]:
    if only is None:
        return lambda leaf: True
    prefix = only
    match = only if callable(only) else lambda name: f"{name}.".startswith(f"{prefix}.")
    kept = {k for k, name in enumerate(names) if match(name) and real[k]}
    known = [name for name, is_real in zip(names, real, strict=True) if is_real][:20]
    _check.require(kept, "only", f"parameters, some of {known}", f"{only!r}, which matches none")
    return lambda leaf: leaf in kept
