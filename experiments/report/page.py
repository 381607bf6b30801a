"""One self-contained page of every figure: claims beside measurements, trainings to drag through,
what modes see.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2
import tyro

import stepwise
from experiments.report.entries import VERDICTS, Entry, entries
from experiments.report.gallery import Gallery, gallery
from experiments.report.replay import Replay, replays
from stepwise import _files

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Arguments:
    """Write the page of all figures that were made."""

    preset: Literal["smoke", "laptop", "paper"] | None = None
    """Which results to show; by default of each figure the largest preset that is there."""
    results: Path = Path("results")
    """Folder of the results."""
    out: Path = Path("results/report/index.html")
    """The page."""


def main(argv: list[str]) -> int:
    """0 when the page is written, 2 when there is nothing to write of."""
    args = tyro.cli(Arguments, args=argv, prog="python -m experiments.report")
    began = time.perf_counter()
    try:
        found = entries(args.results, args.preset)
        made, subjects, missing = replays(found)
        galleries = [
            gallery(of, one.name) for of, one in zip(subjects, _networks(made), strict=True)
        ]
    except (ValueError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    text = page(found, made, galleries, missing)
    with _files.replacing(args.out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    missing += [f"{entry.name}: {entry.why}" for entry in found if entry.why]
    absent = [entry.name for entry in found if entry.folder is None and not entry.why]
    print(f"{args.out}: {len(text) / 1e6:.1f} MB, {time.perf_counter() - began:.0f} s")
    for what in [*missing, *([f"not made yet: {', '.join(absent)}"] if absent else [])]:
        print(f"  {what}")
    return 0


def page(
    found: list[Entry], made: list[Replay], galleries: list[Gallery], missing: list[str]
) -> str:
    """The page's HTML, with style, script, pictures and data within it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"short": _short, "sign": {"<=": "≤", ">=": "≥", "==": "="}.get}
    data = json.dumps([each.data() for each in made], allow_nan=False).replace("<", "\\u003c")
    parts: dict[str, Any] = {
        name: (HERE / name).read_text(encoding="utf-8") for name in ("style.css", "script.js")
    }
    return environment.get_template("page.html").render(
        entries=found,
        verdicts=VERDICTS,
        replays=made,
        galleries=galleries,
        missing=missing,
        style=parts["style.css"],
        script=parts["script.js"],
        data=data,
        version=stepwise.__version__,
    )


def _networks(made: list[Replay]) -> list[Replay]:
    return [each for each in made if each.theory is None]


def _short(value: Any) -> str:
    """A number as a table has it."""
    return "not finite" if value is None else f"{value:.3g}"
