"""Training of real networks on random views, with checkpoints, a log and cached runs.

- `config`: all settings of a run; `runs`: a cache of runs, one folder for each configuration.
- `plan`, `step`, `loop`: the hyper-parameters, one compiled step, and the loop around it.
- `checkpoints`, `snapshots`, `log`: the files of a run; `ownership`: its fingerprint and its lock.

`train`, `Trained`, `Objective`, `Plan` and `Config` can be imported from here. Each is loaded when
it is first used, because importing `Config` alone needs no JAX.
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
