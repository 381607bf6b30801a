"""Run benchmarks, print a table and write a JSON file.

Usage: `python -m benchmarks [NAME ...] [--quick]`
"""

import argparse
import time
from pathlib import Path

from benchmarks import child, report

PAIRS = {
    "setup": "setup:rows",
    "kernels": "gram:rows",
    "ensemble": "ensemble:rows",
    "closed_form": "flow:closed_form_rows",
    "flow": "flow:rows",
    "training": "training:rows",
    "monitor": "monitor:rows",
    "entk": "entk:rows",
}
"""Module and function of each benchmark; a module is imported when its benchmark runs."""


def main() -> None:
    """Measure, print the table and write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"benchmarks to run, from {', '.join(PAIRS)} (default: all except entk)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="run tiny cases of seconds each, to test the code; the times mean nothing",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("results/bench/bench.json"), help="file to write"
    )
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(PAIRS))
    if unknown:
        parser.error(
            f"NAME: expected names among {', '.join(PAIRS)}, received {', '.join(unknown)}"
        )
    child.INLINE = options.quick
    start, rows = time.perf_counter(), []
    print(report.head(), flush=True)
    # entk takes hours and has its own make target
    for name in options.names or [name for name in PAIRS if name != "entk"]:
        for row in child.resolve(PAIRS[name])(options.quick):
            rows.append(row)
            print(report.line(row), flush=True)
    machine, seconds = report.machine(), time.perf_counter() - start
    about = {"machine": machine, "seconds": seconds, "quick": options.quick}
    report.write(options.output, rows, about)
    print(f"\n{machine}; {seconds:.0f} s in total; wrote {options.output}")


if __name__ == "__main__":
    main()
