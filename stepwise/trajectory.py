"""What every solver and every training run returns."""

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


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Result:
    """How a run ended: a value, not an exception.

    Attributes:
        code: `CONVERGED` (the loss has reached what the positive modes allow, to 1e-2), `STOPPED`
            (the time asked for ended first, or nothing says where this loss ends) or `DIVERGED`.
        step: the first recorded step (or number of the sample) at which the run was no longer
            finite; −1 otherwise.
        cause: what most likely made it diverge.
    """

    code: Numbers
    step: Numbers
    cause: str = field(default="", metadata={"static": True})

    @property
    def name(self) -> str:
        """`converged`, `stopped` or `diverged`."""
        return NAMES[int(self.code)]

    def __str__(self) -> str:
        """The name, and for a run that diverged the step and the likely cause; of a batch, how many
        of each.
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
    """Eigenvalues and loss along training, from theory or from experiment alike.

    Attributes:
        times: t [T] = learning rate × step.
        eigenvalues: of the observable, [T, d], from the largest down at each time.
        loss: [T]; ‖C − I_d‖_F² where nothing else was asked for.
        result: whether it converged, stopped or diverged.
        covariance_eigenvalues: of the embedding covariance [T, d], where they were measured.
        snapshots: mode coordinates A [S, d, r] at `snapshot_times` [S]; solvers keep the last
            state. Of a start that is a tree, a tree of such arrays.
        rest: what the law says the eigenvalues end at [d], from the largest down, 0 for what does
            not grow; None where no law was asked.
        observable: the matrix whose eigenvalues these are (`laws.Law.observable`).
        source: which solver or run this is.
        stats: numbers about the run, such as steps taken and the error bound kept.

    Under vmap every array gains the batch's leading axes; `unbatch` takes such a batch apart.
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
        """In one line: where it is from, how many samples, how many modes, how it ended."""
        end = "traced" if _check.is_traced(self) else self.result
        return f"Trajectory({self.source}: eigenvalues {list(np.shape(self.eigenvalues))}, {end})"

    unbatched = Renamed("unbatch")

    def unbatch(self) -> "list[Trajectory]":
        """The trajectories of a vmapped run, one by one.

        Raises:
            ValueError: this is a single trajectory.
        """
        _check.require(
            np.ndim(self.times) > 1,
            "trajectory",
            "a batch, as a vmapped solver returns",
            self.times,
        )
        return [jax.tree.map(operator.itemgetter(i), self) for i in range(len(self.times))]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to one .npz, without pickle, under a temporary name that is then renamed."""
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
        """Read what `save` wrote.

        Raises:
            ValueError: the file is not a saved trajectory; says what it is and what was expected.
        """
        required = ("times", "eigenvalues", "loss", "result.code", "result.step")
        arrays, about = _npz.read(path, "stepwise.Trajectory", required)
        result = Result(arrays.pop("result.code"), arrays.pop("result.step"), str(about["cause"]))
        stats = {key[6:]: arrays.pop(key) for key in sorted(arrays) if key.startswith("stats.")}
        entries = [key for key in sorted(arrays) if key.startswith("snapshots.")]
        parts: Any = {key.removeprefix("snapshots."): arrays.pop(key) for key in entries}
        if parts:
            arrays["snapshots"] = parts
        known = {field.name for field in fields(cls)}
        _check.require(
            arrays.keys() <= known, str(path), f"arrays among {sorted(known)}", f"{sorted(arrays)}"
        )
        observable = str(about.get("observable", "C"))  # what was saved earlier has none
        source = str(about["source"])
        return cls(**arrays, result=result, observable=observable, source=source, stats=stats)


def eigvalsh_descending(C: jax.Array) -> jax.Array:
    """Eigenvalues of symmetric C [..., d, d] from the largest down; NaN throughout where C is not
    finite.
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
    """A trajectory from its curves and its last states, with how the run ended worked out.

    Args:
        law: says what the curves rest at and what the loss can reach; without one a run is never
            said to have converged.
        loss: [T]; by default the law's, from the eigenvalues.
        reached: the law's objective at the end, if `loss` is another one, which may differ from it
            by a constant; by default the last of `loss`.
        more: further fields.
    """
    _check.require(loss is not None or law is not None, "loss", "a loss, or a law", "neither")
    loss, code, first, rest = _judged(law, eigenvalues, loss, reached)
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
def _judged(
    law: Law | None, eigenvalues: jax.Array, loss: jax.Array | None, reached: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """The loss [T], how the run ended, its first sample that is not finite, and where it rests."""
    d, rest = eigenvalues.shape[-1], None
    if law is not None:
        loss = law.loss_of(eigenvalues) if loss is None else loss
        rest = _ends(law, d, eigenvalues.dtype)
    assert loss is not None
    finite = jnp.isfinite(loss)
    converged = jnp.asarray(False)
    if law is not None and rest is not None:
        converged = law.has_converged(loss[-1] if reached is None else reached, d)
    code = jnp.where(finite.all(), jnp.where(converged, CONVERGED, STOPPED), DIVERGED)
    return loss, code, jnp.argmin(finite), rest


def _ends(law: Law, d: int, dtype: Any) -> jax.Array | None:
    """What the law's d largest eigenvalues rest at; None where nobody knows."""
    try:
        ends = jnp.asarray(law.rest())[law.final_modes(d)].astype(dtype)
    except NotKnownError:
        return None
    return jnp.pad(ends, (0, d - ends.shape[0]))


def as_inputs(
    gamma: Numbers, A0: Numbers, times: Numbers
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """γ, A0 and times as arrays of one dtype, the widest among them; refuses shapes that do not
    fit.
    """
    A0 = _check.real_array("A0", A0, ndim=2)
    times = _check.real_array("times", times, ndim=1)
    r = gamma.size
    _check.require(A0.shape[1] == r, "A0", f"{r} columns, one a mode of the problem", A0)
    _check.require(times.size > 0, "times", "at least one time", times)
    if not _check.is_traced(times):
        host = np.asarray(times)
        if not (host[0] >= 0 and (np.diff(host) > 0).all()):
            received = f"{host[:3]} ... {host[-1]}"
            _check.require(False, "times", "increasing numbers from 0 on", received)
    dtype = jnp.result_type(gamma, A0, times)
    return jnp.asarray(gamma, dtype), jnp.asarray(A0, dtype), jnp.asarray(times, dtype)


descending, start = eigvalsh_descending, as_inputs  # former names, until 0.3
