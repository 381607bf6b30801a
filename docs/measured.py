"""Collect measurements into docs/measured, and write the tables of the documentation from them.

`make measured` calls `python docs/measured.py results`. The checks of every figure and the rows of
every benchmark become small JSON files, which are committed. The tables on the pages are written
from these files alone, between a comment `<!-- measured: NAME -->` and `<!-- end -->`.
"""

import argparse
import ast
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import report  # noqa: E402
from stepwise import _files  # noqa: E402
from stepwise.methods import METHODS  # noqa: E402

FOLDER = ROOT / "docs" / "measured"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MARK = re.compile(r"(<!-- measured: ([\w ]+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)
BENCHMARKS = ("bench", "entk", "startup")
"""Files of results/bench that are collected."""
PAPER = {"barlow_twins": 0.615, "simclr": 0.517, "vicreg": 0.592}
"""The paper's Table 1."""
PICTURES = ("clip", "faster", "fig1", "fig3", "fig4", "fig8", "forecast", "laws", "methods")
"""Figures whose drawing is shown in the documentation."""
NAMES = {
    "photos": "the photographs",
    "glyphs": "glyphs",
    "cifar10": "CIFAR-10",
    "stl10": "STL-10",
}


def collect(results: Path, preset: str) -> list[str]:
    """Copy what the tables need from a folder of results; returns the names of the files written.

    Raises:
        OSError: the folder holds no results.
    """
    written = []
    for path in sorted(results.glob(f"*/{preset}/summary.json")):
        summary = json.loads(path.read_text())
        config = json.loads((path.parent / "config.json").read_text())
        if not summary.get("whole", True):
            continue
        name = path.parts[-3]
        data = config.get("data", config.get("linear", {}).get("data", "photos"))
        label = "" if data in ("photos", "glyphs") else "_" + re.sub(r"\W", "_", Path(data).name)
        entry = {
            "preset": preset,
            "data": NAMES.get(data, Path(data).name),
            "seconds": round(summary["seconds"], 1),
            "machine": machine(summary["device"]),
            "versions": summary["versions"],
            "checks": summary["checks"],
        }
        if name == "table1":
            entry["alignments"] = alignments(summary["numbers"]["methods"])
        if name in PICTURES and not label:
            shrink(path.parent / "figure.png", ROOT / "docs" / f"{name}.png")
        _files.write_json(FOLDER / f"{name}{label}.json", entry)
        written.append(name + label)
    for name in BENCHMARKS:
        path = results / "bench" / f"{name}.json"
        if path.is_file():
            _files.write_json(FOLDER / f"{name}.json", json.loads(path.read_text()))
            written.append(name)
    if not written:
        raise FileNotFoundError(f"{results}: expected results of `make figures` or `make bench`")
    return written


def shrink(source: Path, target: Path) -> None:
    """Store a drawing at most 1400 px wide in 128 colours, small enough to commit."""
    with Image.open(source) as drawing:
        drawing = drawing.convert("RGB")
        drawing.thumbnail((1400, 4000))
        drawing.quantize(128, dither=Image.Dither.NONE).save(target, optimize=True)


def machine(device: str) -> str:
    """The processor of this machine, and the accelerator if there was one."""
    processor = report.machine().split(";")[0]
    return processor if device.startswith("cpu") else f"{processor}, {device}"


def short(entry: dict[str, Any]) -> str:
    """The machine of a measurement in a few words, such as `Intel Xeon, 2 cores`."""
    processor = str(entry["machine"]).split(";")[0]
    return processor.replace("(R)", "").replace(" Processor", "")


def alignments(methods: dict[str, Any]) -> dict[str, Any]:
    """The numbers of Table 1, without the curves along k."""
    wanted = ("alignment", "interval", "random")
    return {
        method: {"d": row["d"]}
        | {
            kernel: {name: row[kernel][name] for name in wanted}
            for kernel in ("trained", "start", "pixels")
        }
        for method, row in methods.items()
    }


def read(name: str) -> Any:
    """One file of docs/measured."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def fill(text: str) -> str:
    """The page with its tables written from docs/measured."""
    return MARK.sub(lambda match: match[1] + block(match[2]).strip() + "\n" + match[3], text)


def block(name: str) -> str:
    """The Markdown of one table or section.

    Raises:
        ValueError: no table has this name.
    """
    words = name.split()
    if words[0] == "bench":
        return bench(" ".join(words[1:]))
    tables = {"figures": figures, "checks": checks, "startup": startup}
    tables |= {"alignment": alignment, "headlines": headlines}
    if name not in tables:
        raise ValueError(f"{name}: expected one of bench GROUP, {', '.join(tables)}")
    return tables[name]()


def figure_names() -> list[str]:
    """The figures that were measured, as fig1, ..., table1, without other data sets."""
    modules = [path.stem for path in (ROOT / "experiments" / "figures").glob("[a-z]*.py")]
    targets = sorted(module.split("_")[0] for module in modules)
    return [name for name in targets if (FOLDER / f"{name}.json").is_file()]


def claim(name: str) -> str:
    """The first line of a figure module's docstring."""
    path = next((ROOT / "experiments" / "figures").glob(f"{name}_*.py"))
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return text.splitlines()[0].rstrip(".")


def figures() -> str:
    """A row for each figure: what it shows, its time, and how many checks pass."""
    lines = ["| target | shows | images | time | checks that pass |", "|---|---|---|---:|---|"]
    for name in figure_names():
        for path in [FOLDER / f"{name}.json", *sorted(FOLDER.glob(f"{name}_*.json"))]:
            entry = json.loads(path.read_text())
            passed = sum(check["passed"] for check in entry["checks"])
            count = f"{passed} of {len(entry['checks'])}"
            count = count if passed == len(entry["checks"]) else f"**{count}**"
            lines.append(
                f"| [`make {name}`](#{name}) | {claim(name)} | {entry['data']} | "
                f"{duration(entry['seconds'])} | {count} |"
            )
    return "\n".join(lines)


def checks() -> str:
    """A section for each figure with every check: measured value, bound, and outcome."""
    parts = []
    for name in figure_names():
        parts.append(f"### {name}\n\n{claim(name)}.\n")
        for path in [FOLDER / f"{name}.json", *sorted(FOLDER.glob(f"{name}_*.json"))]:
            entry = json.loads(path.read_text())
            parts.append(
                f"On {entry['data']}, {duration(entry['seconds'])} ({entry['machine']}):\n"
            )
            parts.append("| check | measured | bound | |\n|---|---:|---:|---|")
            parts += [check_row(check) for check in entry["checks"]]
            parts.append("")
    return "\n".join(parts)


def check_row(check: dict[str, Any]) -> str:
    """One check as a row; a premise is marked as such."""
    value = "not finite" if check["value"] is None else f"{check['value']:.3g}"
    relation = {"<=": "≤", ">=": "≥", "==": "="}[check["relation"]]
    outcome = "passes" if check["passed"] else "**fails**"
    kind = " (premise)" if check["premise"] else ""
    return f"| {check['name']}{kind} | {value} | {relation} {check['bound']:.3g} | {outcome} |"


def duration(seconds: float) -> str:
    """A time as people say it."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def bench(group: str) -> str:
    """The rows of a group of benchmarks, such as "flow" or "entk growth"."""
    content = read("entk" if group.startswith("entk") else "bench")
    rows = [row for row in content["rows"] if row["name"] == group]
    if not any(row["peer"] for row in rows):
        lines = ["| case | time | memory | |", "|---|---:|---:|---|"]
        lines += [
            f"| {row['case']} | {report.seconds(row['ours_s'])} | {row['ours_mb']:.0f} MB | "
            f"{row['note']} |"
            for row in rows
        ]
        return "\n".join(lines)
    lines = [
        "| case | stepwise | memory | compared with | its time | its memory | ratio | |",
        "|---|---:|---:|---|---:|---:|---:|---|",
    ]
    for row in rows:
        more = "> " if row["bound"] else ""
        aim = f" (aim: {row['aim']:g})" if row["aim"] and row["ratio"] < row["aim"] else ""
        lines.append(
            f"| {row['case']} | {report.seconds(row['ours_s'])} | {row['ours_mb']:.0f} MB | "
            f"{row['peer']} | {more}{report.seconds(row['peer_s'])} | {row['peer_mb']:.0f} MB | "
            f"**{more}{row['ratio']:.3g}**{aim} | {row['note']} |"
        )
    return "\n".join(lines)


def startup() -> str:
    """Processor time of the start of each command."""
    content = read("startup")
    lines = ["| process | processor time |", "|---|---:|"]
    lines += [f"| `{name}` | {value:.2f} s |" for name, value in content["seconds"].items()]
    return "\n".join([*lines, "", f"({content['machine']})"])


def alignment() -> str:
    """Table 1: how well three kernels predict the embedding of each network."""
    content = read("table1")
    lines = [
        "| network | d | eNTK, trained | eNTK at the start | pixel kernel | random "
        "| the paper, ResNet-50, d = 50 |",
        "|---|---:|---|---|---|---:|---:|",
    ]
    for name, row in content["alignments"].items():
        cells = [interval(row[kernel]) for kernel in ("trained", "start", "pixels")]
        paper = PAPER.get(name.removesuffix("_unnormalised"), math.nan)
        lines.append(
            f"| {METHODS[name].title} | {row['d']} | {' | '.join(cells)} | "
            f"{row['trained']['random']:.2f} | {paper:.3f} |"
        )
    return "\n".join([*lines, "", f"({content['machine']})"])


def interval(score: dict[str, Any]) -> str:
    """An alignment with its 95% interval."""
    low, high = score["interval"]
    return f"{score['alignment']:.2f} [{low:.2f}, {high:.2f}]"


def headlines() -> str:
    """The three numbers of the README."""
    fig1, bench, entk = read("fig1"), read("bench"), read("entk")
    kernel = entk["rows"][0]
    steps = next(check for check in fig1["checks"] if check["name"].startswith("modes within"))
    flows = [row for row in bench["rows"] if row["name"] == "flow" and "d=10," in row["case"]]
    ratios = sorted(row["ratio"] for row in flows)
    count = f"{steps['value']:.0f} of 10"
    return "\n".join(
        [
            f"- **{count}** learning steps of a linear model come within 2% of the predicted time "
            f"(median of ten starts, {fig1['data']}; `make fig1`; {short(fig1)}).",
            f"- The exact gradient flow of ten modes is integrated **{ratios[0]:.0f} to "
            f"{ratios[-1]:.0f} times** as fast as by SciPy at the same measured error "
            f"({short(bench)}).",
            f"- The exact eNTK of a ResNet-18 for 256 images and 10 outputs takes "
            f"{kernel['ours_s']:.1f} s, **{kernel['ratio']:.0f} times** as fast as `nt.batch` "
            f"({short(entk)}).",
        ]
    )


def main() -> None:
    """Collect results, if a folder is named, and write the tables."""
    parser = argparse.ArgumentParser(prog="python docs/measured.py", description=__doc__)
    parser.add_argument("results", nargs="*", type=Path, help="folders of results to collect")
    parser.add_argument("--preset", default="laptop")
    options = parser.parse_args()
    for folder in options.results:
        print(f"{folder}: {', '.join(collect(folder, options.preset))}")
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if fill(text) != text:
            page.write_text(fill(text), encoding="utf-8")
            print(f"{page.relative_to(ROOT)}: tables written")


if __name__ == "__main__":
    main()
