"""Shared code of the MLP figures: normalised views, lazy networks, and their predictions."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.shared.images import Source, load
from stepwise import _random, dynamics, entk, kernels, laws, models, problem, views
from stepwise.dynamics import Trajectory
from stepwise.neural_tangents import nt
from stepwise.problem import Problem

GAIN = {"relu": 2**0.5, "erf": 1.5}
"""w_std of every layer; with ReLU, signals then keep their size with depth (He et al. 2015)."""
ACTIVATIONS = {"relu": jax.nn.relu, "erf": jax.scipy.special.erf}


class Inputs(Source, Protocol):
    """Fields of a Config that determine the views."""

    @property
    def crop(self) -> int: ...


def normalised_views(config: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """Return two crops [n, crop, crop, c] of each image, centred, with a mean square of 1."""
    x, x2 = views.positive_pairs(
        load(config), _random.key(config.seed + 1), views.crops(config.crop)
    )
    both = np.concatenate([np.asarray(x, np.float64), np.asarray(x2, np.float64)])
    both -= both.mean(axis=0)
    both /= np.sqrt(np.mean(both**2))
    both = both.astype(jax.dtypes.canonicalize_dtype(float))
    return both[: len(both) // 2], both[len(both) // 2 :]


def mlp(inputs: int, width: int, d: int, seed: int, activation: str) -> tuple[Any, Any]:
    """Return (apply, params) of an MLP with one hidden layer in NTK parametrisation.

    `apply` is the same function for all seeds, so it is compiled once.
    """
    params = models.functional(_module(inputs, width, d, seed, activation))[1]
    return _functions(inputs, width, d, activation)[0], params


def _module(inputs: int, width: int, d: int, seed: int, activation: str) -> models.MLP:
    act, gain = ACTIVATIONS[activation], GAIN[activation]
    return models.MLP(inputs, [width], d, activation=act, w_std=gain, rngs=nnx.Rngs(seed))


@lru_cache(maxsize=8)
def _functions(inputs: int, width: int, d: int, activation: str) -> tuple[Any, Any]:
    apply = models.functional(_module(inputs, width, d, 0, activation))[0]
    return apply, models.antisymmetric(apply)


def mlp_kernel(activation: str, depth: int = 1) -> kernels.Kernel:
    """Return the NTK of an infinitely wide MLP with `depth` hidden layers."""
    stax, gain = nt.stax, GAIN[activation]
    dense = stax.Dense(1, W_std=gain, b_std=None)
    hidden = [dense, {"relu": stax.Relu, "erf": stax.Erf}[activation]()] * depth
    return kernels.infinite_width([stax.Flatten(), *hidden, dense])


def lazy_run(
    x: np.ndarray,
    x2: np.ndarray,
    limit: Problem,
    activation: str,
    width: int,
    d: int,
    scale: float,
    lr: float,
    record_at: np.ndarray,
    seed: int,
    start: int = 0,
) -> dict[str, Any]:
    """Train a doubled network, and predict its run from two kernels.

    The kernels are the one of infinite width and the network's own at the start. All three
    trajectories start from the same outputs and take the same steps.
    """
    params = mlp(x[0].size, width, d, seed, activation)[1]
    key = jax.random.fold_in(_random.key(seed), start)
    f, begin = (
        _functions(x[0].size, width, d, activation)[1],
        models.antisymmetric_start(params, key, scale),
    )
    both = jnp.concatenate([jnp.asarray(x), jnp.asarray(x2)])
    z0, steps = f(begin, both), int(record_at[-1])
    run, last = dynamics.full_batch(f, begin, x, x2, lr, steps, record_at=record_at)
    theta = entk.full_kernel(f, begin, both)
    own = dynamics.output_descent(theta, z0, lr, steps, record_at=record_at)
    infinite = dynamics.descent(limit, z0.T @ limit.basis, lr, steps, record_at=record_at)
    drift = float("nan")
    if run.result.name != "diverged":
        drift = float(
            jnp.linalg.norm(entk.full_kernel(f, last, both) - theta) / jnp.linalg.norm(theta)
        )
    return {"run": run, "own": own, "infinite": infinite, "drift": drift, "params": last}


def grid(limit: Problem, d: int, scale: float, lr: float, until: float, records: int) -> np.ndarray:
    """Return the steps to record: a geometric grid.

    It ends at `until` times the last step time that the kernel of infinite width predicts.
    """
    law = laws.law_of(None, limit, d)
    lam0 = np.asarray(law.unit()[:d], np.float64) * scale**2 / 2  # f's coordinates have scale²/2
    expected = np.log(1 / lam0) / np.asarray(law.growth()[:d], np.float64)
    steps = int(np.ceil(until * expected.max() / lr))
    return np.unique(np.geomspace(max(1, expected.min() / lr / 10), steps, records).astype(int))


def stacked(runs: Sequence[Trajectory]) -> np.ndarray:
    """Stack the eigenvalues of several runs [runs, T, d]."""
    return np.stack([np.asarray(run.eigenvalues) for run in runs])


def limit_problem(kernel: kernels.Kernel, x: np.ndarray, x2: np.ndarray, d: int) -> Problem:
    """Return the kernel's problem on these views, uncentred as the network is.

    Raises:
        ValueError: if fewer than d modes are positive.
    """
    limit = problem.from_kernel(kernel, x, x2)
    limit.optimum(d)  # raises
    return limit
