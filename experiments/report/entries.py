"""What the page says of each figure, from its header and from what it left in
results/NAME/PRESET."""

import ast
import base64
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from experiments import run_one
from experiments.arguments import FIGURES
from experiments.contract import Result
from stepwise import _check, _npz, plotting

PRESETS = ("paper", "laptop", "smoke")
"""Of several that are there the first is shown."""
LARGEST = 900_000
"""Bytes of a vector drawing beyond which the page has its pixels instead."""
VERDICTS = {
    "holds": "✓ holds",
    "fails": "✗ fails",
    "untried": "– not tried",
    "unfinished": "… unfinished",
}
CIRCUMSTANCES = ("checks", "seconds", "device", "cores", "commit", "versions")
"""What the page reads of a summary.json."""
UNUSABLE = (OSError, ValueError, KeyError, TypeError, IndexError)
"""What reading results raises that another version left, or whose images or runs are gone."""


@dataclass(frozen=True)
class Entry:
    """One figure as the page shows it; `folder` is None where it was not made, or left what cannot
    be read: `why`.
    """

    name: str
    title: str
    header: dict[str, str]
    preset: str = ""
    folder: Path | None = None
    summary: dict[str, Any] | None = None
    config: dict[str, Any] | None = None
    picture: str = ""
    """Empty where it was neither kept nor can be drawn anew."""
    why: str = ""

    @property
    def checks(self) -> list[dict[str, Any]]:
        """Those that failed first, then the claims, then the premises."""
        found = self.summary["checks"] if self.summary else []
        return sorted(found, key=lambda check: (check["passed"], check["premise"]))

    @property
    def measured(self) -> list[dict[str, Any]]:
        """The few that a table has room for: claims that failed, then the rest of the claims."""
        return [check for check in self.checks if not check["premise"] or not check["passed"]][:4]

    @property
    def verdict(self) -> str:
        """holds: all checks passed; untried: a premise failed, and no claim that is tried; fails;
        "" where not made.

        unfinished: it was stopped before its last part, and what it left says nothing yet.
        """
        if not self.checks:
            return ""
        if not (self.summary or {}).get("whole", True):
            return "unfinished"
        claims = [check for check in self.checks if not check["premise"]]
        if all(check["passed"] for check in self.checks):
            return "holds"
        return "fails" if not all(check["passed"] for check in claims) else "untried"

    @property
    def alternative(self) -> str:
        """What the picture shows, for those who do not see it."""
        made = (
            f" {sum(check['passed'] for check in self.checks)} of {len(self.checks)} checks passed."
        )
        return f"{self.title} Claim: {self.header.get('Claim', '')}{made}"


def entries(results: Path, preset: str | None) -> list[Entry]:
    """Every figure in the order of the paper, drawn anew from its arrays.

    Raises:
        ValueError: none was made.
    """
    found = [_entry(name, results, [preset] if preset else list(PRESETS)) for name in FIGURES]
    if not any(entry.folder for entry in found):
        raise ValueError(
            f"{results}: expected figures, found none; make figures (or PRESET=smoke) comes first"
        )
    return found


def result(folder: Path) -> Result:
    """A figure's arrays and numbers as they were stored."""
    return stored(folder)[0]


def stored(folder: Path) -> tuple[Result, str]:
    """The same, and the digest of the images that it was made from ("" where it was not noted)."""
    arrays, header = _npz.read(folder / "arrays.npz", f"figure {folder.parent.name}", ())
    return Result(arrays, header["numbers"]), header.get("images", "")


def header(text: str) -> tuple[str, dict[str, str]]:
    """A figure module's title and the fields of its docstring, each in one line."""
    title, _, rest = text.strip().partition("\n\n")
    title, lines = " ".join(title.split()), rest.splitlines()
    found: dict[str, str] = {}
    name = ""
    for line in lines:
        field = re.match(r"(Claim|Paper|Command|Time, 2 cores|Expected)\s+(\S.*)", line)
        if field:
            name, found[field[1]] = field[1], field[2]
        elif name and line.startswith("  "):
            found[name] += " " + line.strip()
        else:
            name = ""
    return title, {name: text.replace("`", "") for name, text in found.items()}


def _entry(name: str, results: Path, presets: list[str]) -> Entry:
    module = run_one.module(name)
    title, fields = header(
        ast.get_docstring(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))) or ""
    )
    for preset in presets:
        folder = results / name / preset
        if not (folder / "summary.json").is_file():
            continue
        try:
            summary, config = (
                json.loads((folder / f"{part}.json").read_text()) for part in ("summary", "config")
            )
            fits = isinstance(summary, dict) and isinstance(config, dict)
            _check.require(
                fits, str(folder), "summary.json and config.json of a figure", "something else"
            )
            absent = [part for part in CIRCUMSTANCES if part not in summary]
            _check.require(
                not absent,
                f"{folder}/summary.json",
                "a figure's",
                f"one without {', '.join(absent)}",
            )
            return Entry(
                name,
                title,
                fields,
                preset,
                folder,
                summary,
                config,
                _picture(module, folder, config),
            )
        except UNUSABLE as error:
            return Entry(name, title, fields, why=f"not to be read: {explained(error)}")
    return Entry(name, title, fields)


def _picture(module: Any, folder: Path, config: dict[str, Any]) -> str:
    """As a data: address: vectors where they are not too many, the figure's own pixels otherwise.

    And where arrays of another version cannot be drawn by this one.
    """
    try:
        with plotting.style(), jax.enable_x64(config.get("x64", False)):
            drawn = plotting.vector(module.plot(result(folder)))
        if len(drawn) <= LARGEST:
            return embedded("image/svg+xml", drawn)
    except UNUSABLE:
        pass
    kept = folder / "figure.png"
    return embedded("image/png", kept.read_bytes()) if kept.is_file() else ""


def explained(error: Exception) -> str:
    """What is wrong, in words: a KeyError's own are the bare key."""
    return (
        f"no {error.args[0]!r} in it" if isinstance(error, KeyError) and error.args else str(error)
    )


def embedded(kind: str, content: bytes) -> str:
    """A data: address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
