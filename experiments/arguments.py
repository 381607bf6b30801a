"""The flags of `python -m experiments` and `stepwise figure`. Needs no JAX."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

FIGURES = {
    "fig1": "experiments.fig1_steps",
    "fig2": "experiments.fig2_symmetry",
    "fig3": "experiments.fig3_small_start",
    "fig4": "experiments.fig4_standard_start",
    "fig5": "experiments.fig5_mlp",
    "fig6": "experiments.fig6_hidden",
    "fig7": "experiments.fig7_width",
    "fig8": "experiments.fig8_kernels",
    "table1": "experiments.table1_alignment",
}


@dataclass(frozen=True)
class Arguments:
    """Compute, check and draw one figure of the paper."""

    name: tyro.conf.Positional[
        Literal["fig1", "fig2", "fig3", "fig4", "fig5", "fig6", "fig7", "fig8", "table1"]
    ]
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
        from experiments.run import run  # which imports JAX

        return 0 if run(self) else 1
