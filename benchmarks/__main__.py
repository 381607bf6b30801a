"""`python -m benchmarks [setup|kernels|ensemble|closed_form|flow|training|entk ...] [--quick]`: a
table, and a file.
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
    "entk": "entk:rows",
}
"""Module and function of each, imported when it is its turn."""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"any of {', '.join(PAIRS)}; all but entk by default",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny cases, seconds each: shows that it runs, says nothing",
    )
    parser.add_argument("--output", type=Path, default=Path("results/bench/bench.json"))
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(PAIRS))
    if unknown:
        parser.error(f"expected names among {', '.join(PAIRS)}, received {', '.join(unknown)}")
    child.INLINE = options.quick
    start, rows = time.perf_counter(), []
    print(report.head(), flush=True)
    for name in options.names or [
        name for name in PAIRS if name != "entk"
    ]:  # hours: it has a target of its own
        for row in child.found(PAIRS[name])(options.quick):
            rows.append(row)
            print(report.line(row), flush=True)
    machine, taken = report.machine(), time.perf_counter() - start
    about = {"machine": machine, "seconds": taken, "quick": options.quick}
    report.write(options.output, rows, about)
    print(f"\n{machine}; {taken:.0f} s in all; {options.output}")


if __name__ == "__main__":
    main()
