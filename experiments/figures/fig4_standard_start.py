"""The same three methods from a standard start: the steps are closer together.

Claim          From a standard start too, eigenvalues of the embedding's C rise one after another:
               each while the next is still near zero, in units of the embedding's total variance.
Paper          Simon et al. (2023), the figure of three methods from standard initialisation:
               ResNet-50 on STL-10
Command        make fig4 (PRESET=smoke|laptop|paper, DATA=..., DATA_DIR=...)
Time, 2 cores  smoke 60 s, laptop 30 min
Expected       for each method, at least five modes one at a time, besides those of the start

The unit is the total variance because the losses of Barlow Twins and SimCLR ignore the scale of
embeddings, which grows in training. Modes that a random head already shows at half of their final
share are not counted. SimCLR trains at a temperature of 0.5, that of its authors' experiments on
CIFAR-10, and Barlow Twins with an off-diagonal weight of 0.02 in the place of 0.0051, which is for
thousands of dimensions.
"""

from dataclasses import dataclass
from typing import Literal

from experiments.figures.fig3_small_start import check, digest, plot, run
from experiments.shared import resnets

__all__ = ["Config", "check", "digest", "plot", "run"]

SECONDS = {"smoke": 60, "laptop": 1800}
"""About what it takes on two cores, for the time left of `make figures`."""


@dataclass(frozen=True)
class Config(resnets.Config):
    """Training runs from standard starts; VICReg trains as in fig3."""

    start: Literal["small", "standard"] = "standard"
