"""The same three methods from a standard start: the steps are closer together.

Claim          Eigenvalues of the embedding's C rise one after another from a standard start too.
Paper          Simon et al. (2023), the figure of three methods from standard initialisation:
               ResNet-50 on STL-10
Command        make fig4 (PRESET=smoke|laptop|paper, DATA=..., DATA_DIR=...)
Time, 2 cores  smoke 60 s, laptop 33 min
Expected       Barlow Twins and VICReg as in fig3. SimCLR's modes rise in order but overlap, so that
               its check fails; with another seed two modes of Barlow Twins overlap too
"""

from dataclasses import dataclass
from typing import Literal

from experiments.figures.fig3_small_start import check, digest, plot, run
from experiments.shared import resnets

__all__ = ["Config", "check", "digest", "plot", "run"]

SECONDS = {"smoke": 60, "laptop": 2000}
"""About what it takes on two cores, for the time left of `make figures`."""


@dataclass(frozen=True)
class Config(resnets.Config):
    """Training runs from standard starts; VICReg trains as in fig3."""

    start: Literal["small", "standard"] = "standard"
