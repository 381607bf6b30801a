"""Checkpoints of long runs: each is written atomically, and damaged or foreign ones are refused by
name.

This is the only module that imports orbax.
"""

import logging
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from stepwise import _check

LOG = logging.getLogger(__name__)
_NAME = "step"


class Checkpoints:
    """The checkpoints of one run in a folder, one for each saved step, of which the newest remain.

    A state is any tree of arrays, and every process holds all of it. In a `jax.distributed`
    program, each process creates its own `Checkpoints` of the same folder and calls it at the same
    steps.

    Args:
        folder: created if it is missing.
        about: a description of the run (anything that JSON can hold), stored with every checkpoint.
            A checkpoint with another description belongs to another run and is refused.
        keep: number of checkpoints to keep; at least two, because the newest may be damaged.
        warn: called with a message for every checkpoint that is refused.

    Raises:
        ValueError: if `keep` is less than 2.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        about: dict[str, Any],
        *,
        keep: int = 2,
        warn: Callable[[str], None] = LOG.warning,
    ) -> None:
        _check.require(keep >= 2, "keep", "at least 2 checkpoints", keep)
        self.folder, self.about, self.warn = Path(folder).absolute(), about, warn
        named = not any("\udc80" <= char <= "\udcff" for char in str(self.folder))
        _check.require(named, "folder", "a name in UTF-8, which orbax needs", ascii(str(folder)))
        self._options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            step_prefix=_NAME,
            enable_async_checkpointing=False,
            cleanup_tmp_directories=True,
        )
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        self.folder.mkdir(parents=True, exist_ok=True)
        return ocp.CheckpointManager(self.folder, options=self._options)

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints in the folder, in ascending order, damaged or not."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any) -> None:
        """Write the checkpoint of a step, then remove the oldest one beyond `keep`.

        The state is written under a temporary name and then renamed. A step that already has a
        checkpoint is skipped.

        Raises:
            OSError: if it could not be written (for instance on a full disk); the earlier
                checkpoints are unchanged.
        """
        if step in self._manager.all_steps():
            return
        about = {"of": self.about, "sums": _sums(_flat(state))}
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(_flat(state)), about=ocp.args.JsonSave(about)
        )
        try:
            self._manager.save(step, args=items, force=True)
            self._manager.wait_until_finished()
        # orbax and tensorstore raise ValueError and other types when the disk rejects a write
        except Exception as error:
            self._manager.close()
            self._manager = self._open()
            raise OSError(
                f"{self.folder}: the checkpoint of step {step} could not be written ({error})"[:500]
            ) from error

    def restore(self, template: Any) -> tuple[int, Any] | None:
        """Return the step and the state of the newest usable checkpoint.

        A checkpoint that is truncated, damaged or of another run is refused: its name and the
        reason are passed to `warn`, and the one before it is tried. If one is usable, the refused
        ones are renamed to refused_step_N_0. If none is usable, all keep their names.

        Args:
            template: a tree of arrays with the structure, shapes and dtypes of the state.

        Returns:
            (step, state), with the state in the structure of `template`; None if the folder has no
            checkpoint.

        Raises:
            ValueError: if there are checkpoints and all are refused; the message has the reasons.
        """
        refused: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                state = self._read(step, template)
            # orbax, tensorstore and json raise many types of error for damaged files
            except Exception as error:
                reason = " ".join(str(error).split())[:300]
                refused[step] = f"{self.folder / f'{_NAME}_{step}'}: refused, {reason}"
                self.warn(refused[step])
                continue
            for bad in refused:
                self._set_aside(bad)
            return step, state
        if refused:
            reasons = "; ".join(refused.values())
            raise ValueError(
                f"{self.folder}: expected a checkpoint of this run, none is usable; {reasons}"
            )
        return None

    def close(self) -> None:
        """Close the folder's checkpoint manager."""
        self._manager.close()

    def _read(self, step: int, template: Any) -> Any:
        record = self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))[
            "about"
        ]
        about = record["of"]
        if about != self.about:
            differs = sorted(
                key for key in {*about, *self.about} if about.get(key) != self.about.get(key)
            )
            raise ValueError(
                "expected a checkpoint of this run, "
                f"received one of another run (it differs in {differs})"
            )
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, _flat(template))
        items = ocp.args.Composite(state=ocp.args.StandardRestore(shapes))
        flat = self._manager.restore(step, args=items)["state"]
        for name, leaf in _flat(template).items():
            if flat[name].shape != np.shape(leaf) or flat[name].dtype != np.asarray(leaf).dtype:
                raise ValueError(
                    f"expected {name} {leaf.dtype} {list(leaf.shape)}, "
                    f"received {flat[name].dtype} {list(flat[name].shape)}"
                )
        sums = _sums(flat)
        damaged = sorted(name for name in sums if sums[name] != record["sums"][name])
        if damaged:
            raise ValueError(
                f"expected the numbers that were written, received different ones in {damaged[:5]}"
            )
        return jax.tree.unflatten(
            jax.tree.structure(template), [flat[name] for name in _flat(template)]
        )

    def _set_aside(self, step: int) -> None:
        self._manager.close()
        path = self.folder / f"{_NAME}_{step}"
        if jax.process_index() == 0:
            number = 0
            while (target := path.with_name(f"refused_{_NAME}_{step}_{number}")).exists():
                number += 1
            path.replace(target)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"set aside {path}")
        self._manager = self._open()


def _sums(flat: dict[str, Any]) -> dict[str, int]:
    """Return a checksum of each array's bytes; every process holds the whole of each array."""
    return {name: zlib.crc32(np.ascontiguousarray(leaf).tobytes()) for name, leaf in flat.items()}


def _flat(state: Any) -> dict[str, Any]:
    """Return the leaves by their paths, because then reading needs no types of optax or flax."""
    return {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
