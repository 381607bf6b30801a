"""Snapshots: the network of a run at chosen steps.

Unlike checkpoints, of which only the newest remain, snapshots are never removed.
"""

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
    """Write the parameters and batch statistics of a step, unless its snapshot already exists.

    Args:
        folder: the folder of the run; the file is snapshots/step_N.npz in it.
        step: the step N.
        params, stats: trees of arrays, as `models.stateful` returns them.
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


def exists(folder: str | os.PathLike[str], step: Whole) -> bool:
    """Return whether a step has a snapshot."""
    return _path(folder, step).is_file()


def load(encoder: nnx.Module, folder: str | os.PathLike[str], step: Whole) -> nnx.Module:
    """Load the snapshot of a step into an encoder, in place, and set it to evaluation mode.

    Args:
        encoder: a network of the same shapes as that of the run.
        folder: the folder of the run.
        step: one of the steps in the plan's `snapshot_at`.

    Returns:
        The same encoder.

    Raises:
        ValueError: if the step has no snapshot, or the snapshot is of a network of other shapes.
    """
    path = _path(folder, step)
    steps = sorted(int(file.stem.removeprefix("step_")) for file in path.parent.glob("step_*.npz"))
    _check.require(path.is_file(), "step", f"one of the snapshots {steps}", step)
    arrays, about = _npz.read(path, KIND, ())
    fits = about.get("step") == int(step)
    _check.require(
        fits, str(path), f"a snapshot of step {step}", f"one of step {about.get('step')}"
    )
    _, *template = models.stateful(encoder)
    leaves, tree = jax.tree.flatten(tuple(template))
    values = [arrays.get(f"leaf{i}", np.empty(0)) for i in range(len(leaves))]
    fits = len(arrays) == len(leaves) and all(
        np.shape(a) == np.shape(b) for a, b in zip(values, leaves, strict=True)
    )
    _check.require(
        fits,
        str(path),
        f"a snapshot of {len(leaves)} arrays with the encoder's shapes",
        f"one of {len(arrays)} arrays, or with other shapes",
    )
    finite = all(np.isfinite(each).all() for each in values if each.dtype.kind == "f")
    _check.require(finite, str(path), "finite parameters", "others")
    return models.restore(
        encoder, *jax.tree.unflatten(tree, [jnp.asarray(each) for each in values])
    )


def _path(folder: str | os.PathLike[str], step: Whole) -> Path:
    return Path(folder) / "snapshots" / f"step_{step}.npz"
