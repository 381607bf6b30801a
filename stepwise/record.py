"""The files of a result: numbers, settings, arrays and a drawing, each written atomically.

Figures and the command line write the same files: summary.json (numbers, seconds, versions, device,
commit), config.json, arrays.npz, figure.png and figure.pdf.
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
    """Write a result into a folder, which is created if it is missing, and close the figure.

    Args:
        folder: where to write; files of an earlier result are replaced.
        kind: name of the kind of result, stored in arrays.npz.
        arrays: content of arrays.npz.
        numbers: content of summary.json under "numbers".
        config: content of config.json.
        seconds: duration of the computation, in seconds.
        figure: drawing to save as PNG and PDF.

    Returns:
        One line that names the files.
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
    """Check that results can be written to a folder, before they are computed.

    Raises:
        ValueError: if the folder, or its nearest existing parent, is not a writable folder.
    """
    places = (folder, *folder.absolute().parents)
    nearest = next((path for path in places if path.exists()), folder)
    fits = nearest.is_dir() and os.access(nearest, os.W_OK)
    _check.require(fits, name, "a folder that can be written to", repr(str(folder)))


def circumstances() -> dict[str, Any]:
    """Return what numbers depend on besides the settings: versions, device, cores and commit.

    The commit is None outside a clone.
    """
    device = jax.devices()[0]
    machine = {"device": f"{device.platform}: {device.device_kind}", "cores": os.cpu_count()}
    return {"versions": versions(), **machine, "commit": _commit()}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on."""
    return {name: importlib.metadata.version(name) for name in PACKAGES} | {
        "python": platform.python_version()
    }


def _commit() -> str | None:
    if not (ROOT / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
