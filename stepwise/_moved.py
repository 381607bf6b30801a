"""Former names of modules, functions and attributes, which still work but raise a warning."""

import functools
import importlib
import sys
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, TypeVar, cast

MOVED = {
    "stepwise.checkpoints": "stepwise.training.checkpoints",
    "stepwise.dynamics.identity": "stepwise.training.ownership",
    "stepwise.dynamics.plan": "stepwise.training.plan",
    "stepwise.dynamics.snapshots": "stepwise.training.snapshots",
    "stepwise.dynamics.step": "stepwise.training.step",
    "stepwise.dynamics.training": "stepwise.training.loop",
    "stepwise.dynamics.trajectory": "stepwise.trajectory",
    "stepwise.runlog": "stepwise.training.log",
    "stepwise.runs": "stepwise.training.runs",
}
"""Former name → present name of a module. Both names refer to the same module object."""

F = TypeVar("F", bound=Callable[..., Any])

UNTIL = "0.3"
"""The version that drops the former names."""


class _Finder:
    """A finder that resolves the former name of a module to the present module."""

    def find_spec(
        self, name: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for a former name, and None for any other name."""
        return ModuleSpec(name, self) if name in MOVED else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """Return None: Python then creates an empty module, which `exec_module` replaces."""

    def exec_module(self, module: ModuleType) -> None:
        """Warn, and register the present module under the former name."""
        old, new = module.__name__, MOVED[module.__name__]
        _warn(old, new)
        sys.modules[old] = importlib.import_module(new)


def install() -> None:
    """Add the finder of former names at the end of Python's import path."""
    sys.meta_path.append(_Finder())


class Renamed:
    """The former name of a class attribute. Reading it warns and returns the present attribute."""

    def __init__(self, new: str) -> None:
        """Refer to the attribute `new` of the same class."""
        self.new = new

    def __set_name__(self, owner: type, name: str) -> None:
        """Store the former name for the warning."""
        self.old = f"{owner.__name__}.{name}"

    def __get__(self, instance: Any, owner: type) -> Any:
        """Warn, and return the present attribute."""
        _warn(self.old, self.new)
        return getattr(owner if instance is None else instance, self.new)


def former_names(module: str, names: dict[str, str]) -> Callable[[str], Any]:
    """Return a module's `__getattr__` that resolves former names of functions with a warning."""

    def resolve(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        _warn(f"{module}.{name}", names[name])
        return getattr(sys.modules[module], names[name])

    return resolve


def former_arguments(**names: str) -> Callable[[F], F]:
    """Decorate a function to accept arguments by their former names too, with a warning."""

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for old, new in names.items():
                if old in kwargs:
                    _warn(f"{function.__name__}({old}=)", f"{function.__name__}({new}=)")
                    kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return cast(F, call)

    return decorate


def _warn(old: str, new: str) -> None:
    message = f"{old} is now {new}; the former name works until version {UNTIL}"
    warnings.warn(message, DeprecationWarning, stacklevel=3)
