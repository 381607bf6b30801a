"""Trees of parameters as lists of arrays: which leaves are parameters, and which are constants."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from stepwise import _check

Apply = Callable[[Any, Any], Any]
STATISTICS = (
    *("batch_stats", "stats", "state", "cache", "buffers", "constants", "non_trainable"),
    *("intermediates", "perturbations"),
)
"""Keys beside "params" under which libraries store arrays that are not trained."""


class Constant:
    """A leaf that is not an array, such as an activation function; compared by identity."""

    def __init__(self, value: Any) -> None:
        """Store the value."""
        self.value = value

    def __eq__(self, other: object) -> bool:
        """Return whether both hold the same object."""
        return isinstance(other, Constant) and other.value is self.value

    def __hash__(self) -> int:
        """Return a hash of the object's identity."""
        return id(self.value)


@dataclass(frozen=True)
class Split:
    """A function of a tree of parameters, as a function of a list of arrays.

    Attributes:
        apply: the function (params, inputs) -> outputs.
        tree: the structure of params.
        leaves: for each leaf of the tree, the number of arrays in the list (1, or 2 for the real
            and imaginary part of a complex array), or a `Constant`.
    """

    apply: Apply
    tree: Any
    leaves: tuple[Any, ...]

    def __call__(self, arrays: Sequence[Any], x: Any) -> Any:
        """Return the outputs at these arrays and inputs."""
        rest, filled = iter(arrays), []
        for leaf in self.leaves:
            if isinstance(leaf, Constant):
                filled.append(leaf.value)
            elif leaf == 1:
                filled.append(next(rest))
            else:
                filled.append(jax.lax.complex(next(rest), next(rest)))
        return self.apply(jax.tree.unflatten(self.tree, filled), x)


def split(
    apply: Apply, params: Any, *, statistics: bool = True
) -> tuple[Split, list[jax.Array], list[str]]:
    """Return a function of a list of arrays, the arrays, and their names.

    Floating arrays are parameters. A complex array counts as two, its real and imaginary part.
    Whole numbers, random keys and leaves that are not arrays are constants.

    Args:
        apply: a function (params, inputs) -> outputs.
        params: any tree.
        statistics: whether the tree may contain batch statistics beside the parameters.

    Raises:
        ValueError: if apply is not a function, or params contain no floating array, or they contain
            batch statistics and `statistics` is false.
    """
    _check.require(
        callable(apply),
        "apply",
        "a function (params, inputs) -> outputs as the first argument",
        f"{type(apply).__name__}",
    )
    paths, tree = jax.tree_util.tree_flatten_with_path(params)
    kinds: list[Any] = []
    arrays: list[jax.Array] = []
    names: list[str] = []
    for path, leaf in paths:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if not _is_array(leaf):
            kinds.append(Constant(leaf))
            continue
        # JAX knows the byte order of this machine alone
        array = jnp.asarray(_check.as_array(name, leaf) if isinstance(leaf, np.ndarray) else leaf)
        parts = [array.real, array.imag] if jnp.iscomplexobj(array) else [array]
        kinds.append(len(parts))
        arrays += parts
        names += [name] if len(parts) == 1 else [f"{name}.real", f"{name}.imag"]
    moving = [array for array in arrays if jnp.issubdtype(array.dtype, jnp.floating)]
    received = ", ".join(str(array.dtype) for array in arrays[:5]) or f"{type(params).__name__}"
    _check.require(moving, "params", "a tree with floating arrays as the second argument", received)
    if not statistics:
        _require_no_statistics(params, names)
    return Split(apply, tree, tuple(kinds)), arrays, names


def input_array(name: str, value: Any) -> Any:
    """Return inputs as an array of real or whole numbers of a dtype that JAX computes in.

    Raises:
        ValueError: if they are not a list or an array, not real numbers, or too large for JAX's
            present precision.
    """
    fits = isinstance(value, list | np.ndarray | jax.Array) or hasattr(value, "__array__")
    _check.require(
        fits, name, "an array of inputs as the third argument", f"{type(value).__name__}"
    )
    if isinstance(value, jax.Array):
        is_key = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
        _check.require(not is_key, name, "real numbers", f"{value.dtype}")
        return value if np.dtype(value.dtype).kind in "iub" else _check.real_array(name, value)
    array = _check.as_array(name, value)
    whole = array.dtype.kind in "iub"
    array = array if whole else np.asarray(_check.real_array(name, array))
    with np.errstate(over="ignore"):
        narrow = array.astype(jax.dtypes.canonicalize_dtype(array.dtype))
    fits = (narrow == array) if whole else np.isfinite(narrow)
    expected = f"numbers that fit into {narrow.dtype}, or jax_enable_x64"
    _check.require(fits.all(), name, expected, f"{array[~fits][:1].tolist()}")
    return narrow


def dtype_of(arrays: Sequence[jax.Array]) -> Any:
    """Return the dtype that the parameters promote to, at least float32."""
    moving = [array.dtype for array in arrays if jnp.issubdtype(array.dtype, jnp.floating)]
    # JAX promotes no floats of 8 bits
    wide = [dtype for dtype in moving if jnp.finfo(dtype).bits > 8]
    return jnp.result_type(*wide, jnp.float32)


def _require_no_statistics(params: Any, names: list[str]) -> None:
    """Raise ValueError if batch statistics would count as parameters."""
    variables = jax.tree.leaves(params, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    other = {
        type(variable).__name__
        for variable in variables
        if isinstance(variable, nnx.Variable)
        and not isinstance(variable, nnx.Param)
        and any(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(variable))
    }
    _check.require(
        not other,
        "params",
        "parameters alone, as models.evaluation(module) returns them",
        f"also {', '.join(sorted(other))}, which are not trained",
    )
    tops = {name.split(".")[0] for name in names}
    beside = sorted(tops & set(STATISTICS)) if "params" in tops else []
    _check.require(
        not beside,
        "params",
        'parameters alone, or only="params"',
        f"also {', '.join(beside)}, which are not trained",
    )


def _is_array(leaf: Any) -> bool:
    if isinstance(leaf, np.ndarray):
        return leaf.dtype.kind in "biufcV"
    return isinstance(leaf, jax.Array | np.generic | bool | int | float | complex) or hasattr(
        leaf, "__jax_array__"
    )
