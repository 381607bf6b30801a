"""Gradient descent of linear and kernel models in mode coordinates."""

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stepwise import _check, laws, trajectory
from stepwise.dynamics import loop
from stepwise.laws import Law, LawOf
from stepwise.problem import Problem
from stepwise.trajectory import Trajectory
from stepwise.types import Numbers, Whole


def descent(
    problem: Problem,
    A0: Any,
    lr: Numbers,
    steps: Whole,
    *,
    law: LawOf = None,
    loss: Callable[..., Any] | None = None,
    update: Any = None,
    embed: Callable[[Any, Any], Any] | None = None,
    record_every: Whole | None = None,
    record_at: Numbers | None = None,
    snapshots: bool = False,
) -> Trajectory:
    """Run gradient descent of the linear model from any start, on a law's loss or any other.

    For Barlow Twins, the default, a step is A ← A − 4 lr (C − I) A diag(γ) with C = A diag(γ) Aᵀ,
    which is gradient descent on W for L = ‖C − I‖_F². V has orthonormal columns, so the steps are
    the same in both coordinates. Descent is stable below the law's limit, recorded as
    `stats["lr_limit"]` if it is known: min(1/(4 γ_1), 1/(2 |γ_min|)) for Barlow Twins. On the
    plateau it lags the flow by the fraction 2 lr γ_j (`Law.descent_delay`).

    Args:
        problem: the problem. Only its modes are used, and its features if a loss is given.
        A0: mode coordinates of the start [d, r]. With a loss, also a pytree of arrays, such as a
            model {"W": [d, r], "P": [d, d]} with a predictor.
        lr: learning rate, positive.
        steps: number of steps.
        law: a function (problem, d) -> Law; Barlow Twins (`laws.DEFAULT`) by default. Descent
            follows its objective and records its observable.
        loss: the loss to descend instead of the law's objective: any JAX function loss(z1, z2) of
            the two views' embeddings [n, d], or, for a pytree, loss(tree, x, x2) of the views' mode
            coordinates [n, r]. The eigenvalues of C and of the covariance are recorded. The lowest
            value of such a loss is known only if a law is also given; without one the result is
            never "converged". Each function object is compiled separately.
        update: an optax transformation, or an object with a method `optax()` that returns one, such
            as a rule of `stepwise.updates`, which also receives the modes of the problem. It
            replaces −lr · gradient and has its own rate; `lr` then only defines the time. Each
            object is compiled separately.
        embed: function (tree, x) -> embeddings [n, d] of a pytree, used for the records. The
            default is x Wᵀ with the entry "W".
        record_every: record every this many steps from step 0, and the last. The default gives
            about 1000 records.
        record_at: record these steps instead: increasing, in 0 ... steps. The last step is added.
        snapshots: whether to store A at every record. If False, only the last A is stored.

    Returns:
        Trajectory with times lr × step. If the run diverges, its `result` names the step and the
        likely cause.

    Raises:
        ValueError: if A0 does not have r columns, or is a pytree without a loss or without
            embeddings; if lr is not positive, steps is not a positive whole number, or both
            `record_every` and `record_at` are given; if `update` is not a transformation.

    Can be jitted (steps, recording, functions and snapshots static) and vmapped over A0 and lr.
    Forward-mode derivatives always exist. Reverse-mode derivatives exist if record_every divides
    steps, because JAX cannot differentiate loops of different lengths in reverse.
    """
    weak = type(lr) in (int, float)  # a Python number does not widen the dtype
    lr, record_steps = loop.rate(lr), loop.recording_steps(steps, record_every, record_at)
    rule = _transformation(update, problem)
    tree = _is_tree(A0)
    _check.require(
        not tree or loss is not None, "loss", "a function loss(tree, x, x2) for a pytree A0", "None"
    )
    gamma = problem.gamma
    if tree:
        start = jax.tree.map(lambda leaf: jnp.asarray(_check.real_array("A0", leaf)), A0)
        embed = embed or _linear_part(A0)
        dtype = jnp.result_type(gamma, *jax.tree.leaves(start))
    else:
        gamma, start, _ = trajectory.as_inputs(gamma, A0, jnp.zeros(1, gamma.dtype))
        embed = None
        dtype = gamma.dtype
    dtype = dtype if weak else jnp.result_type(dtype, lr)
    lr, start = jnp.asarray(lr, dtype), jax.tree.map(lambda leaf: leaf.astype(dtype), start)

    resolved: Law | None = None
    if loss is None or law is not None:
        d = len(start) if embed is None else embed(start, problem.features[:1]).shape[1]
        resolved = laws.cast(laws.law_of(law, problem, d), dtype)
    limit = _stable_rate(resolved) if rule is None else None
    cause = loop.TOO_LARGE
    if limit is not None and not _check.is_traced(lr, limit) and float(lr) >= float(limit):
        cause = f"lr = {float(lr):.4g} is above the limit {float(limit):.4g} of this law"
    stats = {"lr": lr, "steps": jnp.asarray(steps)}
    stats |= {} if limit is None else {"lr_limit": limit}

    if loss is not None:
        _require_scalar(loss, start, problem.features.astype(dtype), embed)
    gradients: loop.Gradients = _law_gradients
    operands: Any = resolved
    if loss is not None:
        gradients, operands = _gradients(loss, embed), (problem.features.astype(dtype), resolved)
    records, last, states = loop.descend(
        gradients, start, operands, lr, record_steps, snapshots, rule
    )
    measured, value, covariance = records
    extra: dict[str, Any] = {}
    if loss is not None and resolved is not None and embed is None:
        extra["reached"] = resolved.objective(last)
    if covariance is not None:
        extra["covariance_eigenvalues"] = trajectory.eigvalsh_descending(covariance)
    return trajectory.assemble(
        lr * jnp.asarray(record_steps, dtype),
        trajectory.eigvalsh_descending(measured),
        states if snapshots else jax.tree.map(lambda leaf: leaf[None], last),
        resolved,
        source="gradient descent",
        cause=cause,
        loss=value,
        steps=jnp.asarray(record_steps),
        stats=stats,
        **extra,
    )


def _require_scalar(loss: Any, start: Any, features: jax.Array, embed: Any) -> None:
    """Raise unless the loss is a function that returns one real number."""
    _check.require(callable(loss), "loss", "a function loss(z1, z2) of two embeddings", repr(loss))

    def value(state: Any, x: jax.Array, x2: jax.Array) -> jax.Array:
        return jnp.asarray(loss(x @ state.T, x2 @ state.T) if embed is None else loss(state, x, x2))

    number = jax.eval_shape(value, start, *jnp.split(features, 2))
    fits = number.shape == () and jnp.issubdtype(number.dtype, jnp.floating)
    _check.require(fits, "loss", "a function that returns one real number", number)


def _law_gradients(A: jax.Array, law: Law) -> tuple[jax.Array, tuple[jax.Array, Any, None]]:
    measured = law.measure(A)
    derivable = law.loss_of(jnp.zeros((1, len(A)), A.dtype)) is not None
    return -law.rhs(A), (measured, None if derivable else law.objective(A), None)


@lru_cache(maxsize=64)
def _gradients(loss: Callable[..., Any], embed: Callable[[Any, Any], Any] | None) -> loop.Gradients:
    """Return the gradients of loss(z1, z2) in A, or of loss(tree, x, x2) if `embed` is given."""

    def value(state: Any, x: jax.Array, x2: jax.Array) -> tuple[jax.Array, tuple[Any, Any]]:
        if embed is None:
            z1, z2 = x @ state.T, x2 @ state.T
            return loss(z1, z2), (z1, z2)
        return loss(state, x, x2), (embed(state, x), embed(state, x2))

    def gradients(state: Any, operands: tuple[jax.Array, Law | None]) -> tuple[Any, Any]:
        features, law = operands
        x, x2 = jnp.split(features, 2)
        (number, (z1, z2)), slopes = jax.value_and_grad(value, has_aux=True)(state, x, x2)
        measured, covariance = loop.view_moments(z1, z2)
        if law is not None and embed is None:
            measured = law.measure(state)
        return slopes, (measured, number, covariance)

    return gradients


def _is_tree(A0: Any) -> bool:
    """Return whether a start is a pytree of matrices, rather than one matrix or nested list."""
    if isinstance(A0, jax.Array | np.ndarray):
        return False
    return isinstance(A0, dict) or any(np.ndim(leaf) > 1 for leaf in jax.tree.leaves(A0))


def _linear_part(tree: Any) -> Callable[[Any, Any], Any]:
    linear = isinstance(tree, dict) and "W" in tree
    received = f"None, and no entry W among {sorted(tree)}" if isinstance(tree, dict) else "None"
    _check.require(linear, "embed", "a function (tree, x) -> embeddings [n, d]", received)
    return _embed_linearly


def _embed_linearly(tree: dict[str, Any], x: jax.Array) -> jax.Array:
    return x @ tree["W"].T


def _stable_rate(law: Law | None) -> Any:
    """Return the largest stable learning rate, or None if it is not known."""
    if law is None:
        return None
    try:
        return law.max_stable_lr()
    except laws.NotKnownError:
        return None


def _transformation(update: Any, problem: Problem) -> Any:
    """Return the optax transformation of an `update` argument.

    A rule of `stepwise.updates` that needs the modes receives those of the problem.
    """
    rule = update
    if hasattr(update, "optax"):
        needs_modes = "gamma" in inspect.signature(update.optax).parameters
        rule = update.optax(gamma=problem.gamma) if needs_modes else update.optax()
    fits = rule is None or (hasattr(rule, "init") and hasattr(rule, "update"))
    _check.require(
        fits, "update", "an optax transformation, or an object with .optax()", repr(update)
    )
    return rule
