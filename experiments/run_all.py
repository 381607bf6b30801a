"""Every figure and table, one after another: `python -m experiments.run_all`, which `make figures`
calls.

Training runs are shared, what was computed before is only drawn, and a figure whose checks fail
does not keep the others from being made: the list at the end names it, and the exit code is 1.
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


@dataclass(frozen=True)
class Arguments:
    """Compute, check and draw every figure and table of the paper."""

    preset: Literal["smoke", "laptop", "paper"] = "laptop"
    """Minutes, the default on a laptop, or the source's scale."""
    data: str | None = None
    """photos, cifar10, stl10, folder:PATH or npz:PATH instead of the preset's."""
    data_dir: str | None = None
    """Where cifar10 or stl10 lie; without it they are downloaded."""
    out: str = "results"
    """Folder of the results."""
    only: tuple[str, ...] = ()
    """Some of the figures."""


def main(argv: list[str]) -> int:
    """0 when every check of every figure passed, 1 when one failed, 2 when a figure could not be
    made.

    A smoke run shows that everything runs: its networks are too small for some claims, so its
    checks are only printed.
    """
    args = tyro.cli(Arguments, args=argv, prog="python -m experiments.run_all")
    unknown = set(args.only) - FIGURES.keys()
    if unknown:
        print(
            f"--only: expected some of {', '.join(FIGURES)}, received {', '.join(unknown)}",
            file=sys.stderr,
        )
        return 2
    names = [name for name in FIGURES if not args.only or name in args.only]
    codes: dict[str, int] = {}
    taken: dict[str, float] = {}
    for i, name in enumerate(names):
        print(f"[{i + 1} of {len(names)}] {name}{_left(args.preset, names[i:], taken)}", flush=True)
        flags = ["--preset", args.preset, "--out", args.out]
        flags += ["--data", args.data] if args.data is not None and reads_images(name) else []
        flags += (
            ["--data-dir", args.data_dir]
            if args.data_dir is not None and reads_images(name)
            else []
        )
        began = time.perf_counter()
        codes[name] = run_one.main([name, *flags])
        taken[name] = time.perf_counter() - began
        if codes[name] == 130:
            return 130
    print("\n".join(_lines(args, codes, taken)), flush=True)
    worst = max(codes.values())
    return 0 if worst == 1 and args.preset == "smoke" else worst


def reads_images(name: str) -> bool:
    """Whether a figure's Config says which images."""
    return "data" in run_one.module(name).Config.__dataclass_fields__


def _left(preset: str, names: list[str], taken: dict[str, float]) -> str:
    """About how long these will take, at the pace of what was computed so far."""
    expected = {
        name: getattr(run_one.module(name), "SECONDS", {}).get(preset, math.nan)
        for name in {*names, *taken}
    }
    if any(math.isnan(seconds) for seconds in expected.values()):
        return ""
    # what took a tenth of its time was only drawn, and says nothing of this machine's pace
    computed = [name for name, seconds in taken.items() if seconds > expected[name] / 10]
    pace = (
        sum(taken[name] for name in computed) / sum(expected[name] for name in computed)
        if computed
        else 1.0
    )
    minutes = pace * sum(expected[name] for name in names) / 60
    return f": at most about {minutes:.0f} min to the end" if minutes >= 1 else ""


def _lines(args: Arguments, codes: dict[str, int], taken: dict[str, float]) -> list[str]:
    """A line for each figure: how many of its checks passed."""
    lines = [""]
    for name, code in codes.items():
        path = Path(args.out) / name / args.preset / "summary.json"
        said = "could not be made: see above"
        if code != 2 and path.is_file():
            checks = json.loads(path.read_text())["checks"]
            failed = [check["name"] for check in checks if not check["passed"]]
            said = f"{len(checks) - len(failed)} of {len(checks)} checks passed"
            said += "".join(f"\n           FAIL {each}" for each in failed)
        lines.append(f"  {name:<7} {taken[name]:6.0f} s  {said}")
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
