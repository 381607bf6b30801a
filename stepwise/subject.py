"""Analysis of a training run: fresh views, their embedding along training, and stored kernels."""

import json
import os
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from stepwise import _check, _files, _random, data, entk, models, staircase, views
from stepwise._moved import former_names
from stepwise.data import Images
from stepwise.entk.parameters import Apply
from stepwise.training import runs, snapshots
from stepwise.training.loop import Trained
from stepwise.types import Whole


@dataclass(frozen=True)
class Subject:
    """A finished run, with fresh views of its images.

    Attributes:
        config: the configuration of the run.
        run: the finished run.
        images: all images that it was trained on.
        indices: indices of the images that have views [n].
        x: two views of each of them, X stacked on X' [2n, h, w, c], float32 in [0, 1].
        folder: the folder of the run; kernels are stored in its subfolder `entk`.
    """

    config: runs.Config
    run: Trained
    images: Images
    indices: np.ndarray
    x: np.ndarray
    folder: Path

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """The modes and their steps (`staircase.numbers`)."""
        return staircase.numbers(self.run.trajectory)

    @property
    def d(self) -> int:
        """The number of modes learned, at least 1.

        Dimensions that were not learned are left out of comparisons.
        """
        return max(1, self.numbers["crossed"])

    @cached_property
    def apply(self) -> Apply:
        """The network in evaluation mode, as a function of {"params", "stats"} and views.

        The same function serves the networks of all steps.
        """
        forward = models.stateful(self.run.encoder)[0]
        return lambda tree, x: forward(tree["params"], tree["stats"], x, False)[0]

    @cached_property
    def embedding(self) -> np.ndarray:
        """The centred embedding of the views on its d leading principal directions [2n, d]."""
        z = np.asarray(jax.jit(self.apply)(leaves(self.run.encoder), self.x), np.float64)
        z = z - z.mean(axis=0)
        return z @ np.linalg.svd(z, full_matrices=False)[2][: self.d].T

    @cached_property
    def pixel_kernel(self) -> np.ndarray:
        """The linear kernel of the pixels, ⟨x, x'⟩ [2n, 2n]."""
        flat = np.asarray(self.x.reshape(len(self.x), -1), np.float64)
        return flat @ flat.T

    @property
    def steps(self) -> list[int]:
        """The steps whose networks are available, from 0 to the last."""
        return sorted({0, self.config.steps, *runs.snapshot_steps(self.config)})

    def network(self, step: Whole, *, settled: bool = True) -> nnx.Module:
        """Return the encoder after `step` training steps, in evaluation mode.

        At step 0 the network has no running statistics yet. They are computed from the run's
        images, unless `settled` is False.

        Raises:
            ValueError: if the run has no network of this step.
        """
        channels = self.x.shape[-1]
        if step == self.config.steps:
            return self.run.encoder
        start = runs.encoder(self.config, channels)
        if step > 0:
            return snapshots.load(start, self.folder, step)
        return runs.settle_statistics(start, self.images.pixels) if settled else start

    def kernel(self, step: Whole, *, progress: bool | None = None) -> np.ndarray:
        """Return the eNTK of the views after `step` training steps, in evaluation mode [2n, 2n].

        It is computed once and stored in the run's folder.

        Raises:
            ValueError: if the run has no network of this step.
        """
        network = self.network(step)
        views_digest = _files.digest(self.x, length=8)
        path = self.folder / "entk" / f"step_{step}_{views_digest}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        # a kernel of another version, or a part from another number of devices, is replaced
        K = entk.gram(
            self.apply,
            leaves(network),
            self.x,
            only="params",
            path=path,
            anew=True,
            progress=progress,
        )
        return np.asarray(K, np.float64)

    @cached_property
    def embeddings_along(self) -> np.ndarray:
        """The embeddings of the views at every one of `steps`, with all d' outputs [S, 2n, d'].

        Batch normalisation uses the statistics of each half (X and X') of the views, as in the
        run's own curves (`training.loop`), because running statistics lag behind during training.
        """
        forward = models.stateful(self.run.encoder)[0]
        halves = self.x.reshape(2, -1, *self.x.shape[1:])
        embed = jax.jit(
            lambda tree, x: forward(tree["params"], tree["stats"], x, True, dropout=False)[0]
        )
        trees = [leaves(self.network(step, settled=False)) for step in self.steps]
        return np.stack(
            [np.concatenate([embed(tree, jnp.asarray(half)) for half in halves]) for tree in trees]
        )


def from_run(
    config: runs.Config,
    trained: Trained,
    n_pairs: Whole,
    *,
    root: str | os.PathLike[str] = "runs",
    recipe: str | None = None,
) -> Subject:
    """Return a run with fresh views of n_pairs of its images, which its training did not draw.

    Runs on the same images, with the same seed and recipe, have the same views.

    Args:
        n_pairs: number of images; all images if the run has fewer.
        root: the folder of all runs.
        recipe: a name in `views.RECIPES`; by default the run's own recipe.

    Raises:
        ValueError: if n_pairs is not positive.
    """
    _check.require(n_pairs >= 1, "n_pairs", "a positive number of pairs", n_pairs)
    images = runs.load(config)
    indices = np.unique(
        np.linspace(0, len(images.pixels) - 1, min(n_pairs, len(images.pixels))).astype(int)
    )
    key = jax.random.fold_in(_random.key(config.seed), 2)  # training draws from the key itself
    pair = views.positive_pairs(images.pixels[indices], key, recipe or config.recipe)
    x = np.concatenate([np.asarray(view, np.float32) for view in pair])
    return Subject(config, trained, images, indices, x, runs.folder(config, images, root))


def configuration(folder: str | os.PathLike[str]) -> runs.Config:
    """Read the configuration of the run in a folder of `runs.train`.

    Raises:
        ValueError: if the folder holds no run, or a run of a version with other fields.
    """
    path = Path(folder) / "config.json"
    expected = "the folder of a run, which contains config.json"
    received = "a folder without it" if Path(folder).is_dir() else "a path that does not exist"
    _check.require(path.is_file(), str(folder), expected, received)
    try:
        stored = json.loads(path.read_text())
        names = {field.name for field in fields(runs.Config)}
        settings = {
            name: tuple(v) if isinstance(v, list) else v
            for name, v in stored.items()
            if name != "code"
        }
        others = ", ".join(sorted((names ^ settings.keys()) - set(data.OPTIONS)))
        _check.require(
            not others, str(path), "the fields of this version", f"a difference in {others}"
        )
        file, colon, variable = str(settings["method"]).rpartition(":")
        if colon and not Path(file).is_file():  # it was moved or deleted, but the run has a copy
            settings["method"] = f"{path.with_name('method.py')}:{variable}"
        return runs.Config(**settings)  # type: ignore[arg-type]
    except (json.JSONDecodeError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path}: expected a run's configuration, received something else ({error})"
        ) from error


def leaves(encoder: nnx.Module) -> dict[str, Any]:
    """Return {"params", "stats"} of a module, the first argument of `Subject.apply`."""
    _, params, stats = models.stateful(encoder)
    return {"params": params, "stats": stats}


__getattr__ = former_names(__name__, {"of": "from_run"})
