"""`stepwise watch`: reports on the arrays that another trainer writes, while it trains."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from stepwise import _check, record
from stepwise.cli.commands import Watch
from stepwise.forecast import Monitor, stream

PAUSE = 1.0
"""Seconds between two looks at the folder."""


def run(options: Watch) -> int:
    """Print a report for each file, until the command is interrupted or, with --once, to the end.

    Returns:
        0; or 2 with --once if no file could be read.
    """
    place = options.file.expanduser()
    expected = "an existing folder of files step_N.npz, or one such file"
    _check.require(place.exists(), "FILE", expected, repr(str(place)))
    if options.out is not None:
        record.require_writable("--out", options.out.parent)
    monitor = Monitor(
        options.method,
        options.lr,
        momentum=options.momentum,
        batch_size=options.batch_size,
        path=options.out,
    )
    reports, begun = 0, monitor.last
    try:
        for path in _new_files(place, once=options.once):
            reports += _report(monitor, path, -1 if begun is None else begun.step)
    except KeyboardInterrupt:
        print(f"{reports} report{'' if reports == 1 else 's'}")
        return 0
    if reports == 0 and monitor.last is None:
        print(f"{place}: no file step_N.npz could be read", file=sys.stderr)
        return 2
    return 0


def _report(monitor: Monitor, path: Path, begun: int) -> int:
    """Print the report on a file, or one line if it is skipped; return the number of reports.

    Files up to step `begun` were reported by an earlier command.
    """
    match = stream.FILE.fullmatch(path.name)
    if match is not None and int(match[1]) <= begun:
        return 0
    try:
        step, arrays = stream.read_arrays(path)
        report = monitor.add(step, **arrays)
    except ValueError as error:
        print(f"skipped {error}", file=sys.stderr, flush=True)
        return 0
    print(report, flush=True)
    return 1


def _new_files(place: Path, *, once: bool) -> Iterator[Path]:
    """Yield the files of a folder as they come, in the order of their steps.

    A file that changes afterwards, because a trainer wrote it without a temporary name, is yielded
    again.
    """
    seen: dict[Path, tuple[int, int]] = {}
    while True:
        for path in stream.files(place):
            try:
                about = path.stat()
            except FileNotFoundError:  # the trainer has removed it
                continue
            version = about.st_mtime_ns, about.st_size
            if seen.get(path) != version:
                seen[path] = version
                yield path
        if once:
            return
        time.sleep(PAUSE)
