"""The empirical NTK as an operator: its products with blocks of vectors, without the kernel
itself."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from stepwise import _check
from stepwise.entk.gram import directions
from stepwise.entk.kernel import Apply, Kernel, Only
from stepwise.entk.plan import Unit
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
    """A function from a block [n, b] to K · block, K the kernel of `gram` on x [n, ...], which is
    never made.

    K v = Σ J (Jᵀ v) over layers and outputs, J a chunk of samples at a time: two passes over the
    samples a product, and memory for gradients, not for n². For the leading modes of many samples:
    `problem.from_products`.

    Args:
        apply, params, x, probes, only, seed, budget: as for `gram`.

    Raises:
        ValueError: as `gram`; the block has not n rows.
    """
    kernel = Kernel(apply, params, x, only=only, budget=budget)
    work = kernel.work(directions(kernel.outputs, probes, seed), columns=WIDTH)
    n, chunk = kernel.n, min(work.plan.chunk, kernel.n)
    leaves, inputs = kernel.at[kernel.devices[0]]

    def refuse(unit: Unit, V: np.ndarray) -> None:
        for at, _ in kernel.chunks(chunk):
            kernel.refuse(
                unit, kernel.engine.parts(unit.pieces, leaves, inputs[at : at + chunk], V, {})
            )
        _check.require(False, "block", "products that are finite", "products that overflow")

    def product(block: np.ndarray) -> np.ndarray:
        v = np.asarray(_check.real_array("block", block, ndim=2))
        _check.require(len(v) == n, "block", f"{n} rows, one an input", v)
        out = np.zeros(v.shape)
        for unit in work.plan.units if kernel.parts else ():
            V = work.V[unit.first : unit.first + unit.outputs]
            sums = [
                jnp.zeros((piece.stored_numbers(unit.outputs), v.shape[1]), kernel.dtype)
                for piece in unit.pieces
            ]
            for at, had in kernel.chunks(chunk):
                own = np.where(np.arange(chunk)[:, None] >= had, v[at : at + chunk], 0).astype(
                    kernel.dtype
                )
                J = kernel.engine.parts(unit.pieces, leaves, inputs[at : at + chunk], V, {})
                sums = kernel.engine.onto(J, own, sums)
            for at, had in kernel.chunks(chunk):
                J = kernel.engine.parts(unit.pieces, leaves, inputs[at : at + chunk], V, {})
                made = np.asarray(kernel.engine.along(J, sums))
                if not np.isfinite(made).all():
                    refuse(unit, V)
                out[at + had : at + chunk] += made[had:]
        return out

    return product
