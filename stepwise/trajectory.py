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
from stepwise.types import Numbers

CONVERGED, STOPPED, DIVERGED = 0, 1, 2
NAMES = ("converged", "stopped", "diverged")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Result:
    """How a run ended: a value, not an exception.

    Attributes:
        code: `CONVERGED` (the loss has reached what the positive modes allow, to 1e-2), `STOPPED`
            (the time asked for ended first) or `DIVERGED`.
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
        eigenvalues: of the cross-view C, [T, d], from the largest down at each time.
        loss: ‖C − I_d‖_F² [T].
        result: whether it converged, stopped or diverged.
        covariance_eigenvalues: of the embedding covariance [T, d], where they were measured.
        snapshots: mode coordinates A [S, d, r] at `snapshot_times` [S]; solvers keep the last
            state.
        source: which solver or run this is.
        stats: numbers about the run, such as steps taken and the error bound kept.

    Under vmap every array gains the batch's leading axes; `unbatched` takes such a batch apart.
    """

    times: Numbers
    eigenvalues: Numbers
    loss: Numbers
    result: Result
    covariance_eigenvalues: Numbers | None = None
    snapshots: Numbers | None = None
    snapshot_times: Numbers | None = None
    source: str = field(default="", metadata={"static": True})
    stats: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """In one line: where it is from, how many samples, how many modes, how it ended."""
        end = "traced" if _check.is_traced(self) else self.result
        return f"Trajectory({self.source}: eigenvalues {list(np.shape(self.eigenvalues))}, {end})"

    def unbatched(self) -> "list[Trajectory]":
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
        )
        arrays = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        arrays |= {f"stats.{key}": value for key, value in self.stats.items()}
        arrays |= {"result.code": self.result.code, "result.step": self.result.step}
        _npz.write(
            path, "stepwise.Trajectory", arrays, {"source": self.source, "cause": self.result.cause}
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
        known = {field.name for field in fields(cls)}
        _check.require(
            arrays.keys() <= known, str(path), f"arrays among {sorted(known)}", f"{sorted(arrays)}"
        )
        return cls(**arrays, result=result, source=str(about["source"]), stats=stats)


def descending(C: jax.Array) -> jax.Array:
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
    states: jax.Array | None,
    gamma: jax.Array,
    *,
    source: str,
    cause: str,
    steps: jax.Array | None = None,
    stats: dict[str, Any] | None = None,
) -> Trajectory:
    """A trajectory from its curves and its last states, with the loss and how the run ended worked
    out.
    """
    d = eigenvalues.shape[-1]
    loss = jnp.sum((1 - eigenvalues) ** 2, axis=-1)
    finite = jnp.isfinite(loss)
    floor = jnp.maximum(d - jnp.sum(gamma > 0), 0)
    converged = loss[-1] - floor < 1e-2
    code = jnp.where(finite.all(), jnp.where(converged, CONVERGED, STOPPED), DIVERGED)
    first = jnp.argmin(finite)
    step = jnp.where(finite.all(), -1, (jnp.arange(len(times)) if steps is None else steps)[first])
    return Trajectory(
        times,
        eigenvalues,
        loss,
        Result(code, step, cause),
        snapshots=states,
        snapshot_times=None if states is None else times[-states.shape[0] :],
        source=source,
        stats=stats or {},
    )


def start(gamma: Numbers, A0: Numbers, times: Numbers) -> tuple[jax.Array, jax.Array, jax.Array]:
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
        ordered = bool(host[0] >= 0 and (np.diff(host) > 0).all())
        _check.require(
            ordered, "times", "increasing numbers from 0 on", f"{host[:3]} ... {host[-1]}"
        )
    dtype = jnp.result_type(gamma, A0, times)
    return jnp.asarray(gamma, dtype), jnp.asarray(A0, dtype), jnp.asarray(times, dtype)
