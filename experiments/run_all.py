"""Run every figure and table: `python -m experiments.run_all`, which `make figures` calls.

Figures share training runs, and a figure that is already computed is only drawn. If a check of one
figure fails, the remaining figures still run. The list at the end names the failed checks, and the
exit code is 1.
"""

import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from experiments import run_one
from experiments.arguments import FIGURES
from stepwise import _terminal


@dataclass(frozen=True)
class Arguments:
    """Compute, check and draw every figure and table of the paper."""

    preset: Literal["smoke", "laptop", "paper"] = "laptop"
    """smoke takes minutes, laptop hours; paper has the paper's scale."""
    data: str | None = None
    """Images: photos, glyphs, cifar10, stl10, folder:PATH, pairs:PATH or npz:PATH; by default the
    preset's.
    """
    data_dir: str | None = None
    """Folder that contains cifar10 or stl10 (default: download them)."""
    out: str = "results"
    """Folder for the results."""
    only: tuple[str, ...] = ()
    """Names of the figures to run (default: all)."""


def main(argv: list[str]) -> int:
    """Run the figures; return 0 if all checks passed, 1 if one failed, 2 if a figure had an error.

    A smoke run only shows that everything runs. Its networks are too small for some claims, so
    failed checks are printed but do not set the exit code.
    """
    args = tyro.cli(Arguments, args=argv, prog="python -m experiments.run_all")
    unknown = set(args.only) - FIGURES.keys()
    if unknown:
        print(
            f"--only: expected names among {', '.join(FIGURES)}, received {', '.join(unknown)}",
            file=sys.stderr,
        )
        return 2
    names = [name for name in FIGURES if not args.only or name in args.only]
    codes: dict[str, int] = {}
    seconds: dict[str, float] = {}
    for i, name in enumerate(names):
        left = _time_left(args.preset, names[i:], seconds)
        print(f"[{i + 1} of {len(names)}] {name}{left}", flush=True)
        flags = ["--preset", args.preset, "--out", args.out]
        flags += ["--data", args.data] if args.data is not None and reads(name, args.data) else []
        flags += (
            ["--data-dir", args.data_dir]
            if args.data_dir is not None and reads_images(name)
            else []
        )
        began = time.perf_counter()
        codes[name] = run_one.main([name, *flags])
        seconds[name] = time.perf_counter() - began
        if codes[name] == 130:
            return 130
    print("\n".join(_lines(args, codes, seconds)), flush=True)
    worst = max(codes.values())
    return 0 if worst == 1 and args.preset == "smoke" else worst


def reads_images(name: str) -> bool:
    """Return whether a figure's Config has a field for the images."""
    return "data" in run_one.module(name).Config.__dataclass_fields__


def reads(name: str, data: str) -> bool:
    """Return whether a figure takes these images: one of pictures with captions needs captions."""
    if not reads_images(name):
        return False
    captioned = run_one.module(name).Config.__dataclass_fields__["data"].default == "glyphs"
    return not captioned or data.startswith(("pairs:", "glyphs"))


def _time_left(preset: str, names: list[str], seconds: dict[str, float]) -> str:
    """Estimate how long these figures take, from the times of the figures computed so far."""
    expected = {
        name: getattr(run_one.module(name), "SECONDS", {}).get(preset, math.nan)
        for name in {*names, *seconds}
    }
    if any(math.isnan(time) for time in expected.values()):
        return ""
    # a figure that took less than a tenth of its expected time was only drawn
    computed = [name for name, time in seconds.items() if time > expected[name] / 10]
    pace = (
        sum(seconds[name] for name in computed) / sum(expected[name] for name in computed)
        if computed
        else 1.0
    )
    minutes = pace * sum(expected[name] for name in names) / 60
    return f": at most about {minutes:.0f} min left" if minutes >= 1 else ""


def _lines(args: Arguments, codes: dict[str, int], seconds: dict[str, float]) -> list[str]:
    """Return a line for each figure with the number of checks that passed."""
    lines = [""]
    for name, code in codes.items():
        path = Path(args.out) / name / args.preset / "summary.json"
        outcome = "error: see above"
        if code != 2 and path.is_file():
            checks = json.loads(path.read_text())["checks"]
            failed = [check["name"] for check in checks if not check["passed"]]
            outcome = f"{len(checks) - len(failed)} of {len(checks)} checks passed"
            outcome += "".join(f"\n           FAIL {each}" for each in failed)
        lines.append(f"  {name:<7} {seconds[name]:6.0f} s  {outcome}")
    return lines


if __name__ == "__main__":
    _terminal.escape_output()
    sys.exit(main(sys.argv[1:]))
