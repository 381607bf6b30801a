"""What table1 and fig8 share: a trained network's embedding of fresh views, and its kernels, kept with its run."""

import hashlib
import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from flax import nnx

from experiments import resnets
from experiments.contract import Progress
from stepwise import entk, models, runs, views
from stepwise.dynamics import snapshots
from stepwise.dynamics.training import Trained


@dataclass(frozen=True)
class Config(resnets.Config):
    """fig3's networks, and the views that they are looked at with."""

    n_pairs: int = 256
    """Pairs of fresh views."""
    resamples: int = 200
    """Halves of the pairs, for the intervals."""

    @classmethod
    def smoke(cls) -> Self:
        """Seconds, on the smoke preset's runs."""
        return replace(super().smoke(), n_pairs=32, resamples=20)

    @classmethod
    def paper(cls) -> Self:
        """The source's 1000 pairs."""
        return replace(super().paper(), n_pairs=1000)


@dataclass(frozen=True)
class Subject:
    """A method's run, and what it is looked at with.

    Attributes:
        x: two views of each of some training images, X stacked on X'; the same images for all methods.
        pixels: all that it was trained on.
    """

    config: runs.Config
    trained: Trained
    x: np.ndarray
    pixels: np.ndarray
    folder: Path

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """Of its training (`resnets.numbers`)."""
        return resnets.numbers(self.trained.trajectory)

    @property
    def d(self) -> int:
        """Modes that it learned: what it did not learn has no place to agree in."""
        return max(1, self.numbers["crossed"])

    @cached_property
    def apply(self) -> Any:
        """The network in evaluation mode, a function of {"params", "stats"} and views: one for all steps."""
        forward = models.stateful(self.trained.encoder)[0]
        return lambda tree, x: forward(tree["params"], tree["stats"], x, False)[0]

    @cached_property
    def embedding(self) -> np.ndarray:
        """Of the views, centred, on its d leading principal directions [2 n, d]."""
        z = np.asarray(jax.jit(self.apply)(_leaves(self.trained.encoder), self.x), np.float64)
        z = z - z.mean(axis=0)
        return z @ np.linalg.svd(z, full_matrices=False)[2][: self.d].T

    @cached_property
    def pixel_kernel(self) -> np.ndarray:
        """⟨x, x'⟩."""
        flat = np.asarray(self.x.reshape(len(self.x), -1), np.float64)
        return flat @ flat.T

    @property
    def steps(self) -> list[int]:
        """Those at which it has a kernel, from 0 to the last."""
        return sorted({0, self.config.steps, *runs.snapshot_steps(self.config)})

    def kernel(self, step: int) -> np.ndarray:
        """eNTK of the views after so many steps, in evaluation mode; worked out once.

        At the start, where there are no running statistics yet, with those of its images.
        """
        channels = self.x.shape[-1]
        if step == 0:
            network: nnx.Module = runs.settled(runs.encoder(self.config, channels), self.pixels)
        elif step == self.config.steps:
            network = self.trained.encoder
        else:
            network = snapshots.load(runs.encoder(self.config, channels), self.folder, step)
        which = hashlib.sha256(np.ascontiguousarray(self.x).tobytes()).hexdigest()[:8]
        path = self.folder / "entk" / f"step_{step}_{which}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        options: Any = {"only": "params", "path": path, "progress": sys.stderr.isatty()}
        try:
            K = entk.gram(self.apply, _leaves(network), self.x, **options)
        except ValueError:  # of another version, or of so many devices and half done: worth no more than its time
            path.unlink(missing_ok=True)
            K = entk.gram(self.apply, _leaves(network), self.x, **options)
        return np.asarray(K, np.float64)


def subject(config: Config, method: str, progress: Progress) -> Subject:
    """A method's run, trained or read, and views of its images that no training has seen."""
    trained, training = resnets.trained(config, method, progress), config.training(method)
    images = runs.load(training)
    some = np.unique(np.linspace(0, len(images.pixels) - 1, min(config.n_pairs, len(images.pixels))).astype(int))
    key = jax.random.fold_in(jax.random.key(config.seed), 2)  # the training's are of the key itself
    pair = views.positive_pairs(images.pixels[some], key, config.training(config.methods[0]).recipe)
    x = np.concatenate([np.asarray(view, np.float32) for view in pair])
    return Subject(training, trained, x, images.pixels, runs.folder(training, images, config.runs_dir))


def _leaves(encoder: nnx.Module) -> Any:
    _, params, stats = models.stateful(encoder)
    return {"params": params, "stats": stats}
