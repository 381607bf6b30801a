"""One side of a ratio in a process of its own: its time limit, its peak memory, its arrays back."""

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
    """What a side did: best time after compilation, the first call less that, memory, and its
    arrays.
    """

    seconds: float
    compile: float = 0.0
    megabytes: float = 0.0
    late: bool = False
    """Stopped at its limit, which `seconds` then is."""
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


INLINE = False
"""Run every side in this process instead, without limits: for quick runs, which say nothing about
time or memory.
"""


def run(side: str, *arguments: Any, limit: float = 600.0, python: Path | None = None) -> Outcome:
    """Run `side` ("module:function") of this package with JSON arguments; it calls `measured` and
    returns that.

    Args:
        python: another environment's interpreter, which needs NumPy and what the side's module
            imports.

    Raises:
        RuntimeError: the side failed; says how.
        FileNotFoundError: there is no such interpreter.
    """
    if INLINE and python is None:
        import jax  # here, because another environment's interpreter reads this module too

        before = jax.config.read("jax_enable_x64")
        try:
            return found(side)(*arguments)
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


def measured(call: Callable[[], dict[str, Any]], *, repeats: int, budget: float = 5.0) -> Outcome:
    """The best of `repeats` calls (fewer once `budget` seconds are spent), and the first call,
    which compiles, apart.

    One repeat: the first call is the time, for sides that compile nothing.
    """
    before = _peak()
    first, arrays = _timed(call)
    best, spent = first, 0.0
    for _ in range(repeats - 1):
        again, arrays = _timed(call)
        best, spent = min(best, again), spent + again
        if spent > budget:
            break
    return Outcome(best, first - best, _peak() - before, arrays=arrays)


def _timed(call: Callable[[], dict[str, Any]]) -> tuple[float, dict[str, np.ndarray]]:
    start = time.perf_counter()
    arrays = {name: np.asarray(value) for name, value in call().items()}
    return time.perf_counter() - start, arrays


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1e3 if sys.platform != "darwin" else 1e6
    )


def found(name: str) -> Callable[..., Any]:
    """A function of this package by "module:function"."""
    module, function = name.split(":")
    return getattr(importlib.import_module(f"benchmarks.{module}"), function)


def main() -> None:
    """The child's own side: run, and leave numbers and arrays in the folder."""
    side, arguments, folder = sys.argv[1:]
    outcome: Outcome = found(side)(*json.loads(arguments))
    numbers = {
        "seconds": outcome.seconds,
        "compile": outcome.compile,
        "megabytes": outcome.megabytes,
    }
    np.savez(Path(folder) / "arrays.npz", **outcome.arrays)  # type: ignore[arg-type]
    (Path(folder) / "numbers.json").write_text(json.dumps(numbers))


if __name__ == "__main__":
    main()
