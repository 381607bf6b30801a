"""A kernel computation: it checks the request, and yields the terms of the kernel unit by unit."""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from stepwise import _check, _random
from stepwise.entk.checks import check_inputs, count_outputs
from stepwise.entk.engine import Engine, engine, projections
from stepwise.entk.parameters import Apply, Split, dtype_of, split
from stepwise.entk.plan import Plan, Unit, form_gradients, pieces, plan
from stepwise.types import Numbers, Whole

Only = str | Callable[[str], bool] | None
FULL_RATE_ROWS = 128
"""Number of rows from which a matrix product of samples' gradients runs at full rate."""
POSITION_ROWS = (1024, 4096)
"""Rows (samples times positions) of a product of ghost pieces: for full rate, and at most."""


@dataclass(frozen=True)
class Work:
    """The units of a kernel Σ_r ⟨∂(v_r·f)(x)/∂θ, ∂(v_r·f)(x')/∂θ⟩, and what they need.

    Attributes:
        plan: the units.
        V: directions v_r of the outputs [R, O], with rows of zeros up to the last unit's end.
        key: random key of the sketches.
        copies: number of kernels that differ only in their sketches. With several, each term is
            [copies, n, n'].
    """

    plan: Plan
    V: np.ndarray
    key: Any
    copies: int


class Kernel:
    """A function at given parameters and inputs, whose kernel K [n, n'] is to be computed.

    Attributes:
        outputs: number O of the function's outputs for one sample.
        dtype: dtype of the network, in which gradients are multiplied.
        leaves: the parameter arrays and constants.
        names: name of each, its path in the tree of parameters.
        engine: the compiled steps.
        selected: indices of the parameter arrays that the kernel sums over.
        parts: a piece for each of these arrays that the function uses.
        x: the inputs, x stacked on x2 if the kernel is not symmetric.
        n: number of rows of K.
        symmetric: whether there is no x2.
        budget: bytes for what is stored of all samples and computed at once.
        devices: the devices that compute.
        placements: device → (leaves, inputs).
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
        """Check all arguments, and trace the function at one sample. See `entk.gram`.

        Raises:
            ValueError: as `entk.gram`.
        """
        fits = isinstance(budget, int | float | np.number) and 0 < budget < np.inf
        _check.require(fits, "budget", "a positive number of bytes", repr(budget))
        traced = _check.is_traced(params, x, x2)
        expected = "numbers, outside of jit, vmap and grad (entk.full_kernel also works inside)"
        _check.require(not traced, "params and x", expected, "traced arrays")
        fits = devices is None or isinstance(devices, Sequence)
        _check.require(fits, "devices", "a list of devices", repr(devices))
        function, self.leaves, self.names = split(apply, params, statistics=only is not None)
        self.dtype = dtype_of(self.leaves)
        first, second = check_inputs(x, x2)
        self.outputs = count_outputs(function, self.leaves, first)
        self.engine = _find_engine(function, self.leaves, first[:1])
        graph = self.engine.graph
        choose = _choose_leaves(only, self.names, graph.real)
        self.selected = tuple(i for i, real in enumerate(graph.real) if real and choose(i))
        self.parts = pieces(graph, choose)
        _check.require(
            self.parts,
            "apply" if only is None else "only",
            "outputs that depend on these parameters",
            "a function that does not use them",
        )
        self.x = first if second is None else np.concatenate([first, second])
        self.n, self.symmetric, self.budget = len(first), second is None, int(budget)
        self.devices = list(devices or jax.local_devices())
        self.placements = {
            device: (jax.device_put(self.leaves, device), self.x) for device in self.devices
        }

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (n, n') of K."""
        return self.n, len(self.x) - self._offset

    @property
    def _offset(self) -> int:
        """The index in x of the input of K's first column."""
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
        """Plan the computation of Σ_r ⟨∂(v_r·f)(x)/∂θ, ∂(v_r·f)(x')/∂θ⟩.

        Args:
            V: directions v_r of the outputs [R, O].
            sketch: dimension of the sketches; 0 for none.
            copies: number of kernels with independent sketches.
            seed, batch: seed of the sketches, and a number that makes them differ for one seed.
            columns: plan products with this many vectors instead of the kernel itself. All
                gradients are then formed.
        """
        units = plan(
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
            form_all=columns > 0,
        )
        padded = max((unit.first + unit.outputs for unit in units.units), default=len(V))
        V = np.concatenate([V, np.zeros((padded - len(V), V.shape[1]))]).astype(self.dtype)
        return Work(units, V, jax.random.fold_in(_random.key(seed), batch), copies)

    def restrict_to_pair(self) -> "Kernel":
        """Return the symmetric kernel [2, 2] of the first and the last input alone."""
        pair = copy(self)
        pair.x, pair.n, pair.symmetric = self.x[[0, -1]], 2, True
        pair.placements = {
            device: (leaves, pair.x) for device, (leaves, _) in self.placements.items()
        }
        return pair

    def complete(self, K: np.ndarray) -> np.ndarray:
        """Return K [n, n'] in the network's dtype, from the sum of its terms.

        The terms of a symmetric kernel are lower triangles, which are mirrored.
        """
        return (np.tril(K) + np.tril(K, -1).T if self.symmetric else K).astype(self.dtype)

    def terms(self, work: Work, first: int = 0) -> Iterator[np.ndarray]:
        """Yield the term of K of each unit, in order. Each device computes one unit at a time.

        If K is symmetric, only the lower triangle of a term is meaningful.

        Args:
            work: the units.
            first: index of the first unit to compute.

        Raises:
            ValueError: if a gradient is not finite (the message names the parameter).
        """
        for start in range(first, len(work.plan.units), len(self.devices)):
            indices = list(range(start, min(start + len(self.devices), len(work.plan.units))))
            running = [
                self._start_unit(work, k, device)
                for k, device in zip(indices, self.devices, strict=False)
            ]
            for k in indices:
                yield self._collect_term(work, work.plan.units[k], *running.pop(0))

    def chunks(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield the first sample of each chunk, and its overlap with the chunk before.

        Chunks have `size` samples each. The last begins early enough to be full, and so repeats
        samples of the chunk before.
        """
        for position in range(0, len(self.x), size):
            start = min(position, len(self.x) - size)
            yield start, position - start

    def _start_unit(
        self, work: Work, k: int, device: Any
    ) -> tuple[list[Any], list[tuple[bool, int, int, Any]]]:
        """Start unit k on a device, without waiting for the results.

        Returns:
            The parts of all samples, and the blocks of the term: (whether it is the sum of the
            ghost pieces or of the other pieces, first row, first column as an index of x, values).
        """
        (leaves, x), unit = self.placements[device], work.plan.units[k]
        chunk, total = work.plan.chunk, len(self.x)
        with jax.default_device(device):
            parts = self.engine.allocate(unit.pieces, unit.outputs, total, self.dtype)
            V = jax.device_put(work.V[unit.first : unit.first + unit.outputs], device)
            key = jax.random.fold_in(work.key, unit.first)
            sketches = jax.device_put(projections(unit.pieces, len(V), key, V.dtype), device)
            for start, _ in self.chunks(chunk):
                samples = x[start : start + chunk]
                chunk_parts = self.engine.parts(unit.pieces, leaves, samples, V, sketches)
                parts = self.engine.write(parts, chunk_parts, np.int32(start))
            blocks = []
            for ghost in (False, True):
                indices = [
                    i for i, piece in enumerate(unit.pieces) if (piece.form == "ghost") == ghost
                ]
                if not indices:
                    continue
                pieces = [unit.pieces[i] for i in indices]
                side = self._choose_side(max(piece.sizes[0] for piece in pieces) if ghost else 1)
                forms = tuple((piece.form, piece.copies) for piece in pieces)
                for i, j in self._list_blocks(side):
                    block = self.engine.product(
                        forms, side, [parts[k] for k in indices], np.int32(i), np.int32(j)
                    )
                    blocks.append((ghost, i, j, block))
        return parts, blocks

    def _choose_side(self, positions: int) -> int:
        """Return the number of rows and columns of a block.

        Blocks of an eighth of n rows compute little more than half of a symmetric kernel. Larger
        ones are chosen if a product of so few rows would be slow, smaller ones if a product over
        all positions would have too many rows.
        """
        enough, most = (rows // positions for rows in POSITION_ROWS)
        least = min(FULL_RATE_ROWS, enough)
        return max(1, min(*self.shape, max(-(-self.n // 8), least), 1024, most))

    def _list_blocks(self, side: int) -> list[tuple[int, int]]:
        """Return the first row and column, as indices of x, of the blocks that cover K.

        Of a symmetric K, only the lower triangle is covered.
        """
        rows = _list_starts(0, self.n, side)
        columns = rows if self.symmetric else _list_starts(self.n, len(self.x), side)
        return [(i, j) for i in rows for j in columns if not self.symmetric or j <= i]

    def _collect_term(
        self, work: Work, unit: Unit, parts: list[Any], blocks: list[tuple[bool, int, int, Any]]
    ) -> np.ndarray:
        """Return a unit's term of K in float64, from the results of `_start_unit`."""
        shape = self.shape if work.copies == 1 else (work.copies, *self.shape)
        kinds = {ghost: np.zeros(shape) for ghost in {block[0] for block in blocks}}
        for ghost, i, j, block in blocks:
            # The last blocks of one kind overlap the ones before: they are set, not added.
            rows, columns = block.shape[-2:]
            first = j - self._offset
            kinds[ghost][..., i : i + rows, first : first + columns] = np.asarray(block)
        term = sum(kinds.values(), np.zeros(shape))
        if not np.isfinite(term).all():
            self.require_finite(unit, parts)
            _check.require(
                False, "apply", "gradients whose products are finite", "products that overflow"
            )
        return term

    def require_finite(self, unit: Unit, parts: list[Any]) -> None:
        """Raise ValueError, with the parameter's name, if a part of a unit is not finite."""
        for piece, part in zip(unit.pieces, parts, strict=True):
            bad = sum(
                int(np.size(each) - np.isfinite(np.asarray(each)).sum())
                for each in jax.tree.leaves(part)
            )
            name = self.names[piece.leaf] or "params"
            _check.require(
                bad == 0, name, "finite gradients in this parameter", f"{bad} numbers that are not"
            )


def _list_starts(first: int, stop: int, side: int) -> list[int]:
    """Return the starts of blocks of `side` that cover first ... stop; the last may overlap."""
    return [min(start, stop - side) for start in range(first, stop, side)]


def _find_engine(function: Split, leaves: list[Any], sample: np.ndarray) -> Engine:
    """Return the cached engine of a function, or a new one if the function is not hashable."""
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    shape = jax.ShapeDtypeStruct(sample.shape, sample.dtype)
    try:
        hash(function)
    except TypeError:
        return Engine(function, shapes, shape)
    return engine(function, shapes, shape)


def _choose_leaves(only: Only, names: list[str], real: list[bool]) -> Callable[[int], bool]:
    """Return whether the kernel sums over a parameter array, as a function of its index.

    Args:
        only: as for `entk.gram`.
        names: name of each array.
        real: whether it is floating.

    Raises:
        ValueError: if no floating array matches.
    """
    if only is None:
        return lambda leaf: True
    prefix = only
    match = only if callable(only) else lambda name: f"{name}.".startswith(f"{prefix}.")
    matches = {k for k, name in enumerate(names) if match(name) and real[k]}
    floating = [name for name, is_real in zip(names, real, strict=True) if is_real][:20]
    _check.require(matches, "only", f"parameters among {floating}", f"{only!r}, which matches none")
    return lambda leaf: leaf in matches
