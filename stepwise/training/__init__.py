"""Training of real networks on random views, with checkpoints, a log and runs that are shared.

- `config`: every knob of a run; `runs`: runs by their configuration, kept in a folder.
- `plan`, `step`, `loop`: what is descended and how, one compiled step, the loop around it.
- `checkpoints`, `snapshots`, `log`, `ownership`: what a run leaves in its folder, and whose it is.

`train`, `Trained`, `Objective`, `Plan` and `Config` can be imported from here; each is loaded when
it is first used, so that reading a configuration needs no JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stepwise.methods import Objective
    from stepwise.training.config import Config
    from stepwise.training.loop import Trained, train
    from stepwise.training.plan import Plan

__all__ = ["Config", "Objective", "Plan", "Trained", "train"]

_HOME = {
    "Config": "training.config",
    "Objective": "methods",
    "Plan": "training.plan",
    "Trained": "training.loop",
    "train": "training.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"stepwise.{_HOME[name]}"), name)
