"""Processor time of starting commands and imports: `python -m benchmarks.startup [--root DIR]`.

Each time is the median of five processes. With `--root` another clone is measured, so that two
versions of the package can be compared in one environment.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks import report
from stepwise import _files

CLI = "import sys; from stepwise.cli import main; sys.exit(main(sys.argv[1:]))"
COMMANDS: dict[str, list[str]] = {
    "stepwise --version": [CLI, "--version"],
    "stepwise --help": [CLI, "--help"],
    "stepwise predict --help": [CLI, "predict", "--help"],
    "stepwise train --help": [CLI, "train", "--help"],
    "stepwise data show photos": [CLI, "data", "show", "photos"],
    "import jax": ["import jax"],
    "import stepwise.laws": ["import stepwise.laws"],
    "import stepwise.data": ["import stepwise.data"],
}


def processor_seconds(code: list[str], root: Path, repeats: int = 5) -> float:
    """Return the median user and system time of a Python process that runs code in a clone.

    Raises:
        RuntimeError: if the process failed.
    """
    environment = os.environ | {"PYTHONPATH": str(root)}
    seconds = []
    for i in range(repeats + 1):
        process = subprocess.Popen(
            [sys.executable, "-c", *code],
            cwd=root,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            raise RuntimeError(f"{code[1:] or code}: expected exit status 0, received {status}")
        if i > 0:  # the first process may compile bytecode
            seconds.append(usage.ru_utime + usage.ru_stime)
    return statistics.median(seconds)


def main() -> None:
    """Measure all commands, print a table, and write a file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1])
    parser.add_argument("--output", type=Path, default=Path("results/bench/startup.json"))
    options = parser.parse_args()
    seconds = {}
    for name, code in COMMANDS.items():
        seconds[name] = processor_seconds(code, options.root.resolve())
        print(f"| `{name}` | {seconds[name]:.2f} s |", flush=True)
    machine = report.machine()
    _files.write_json(options.output, {"seconds": seconds, "machine": machine})
    print(f"\n{machine}; wrote {options.output}")


if __name__ == "__main__":
    main()
