"""The package neural-tangents on present versions of JAX.

Importing this module makes `import neural_tangents` work; no other module of stepwise imports it.

neural-tangents 0.6.5, the last release (February 2024), imports names that JAX has moved since.
This module adds the missing names to JAX's modules during that import and removes them afterwards.
It does not change names that JAX still has. neural-tangents declares TensorFlow as a dependency for
its front end `neural_tangents.experimental`; TensorFlow is never imported.

The following works: stax kernels, `nt.batch`, `nt.predict`, and empirical kernels by Jacobian
contraction and NTK-vector products (Novak et al., *Neural Tangents*, ICLR 2020; *Fast Finite Width
NTK*, ICML 2022). Structured derivatives, and the automatic choice between the three
implementations, use further names of old JAX and do not work.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import jax
import jax.extend.core
import jax.interpreters.ad

MISSING = (
    "kernels of infinitely wide networks need the package neural-tangents, which is not installed. "
    'Install it without TensorFlow: pip install --no-deps "neural-tangents>=0.6.5,<0.7" '
    '"frozendict>=2.3.8"'
)
TESTED = "0.8 to 0.12"
"""Versions of JAX with which this module is tested."""


def _get_attribute(module: str, name: str) -> Any:
    """Return an attribute of a module, or None if the module or the attribute is missing."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return None


def _list_missing() -> dict[str, dict[str, Any]]:
    """Return substitutes of the names that this JAX lacks: module → name → value."""
    core = {
        name: _get_attribute("jax.extend.core", name)
        for name in ("Jaxpr", "JaxprEqn", "Literal", "Var", "Primitive")
    }
    core |= {
        name: _get_attribute("jax._src.core", name)
        for name in ("Value", "ShapedArray", "AbstractValue", "eval_context")
    }
    wanted = {
        "jax.core": core,
        "jax.util": {
            name: _get_attribute("jax._src.util", name) for name in ("safe_map", "safe_zip")
        },
        # Only structured derivatives read the two tables that have this key.
        "jax.interpreters.ad": {"zeros_like_p": jax.extend.core.Primitive("zeros_like")},
    }
    return {
        module: {
            name: value for name, value in names.items() if _get_attribute(module, name) is None
        }
        for module, names in wanted.items()
    }


@contextmanager
def _add_missing() -> Iterator[None]:
    """Add the missing names to JAX's modules, and remove them on exit."""
    undo = []
    for module, names in _list_missing().items():
        if module not in sys.modules and names:
            stand_in = sys.modules[module] = ModuleType(module)
            setattr(jax, module.removeprefix("jax."), stand_in)
            undo.append((jax, module.removeprefix("jax.")))
        for name, value in names.items():
            # JAX's modules raise an AttributeError for a removed name unless the module has an
            # attribute of that name.
            if value is not None:
                setattr(sys.modules[module], name, value)
                undo.append((sys.modules[module], name))
    try:
        yield
    finally:
        for holder, name in reversed(undo):
            delattr(holder, name)
            if holder is jax:
                sys.modules.pop(f"jax.{name}", None)


def _import() -> ModuleType:
    """Import neural-tangents.

    Raises:
        ImportError: if it is not installed, or cannot be imported with this JAX.
    """
    if importlib.util.find_spec("neural_tangents") is None:
        raise ImportError(MISSING)
    front_end = ModuleType(
        "neural_tangents.experimental", "TensorFlow's front end: not imported by stepwise."
    )
    sys.modules.setdefault(front_end.__name__, front_end)
    try:
        with _add_missing():
            import neural_tangents

            return neural_tangents
    except (ImportError, AttributeError) as error:
        for name in [name for name in sys.modules if name.partition(".")[0] == "neural_tangents"]:
            del sys.modules[name]
        raise ImportError(
            f"neural-tangents cannot be imported with JAX {jax.__version__}: {error}. It is known "
            f"to work with JAX {TESTED}: install one of these versions, or add the missing name to "
            f"stepwise/neural_tangents.py"
        ) from error


nt = _import()
"""The package `neural_tangents`."""
