"""What a computation leaves behind: numbers, settings, arrays and a drawing, each file written
whole or not at all.

Figures and the command line write the same: summary.json (numbers, seconds, versions, device,
commit), config.json, arrays.npz, and figure.png with figure.pdf.
"""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

from stepwise import _check, _files, _npz, plotting
from stepwise.plotting import Figure
from stepwise.types import Real

PACKAGES = (
    "stepwise",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "diffrax",
    "numpy",
    "scikit-learn",
    "matplotlib",
)
ROOT = Path(__file__).resolve().parent.parent


def write(
    folder: Path,
    kind: str,
    *,
    arrays: dict[str, Any],
    numbers: dict[str, Any],
    config: dict[str, Any],
    seconds: Real,
    figure: Figure,
) -> str:
    """All of it into one folder, made where it is not there, and a line that names it; the figure
    is closed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _npz.write(folder / "arrays.npz", kind, arrays, {})
    _files.write_json(folder / "config.json", config)
    plotting.save(figure, folder)
    _files.write_json(
        folder / "summary.json", {"seconds": seconds} | circumstances() | {"numbers": numbers}
    )
    return f"{folder}/summary.json, arrays.npz, config.json, figure.png, figure.pdf"


def require_writable(name: str, folder: Path) -> None:
    """Refuse a folder for results before anything is computed for it.

    Raises:
        ValueError: it, or the nearest that is there above it, is no folder or cannot be written to.
    """
    there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), folder)
    fits = there.is_dir() and os.access(there, os.W_OK)
    _check.require(fits, name, "a folder that can be written to", repr(str(folder)))


def circumstances() -> dict[str, Any]:
    """What a number depends on beside its settings: versions, device, cores, and the commit where
    this is a clone.
    """
    device = jax.devices()[0]
    where = {"device": f"{device.platform}: {device.device_kind}", "cores": os.cpu_count()}
    return {"versions": versions(), **where, "commit": _commit()}


def versions() -> dict[str, str]:
    """Of the packages that numbers depend on, and of Python."""
    return {name: importlib.metadata.version(name) for name in PACKAGES} | {
        "python": platform.python_version()
    }


def _commit() -> str | None:
    if not (ROOT / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
