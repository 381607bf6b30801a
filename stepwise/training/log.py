"""The log of a training run: arrays for the trajectory and the checkpoints, JSON lines, and
TensorBoard events.
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
    """The measurements of a run, one sample for each measured step.

    Args:
        at: the measured steps, ascending from 0 [T].
        times: the time t of each of these steps [T].
        first: the measurements at the first step, by name; later samples have the same names and
            shapes.
        folder: folder for log.jsonl and the TensorBoard events; None writes no files.
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
        """Record the measurements of the next sample.

        Raises:
            ValueError: if all samples are recorded already.
        """
        _check.require(
            self._done < len(self.at), "measured", f"at most {len(self.at)} samples", "one more"
        )
        for name, array in self._arrays.items():
            array[self._done] = measured[name]
        self._done += 1
        if self._writer is not None:
            self._write(self._done - 1)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Write one more TensorBoard event, if files are open and the value is finite."""
        if self._writer is not None and np.isfinite(value):
            self._writer.add_scalar(name, value, step)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return a copy of all samples, NaN for those not measured yet, in the form of `load`."""
        return {name: array.copy() for name, array in self._arrays.items()} | {
            "done": np.asarray(self._done)
        }

    def load(self, arrays: dict[str, Any]) -> None:
        """Resume from the samples that `arrays` returned."""
        self._done = int(arrays["done"])
        for name in self._arrays:
            self._arrays[name] = np.array(arrays[name])

    def open(self) -> None:
        """Start writing files.

        log.jsonl is rewritten from its first line, because a run that was killed may have logged
        samples after its last checkpoint.
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
        """Stop writing files."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def trajectory(self, result: Result, source: str) -> Trajectory:
        """Return the samples recorded so far."""
        rows = slice(0, self._done)
        stats = {name: array[rows] for name, array in self._arrays.items()}
        measured = {name: stats.pop(name) for name in MEASURED}
        stats = {"step": self.at[rows], **stats}
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
        scalars = {name: value for name, value in row.items() if isinstance(value, float)}
        for name in set(row) & set(MEASURED) - set(scalars):
            scalars |= {f"{name}/{j + 1}": each for j, each in enumerate(row[name])}
        for name in sorted(scalars):
            # the writer warns of a number that is not finite without saying which one
            if np.isfinite(scalars[name]):
                self._writer.add_scalar(name, scalars[name], step)
