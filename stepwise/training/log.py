"""The log of a training run: arrays for trajectory and checkpoints, JSON lines and TensorBoard
events to look at.
"""

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tensorboardX import SummaryWriter

from stepwise import _check, _files
from stepwise.trajectory import Result, Trajectory
from stepwise.types import Numbers

MEASURED = ("eigenvalues", "covariance_eigenvalues", "loss")


class RunLog:
    """What was measured at each sample of a run.

    Args:
        at: the steps that are measured, from 0 up.
        times: t of each of them.
        first: what was measured at the first, by name; the shapes of the others.
        folder: where log.jsonl and the TensorBoard events go; None keeps them nowhere.
    """

    def __init__(
        self,
        at: Numbers,
        times: Numbers,
        first: dict[str, Any],
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        self.at, self.times = np.asarray(at, np.int64), np.asarray(times, np.float64)
        self._arrays = {
            name: np.full((len(self.at), *np.shape(value)), np.nan) for name, value in first.items()
        }
        self._done = 0
        self._folder = None if folder is None or jax.process_index() != 0 else Path(folder)
        self._writer: SummaryWriter | None = None
        self.add(first)

    def add(self, measured: dict[str, Any]) -> None:
        """What was measured at the next sample."""
        _check.require(
            self._done < len(self.at), "measured", f"at most {len(self.at)} samples", "another one"
        )
        for name, array in self._arrays.items():
            array[self._done] = measured[name]
        self._done += 1
        if self._writer is not None:
            self._write(self._done - 1)

    def arrays(self) -> dict[str, np.ndarray]:
        """A copy of everything so far, NaN where nothing was measured yet, as `load` takes it."""
        return {name: array.copy() for name, array in self._arrays.items()} | {
            "done": np.asarray(self._done)
        }

    def load(self, arrays: dict[str, Any]) -> None:
        """Go on from what `arrays` gave."""
        self._done = int(arrays["done"])
        for name in self._arrays:
            self._arrays[name] = np.array(arrays[name])

    def open(self) -> None:
        """Begin to write: log.jsonl from the start (a run that was killed may have written more
        than it kept).
        """
        if self._folder is None:
            return
        with _files.replacing(self._folder / "log.jsonl") as temporary:
            temporary.write_text("".join(self._line(i) for i in range(self._done)))
        self._writer = SummaryWriter(
            str(self._folder / "events"), purge_step=int(self.at[self._done - 1]) + 1
        )
        if self._done == 1:
            self._events(0)

    def close(self) -> None:
        """Stop writing."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def trajectory(self, result: Result, source: str) -> Trajectory:
        """The samples so far."""
        rows = slice(0, self._done)
        kept = {name: array[rows] for name, array in self._arrays.items()}
        measured = {name: kept.pop(name) for name in MEASURED}
        stats = {"step": self.at[rows], **kept}
        return Trajectory(self.times[rows], result=result, source=source, stats=stats, **measured)

    def _row(self, i: int) -> dict[str, Any]:
        values = {name: array[i].tolist() for name, array in self._arrays.items()}
        return {"step": int(self.at[i]), "time": float(self.times[i]), **values}

    def _line(self, i: int) -> str:
        return json.dumps(_files.jsonable(self._row(i)), allow_nan=False) + "\n"

    def _write(self, i: int) -> None:
        assert self._folder is not None
        with (self._folder / "log.jsonl").open("a") as file:
            file.write(self._line(i))
        self._events(i)

    def _events(self, i: int) -> None:
        assert self._writer is not None
        row = self._row(i)
        step = row.pop("step")
        for name, value in row.items():
            if isinstance(value, float):
                self._writer.add_scalar(name, value, step)
            elif name in MEASURED:
                for j, each in enumerate(value):
                    self._writer.add_scalar(f"{name}/{j + 1}", each, step)
