"""Run one side of a ratio in its own process, with a time limit and a measure of peak memory."""

import importlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Outcome:
    """Measurements and arrays of one side."""

    seconds: float
    """Best time after compilation."""
    compile: float = 0.0
    """Time of the first call minus `seconds`."""
    megabytes: float = 0.0
    """Growth of the peak memory."""
    late: bool = False
    """Whether the side was stopped at its time limit; `seconds` is then the limit."""
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


INLINE = False
"""Run every side in this process, without limits; used by quick runs, whose times mean nothing."""


def run(side: str, *arguments: Any, limit: float = 600.0, python: Path | None = None) -> Outcome:
    """Run one side in its own process and return its outcome.

    Args:
        side: "module:function" of this package; the function returns the outcome of `measure`.
        arguments: arguments of the function, which must be JSON values.
        limit: time limit in seconds.
        python: interpreter of another environment, which must have NumPy and the imports of the
            side's module; by default this interpreter.

    Raises:
        RuntimeError: if the side failed; the message has the end of its output.
        FileNotFoundError: if there is no such interpreter.
    """
    if INLINE and python is None:
        import jax  # imported here because environments without JAX import this module

        before = jax.config.read("jax_enable_x64")
        try:
            return resolve(side)(*arguments)
        finally:
            jax.config.update("jax_enable_x64", before)
    with tempfile.TemporaryDirectory() as folder:
        command = [
            str(python or sys.executable),
            "-m",
            "benchmarks.child",
            side,
            json.dumps(arguments),
            folder,
        ]
        try:
            done = subprocess.run(command, timeout=limit, capture_output=True, text=True)
        except subprocess.TimeoutExpired:
            return Outcome(limit, late=True)
        if done.returncode:
            raise RuntimeError(
                f"{side}{arguments}: exit status {done.returncode}\n{done.stderr[-2000:]}"
            )
        numbers = json.loads((Path(folder) / "numbers.json").read_text())
        with np.load(Path(folder) / "arrays.npz") as arrays:
            return Outcome(**numbers, arrays=dict(arrays))


def measure(call: Callable[[], dict[str, Any]], *, repeats: int, budget: float = 5.0) -> Outcome:
    """Call a function repeatedly and return its best time, compile time, memory and arrays.

    The first of `repeats` calls compiles; the compile time is its excess over the best time. The
    calls end early once `budget` seconds are spent. Sides that compile nothing use one repeat.
    """
    before = _peak_megabytes()
    first, arrays = _time_call(call)
    best, spent = first, 0.0
    for _ in range(repeats - 1):
        again, arrays = _time_call(call)
        best, spent = min(best, again), spent + again
        if spent > budget:
            break
    return Outcome(best, first - best, _peak_megabytes() - before, arrays=arrays)


def _time_call(call: Callable[[], dict[str, Any]]) -> tuple[float, dict[str, np.ndarray]]:
    start = time.perf_counter()
    arrays = {name: np.asarray(value) for name, value in call().items()}
    return time.perf_counter() - start, arrays


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1e3 if sys.platform != "darwin" else 1e6
    )


def resolve(name: str) -> Callable[..., Any]:
    """Import a function of this package by "module:function"."""
    module, function = name.split(":")
    return getattr(importlib.import_module(f"benchmarks.{module}"), function)


def main() -> None:
    """Run a side in this child process, and write its numbers and arrays to a folder."""
    side, arguments, folder = sys.argv[1:]
    outcome: Outcome = resolve(side)(*json.loads(arguments))
    numbers = {
        "seconds": outcome.seconds,
        "compile": outcome.compile,
        "megabytes": outcome.megabytes,
    }
    np.savez(Path(folder) / "arrays.npz", **outcome.arrays)  # type: ignore[arg-type]
    (Path(folder) / "numbers.json").write_text(json.dumps(numbers))


if __name__ == "__main__":
    main()
