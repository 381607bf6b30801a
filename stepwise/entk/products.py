"""The eNTK as a linear operator: its products with vectors, without the kernel matrix."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from stepwise import _check
from stepwise.entk.gram import directions
from stepwise.entk.kernel import Kernel, Only
from stepwise.entk.parameters import Apply
from stepwise.entk.plan import Unit
from stepwise.entk.verify import verify_pair
from stepwise.types import Numbers, Whole

WIDTH = 32
"""Number of columns of a block that the plan assumes."""


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
    """Return a function that multiplies a block [n, b] by the kernel K of `gram` on x [n, ...].

    K block = Σ J (Jᵀ block) over parameter arrays and outputs, with gradients J of a chunk of
    samples at a time. A product takes two passes over the samples, and memory for gradients instead
    of n² numbers for K. `problem.from_products` finds the leading modes of many samples from it.

    Args:
        apply, params, x, probes, only, seed, budget: as for `gram`.

    Returns:
        A function from a block [n, b] to K · block [n, b], in float64.

    Raises:
        ValueError: as `gram`. The returned function raises it if the block does not have n rows.
    """
    kernel = Kernel(apply, params, x, only=only, budget=budget)
    verify_pair(kernel)
    work = kernel.work(directions(kernel.outputs, probes, seed), columns=WIDTH)
    n, chunk = kernel.n, min(work.plan.chunk, kernel.n)
    leaves, inputs = kernel.placements[kernel.devices[0]]

    def gradients(unit: Unit, V: np.ndarray, start: int) -> list[Any]:
        return kernel.engine.parts(unit.pieces, leaves, inputs[start : start + chunk], V, {})

    def reject(unit: Unit, V: np.ndarray) -> None:
        for start, _ in kernel.chunks(chunk):
            kernel.require_finite(unit, gradients(unit, V, start))
        _check.require(False, "block", "products that are finite", "products that overflow")

    def product(block: np.ndarray) -> np.ndarray:
        v = np.asarray(_check.real_array("block", block, ndim=2))
        _check.require(len(v) == n, "block", f"{n} rows, one per input", v)
        out = np.zeros(v.shape)
        for unit in work.plan.units if kernel.parts else ():
            V = work.V[unit.first : unit.first + unit.outputs]
            sums = [
                jnp.zeros((piece.stored_numbers(unit.outputs), v.shape[1]), kernel.dtype)
                for piece in unit.pieces
            ]
            for start, overlap in kernel.chunks(chunk):
                rows = v[start : start + chunk]
                rows = np.where(np.arange(chunk)[:, None] >= overlap, rows, 0).astype(kernel.dtype)
                sums = kernel.engine.add_transposed(gradients(unit, V, start), rows, sums)
            for start, overlap in kernel.chunks(chunk):
                rows = np.asarray(kernel.engine.multiply(gradients(unit, V, start), sums))
                if not np.isfinite(rows).all():
                    reject(unit, V)
                out[start + overlap : start + chunk] += rows[overlap:]
        return out

    return product
