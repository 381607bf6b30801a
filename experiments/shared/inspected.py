"""Shared code of table1 and fig8: fig3's networks, and new views of their training images."""

from dataclasses import dataclass, replace
from typing import Self

from experiments.contract import Progress
from experiments.shared import resnets
from stepwise import subject as subjects
from stepwise.subject import Subject


@dataclass(frozen=True)
class Config(resnets.Config):
    """Settings of fig3's training runs, and of the views on which kernels are computed."""

    n_pairs: int = 256
    """Number of pairs of new views."""
    resamples: int = 200
    """Number of random halves of the pairs from which the intervals are computed."""
    kernels: int = 8
    """Number of snapshots in training whose kernels fig8 computes, besides the initial network."""

    @classmethod
    def smoke(cls) -> Self:
        """Return a configuration that takes seconds, on the smoke preset's runs."""
        return replace(super().smoke(), n_pairs=32, resamples=20, kernels=2)

    @classmethod
    def paper(cls) -> Self:
        """Return the paper's 1000 pairs."""
        return replace(super().paper(), n_pairs=1000)


def subject(config: Config, method: str, progress: Progress) -> Subject:
    """Train or load a method's run, and open it with views that were not used in training.

    The views are the same for all methods.
    """
    trained = resnets.trained(config, method, progress)
    recipe = config.training(config.methods[0]).recipe
    return subjects.from_run(
        config.training(method), trained, config.n_pairs, root=config.runs_dir, recipe=recipe
    )
