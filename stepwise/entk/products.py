"""The empirical NTK as an operator: its products with blocks of vectors, without the kernel itself."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stepwise import _check
from stepwise.entk.gram import directions
from stepwise.entk.kernel import Apply, Kernel, Only
from stepwise.entk.plan import plan
from stepwise.types import Numbers, Whole

WIDTH = 32
"""Columns that a budget is reckoned with."""


def products(
    apply: Apply,
    params: Any,
    x: Numbers,
    *,
    probes: Whole | None = None,
    only: Only = None,
    seed: Whole = 0,
    budget: Whole = 2**31,
) -> Callable[[np.ndarray], np.ndarray]:
    """A function from a block [n, b] to K · block, K the kernel of `gram` on x [n, ...], which is never made.

    K v = Σ J (Jᵀ v) over layers and outputs, J a chunk of samples at a time: two passes over the samples a product, and
    memory for gradients, not for n². For the leading modes of many samples: `problem.from_products`.

    Args:
        apply, params, x, probes, only, seed, budget: as for `gram`.

    Raises:
        ValueError: as `gram`; the block has not n rows.
    """
    kernel = Kernel(apply, params, x, only=only, budget=int(budget))
    V = directions(kernel.outputs, probes, seed).astype(kernel.dtype)
    parts = [
        replace(part, form="direct", layers=(), first=0, last=part.numbers) if part.form == "ghost" else part
        for part in kernel.parts
    ]
    itemsize = np.dtype(kernel.dtype).itemsize
    made = plan(kernel.engine.graph, parts, WIDTH, 0, len(V), budget=int(budget), itemsize=itemsize, formed=True)
    n, chunk = kernel.n, min(made.chunk, kernel.n)
    V = np.concatenate([V, np.zeros((max(u.first + u.outputs for u in made.units) - len(V), V.shape[1]), V.dtype)])
    leaves, inputs = kernel.at[kernel.devices[0]]
    key = jax.random.key(0)

    def product(block: np.ndarray) -> np.ndarray:
        v = np.asarray(_check.real_array("block", block, ndim=2))
        _check.require(len(v) == n, "block", f"{n} rows, one an input", v)
        out = np.zeros(v.shape)
        for unit in made.units:
            some = V[unit.first : unit.first + unit.outputs]
            sums = [jnp.zeros((piece.kept(unit.outputs), v.shape[1]), kernel.dtype) for piece in unit.pieces]
            for start in range(0, n, chunk):
                at = min(start, n - chunk)  # the last chunk overlaps: what was there already counts nothing
                own = np.where(np.arange(at, at + chunk)[:, None] >= start, v[at : at + chunk], 0).astype(kernel.dtype)
                J = kernel.engine.parts(unit.pieces, leaves, inputs[at : at + chunk], some, key)
                sums = kernel.engine.onto(J, own, sums)
            for start in range(0, n, chunk):
                at = min(start, n - chunk)
                J = kernel.engine.parts(unit.pieces, leaves, inputs[at : at + chunk], some, key)
                out[start : at + chunk] += np.asarray(kernel.engine.along(J, sums))[start - at :]
        return out

    return product


def drift(before: Numbers, after: Numbers) -> float:
    """‖K' − K‖_F/‖K‖_F: how far a kernel has moved, between two checkpoints of a run.

    Raises:
        ValueError: the kernels differ in shape, or the first is zero.
    """
    a, b = (
        np.asarray(_check.real_array(name, K, ndim=2), np.float64) for name, K in (("before", before), ("after", after))
    )
    _check.require(a.shape == b.shape, "after", f"shape {list(a.shape)} as before", b)
    size = float(np.linalg.norm(a))
    _check.require(size > 0, "before", "a kernel that is not zero", "zeros")
    return float(np.linalg.norm(b - a)) / size
