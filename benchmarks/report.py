"""The table of ratios, its file, and the description of the machine."""

import importlib.metadata
import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One ratio: time and peak memory of this package and of a peer."""

    name: str
    case: str
    peer: str
    ours_s: float
    compile_s: float
    ours_mb: float
    peer_s: float | None
    """Time of the peer; None if it could not run here, for a reason that the note has."""
    peer_mb: float
    aim: float
    bound: bool = False
    """Whether the peer was stopped at its time limit; its time and the ratio are lower bounds."""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Time of the peer over the time of this package."""
        return None if self.peer_s is None else self.peer_s / self.ours_s


HEAD = "| case | stepwise | compile | memory | peer | its time | its memory | ratio | aim | |"


def head() -> str:
    """Return the first two lines of the Markdown table."""
    return f"{HEAD}\n|{'---|' * 10}"


def line(row: Row) -> str:
    """Return a row of the Markdown table."""
    more = "> " if row.bound else ""
    # a lower bound on the ratio cannot show that the aim is missed
    below = "open" if row.bound else "missed"
    ratio, peer_s = row.ratio, row.peer_s
    aim = ""
    if row.aim and ratio is not None:
        aim = f"{row.aim:g}x {'met' if ratio >= row.aim else below}"
    cells = [
        f"{row.name}: {row.case}",
        seconds(row.ours_s),
        seconds(row.compile_s),
        f"{row.ours_mb:.0f} MB",
        row.peer,
        "none" if peer_s is None else more + seconds(peer_s),
        "" if peer_s is None else f"{row.peer_mb:.0f} MB",
        "" if ratio is None else f"**{more}{ratio:.3g}x**",
        aim,
        row.note,
    ]
    return "| " + " | ".join(cells) + " |"


def seconds(value: float) -> str:
    """Format a time with three digits."""
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"


def machine() -> str:
    """Describe the processor, its cores, and the versions of Python and of the main packages."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    packages = ("jax", "diffrax", "numpy", "scipy")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    load = f"; load {os.getloadavg()[0]:.1f} at the end" if hasattr(os, "getloadavg") else ""
    return f"{model}, {cores} cores; Python {platform.python_version()}, {versions}{load}"


def write(path: Path, rows: list[Row], about: dict[str, Any]) -> None:
    """Write all rows as JSON; the file appears only once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = about | {"rows": [asdict(row) | {"ratio": row.ratio} for row in rows]}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(path)
