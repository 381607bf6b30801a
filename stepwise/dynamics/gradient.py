"""Gradient descent on the full matrix: the experiment of the linear and kernel models."""

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
    """Gradient descent of the linear model from any start, on a law's loss or on any other.

    For Barlow Twins, the default, A ← A − 4 lr (C − I) A diag(γ) with C = A diag(γ) Aᵀ: gradient
    descent on W for L = ‖C − I‖_F². V is orthonormal, so the steps are the same in both
    coordinates. Stable below the law's limit where one is known (`stats["lr_limit"]`; min(1/(4
    γ_1), 1/(2 |γ_min|)) here); its steps come late by a fraction 2 lr γ_j of the flow's.

    Args:
        problem: its modes are all that matters; its features too, with a loss.
        A0: mode coordinates of the start [d, r]; with a loss also a tree of arrays, such as a model
            {"W": [d, r], "P": [d, d]} with a predictor.
        lr: learning rate, positive.
        steps: how many steps to take.
        law: a function (problem, d) -> Law, whose objective is descended and whose observable is
            recorded; `laws.DEFAULT`, Barlow Twins, without one.
        loss: instead, any JAX function loss(z1, z2) of the two views' embeddings [n, d]; for a tree
            loss(tree, x, x2) of the views' mode coordinates [n, r]. The eigenvalues recorded are
            those of C, and those of the covariance beside them. Without a law nothing says where
            such a loss ends, so the result is never "converged"; with one, the law does. Compiled
            anew for each function object.
        update: an optax transformation, or anything with `.optax()`, that takes the place of −lr ·
            gradient and brings its own rate; `lr` then only counts the time. Compiled anew for each
            object.
        embed: (tree, x) -> embeddings [n, d] of a tree, for what is recorded; by default x Wᵀ with
            its entry "W".
        record_every: keep every so many steps, from step 0, and the last; about 1000 records by
            default.
        record_at: or keep just these steps, increasing, in 0 ... steps; the last step is added.
        snapshots: keep A at every record, not only the last.

    Returns:
        Trajectory with times lr × step. Divergence is a result that names the step and the likely
        cause.

    Raises:
        ValueError: A0 does not have r columns, or is a tree without a loss or without embeddings;
            lr is not positive, steps is not a whole number, or both ways of recording are given;
            `update` is no transformation.

    Can be jitted (steps, recording, functions and snapshots static) and vmapped over A0 and lr.
    Differentiable in reverse where record_every divides steps, forward always: loops of unlike
    lengths have no reverse derivative in JAX.
    """
    weak = type(lr) in (int, float)  # a Python number widens nothing
    lr, at = loop.rate(lr), loop.recording_steps(steps, record_every, record_at)
    rule = _transformation(update)
    tree = _is_tree(A0)
    _check.require(
        not tree or loss is not None, "loss", "a function of a start that is a tree", "None"
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

    found: Law | None = None
    if loss is None or law is not None:
        d = len(start) if embed is None else embed(start, problem.features[:1]).shape[1]
        found = laws.cast(laws.law_of(law, problem, d), dtype)
    limit = _limit(found) if rule is None else None
    cause = loop.TOO_LARGE
    if limit is not None and not _check.is_traced(lr, limit) and float(lr) >= float(limit):
        cause = f"lr = {float(lr):.4g} is above the limit {float(limit):.4g} of this law"
    stats = {"lr": lr, "steps": jnp.asarray(steps)}
    stats |= {} if limit is None else {"lr_limit": limit}

    if loss is not None:
        _require_scalar(loss, start, problem.features.astype(dtype), embed)
    gradients: loop.Gradients = _law_gradients
    operands: Any = found
    if loss is not None:
        gradients, operands = _gradients(loss, embed), (problem.features.astype(dtype), found)
    records, last, states = loop.descend(gradients, start, operands, lr, at, snapshots, rule)
    measured, value, covariance = records
    more: dict[str, Any] = {}
    if loss is not None and found is not None and embed is None:
        more["reached"] = found.objective(last)
    if covariance is not None:
        more["covariance_eigenvalues"] = trajectory.eigvalsh_descending(covariance)
    return trajectory.assemble(
        lr * jnp.asarray(at, dtype),
        trajectory.eigvalsh_descending(measured),
        states if snapshots else jax.tree.map(lambda leaf: leaf[None], last),
        found,
        source="gradient descent",
        cause=cause,
        loss=value,
        steps=jnp.asarray(at),
        stats=stats,
        **more,
    )


def _require_scalar(loss: Any, start: Any, features: jax.Array, embed: Any) -> None:
    """Refuse a loss that is no function, or not of one real number."""
    _check.require(callable(loss), "loss", "a function of two embeddings", repr(loss))

    def value(state: Any, x: jax.Array, x2: jax.Array) -> jax.Array:
        return jnp.asarray(loss(x @ state.T, x2 @ state.T) if embed is None else loss(state, x, x2))

    found = jax.eval_shape(value, start, *jnp.split(features, 2))
    fits = found.shape == () and jnp.issubdtype(found.dtype, jnp.floating)
    _check.require(fits, "loss", "one real number", found)


def _law_gradients(A: jax.Array, law: Law) -> tuple[jax.Array, tuple[jax.Array, Any, None]]:
    measured = law.measure(A)
    known = law.loss_of(jnp.zeros((1, len(A)), A.dtype)) is not None
    return -law.rhs(A), (measured, None if known else law.objective(A), None)


@lru_cache(maxsize=64)
def _gradients(loss: Callable[..., Any], embed: Callable[[Any, Any], Any] | None) -> loop.Gradients:
    """Of loss(z1, z2) in A, or of loss(tree, x, x2) where a tree is embedded."""

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
    """Whether a start is a tree of matrices rather than one matrix, in whatever form."""
    if isinstance(A0, jax.Array | np.ndarray):
        return False
    return isinstance(A0, dict) or any(np.ndim(leaf) > 1 for leaf in jax.tree.leaves(A0))


def _linear_part(tree: Any) -> Callable[[Any, Any], Any]:
    there = isinstance(tree, dict) and "W" in tree
    received = f"none, and no entry W among {sorted(tree)}" if isinstance(tree, dict) else "none"
    _check.require(there, "embed", "a function (tree, x) -> embeddings [n, d]", received)
    return _embedded


def _embedded(tree: dict[str, Any], x: jax.Array) -> jax.Array:
    return x @ tree["W"].T


def _limit(law: Law | None) -> Any:
    """The largest stable learning rate, None where none is known."""
    if law is None:
        return None
    try:
        return law.max_stable_lr()
    except laws.NotKnownError:
        return None


def _transformation(update: Any) -> Any:
    """The optax transformation that an update is, or gives."""
    rule = update.optax() if hasattr(update, "optax") else update
    fits = rule is None or (hasattr(rule, "init") and hasattr(rule, "update"))
    _check.require(fits, "update", "an optax transformation, or what has .optax()", repr(update))
    return rule
