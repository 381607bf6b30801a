"""A training run to be looked at: fresh views, their embedding along training, and kernels that are
kept with it.
"""

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

from stepwise import _check, _files, entk, models, staircase, views
from stepwise._moved import former_names
from stepwise.data import Images
from stepwise.entk.kernel import Apply
from stepwise.training import runs, snapshots
from stepwise.training.loop import Trained
from stepwise.types import Whole


@dataclass(frozen=True)
class Subject:
    """A run, and what it is looked at with.

    Attributes:
        config: of the run.
        run: the finished run.
        images: all that it was trained on.
        indices: which of them the views are of [n].
        x: two views of each of these, X stacked on X' [2n, h, w, c], float32 in [0, 1].
        folder: of the run; kernels are kept in its `entk/`.
    """

    config: runs.Config
    run: Trained
    images: Images
    indices: np.ndarray
    x: np.ndarray
    folder: Path

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """Of its training (`staircase.numbers`)."""
        return staircase.numbers(self.run.trajectory)

    @property
    def d(self) -> int:
        """Modes that it learned: what it did not learn has no place to agree in."""
        return max(1, self.numbers["crossed"])

    @cached_property
    def apply(self) -> Apply:
        """The network in evaluation mode, a function of {"params", "stats"} and views: one for all
        steps.
        """
        forward = models.stateful(self.run.encoder)[0]
        return lambda tree, x: forward(tree["params"], tree["stats"], x, False)[0]

    @cached_property
    def embedding(self) -> np.ndarray:
        """Of the views, centred, on its d leading principal directions [2n, d]."""
        z = np.asarray(jax.jit(self.apply)(leaves(self.run.encoder), self.x), np.float64)
        z = z - z.mean(axis=0)
        return z @ np.linalg.svd(z, full_matrices=False)[2][: self.d].T

    @cached_property
    def pixel_kernel(self) -> np.ndarray:
        """⟨x, x'⟩ [2n, 2n]."""
        flat = np.asarray(self.x.reshape(len(self.x), -1), np.float64)
        return flat @ flat.T

    @property
    def steps(self) -> list[int]:
        """Those whose networks are there, from 0 to the last."""
        return sorted({0, self.config.steps, *runs.snapshot_steps(self.config)})

    def network(self, step: Whole, *, settled: bool = True) -> nnx.Module:
        """The encoder after so many steps, in evaluation mode.

        At the start, where there are no running statistics yet, with those of its images unless
        `settled` is false.

        Raises:
            ValueError: the run kept no network of this step.
        """
        channels = self.x.shape[-1]
        if step == self.config.steps:
            return self.run.encoder
        start = runs.encoder(self.config, channels)
        if step > 0:
            return snapshots.load(start, self.folder, step)
        return runs.settle_statistics(start, self.images.pixels) if settled else start

    def kernel(self, step: Whole, *, progress: bool | None = None) -> np.ndarray:
        """eNTK of the views after so many steps [2n, 2n], in evaluation mode; worked out once.

        Raises:
            ValueError: the run kept no network of this step.
        """
        network = self.network(step)
        which = _files.digest(self.x, length=8)
        path = self.folder / "entk" / f"step_{step}_{which}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        # anew: one of another version, or half done by another number of devices, is worth no more
        # than its time
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
        """Of the views at every one of `steps` [S, 2n, d'], all d' outputs, each view's batch
        normalised by itself.

        That is how the run's curves are measured (`dynamics.training`): running statistics lag
        behind at a step.
        """
        forward = models.stateful(self.run.encoder)[0]
        halves = self.x.reshape(2, -1, *self.x.shape[1:])
        embed = jax.jit(lambda tree, x: forward(tree["params"], tree["stats"], x, True)[0])
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
    """A run and fresh views of n_pairs of its images (of all, where it has fewer), which its
    training did not draw.

    By the run's own recipe, or another. The same views for every run on the same images with the
    same seed and recipe.

    Raises:
        ValueError: n_pairs is not a positive number.
    """
    _check.require(n_pairs >= 1, "n_pairs", "a positive number of pairs", n_pairs)
    images = runs.load(config)
    chosen = np.unique(
        np.linspace(0, len(images.pixels) - 1, min(n_pairs, len(images.pixels))).astype(int)
    )
    key = jax.random.fold_in(jax.random.key(config.seed), 2)  # the training's are of the key itself
    pair = views.positive_pairs(images.pixels[chosen], key, recipe or config.recipe)
    x = np.concatenate([np.asarray(view, np.float32) for view in pair])
    return Subject(config, trained, images, chosen, x, runs.folder(config, images, root))


def configuration(folder: str | os.PathLike[str]) -> runs.Config:
    """The configuration of the run in a folder that `runs.train` made.

    Raises:
        ValueError: there is no run, or of another version that had other fields.
    """
    path = Path(folder) / "config.json"
    _check.require(
        path.is_file(), str(folder), "the folder of a run, with its config.json", "none there"
    )
    try:
        found = json.loads(path.read_text())
        known = {field.name for field in fields(runs.Config)}
        given = {
            name: tuple(v) if isinstance(v, list) else v
            for name, v in found.items()
            if name != "code"
        }
        missing = sorted(known ^ given.keys())
        _check.require(
            not missing, str(path), "this version's fields", f"a difference in {', '.join(missing)}"
        )
        file, colon, variable = str(given["method"]).rpartition(":")
        if colon and not Path(file).is_file():  # moved or deleted: the run has a copy
            given["method"] = f"{path.with_name('method.py')}:{variable}"
        return runs.Config(**given)  # type: ignore[arg-type]
    except (json.JSONDecodeError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path}: expected a run's configuration, received something else ({error})"
        ) from error


def leaves(encoder: nnx.Module) -> dict[str, Any]:
    """{"params", "stats"} of a module, as `Subject.apply` takes them."""
    _, params, stats = models.stateful(encoder)
    return {"params": params, "stats": stats}


__getattr__ = former_names(__name__, {"of": "from_run"})
