"""What table1 and fig8 share: fig3's networks, and fresh views of their images to look at them
with.
"""

from dataclasses import dataclass, replace
from typing import Self

from experiments.contract import Progress
from experiments.shared import resnets
from stepwise import subject as subjects
from stepwise.subject import Subject


@dataclass(frozen=True)
class Config(resnets.Config):
    """fig3's networks, and the views that they are looked at with."""

    n_pairs: int = 256
    """Pairs of fresh views."""
    resamples: int = 200
    """Halves of the pairs, for the intervals."""
    kernels: int = 8
    """Of the networks kept on the way, so many have their kernel in fig8, beside that at the start.
    """

    @classmethod
    def smoke(cls) -> Self:
        """Seconds, on the smoke preset's runs."""
        return replace(super().smoke(), n_pairs=32, resamples=20, kernels=2)

    @classmethod
    def paper(cls) -> Self:
        """The source's 1000 pairs."""
        return replace(super().paper(), n_pairs=1000)


def subject(config: Config, method: str, progress: Progress) -> Subject:
    """A method's run, trained or read, and views of its images that no training has seen: the same
    for all methods.
    """
    trained = resnets.trained(config, method, progress)
    same = config.training(config.methods[0]).recipe
    return subjects.from_run(
        config.training(method), trained, config.n_pairs, root=config.runs_dir, recipe=same
    )
