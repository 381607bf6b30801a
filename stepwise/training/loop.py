"""Training of an encoder on two views of every image: one loop for all losses, returning a
Trajectory.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from stepwise import _bars, models, spectra
from stepwise._moved import former_arguments
from stepwise.methods import Objective
from stepwise.training import ownership, snapshots
from stepwise.training.checkpoints import Checkpoints
from stepwise.training.log import RunLog
from stepwise.training.plan import Plan
from stepwise.training.step import Step
from stepwise.trajectory import DIVERGED, STOPPED, Result, Trajectory
from stepwise.types import Numbers


@dataclass(frozen=True)
class Trained:
    """A finished or interrupted run.

    Attributes:
        trajectory: eigenvalues of C and of the covariance on the probe, its loss; in `stats` the
            monitors [T], the mean training loss since the sample before ("train_loss"), the step of
            every sample ("step") and the covariance eigenvalues of every hidden representation
            ("stages/NAME" [T, k]).
        encoder: with the last parameters, in evaluation mode.
        finished: whether all steps were taken (or the run diverged); otherwise it was interrupted,
            and goes on when called again with the same folder.
    """

    trajectory: Trajectory
    encoder: nnx.Module
    finished: bool


@former_arguments(about="metadata")
def train(
    encoder: nnx.Module,
    pixels: Numbers,
    objective: Objective,
    plan: Plan,
    *,
    predictor: nnx.Module | None = None,
    folder: str | os.PathLike[str] | None = None,
    metadata: dict[str, Any] | None = None,
    mesh: Mesh | None = None,
    progress: bool | None = None,
) -> Trained:
    """Train an encoder by stochastic gradient descent on two random views of every image.

    Views are made on the device inside the compiled step. Under a mesh, whose first axis the batch
    is shared over, the program is the global one: batch statistics, loss and gradient are those of
    the whole batch.

    Args:
        encoder: images [k, h, w, c] in [0, 1] -> embeddings [k, d], such as `models.Encoder`;
            trained in place.
        pixels: uint8 [n, h, w, c].
        predictor: a module from embeddings to predictions, where the objective wants one.
        folder: checkpoints, log.jsonl and TensorBoard events; a run that was killed goes on from
            there to the same bits, and one that is finished is only read.
        metadata: what else the run is, so that its folder is not taken for another's; anything JSON
            holds. What is inside a function, such as an optimiser's momentum where it is no
            `functools.partial`, cannot be seen from here.
        mesh: devices that share each batch; by default all, or one where they cannot share it
            evenly.
        progress: show a bar with loss, rank and time left; by default if stderr is a terminal.

    Returns:
        What was measured, with times = Σ lr. A loss or gradient that is not finite, or a loss of
        1e6 times its start, ends the run as diverged, with the parameters before it. SIGTERM and
        Ctrl-C save a checkpoint and end it unfinished.

    Raises:
        ValueError: pixels are not uint8 [n, h, w, c] or fewer than a batch; a number of the plan is
            not positive; a predictor is missing or idle; the folder holds another run (of other
            images, objective, plan or `metadata`, or one that began elsewhere), or another process
            trains there.
        OSError: a checkpoint could not be written; those before it are kept.
    """
    plan.require()
    step = Step(encoder, pixels, objective, plan, predictor, mesh)
    state, at = step.start(), plan.samples()
    first = _measured(step, state, plan)
    log = RunLog(at, plan.times()[at], first, folder)
    with contextlib.ExitStack() as held:
        store = None
        if folder is not None:
            held.enter_context(ownership.alone(Path(folder)))
            identity = ownership.identity(pixels, objective, plan, log, metadata)
            store = Checkpoints(Path(folder) / "checkpoints", identity)
            held.callback(store.close)
            found = store.restore({"state": state, "log": log.arrays()})
            if found is not None:
                state = found[1]["state"]
                ownership.require_start(Path(folder), found[1]["log"], first)
                log.load(found[1]["log"])
        if int(state["step"]) < plan.steps and bool(state["ok"]):
            log.open()
            held.callback(log.close)
        state, finished = _run(step, state, plan, log, store, progress, folder)
    last = jax.tree.map(np.asarray, (state["params"]["encoder"], state["stats"]["encoder"]))
    models.restore(encoder, *jax.tree.map(jnp.asarray, last))
    good = bool(state["ok"])
    cause = (
        ""
        if good
        else "the learning rate is too large, or the loss is not finite at these embeddings"
    )
    result = Result(STOPPED if good else DIVERGED, -1 if good else int(state["step"]), cause)
    return Trained(log.trajectory(result, "training of a network"), encoder, finished)


def _run(
    step: Step,
    state: Any,
    plan: Plan,
    log: RunLog,
    store: Checkpoints | None,
    progress: bool | None,
    folder: str | os.PathLike[str] | None,
) -> tuple[Any, bool]:
    """The state at the end, and whether it is the run's own end."""
    samples, at = set(plan.samples().tolist()), int(state["step"])
    wanted = (
        set(map(int, plan.snapshot_at))
        if folder is not None and jax.process_index() == 0
        else set()
    )
    stops = samples | wanted

    def keep() -> None:
        if at in wanted:
            snapshots.write(folder or "", at, state["params"]["encoder"], state["stats"]["encoder"])

    def save() -> None:
        if store is not None:
            store.save(at, {"state": state, "log": log.arrays()})

    with (
        _stopping() as stopping,
        _bars.bar(
            total=plan.steps,
            initial=at,
            unit="step",
            progress=progress,
        ) as bar,
    ):
        keep()
        while at < plan.steps and bool(state["ok"]):
            ends = (
                min((s for s in stops if s > at), default=plan.steps),
                at - at % plan.checkpoint_every + plan.checkpoint_every,
            )
            until = min(*ends, at + plan.dispatch)
            state = step.advance(state, until - at)
            bar.update(int(state["step"]) - at)
            at = int(state["step"])
            if at < until:
                break  # diverged: the state is that before it
            keep()
            if at in samples:
                measured = _measured(step, state, plan)
                log.add(measured)
                if not np.isfinite(measured["loss"]):  # the step was taken, and is too far
                    state = step.mark_failed(state)
                    break
                state = step.reset_mean_loss(state)
                bar.set_postfix(loss=f"{measured['loss']:.4g}", rank=f"{measured['rankme']:.1f}")
            if at % plan.checkpoint_every == 0:
                save()
            if stopping() and at < plan.steps:
                save()
                return state, False
    save()
    return state, True


def _measured(step: Step, state: Any, plan: Plan) -> dict[str, Any]:
    """All that is kept of one sample; NaN where an embedding or a representation is not finite."""
    z1, z2, loss, hidden = step.evaluate_probe(state)
    d, taken = z1.shape[1], max(int(state["taken"]), 1)
    finite = all(bool(np.isfinite(values).all()) for values in (z1, z2, *hidden.values()))
    measured: dict[str, Any] = {
        "loss": float(loss) if finite else np.nan,
        "train_loss": float(state["loss_sum"]) / taken,
        "eigenvalues": np.full(d, np.nan),
        "covariance_eigenvalues": np.full(d, np.nan),
        **spectra.monitors(z1, z2 if finite else np.full_like(z2, np.nan)),
    }
    if finite:
        measured["eigenvalues"] = np.asarray(spectra.eigenvalues(z1, z2, center=True))
        measured["covariance_eigenvalues"] = spectra.covariance_eigenvalues(
            np.concatenate([z1, z2])
        )
    for name, values in hidden.items():
        size = min(values.shape[1], plan.covariance)
        stage = spectra.covariance_eigenvalues(values)[:size] if finite else np.full(size, np.nan)
        measured[f"stages/{name}"] = stage
    return measured


@contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM or Ctrl-C has come, in any process; a second Ctrl-C is not held back."""
    asked = threading.Event()

    def ask(number: int, frame: Any) -> None:
        asked.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def stopping() -> bool:
        if jax.process_count() == 1:
            return asked.is_set()
        return bool(np.any(multihost_utils.process_allgather(np.asarray(asked.is_set()))))

    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return
    before = {each: signal.signal(each, ask) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopping
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
