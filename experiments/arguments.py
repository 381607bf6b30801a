"""The flags of `python -m experiments` and `stepwise figure`. Needs no JAX."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro


def _order(name: str) -> tuple[int, int, str]:
    """Figures by their number, then tables, then those that are named by a question."""
    parts = re.fullmatch(r"(fig|table)(\d+)", name)
    if parts is None:
        return 2, 0, name
    return ("fig", "table").index(parts[1]), int(parts[2]), name


def figures_in(folder: Path) -> dict[str, str]:
    """Name → module of every figure's file in a folder, in order; the name is what precedes `_`."""
    stems = [path.stem for path in folder.glob("[a-z]*.py")]
    found = {stem.partition("_")[0]: f"experiments.figures.{stem}" for stem in stems}
    return {name: found[name] for name in sorted(found, key=_order)}


FIGURES = figures_in(Path(__file__).parent / "figures")
"""Name → module of every figure and table, in the order of the paper."""

if TYPE_CHECKING:
    Name = str
else:
    Name = tyro.extras.literal_type_from_choices(FIGURES)


@dataclass(frozen=True)
class Arguments:
    """Compute, check and draw one figure of the paper."""

    name: tyro.conf.Positional[Name]
    """Which figure."""
    preset: Literal["smoke", "laptop", "paper"] = "laptop"
    """Seconds, minutes, or the source's scale."""
    data: str | None = None
    """photos, cifar10, stl10, folder:PATH or npz:PATH instead of the preset's."""
    data_dir: str | None = None
    """Where cifar10 or stl10 lie; without it they are downloaded."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIELD=VALUE ...")] = ()
    """Any other field of the figure's Config."""
    out: str = "results"
    """Folder of the results."""
    again: bool = False
    """Compute anew even if these results are there."""
    redraw: bool = False
    """Only draw, from the arrays that are there, even if the code has changed since."""

    def run(self) -> int:
        """0 when every check passed, 1 when one failed."""
        from experiments.run_one import run  # which imports JAX

        return 0 if run(self) else 1
