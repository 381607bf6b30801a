"""neural-tangents on today's JAX: importing this module makes `import neural_tangents` work. Its
only importer here.

neural-tangents 0.6.5, the last release (February 2024), imports names that JAX has moved since.
They are put where it looks for them while it is imported, and taken away again; what JAX still has
is not touched. TensorFlow, which it declares for a front end of its own
(`neural_tangents.experimental`), is never imported.

stax kernels, `nt.batch`, `nt.predict`, and empirical kernels by Jacobian contraction and NTK-vector
products work (Novak et al., *Neural Tangents*, ICLR 2020; *Fast Finite Width NTK*, ICML 2022).
Structured derivatives and the automatic choice between the three need more of the old JAX, and do
not.
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
"""Versions of JAX with which this is known to work."""


def _found(source: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(source), name)
    except (ImportError, AttributeError):
        return None


def _missing() -> dict[str, dict[str, Any]]:
    """Module → name → what stands for it: only names that this JAX does not have there."""
    core = {
        name: _found("jax.extend.core", name)
        for name in ("Jaxpr", "JaxprEqn", "Literal", "Var", "Primitive")
    }
    core |= {
        name: _found("jax._src.core", name)
        for name in ("Value", "ShapedArray", "AbstractValue", "eval_context")
    }
    wanted = {
        "jax.core": core,
        "jax.util": {name: _found("jax._src.util", name) for name in ("safe_map", "safe_zip")},
        # a key of two tables that only structured derivatives read
        "jax.interpreters.ad": {"zeros_like_p": jax.extend.core.Primitive("zeros_like")},
    }
    return {
        module: {name: value for name, value in names.items() if _found(module, name) is None}
        for module, names in wanted.items()
    }


@contextmanager
def _restored() -> Iterator[None]:
    """The missing names in their old places, for as long as it takes."""
    undo = []
    for module, names in _missing().items():
        if module not in sys.modules and names:
            stand_in = sys.modules[module] = ModuleType(module)
            setattr(jax, module.removeprefix("jax."), stand_in)
            undo.append((jax, module.removeprefix("jax.")))
        for name, value in names.items():
            # JAX's own modules answer for a removed name with an AttributeError of theirs; ours is
            # found first
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
    if importlib.util.find_spec("neural_tangents") is None:
        raise ImportError(MISSING)
    front_end = ModuleType(
        "neural_tangents.experimental", "TensorFlow's front end: not imported by stepwise."
    )
    sys.modules.setdefault(front_end.__name__, front_end)
    try:
        with _restored():
            import neural_tangents

            return neural_tangents
    except (ImportError, AttributeError) as error:
        for name in [name for name in sys.modules if name.partition(".")[0] == "neural_tangents"]:
            del sys.modules[name]
        raise ImportError(
            f"neural-tangents cannot be imported with JAX {jax.__version__}: {error}. It is known "
            f"to work with JAX "
            f"{TESTED}: install one of those, or add the name to stepwise/neural_tangents.py"
        ) from error


nt = _import()
"""The package `neural_tangents` itself."""
