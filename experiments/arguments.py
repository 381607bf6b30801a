"""Flags of `python -m experiments` and `stepwise figure`; this module does not import JAX."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro


def _order(name: str) -> tuple[int, int, str]:
    """Sort key: figures by number, then tables by number, then all other names by alphabet."""
    parts = re.fullmatch(r"(fig|table)(\d+)", name)
    if parts is None:
        return 2, 0, name
    return ("fig", "table").index(parts[1]), int(parts[2]), name


def figures_in(folder: Path) -> dict[str, str]:
    """Map the name of each figure in a folder to its module, sorted by `_order`.

    The name of a figure is the part of its file name before the first underscore.
    """
    stems = [path.stem for path in folder.glob("[a-z]*.py")]
    modules = {stem.partition("_")[0]: f"experiments.figures.{stem}" for stem in stems}
    return {name: modules[name] for name in sorted(modules, key=_order)}


FIGURES = figures_in(Path(__file__).parent / "figures")
"""Module of every figure and table by name, in the order of the paper."""

if TYPE_CHECKING:
    Name = str
else:
    Name = tyro.extras.literal_type_from_choices(FIGURES)


@dataclass(frozen=True)
class Arguments:
    """Compute, check and draw one figure of the paper."""

    name: tyro.conf.Positional[Name]
    """Name of the figure or table."""
    preset: Literal["smoke", "laptop", "paper"] = "laptop"
    """smoke takes seconds, laptop minutes; paper has the paper's scale."""
    data: str | None = None
    """Images: photos, glyphs, cifar10, stl10, folder:PATH, pairs:PATH or npz:PATH; by default the
    preset's.
    """
    data_dir: str | None = None
    """Folder that contains cifar10 or stl10 (default: download them)."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIELD=VALUE ...")] = ()
    """Values for other fields of the figure's Config."""
    out: str = "results"
    """Folder for the results."""
    again: bool = False
    """Compute the figure even if the same results are already stored."""
    redraw: bool = False
    """Only draw, from the stored arrays, even if the code has changed since they were computed."""

    def run(self) -> int:
        """Run the figure; return 0 if every check passed and 1 otherwise."""
        from experiments.run_one import run  # imported here because it imports JAX

        return 0 if run(self) else 1
