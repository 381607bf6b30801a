"""Gradient descent of the linear model under any law's loss, beside the curves of the law.

What is trained besides the encoder depends on the law: BYOL has a predictor, SimCLR's cosines an
offset, CLIP two towers, a deep encoder its layers, and word2vec a target in the place of data.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from stepwise import laws, losses
from stepwise.laws import Law
from stepwise.laws.deep_linear import multiply
from stepwise.methods import Method

LEVEL = 0.5
"""Part of its final value through which an eigenvalue rises at its step."""


class Model(NamedTuple):
    """A linear model under one loss, in the mode coordinates of its data.

    Attributes:
        begin: a function of mode coordinates [d, r] that returns the trained parameters, a tree.
        value: the loss, a function of the parameters and of two views [n, r].
        observe: the law's observable [d, d], a function of the same arguments.
    """

    begin: Callable[[Any], Any]
    value: Callable[[Any, Array, Array], Array]
    observe: Callable[[Any, Array, Array], Array]


@dataclass(frozen=True)
class Staircase:
    """Descent beside its law.

    Attributes:
        times: t [T], learning rate × step.
        curves: eigenvalues of the observable along descent [T, d], in descending order.
        theory: the law's curves [T, k] of the k modes that it describes, in the order of growth.
        tau: the law's step times [k].
        seen: step times of descent [k], infinite if there is none.
        ends: last eigenvalues of descent and of the law [2, k].
        steps: number of steps.
    """

    times: np.ndarray
    curves: np.ndarray
    theory: np.ndarray
    tau: np.ndarray
    seen: np.ndarray
    ends: np.ndarray
    steps: int

    @property
    def step_errors(self) -> np.ndarray:
        """Relative error of each step time [k], infinite if descent did not take the step."""
        return np.abs(self.seen / self.tau - 1)

    @property
    def end_errors(self) -> np.ndarray:
        """Relative error of each last eigenvalue [k]."""
        return np.abs(self.ends[0] / self.ends[1] - 1)


def loss_of(row: Method, d: int) -> Callable[..., Any]:
    """Return the loss for which a method's law is exact, of the embeddings of two views.

    A state of the loss (a running centre) stays as it starts. A method with a target network or a
    predictor has two embeddings more, those of the target.
    """
    if row.law_loss is not None or row.objective.state is None:
        return row.law_loss or row.objective.loss
    state = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), row.objective.state(d))
    return lambda *embeddings: row.objective.loss(*embeddings, state=state)[0]


def model_of(law: Law, loss: Callable[..., Any], targets: bool = False) -> Model:
    """Return the linear model that a law describes, under a loss of two views' embeddings.

    Args:
        law: the law, which says what is trained besides the encoder.
        loss: the loss. With `targets`, it has the embeddings of a target as two more arguments.
        targets: whether the encoder itself is the target.
    """
    if isinstance(law, laws.BYOL):
        return _with_predictor(law, loss)
    if getattr(law, "offset", None) is not None:
        return _around_an_offset(law, loss)
    if isinstance(law, laws.CLIP):
        return _of_two_towers(law, loss)
    if isinstance(law, laws.DeepLinear):
        return _of_layers(law, loss)
    if isinstance(law, laws.Word2Vec):
        return _of_words(law)

    def value(W: Array, x: Array, x2: Array) -> Array:
        z, z2 = x @ W.T, x2 @ W.T
        return loss(z, z2, z, z2) if targets else loss(z, z2)

    return Model(jnp.asarray, value, lambda W, x, x2: law.measure(W))


def _with_predictor(law: laws.BYOL, loss: Callable[..., Any]) -> Model:
    def begin(A: Any) -> Any:
        return jnp.asarray(A), law.predictor * jnp.eye(len(A))

    def value(weights: Any, x: Array, x2: Array) -> Array:
        z, z2 = x @ weights[0].T, x2 @ weights[0].T
        return loss(z @ weights[1].T, z2 @ weights[1].T, z, z2)

    return Model(begin, value, lambda weights, x, x2: law.measure(weights[0]))


def _around_an_offset(law: Any, loss: Callable[..., Any]) -> Model:
    """The offset is the last dimension, from which the encoder starts perpendicular."""

    def begin(A: Any) -> Any:
        return {"W": jnp.asarray(A).at[-1].set(0), "b": jnp.zeros(len(A)).at[-1].set(law.offset)}

    def value(weights: Any, x: Array, x2: Array) -> Array:
        b = weights["b"][None]
        return loss(x @ weights["W"].T + b, x2 @ weights["W"].T + b)

    def observe(weights: Any, x: Array, x2: Array) -> Array:
        z = jnp.concatenate([x, x2]) @ weights["W"].T + weights["b"][None]
        u = (z / jnp.linalg.norm(z, axis=1, keepdims=True))[:, :-1]
        u = u - u.mean(axis=0, keepdims=True)
        return u.T @ u / (len(u) * law.temperature)

    return Model(begin, value, observe)


def _of_two_towers(law: laws.CLIP, loss: Callable[..., Any]) -> Model:
    def begin(A: Any) -> Any:
        return {"W1": jnp.asarray(A), "W2": jnp.asarray(A)}

    def value(towers: Any, x: Array, x2: Array) -> Array:
        return loss(x @ towers["W1"].T, x2 @ towers["W2"].T)

    return Model(begin, value, lambda towers, x, x2: law.measure(towers))


def _of_layers(law: laws.DeepLinear, loss: Callable[..., Any]) -> Model:
    def value(layers: Any, x: Array, x2: Array) -> Array:
        W = multiply(layers)
        return loss(x @ W.T, x2 @ W.T)

    return Model(law.factorise, value, lambda layers, x, x2: law.measure(layers))


def _of_words(law: laws.Word2Vec) -> Model:
    """The target is diagonal, so that its eigenvectors are the words."""
    M = jnp.diag(jnp.asarray(law.m))
    return Model(jnp.asarray, lambda A, x, x2: losses.qwem(A.T, M), lambda A, x, x2: law.measure(A))


def learning_rate(law: Law, rate: float, limit: float = 0.3) -> float:
    """Return lr with lr × (largest growth rate) = rate, but at most `limit` × the largest stable.

    Raises:
        laws.NotKnownError: if the law has neither growth rates nor a limit.
    """
    bounds = []
    with contextlib.suppress(laws.NotKnownError):  # then only the growth rate bounds lr
        bounds.append(limit * float(law.max_stable_lr()))
    try:
        bounds.append(rate / float(jnp.max(law.growth())))
    except laws.NotKnownError:
        if not bounds:
            raise
        bounds = [bounds[0] * rate]
    return min(bounds)


def train(
    law: Law,
    model: Model,
    start: Any,
    lam0: Any,
    views: tuple[Any, Any],
    lr: float,
    *,
    settled: float = 0.97,
    records: int = 1500,
    modes: int | None = None,
) -> Staircase:
    """Descend the loss until the law says that its modes are settled, and compare.

    The law's curves and step times are those of the flow, later by the fraction by which the law
    says that descent is late at this learning rate (`Law.descent_delay`).

    Args:
        start: mode coordinates of the start [d, r].
        lam0: λ(0) [k] of the aligned start as which it acts.
        settled: part of its final value that the last mode has reached near the end.
        records: number of samples in time.
        modes: number of modes that descent waits for, by default all that the law describes.
    """
    lam0 = jnp.asarray(lam0)
    late = 1 + np.asarray(law.descent_delay(lr, lam0), np.float64)
    tau = late * np.asarray(law.step_times(lam0, LEVEL), np.float64)
    last = (late * np.asarray(law.step_times(lam0, settled), np.float64))[:modes]
    steps = math.ceil(1.1 * float(last[np.isfinite(last)].max()) / lr)
    every = max(1, steps // records)
    x, x2 = jnp.asarray(views[0]), jnp.asarray(views[1])
    curves = _descend(model, model.begin(start), x, x2, lr, steps // every, every)
    times = lr * every * np.arange(len(curves))
    theory = np.stack(
        [np.asarray(law.eigenvalues(times / late[j], lam0))[:, j] for j in range(len(tau))], axis=1
    )
    goals = LEVEL * np.asarray(law.rest(), np.float64)[np.asarray(law.order)][: len(tau)]
    seen = np.array([crossing(times, curves[:, j], goal) for j, goal in enumerate(goals)])
    stop = _unmixed(curves, len(tau), goals)
    ends = np.stack([curves[stop, : len(tau)], theory[stop]])
    return Staircase(times, curves, theory, tau, seen, ends, steps)


def _descend(
    model: Model, parameters: Any, x: Array, x2: Array, lr: float, samples: int, every: int
) -> np.ndarray:
    """Return the observable's eigenvalues [samples, d], at even intervals from the start."""

    @jax.jit
    def run(parameters: Any, x: Array, x2: Array) -> Array:
        def step(_: Any, parameters: Any) -> Any:
            slope = jax.grad(model.value)(parameters, x, x2)
            return jax.tree.map(lambda w, g: w - lr * g, parameters, slope)

        def sample(parameters: Any, _: Any) -> Any:
            values = jnp.linalg.eigvalsh(model.observe(parameters, x, x2))[::-1]
            return jax.lax.fori_loop(0, every, step, parameters), values

        return jax.lax.scan(sample, parameters, None, length=samples)[1]

    return np.asarray(run(parameters, x, x2), np.float64)


def crossing(times: np.ndarray, curve: np.ndarray, goal: float) -> float:
    """Return when a recorded curve first rises through a goal, by interpolating its logarithm."""
    i = int(np.argmax(curve >= goal))
    if i == 0:
        return math.inf
    low, high = np.log(np.maximum(curve[i - 1 : i + 1], 1e-300))
    return float(times[i - 1] + (np.log(goal) - low) / (high - low) * (times[i] - times[i - 1]))


def _unmixed(curves: np.ndarray, known: int, goals: np.ndarray) -> int:
    """Return the last sample before a mode that the law does not describe exceeds 1% of a rest."""
    if known >= curves.shape[1]:
        return len(curves) - 1
    other = curves[:, known] > 0.02 * goals.min()
    return int(np.argmax(other)) - 1 if other.any() else len(curves) - 1
