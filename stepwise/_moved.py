"""Former names of modules: they can still be imported, with a warning, for one more version."""

import importlib
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

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
"""Former name → present name. Both name the same module object."""

UNTIL = "0.3"
"""The version that no longer has the former names."""


class _Finder:
    """Finds a former name, and puts the present module in its place."""

    def find_spec(
        self, name: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A spec for a former name, None for any other."""
        return ModuleSpec(name, self) if name in MOVED else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """A plain module, which `exec_module` then replaces."""

    def exec_module(self, module: ModuleType) -> None:
        """Warn, and let the former name stand for the present module."""
        old, new = module.__name__, MOVED[module.__name__]
        message = f"{old} is now {new}; the former name works until version {UNTIL}"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        sys.modules[old] = importlib.import_module(new)


def install() -> None:
    """Let `import` find the former names, after all others."""
    sys.meta_path.append(_Finder())
