"""Checkpoints of long runs: written whole or not at all, refused by name where they are not what
they should be.

The only importer of orbax.
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
    """The checkpoints of one run in a folder, one a step, the newest few kept.

    A state is any tree of arrays, whole in every process. Each process of a `jax.distributed`
    program makes one of these on the same folder and calls it at the same steps.

    Args:
        folder: made if it is not there.
        about: what the run is (anything JSON holds), kept with every checkpoint; one with another
            is foreign.
        keep: how many to keep; at least two, so that one is left when the newest is damaged.
        warn: is told of every checkpoint that is refused.
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
        self._options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            step_prefix=_NAME,
            enable_async_checkpointing=False,
            cleanup_tmp_directories=True,
        )
        self._manager = self._made()

    def _made(self) -> ocp.CheckpointManager:
        self.folder.mkdir(parents=True, exist_ok=True)
        return ocp.CheckpointManager(self.folder, options=self._options)

    def steps(self) -> list[int]:
        """The steps of the checkpoints that are there, in order, whole or not."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any) -> None:
        """Write the state under a temporary name, then rename it, then remove the oldest that is
        not kept.

        Raises:
            OSError: it could not be written (a full disk); the checkpoints that were there are
                still there.
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
        except (
            Exception
        ) as error:  # orbax and tensorstore raise ValueError and more for what the disk refused
            self._manager.close()
            self._manager = self._made()
            raise OSError(
                f"{self.folder}: the checkpoint of step {step} could not be written ({error})"[:500]
            ) from error

    def restore(self, template: Any) -> tuple[int, Any] | None:
        """The newest whole checkpoint's step and state, laid out like `template`; None where there
        is none at all.

        One that is truncated, damaged or of another run is refused by name to `warn`, and the one
        before it is used; those refused are then set aside as refused_step_N_0. Where none is
        usable, all stay as they are.

        Raises:
            ValueError: there are checkpoints and every one was refused (the reasons are in the
                message).
        """
        refused: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                found = self._restored(step, template)
            except (
                Exception
            ) as error:  # whatever orbax, tensorstore and json raise at bytes that are not theirs
                reason = " ".join(str(error).split())[:300]
                refused[step] = f"{self.folder / f'{_NAME}_{step}'}: refused, {reason}"
                self.warn(refused[step])
                continue
            for bad in refused:
                self._set_aside(bad)
            return step, found
        if refused:
            reasons = "; ".join(refused.values())
            raise ValueError(
                f"{self.folder}: expected a checkpoint of this run, none is usable; {reasons}"
            )
        return None

    def close(self) -> None:
        """Let go of the folder."""
        self._manager.close()

    def _restored(self, step: int, template: Any) -> Any:
        kept = self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))[
            "about"
        ]
        about = kept["of"]
        if about != self.about:
            differs = sorted(
                key for key in {*about, *self.about} if about.get(key) != self.about.get(key)
            )
            raise ValueError(
                f"expected a checkpoint of this run, found one of another (it differs in {differs})"
            )
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, _flat(template))
        items = ocp.args.Composite(state=ocp.args.StandardRestore(shapes))
        flat = self._manager.restore(step, args=items)["state"]
        for name, leaf in _flat(template).items():
            if flat[name].shape != np.shape(leaf) or flat[name].dtype != np.asarray(leaf).dtype:
                raise ValueError(
                    f"expected {name} {leaf.dtype} {list(leaf.shape)}, found {flat[name].shape}"
                )
        damaged = sorted(name for name, found in _sums(flat).items() if found != kept["sums"][name])
        if damaged:
            raise ValueError(
                f"expected the numbers that were written, found others in {damaged[:5]}"
            )
        return jax.tree.unflatten(
            jax.tree.structure(template), [flat[name] for name in _flat(template)]
        )

    def _set_aside(self, step: int) -> None:
        self._manager.close()
        path = self.folder / f"{_NAME}_{step}"
        if jax.process_index() == 0:
            number = 0
            while (to := path.with_name(f"refused_{_NAME}_{step}_{number}")).exists():
                number += 1
            path.replace(to)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"set aside {path}")
        self._manager = self._made()


def _sums(flat: dict[str, Any]) -> dict[str, int]:
    """A checksum of each array's bytes; every process has the whole of each."""
    return {name: zlib.crc32(np.ascontiguousarray(leaf).tobytes()) for name, leaf in flat.items()}


def _flat(state: Any) -> dict[str, Any]:
    """Leaves by their path, so that the tree's own types (optax's, flax's) need not be known to
    read it.
    """
    return {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
