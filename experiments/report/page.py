"""One self-contained page: claims and measurements, replays of training, galleries of modes."""

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
    """Write the page of all figures that have results."""

    preset: Literal["smoke", "laptop", "paper"] | None = None
    """Preset of the results to show (default: for each figure the largest one available)."""
    results: Path = Path("results")
    """Folder of the results."""
    out: Path = Path("results/report/index.html")
    """File of the page."""


def main(argv: list[str]) -> int:
    """Write the page; return 0, or 2 if there are no results."""
    args = tyro.cli(Arguments, args=argv, prog="python -m experiments.report")
    began = time.perf_counter()
    try:
        all_entries = entries(args.results, args.preset)
        all_replays, subjects, missing = replays(all_entries)
        galleries = [
            gallery(subject, replay.name)
            for subject, replay in zip(subjects, _networks(all_replays), strict=True)
        ]
    except (ValueError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    text = page(all_entries, all_replays, galleries, missing)
    with _files.replacing(args.out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    missing += [f"{entry.name}: {entry.why}" for entry in all_entries if entry.why]
    absent = [entry.name for entry in all_entries if entry.folder is None and not entry.why]
    print(f"{args.out}: {len(text) / 1e6:.1f} MB, {time.perf_counter() - began:.0f} s")
    for line in [*missing, *([f"no results yet: {', '.join(absent)}"] if absent else [])]:
        print(f"  {line}")
    return 0


def page(
    entries: list[Entry], replays: list[Replay], galleries: list[Gallery], missing: list[str]
) -> str:
    """Render the page as HTML that contains its style, script, pictures and data."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"short": _short, "sign": {"<=": "≤", ">=": "≥", "==": "="}.get}
    data = json.dumps([replay.data() for replay in replays], allow_nan=False).replace(
        "<", "\\u003c"
    )
    parts: dict[str, Any] = {
        name: (HERE / name).read_text(encoding="utf-8") for name in ("style.css", "script.js")
    }
    return environment.get_template("page.html").render(
        entries=entries,
        verdicts=VERDICTS,
        replays=replays,
        galleries=galleries,
        missing=missing,
        style=parts["style.css"],
        script=parts["script.js"],
        data=data,
        version=stepwise.__version__,
    )


def _networks(replays: list[Replay]) -> list[Replay]:
    return [replay for replay in replays if replay.theory is None]


def _short(value: Any) -> str:
    """Format a number for a table."""
    return "not finite" if value is None else f"{value:.3g}"
