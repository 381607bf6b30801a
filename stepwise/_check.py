"""Checks of arguments, whose errors say what was expected and what was received."""

import sys
from typing import Any

import numpy as np

# Functions import JAX where they need it, because flags and images are checked without it.


def is_traced(*values: Any) -> bool:
    """Return whether any value is being traced (under jit, vmap or grad).

    The numbers of a traced value are not available.
    """
    if "jax" not in sys.modules:
        return False
    import jax

    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values))


def describe(value: Any) -> str:
    """Describe an array by dtype and shape (`float32 [3, 4]`), a scalar by its value (`'abc'`)."""
    if hasattr(value, "shape") and hasattr(value, "dtype") and value.shape != ():
        return f"{value.dtype} {list(value.shape)}"
    return repr(value.item()) if hasattr(value, "item") and not is_traced(value) else repr(value)


def require(condition: Any, name: str, expected: str, received: Any) -> None:
    """Raise ValueError `name: expected ..., received ...` unless the condition holds."""
    if not condition:
        what = received if isinstance(received, str) else describe(received)
        raise ValueError(f"{name}: expected {expected}, received {what}")


def whole(name: str, value: Any, least: int = 1, most: int | None = None, why: str = "") -> None:
    """Raise ValueError unless the value is a whole number in least ... most, and no boolean.

    The message appends `why` to the expected range.
    """
    number = isinstance(value, int | np.integer) and not isinstance(value, bool)
    fits = number and least <= value and (most is None or value <= most)
    if most is not None:
        expected = f"a whole number in {least} ... {most}"
    elif least == 1:
        expected = "a positive whole number"
    else:
        expected = f"a whole number from {least}"
    require(fits, name, f"{expected}{why}", value)


def real_array(name: str, value: Any, *, ndim: int | tuple[int, ...] | None = None) -> Any:
    """Return the value as an array of real floating-point numbers.

    Integers are promoted to the default float. Lists and NumPy arrays are accepted.

    Raises:
        ValueError: if the entries are not real numbers, the rank is not `ndim` (one of them, if it
            is a tuple), or an entry is not finite. The entries of traced values are not checked.
    """
    import jax

    array = value if isinstance(value, jax.Array) else as_array(name, value)
    kind = np.dtype(array.dtype).kind if array.dtype != jax.numpy.bfloat16 else "f"
    require(kind in "fiu", name, "real numbers", repr(value) if array.ndim == 0 else array)
    if kind != "f":
        array = array.astype(jax.dtypes.canonicalize_dtype(float))
    if ndim is not None:
        ranks = (ndim,) if isinstance(ndim, int) else ndim
        require(
            array.ndim in ranks, name, f"an array of rank {' or '.join(map(str, ranks))}", array
        )
    if not is_traced(array):
        bad = int(np.size(array) - np.isfinite(np.asarray(array)).sum())
        require(bad == 0, name, "finite entries", f"{bad} of {np.size(array)} not finite")
    return array


def as_array(name: str, value: Any) -> np.ndarray:
    """Convert lists, numbers and array-likes to an array in the byte order of this machine.

    Raises:
        ValueError: if the value is something else, which the message names by its type, or entries
            are masked.
    """
    masked = int(np.ma.count_masked(value)) if isinstance(value, np.ma.MaskedArray) else 0
    require(masked == 0, name, "an array without masked entries", f"{masked} masked")
    try:
        array = np.asarray(value)
    except ValueError:  # a list of arrays of different shapes
        array = np.asarray(None)
    plain = value is None or isinstance(value, np.ndarray | str | bytes | bool | int | float)
    plain = plain or isinstance(value, complex)
    require(plain or array.dtype != object, name, "an array", f"{type(value).__name__}")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
