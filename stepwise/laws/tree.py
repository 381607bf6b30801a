"""Laws as trees of JAX: arrays and Python floats are leaves, all else is static."""

from typing import Any

import jax


def _is_leaf(value: Any) -> bool:
    static = value is None or isinstance(value, bool | int | str | bytes | type)
    return not static and (not callable(value) or hasattr(type(value), "growth"))


def _split(law: Any) -> tuple[list[tuple[str, Any]], tuple[Any, ...]]:
    fields = dict(vars(law))
    # what came out of a transformation keeps its leaves, whatever stands in them (axes of vmap)
    names = fields.pop("_leaf_names", None)
    if names is None:
        names = tuple(name for name, value in fields.items() if _is_leaf(value))
    outer = tuple((name, value) for name, value in fields.items() if name not in names)
    return [(name, fields[name]) for name in names], (names, outer)


def with_keys(law: Any) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
    """Leaves with their names, and all else."""
    inner, about = _split(law)
    return [(jax.tree_util.GetAttrKey(name), value) for name, value in inner], about


def flatten(law: Any) -> tuple[list[Any], tuple[Any, ...]]:
    """Leaves, and all else."""
    inner, about = _split(law)
    return [value for _, value in inner], about


def unflatten(cls: type, about: tuple[Any, ...], leaves: Any) -> Any:
    """The law again; nothing is checked anew, since anything may stand for a leaf."""
    law: Any = object.__new__(cls)
    fields = [("_leaf_names", about[0]), *zip(about[0], leaves, strict=True), *about[1]]
    for name, value in fields:
        object.__setattr__(law, name, value)
    return law
