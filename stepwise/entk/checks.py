"""Checks of a kernel's inputs, and of the outputs of its function."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stepwise import _check
from stepwise.entk.parameters import Split, input_array
from stepwise.types import Numbers

COMPARED = 4
"""Number of samples whose outputs are compared, computed together and one by one."""
COUPLED = {64: 1e-9, 32: 1e-4, 16: 0.1, 8: 0.5}
"""Largest relative difference of these outputs, by the bits of the network's numbers."""


def check_inputs(x: Numbers, x2: Numbers | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Return x, and x2 if present, as arrays of one dtype.

    Args:
        x, x2: inputs [n, ...] and [n', ...].

    Raises:
        ValueError: if there are no inputs, or shapes or kinds of numbers differ.
    """
    arrays = []
    for name, value in (("x", x), ("x2", x2)):
        if value is None:
            continue
        array = np.asarray(input_array(name, value))
        _check.require(array.ndim > 0 and len(array) > 0, name, "at least one input", array)
        arrays.append(array.astype(jax.dtypes.canonicalize_dtype(array.dtype)))
    if x2 is None:
        return arrays[0], None
    first, second = arrays
    fits = second.shape[1:] == first.shape[1:]
    _check.require(fits, "x2", f"inputs {list(first.shape[1:])} as x", second)
    kinds = [array.dtype.kind in "iub" for array in arrays]
    expected = "whole numbers" if kinds[0] else "floating numbers"
    _check.require(kinds[0] == kinds[1], "x2", f"{expected}, as x ({first.dtype})", second)
    dtype = jax.dtypes.canonicalize_dtype(np.promote_types(first.dtype, second.dtype))
    return first.astype(dtype), second.astype(dtype)


def count_outputs(apply: Split, params: list[Any], x: np.ndarray) -> int:
    """Return the number of outputs for one sample, and check that samples are independent.

    Outputs of several samples are compared with those of each sample alone, at parameters and
    inputs with added noise. Without noise, a head of zeros or equal inputs would hide a dependence,
    and the rounding of an output near zero would look like one.

    Args:
        apply: the function.
        params: its parameter arrays.
        x: inputs [n, ...].

    Raises:
        ValueError: if the outputs are not one real array with a row for each input, or the samples
            depend on one another.
    """
    rng = np.random.default_rng(0)
    indices = np.linspace(0, len(x) - 1, COMPARED).astype(int)
    rows = np.stack([_vary_input(rng, x[k], j) for j, k in enumerate(indices)])
    for samples in (rows[:1], rows):
        out = jax.eval_shape(apply, params, samples)
        fits = (
            hasattr(out, "shape")
            and len(out.shape) > 0
            and out.shape[0] == len(samples)
            and 0 not in out.shape
        )
        received = (
            f"{list(out.shape)} of {len(samples)} inputs"
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
    noisy = jax.tree.map(lambda leaf: _add_noise(rng, leaf), params)
    run = jax.jit(apply)
    alone = np.concatenate([np.asarray(run(noisy, row[None]), np.float64) for row in rows])
    together = np.asarray(run(noisy, rows), np.float64)
    change = np.abs(together - alone).max() / max(np.abs(alone).max(), 1e-30)
    real = [leaf for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    least = min(jnp.finfo(array.dtype).bits for array in (out, *real))
    _check.require(
        not change > COUPLED[least],
        "apply",
        "independent samples (batch norm in evaluation mode)",
        f"an output that changes by {change:.1e} of its size with the other samples of its batch, "
        f"or its position among them",
    )
    return int(np.prod(out.shape[1:]))


def _vary_input(rng: np.random.Generator, row: np.ndarray, j: int) -> np.ndarray:
    """Return an input with noise, or with its entries shifted by j places if they are whole."""
    if row.dtype.kind in "iub":
        return np.roll(row.reshape(-1), j).reshape(row.shape)
    return (row + 0.1 * (row.std() or 1.0) * rng.normal(size=row.shape)).astype(row.dtype)


def _add_noise(rng: np.random.Generator, leaf: Any) -> Any:
    """Return a floating array with noise of a tenth of each entry, or of 0.1 where it is zero."""
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf
    values = np.asarray(leaf, np.float64)
    noise = 0.1 * rng.normal(size=values.shape)
    return jnp.asarray(np.where(values == 0, noise, values * (1 + noise)), leaf.dtype)
