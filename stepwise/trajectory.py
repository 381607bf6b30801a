"""The trajectory that every solver and every training run returns."""

import operator
import os
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stepwise import _check, _npz
from stepwise._moved import Renamed
from stepwise.laws import Law, NotKnownError
from stepwise.types import Numbers

CONVERGED, STOPPED, DIVERGED = 0, 1, 2
NAMES = ("converged", "stopped", "diverged")
FORMS = {
    "times": _npz.Form(("T",), batched=True),
    "eigenvalues": _npz.Form(("T", "d"), finite=False, batched=True),
    "loss": _npz.Form(("T",), finite=False, batched=True),
    "covariance_eigenvalues": _npz.Form(("T", "d"), finite=False, batched=True),
    "snapshot_times": _npz.Form(("S",), batched=True),
    "rest": _npz.Form(("d",), batched=True),
    "result.code": _npz.Form((), batched=True),
    "result.step": _npz.Form((), batched=True),
}
"""What the arrays of a saved trajectory must be. A run that diverged is not finite."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Result:
    """How a run ended, as a value instead of an exception.

    Attributes:
        code: `CONVERGED` (the loss is within 1e-2 of the value that the positive modes allow),
            `STOPPED` (the requested time ended before that, or no law determines the final loss, as
            in the training of a network) or `DIVERGED`.
        step: the first recorded step (or index of the sample) at which the run was no longer
            finite; −1 if it was finite throughout.
        cause: the most likely cause of a divergence.
    """

    code: Numbers
    step: Numbers
    cause: str = field(default="", metadata={"static": True})

    @property
    def name(self) -> str:
        """The name of the code: `converged`, `stopped` or `diverged`."""
        return NAMES[int(self.code)]

    def __str__(self) -> str:
        """Return the name, and the step and likely cause of a divergence.

        For a batch, return the number of runs of each name.
        """
        if np.ndim(self.code):
            counts = Counter(np.ravel(self.code).tolist())
            return ", ".join(f"{count} {NAMES[code]}" for code, count in sorted(counts.items()))
        return (
            f"diverged by step {int(self.step)}: {self.cause}"
            if self.name == "diverged"
            else self.name
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class Trajectory:
    """Eigenvalues and loss along training, the same type for theory and experiment.

    Attributes:
        times: t [T] = learning rate × step.
        eigenvalues: eigenvalues of the observable [T, d], from the largest down at each time.
        loss: the loss [T]; by default ‖C − I_d‖_F².
        result: whether the run converged, stopped or diverged.
        covariance_eigenvalues: eigenvalues of the embedding's covariance [T, d], if measured.
        snapshots: mode coordinates A [S, d, r] at `snapshot_times` [S]; solvers store the last
            state. If the start is a tree, a tree of such arrays.
        rest: final eigenvalues according to the law [d], from the largest down, 0 for modes that do
            not grow; None without a law.
        observable: name of the matrix that has these eigenvalues (`laws.Law.observable`).
        source: name of the solver or of the kind of run.
        stats: numbers about the run, such as the number of steps and the error bound.

    Under vmap every array gains the batch's leading axes; `unbatch` splits such a batch.
    """

    times: Numbers
    eigenvalues: Numbers
    loss: Numbers
    result: Result
    covariance_eigenvalues: Numbers | None = None
    snapshots: Numbers | None = None
    snapshot_times: Numbers | None = None
    rest: Numbers | None = None
    observable: Any = field(default="C", metadata={"static": True})
    source: str = field(default="", metadata={"static": True})
    stats: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return one line with the source, the number of samples and modes, and the result.

        A run without a law, such as the training of a network, can only finish or diverge.
        """
        end = "traced" if _check.is_traced(self) else str(self.result)
        if self.rest is None and end == NAMES[STOPPED]:
            end = "finished"
        return f"Trajectory({self.source}: eigenvalues {list(np.shape(self.eigenvalues))}, {end})"

    unbatched = Renamed("unbatch")

    def unbatch(self) -> "list[Trajectory]":
        """Split the batch of a vmapped run into its trajectories.

        Raises:
            ValueError: if this is a single trajectory.
        """
        _check.require(
            np.ndim(self.times) > 1,
            "trajectory",
            "a batch, as a vmapped solver returns",
            self.times,
        )
        return [jax.tree.map(operator.itemgetter(i), self) for i in range(len(self.times))]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trajectory to one .npz, without pickle and atomically."""
        names = (
            "times",
            "eigenvalues",
            "loss",
            "covariance_eigenvalues",
            "snapshots",
            "snapshot_times",
            "rest",
        )
        arrays = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if isinstance(self.snapshots, dict):
            inner = arrays.pop("snapshots")
            flat = all(isinstance(value, jax.Array | np.ndarray) for value in inner.values())
            _check.require(flat, "snapshots", "arrays or a dict of arrays", f"{sorted(inner)}")
            arrays |= {f"snapshots.{key}": value for key, value in inner.items()}
        arrays |= {f"stats.{key}": value for key, value in self.stats.items()}
        arrays |= {"result.code": self.result.code, "result.step": self.result.step}
        _npz.write(
            path,
            "stepwise.Trajectory",
            arrays,
            {"source": self.source, "cause": self.result.cause, "observable": self.observable},
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Trajectory":
        """Read a file of `save`.

        Raises:
            ValueError: if the file is not a saved trajectory; the message says what it is.
        """
        required = ("times", "eigenvalues", "loss", "result.code", "result.step")
        keys = ("source", "cause")
        arrays, about = _npz.read(path, "stepwise.Trajectory", required, FORMS, keys)
        result = Result(arrays.pop("result.code"), arrays.pop("result.step"), str(about["cause"]))
        stats = {key[6:]: arrays.pop(key) for key in sorted(arrays) if key.startswith("stats.")}
        entries = [key for key in sorted(arrays) if key.startswith("snapshots.")]
        parts: Any = {key.removeprefix("snapshots."): arrays.pop(key) for key in entries}
        if parts:
            arrays["snapshots"] = parts
        names = {field.name for field in fields(cls)}
        _check.require(
            arrays.keys() <= names, str(path), f"arrays among {sorted(names)}", f"{sorted(arrays)}"
        )
        observable = str(about.get("observable", "C"))  # files of earlier versions have none
        source = str(about["source"])
        return cls(**arrays, result=result, observable=observable, source=source, stats=stats)


def eigvalsh_descending(C: jax.Array) -> jax.Array:
    """Return the eigenvalues of symmetric C [..., d, d] from the largest down.

    They are all NaN for a C that is not finite.
    """
    finite = jnp.all(jnp.isfinite(C), axis=(-1, -2), keepdims=True)
    C = jnp.where(finite, C, 0)
    values = jnp.linalg.eigvalsh((C + jnp.swapaxes(C, -1, -2)) / 2)[..., ::-1]
    return jnp.where(finite[..., 0], values, jnp.nan)


def assemble(
    times: jax.Array,
    eigenvalues: jax.Array,
    states: Any,
    law: Law | None,
    *,
    source: str,
    cause: str,
    loss: jax.Array | None = None,
    reached: jax.Array | None = None,
    steps: jax.Array | None = None,
    stats: dict[str, Any] | None = None,
    **more: Any,
) -> Trajectory:
    """Build a trajectory from its curves and its last states, and compute its result.

    Args:
        times: t [T].
        eigenvalues: eigenvalues of the observable [T, d].
        states: the last states, for `snapshots`, or None.
        law: the law of the final eigenvalues and of the lowest loss; without a law no run counts as
            converged.
        source: name of the solver.
        cause: the most likely cause, should the run have diverged.
        loss: the loss [T]; by default the law's, from the eigenvalues.
        reached: the law's objective at the end, if `loss` is another function, which may differ
            from it by a constant; by default the last of `loss`.
        steps: the training step of each sample [T]; by default samples are numbered.
        stats: numbers about the run.
        more: further fields of the trajectory.

    Raises:
        ValueError: if neither a loss nor a law is passed.
    """
    _check.require(loss is not None or law is not None, "loss", "a loss, or a law", "neither")
    loss, code, first, rest = _judge(law, eigenvalues, loss, reached)
    step = jnp.where(code == DIVERGED, first if steps is None else steps[first], -1)
    if law is not None:
        more |= {"rest": rest, "observable": law.observable}
    return Trajectory(
        times,
        eigenvalues,
        loss,
        Result(code, step, cause),
        snapshots=states,
        snapshot_times=None if states is None else times[-len(jax.tree.leaves(states)[0]) :],
        source=source,
        stats=stats or {},
        **more,
    )


@jax.jit
def _judge(
    law: Law | None, eigenvalues: jax.Array, loss: jax.Array | None, reached: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """Return the loss [T], the result's code, the first sample not finite, and the final values."""
    d, rest = eigenvalues.shape[-1], None
    if law is not None:
        loss = law.loss_of(eigenvalues) if loss is None else loss
        rest = _final_eigenvalues(law, d, eigenvalues.dtype)
    assert loss is not None
    finite = jnp.isfinite(loss)
    converged = jnp.asarray(False)
    if law is not None and rest is not None:
        converged = _has_converged(law, loss[-1] if reached is None else reached, d)
    code = jnp.where(finite.all(), jnp.where(converged, CONVERGED, STOPPED), DIVERGED)
    return loss, code, jnp.argmin(finite), rest


def _has_converged(law: Law, loss: jax.Array, d: int) -> jax.Array:
    """Return whether a run has converged, which no run has if the final loss is not known."""
    try:
        return law.has_converged(loss, d)
    except NotKnownError:
        return jnp.asarray(False)


def _final_eigenvalues(law: Law, d: int, dtype: Any) -> jax.Array | None:
    """Return the law's d largest final eigenvalues, or None if they are not known.

    A law of the first mode alone gives 0 for the others.
    """
    try:
        known, rest = law.known_modes(d), jnp.asarray(law.rest())
        complete = known == min(law.free_rows(d), rest.shape[0])
        ends = rest[law.final_modes(d) if complete else law.order[:known]].astype(dtype)
    except NotKnownError:
        return None
    return jnp.pad(ends, (0, d - ends.shape[0]))


def as_inputs(
    gamma: Numbers, A0: Numbers, times: Numbers
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return γ, A0 and times as arrays of one dtype, the widest among them.

    Raises:
        ValueError: if A0 has not one column for each mode, or the times are not increasing from 0
            or later.
    """
    A0 = _check.real_array("A0", A0, ndim=2)
    times = _check.real_array("times", times, ndim=1)
    r = gamma.size
    _check.require(A0.shape[1] == r, "A0", f"{r} columns, one for each mode of the problem", A0)
    _check.require(times.size > 0, "times", "at least one time", times)
    if not _check.is_traced(times):
        host = np.asarray(times)
        if not (host[0] >= 0 and (np.diff(host) > 0).all()):
            received = f"{host[:3]} ... {host[-1]}"
            _check.require(False, "times", "increasing numbers, none below 0", received)
    dtype = jnp.result_type(gamma, A0, times)
    return jnp.asarray(gamma, dtype), jnp.asarray(A0, dtype), jnp.asarray(times, dtype)


descending, start = eigvalsh_descending, as_inputs  # former names, until 0.3
