"""Training of an encoder on random views of every image: one loop for all losses, which returns a
Trajectory.
"""

import contextlib
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
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

from stepwise import _check, _terminal, models, spectra
from stepwise._moved import former_arguments
from stepwise.methods import Objective
from stepwise.training import ownership, snapshots
from stepwise.training.callbacks import CallbackError
from stepwise.training.calls import Calls
from stepwise.training.checkpoints import Checkpoints
from stepwise.training.log import RunLog
from stepwise.training.plan import Plan
from stepwise.training.step import Step
from stepwise.trajectory import DIVERGED, STOPPED, Result, Trajectory
from stepwise.types import Numbers, Whole


@dataclass(frozen=True)
class Trained:
    """A finished or interrupted run.

    Attributes:
        trajectory: the loss on the probe, and the eigenvalues of C and of the embedding's
            covariance. Its `stats` hold the monitors [T], the mean training loss since the
            previous sample ("train_loss" [T]), the step of each sample ("step" [T]), and the
            covariance eigenvalues of each hidden representation ("stages/NAME" [T, k]).
        encoder: the encoder with the last parameters, in evaluation mode.
        finished: whether all steps were taken or the run diverged. If False, the run was
            interrupted, and `train` with the same folder resumes it.
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
    callbacks: Sequence[Any] = (),
    until: Whole | None = None,
) -> Trained:
    """Train an encoder by stochastic gradient descent on random views of every image.

    The run computes in the precision of the parameters, whatever `jax_enable_x64` is. Views are
    made on the device inside the compiled step. With a mesh, the batch is sharded over
    the mesh's first axis; batch statistics, loss and gradient are those of the whole batch.

    Args:
        encoder: images [k, h, w, c] in [0, 1] -> embeddings [k, d], such as `models.Encoder`;
            trained in place.
        pixels: uint8 [n, h, w, c].
        objective: the loss, and the predictor and target network that it needs.
        plan: the hyper-parameters.
        predictor: a module from embeddings to predictions, for an objective with a predictor.
        folder: folder for checkpoints, log.jsonl and TensorBoard events. An interrupted run resumes
            from it to the same bits; a finished run is loaded.
        metadata: a further description of the run, anything that JSON can hold; a folder whose run
            has other metadata is rejected. List here what the other arguments hide inside a
            function, such as the momentum of an optimiser that is not a `functools.partial`.
        mesh: devices that share each batch; by default all devices, or one if they do not divide
            the batch evenly.
        progress: whether to show a bar with loss, rank and time left; by default, if stderr is a
            terminal.
        callbacks: functions that are called with a `callbacks.Event` after each measured sample, in
            this order. Each returns None or a dict of numbers, which are written to callbacks.jsonl
            in the folder and to TensorBoard as callback/NAME. They do not change the run, and are
            not part of its fingerprint. A resumed run calls them for the samples after its
            checkpoint; a finished one calls none. A callback with the methods `state()`, which
            returns a tree of arrays (dicts, lists and tuples), and `load(state)`, which receives
            it with NumPy arrays, resumes from its state at the checkpoint. In a `jax.distributed`
            program every process calls them.
        until: step at which to stop, unfinished; a later call goes on to the same bits. By default
            the plan's last.

    Returns:
        The measurements, with times = Σ lr, and the trained encoder. If a loss or gradient is not
        finite, or a loss exceeds 1e6 times the first one, the run ends as diverged, with the last
        good parameters. SIGTERM and Ctrl-C save a checkpoint and end the run unfinished.

    Raises:
        ValueError: if pixels are not uint8 [n, h, w, c] or are fewer than a batch; a number of the
            plan is not positive; a predictor is missing or unused; the folder holds another run
            (of other images, objective, plan, `metadata` or starting weights); another process
            trains in the folder; or a callback is not callable.
        callbacks.CallbackError: if a callback raises an exception, or returns neither None nor a
            dict of numbers. The run is saved first. When it resumes, all callbacks are called for
            this sample again.
        OSError: if a checkpoint could not be written; earlier checkpoints remain.
    """
    plan.require()
    if until is not None:
        _check.whole("until", until, 1)
    fits = isinstance(encoder, nnx.Module)
    _check.require(fits, "encoder", "a Flax NNX module", type(encoder).__name__)
    calls = Calls(callbacks, encoder, folder)
    is_file = folder is not None and Path(folder).is_file()
    _check.require(not is_file, "folder", "a folder", f"the file {str(folder)!r}")
    with contextlib.ExitStack() as resources:
        resources.enter_context(jax.enable_x64(_in_float64(encoder, predictor)))
        step = Step(encoder, pixels, objective, plan, predictor, mesh)
        state, samples = step.start(), plan.samples()
        first, _ = _measure(step, state, plan)
        log = RunLog(samples, plan.times()[samples], first, folder)
        store, resumed = None, None
        if folder is not None:
            resources.enter_context(ownership.alone(Path(folder)))
            identity = ownership.identity(pixels, objective, plan, log, metadata)
            store = Checkpoints(Path(folder) / "checkpoints", identity)
            resources.callback(store.close)
            restored = store.restore({"state": state, "log": log.arrays()})
            if restored is not None:
                resumed, checkpoint = restored
                state = checkpoint["state"]
                ownership.require_start(Path(folder), checkpoint["log"], first)
                log.load(checkpoint["log"])
            if jax.process_index() == 0:
                _warn_of_missing_snapshots(Path(folder), plan, int(state["step"]))
        due = calls.begin(resumed)
        end = plan.steps if until is None else min(int(until), plan.steps)
        if due or (int(state["step"]) < end and bool(state["ok"])):
            log.open()
            resources.callback(log.close)
        state, finished = _run(step, state, plan, log, store, progress, folder, calls, due, end)
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


def _warn_of_missing_snapshots(folder: Path, plan: Plan, position: int) -> None:
    """Warn of networks that the plan asks for but that an earlier run passed without saving."""
    passed = [int(step) for step in plan.snapshot_at if step < position]
    missing = [step for step in passed if not snapshots.exists(folder, step)]
    if missing:
        warnings.warn(
            f"snapshot_at: the run in {folder} has passed steps {missing[:5]} without saving its "
            "network; train in another folder to have them",
            stacklevel=3,
        )


def _in_float64(*modules: nnx.Module | None) -> bool:
    """Return whether a parameter is in float64, without which a run needs no `jax_enable_x64`.

    With the setting of the process, the same run would round its schedules in another way.
    """
    states = [nnx.state(module, nnx.Param) for module in modules if module is not None]
    return any(leaf.dtype in (jnp.float64, jnp.complex128) for leaf in jax.tree.leaves(states))


def _run(
    step: Step,
    state: Any,
    plan: Plan,
    log: RunLog,
    store: Checkpoints | None,
    progress: bool | None,
    folder: str | os.PathLike[str] | None,
    calls: Calls,
    due: bool,
    last: int,
) -> tuple[Any, bool]:
    """Run the loop. Return the last state, and whether the run finished or diverged.

    If `due`, the callbacks are first called for the present sample, which the log has already.
    """
    samples, position = set(plan.samples().tolist()), int(state["step"])
    snapshot_steps = (
        set(map(int, plan.snapshot_at))
        if folder is not None and jax.process_index() == 0
        else set()
    )
    stops = samples | snapshot_steps

    def save_snapshot() -> None:
        if position in snapshot_steps:
            encoder = (state["params"]["encoder"], state["stats"]["encoder"])
            snapshots.write(folder or "", position, *encoder)

    def save(failed: bool = False) -> None:
        if store is not None and position not in store.steps():
            calls.save(position, failed=failed)  # first, since no checkpoint may lack its states
            store.save(position, {"state": state, "log": log.arrays()})
            calls.prune(store.steps())

    def call(measured: dict[str, Any], outputs: tuple[Any, ...]) -> dict[str, float]:
        try:
            return calls.call(position, measured, outputs, state, log)
        except CallbackError:
            save(failed=True)
            raise

    with (
        _watch_signals() as interrupted,
        _terminal.bar(
            total=plan.steps,
            initial=position,
            unit="step",
            progress=progress,
        ) as bar,
    ):
        save_snapshot()
        if due:
            measured, outputs = _measure(step, state, plan)
            recorded = log.arrays()  # the state has lost the sum behind the mean training loss
            loss = float(recorded["train_loss"][int(recorded["done"]) - 1])
            call(measured | {"train_loss": loss}, outputs)
            calls.settle(position)
        while position < last and bool(state["ok"]):
            ends = (
                min((s for s in stops if s > position), default=plan.steps),
                last,
                position - position % plan.checkpoint_every + plan.checkpoint_every,
            )
            end = min(*ends, position + plan.dispatch)
            state = step.advance(state, end - position)
            bar.update(int(state["step"]) - position)
            position = int(state["step"])
            if position < end:
                break  # the run diverged; the state is the one before the bad step
            save_snapshot()
            if position in samples:
                measured, outputs = _measure(step, state, plan)
                log.add(measured)
                finite = bool(np.isfinite(measured["loss"]))
                state = step.reset_mean_loss(state) if finite else step.mark_failed(state)
                numbers = call(measured, outputs)
                if not finite:
                    break  # the step itself was finite, but the embeddings that it leads to are not
                shown = {name: f"{value:.4g}" for name, value in numbers.items()}
                shown |= {"rank": f"{measured['rankme']:.1f}"}
                bar.set_postfix(loss=f"{measured['loss']:.4g}", **shown)
            if position % plan.checkpoint_every == 0:
                save()
            if interrupted() and position < plan.steps:
                save()
                return state, False
    save()
    return state, position >= plan.steps or not bool(state["ok"])


def _measure(step: Step, state: Any, plan: Plan) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """Return the measurements of one sample by name, and the outputs that they describe.

    All but the training loss are NaN if an embedding or a representation is not finite. The outputs
    are the embeddings of the first and of the second view, and the hidden representations by name.
    """
    z1, z2, loss, hidden = step.evaluate_probe(state)
    d, count = z1.shape[1], max(int(state["taken"]), 1)
    finite = all(bool(np.isfinite(values).all()) for values in (z1, z2, *hidden.values()))
    measured: dict[str, Any] = {
        "loss": float(loss) if finite else np.nan,
        "train_loss": float(state["loss_sum"]) / count,
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
    return measured, (z1, z2, hidden)


@contextmanager
def _watch_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether any process has received SIGTERM or Ctrl-C.

    Only the first Ctrl-C is recorded; a second one raises KeyboardInterrupt at once.
    """
    event = threading.Event()

    def record(number: int, frame: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupted() -> bool:
        if jax.process_count() == 1:
            return event.is_set()
        return bool(np.any(multihost_utils.process_allgather(np.asarray(event.is_set()))))

    # Python allows signal handlers in the main thread only
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    handlers = {number: signal.signal(number, record) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield interrupted
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
