"""The network of a run at chosen steps, kept beside its checkpoints, of which only the newest
stay."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from stepwise import _check, _npz, models
from stepwise.types import Whole

KIND = "snapshot"


def write(folder: str | os.PathLike[str], step: Whole, params: Any, stats: Any) -> None:
    """Keep parameters and batch statistics (as `models.stateful` gives them), unless that step's
    are there.
    """
    path = _path(folder, step)
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    leaves = jax.tree.leaves((params, stats))
    _npz.write(
        path,
        KIND,
        {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)},
        {"step": int(step)},
    )


def load(encoder: nnx.Module, folder: str | os.PathLike[str], step: Whole) -> nnx.Module:
    """The encoder as a run in this folder had it at one of its plan's `snapshot_at`, in place, in
    evaluation mode.

    Raises:
        ValueError: there is none of that step, or it is of another network.
    """
    path = _path(folder, step)
    there = sorted(int(each.stem.removeprefix("step_")) for each in path.parent.glob("step_*.npz"))
    _check.require(path.is_file(), "step", f"one of the snapshots' {there}", step)
    arrays, _ = _npz.read(path, KIND, ())
    _, *like = models.stateful(encoder)
    leaves, tree = jax.tree.flatten(tuple(like))
    found = [arrays.get(f"leaf{i}", np.empty(0)) for i in range(len(leaves))]
    fits = len(arrays) == len(leaves) and all(
        np.shape(a) == np.shape(b) for a, b in zip(found, leaves, strict=True)
    )
    _check.require(
        fits,
        str(path),
        f"a snapshot of {len(leaves)} arrays as the encoder's",
        f"{len(arrays)}, or others",
    )
    return models.restore(encoder, *jax.tree.unflatten(tree, [jnp.asarray(each) for each in found]))


def _path(folder: str | os.PathLike[str], step: Whole) -> Path:
    return Path(folder) / "snapshots" / f"step_{step}.npz"
