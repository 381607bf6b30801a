"""Laws as JAX pytrees: arrays and Python floats are leaves, everything else is static."""

from typing import Any

import jax


def _is_leaf(value: Any) -> bool:
    static = value is None or isinstance(value, bool | int | str | bytes | type)
    return not static and (not callable(value) or hasattr(type(value), "growth"))


def _split(law: Any) -> tuple[list[tuple[str, Any]], tuple[Any, ...]]:
    fields = dict(vars(law))
    # The result of a transformation keeps the same leaves, whatever values they have (vmap axes).
    names = fields.pop("_leaf_names", None)
    if names is None:
        names = tuple(name for name, value in fields.items() if _is_leaf(value))
    outer = tuple((name, value) for name, value in fields.items() if name not in names)
    return [(name, fields[name]) for name in names], (names, outer)


def with_keys(law: Any) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
    """Return the leaves with their names, and the static fields."""
    inner, static = _split(law)
    return [(jax.tree_util.GetAttrKey(name), value) for name, value in inner], static


def flatten(law: Any) -> tuple[list[Any], tuple[Any, ...]]:
    """Return the leaves, and the static fields."""
    inner, static = _split(law)
    return [value for _, value in inner], static


def unflatten(cls: type, static: tuple[Any, ...], leaves: Any) -> Any:
    """Rebuild the law without its checks, because JAX may put any object in place of a leaf."""
    law: Any = object.__new__(cls)
    fields = [("_leaf_names", static[0]), *zip(static[0], leaves, strict=True), *static[1]]
    for name, value in fields:
        object.__setattr__(law, name, value)
    return law
