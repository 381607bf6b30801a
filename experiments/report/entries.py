"""Entries of the page: each figure's header, and its results in results/NAME/PRESET."""

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
"""Presets from the largest to the smallest; the page shows the first one with results."""
LARGEST = 900_000
"""Size in bytes above which the page embeds a bitmap instead of the vector drawing."""
VERDICTS = {
    "holds": "✓ holds",
    "fails": "✗ fails",
    "untried": "– not tested",
    "unfinished": "… unfinished",
}
CIRCUMSTANCES = ("checks", "seconds", "device", "cores", "commit", "versions")
"""Fields that the page reads from summary.json."""
UNUSABLE = (OSError, ValueError, KeyError, TypeError, IndexError)
"""Errors raised by results of another version, and by results whose images or runs are missing."""


@dataclass(frozen=True)
class Entry:
    """One figure on the page.

    `folder` is None if there are no results, or if they cannot be read; then `why` has the reason.
    """

    name: str
    title: str
    header: dict[str, str]
    preset: str = ""
    folder: Path | None = None
    summary: dict[str, Any] | None = None
    config: dict[str, Any] | None = None
    picture: str = ""
    """Drawing as a data: address; empty if none is stored and none can be drawn."""
    why: str = ""

    @property
    def checks(self) -> list[dict[str, Any]]:
        """Checks of the figure: first those that failed, then claims, then premises."""
        checks = self.summary["checks"] if self.summary else []
        return sorted(checks, key=lambda check: (check["passed"], check["premise"]))

    @property
    def measured(self) -> list[dict[str, Any]]:
        """At most four checks for the table of claims: failed checks, then claims that hold."""
        return [check for check in self.checks if not check["premise"] or not check["passed"]][:4]

    @property
    def verdict(self) -> str:
        """A key of `VERDICTS`, or "" without results.

        "holds": all checks passed. "fails": a claim failed. "untried": a premise failed, and no
        claim did. "unfinished": the run was interrupted before its last part.
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
        """Alternative text of the picture."""
        outcome = (
            f" {sum(check['passed'] for check in self.checks)} of {len(self.checks)} checks passed."
        )
        return f"{self.title} Claim: {self.header.get('Claim', '')}{outcome}"


def entries(results: Path, preset: str | None) -> list[Entry]:
    """Return an entry for every figure in the order of the paper, drawn from its stored arrays.

    Raises:
        ValueError: if no figure has results.
    """
    all_entries = [_entry(name, results, [preset] if preset else list(PRESETS)) for name in FIGURES]
    if not any(entry.folder for entry in all_entries):
        raise ValueError(
            f"--results: expected results of figures, received {results} with none; run "
            "`make figures` (or `make figures PRESET=smoke`) first"
        )
    return all_entries


def result(folder: Path) -> Result:
    """Read the stored arrays and numbers of a figure."""
    return stored(folder)[0]


def stored(folder: Path) -> tuple[Result, str]:
    """Read the stored result of a figure, and the hash of its images ("" if it is not recorded)."""
    arrays, header = _npz.read(folder / "arrays.npz", f"figure {folder.parent.name}", ())
    return Result(arrays, header["numbers"]), header.get("images", "")


def header(text: str) -> tuple[str, dict[str, str]]:
    """Return the title and the fields of a figure module's docstring, each as one line."""
    title, _, rest = text.strip().partition("\n\n")
    title, lines = " ".join(title.split()), rest.splitlines()
    fields: dict[str, str] = {}
    name = ""
    for line in lines:
        field = re.match(r"(Claim|Paper|Command|Time, 2 cores|Expected)\s+(\S.*)", line)
        if field:
            name, fields[field[1]] = field[1], field[2]
        elif name and line.startswith("  "):
            fields[name] += " " + line.strip()
        else:
            name = ""
    return title, {name: text.replace("`", "") for name, text in fields.items()}


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
                fits,
                str(folder),
                "objects in summary.json and config.json",
                "another value",
            )
            absent = [part for part in CIRCUMSTANCES if part not in summary]
            _check.require(
                not absent,
                f"{folder}/summary.json",
                "the fields of a figure",
                f"a file without {', '.join(absent)}",
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
            return Entry(name, title, fields, why=f"results cannot be read: {explained(error)}")
    return Entry(name, title, fields)


def _picture(module: Any, folder: Path, config: dict[str, Any]) -> str:
    """Draw a figure as vectors and return a data: address.

    If the drawing is too large, or this version cannot draw the stored arrays, the stored bitmap is
    returned instead.
    """
    try:
        with plotting.style(), jax.enable_x64(config.get("x64", False)):
            drawn = plotting.vector(module.plot(result(folder)))
        if len(drawn) <= LARGEST:
            return embedded("image/svg+xml", drawn)
    except UNUSABLE:
        pass
    bitmap = folder / "figure.png"
    return embedded("image/png", bitmap.read_bytes()) if bitmap.is_file() else ""


def explained(error: Exception) -> str:
    """Return the message of an error; that of a KeyError is only the key, so words are added."""
    if isinstance(error, KeyError) and error.args:
        return f"missing key {error.args[0]!r}"
    return str(error)


def embedded(kind: str, content: bytes) -> str:
    """Encode content as a data: address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
