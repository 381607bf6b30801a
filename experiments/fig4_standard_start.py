"""The same three methods from a standard start, all in their official forms: the steps are there, closer together.

Claim          Without a small start too, eigenvalues of the embedding's C rise one after another.
Paper          Simon et al. 2023, the figure of three methods from standard initialisation: ResNet-50 on STL-10.
Command        make fig4            (PRESET=smoke|laptop|paper, DATA=..., DATA_DIR=...)
Time, 2 cores  see the README's table of figures
Expected       as fig3's
"""

from dataclasses import dataclass
from typing import Literal

from experiments import resnets
from experiments.fig3_small_start import check, digest, plot, run

__all__ = ["Config", "check", "digest", "plot", "run"]


@dataclass(frozen=True)
class Config(resnets.Config):
    """Standard starts."""

    start: Literal["small", "standard"] = "standard"
    rates: tuple[float, ...] = (0.05, 0.004, 0.05)
    warmups: tuple[int, ...] = (100, 100, 100)
    steps: tuple[int, ...] = (2500, 1000, 2500)
