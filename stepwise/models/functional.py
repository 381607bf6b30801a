"""Modules as pure functions of their parameters, and a start near zero that keeps the kernel."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from stepwise import _check
from stepwise.types import Real

Apply = Callable[[Any, Any], Any]
"""A pure function (params, inputs [k, ...]) -> outputs [k, d]."""

Forward = Callable[[Any, Any, Any, bool], tuple[Any, dict[str, Any], Any]]
"""(params, stats, inputs, train) -> (outputs, representations by name, stats)."""


def functional(model: nnx.Module) -> tuple[Apply, Any]:
    """Split a Flax NNX module into a pure function and its parameters.

    Returns:
        (apply, params), where apply(params, x) is the output of the module at x.

    Raises:
        ValueError: if the module has state other than parameters (batch statistics, random keys),
            which a pure function would drop.
    """
    graph, params, *rest = nnx.split(model, nnx.Param, ...)
    variables = jax.tree.leaves(rest, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    names = sorted({type(leaf).__name__ for leaf in variables})
    _check.require(
        not names, "model", "a module whose state is parameters only", f"also {', '.join(names)}"
    )

    def apply(params: Any, x: Any) -> Any:
        module: Any = nnx.merge(graph, params)
        return module(x)

    return apply, params


def stateful(model: nnx.Module) -> tuple[Forward, Any, Any]:
    """Split a module with batch statistics into a pure function, its parameters and its statistics.

    Returns:
        (forward, params, stats), where params and stats are plain trees of arrays, and
        forward(params, stats, x, train) -> (outputs, representations, stats). If `train` is true,
        normalisations use the statistics of the batch, and the running ones are returned updated;
        otherwise they use the running ones. The representations are a dict of arrays for a module
        that has them (`Encoder`), and empty otherwise.

    Raises:
        ValueError: if the module has state that is neither parameters nor batch statistics (random
            keys).
    """
    graph, *states = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    params, stats, *rest = states
    variables = jax.tree.leaves(rest, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    names = sorted({type(leaf).__name__ for leaf in variables})
    _check.require(
        not names,
        "model",
        "a module of parameters and batch statistics only",
        f"also {', '.join(names)}",
    )

    def forward(
        new_params: Any, new_stats: Any, x: Any, train: bool
    ) -> tuple[Any, dict[str, Any], Any]:
        module: Any = nnx.merge(graph, _replace(params, new_params), _replace(stats, new_stats))
        module.train() if train else module.eval()
        everything = getattr(module, "everything", None)
        outputs, hidden = (module(x), {}) if everything is None else everything(x)
        return outputs, hidden, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

    return forward, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def evaluation(model: nnx.Module) -> tuple[Apply, Any]:
    """Split a module into a pure function in evaluation mode and its parameters.

    Returns:
        (apply, params), where apply(params, x) uses the module's present running batch statistics.
        `entk.gram` takes this pair.

    Raises:
        ValueError: if the module has state that is neither parameters nor batch statistics.
    """
    forward, params, stats = stateful(model)
    return lambda params, x: forward(params, stats, x, False)[0], params


def restore(model: nnx.Module, params: Any, stats: Any) -> nnx.Module:
    """Set a module's parameters and batch statistics, in place, and set it to evaluation mode.

    Args:
        model: the module.
        params, stats: trees of arrays, as `stateful` returns them.

    Returns:
        The same module.
    """
    for kind, values in ((nnx.Param, params), (nnx.BatchStat, stats)):
        nnx.update(model, _replace(nnx.state(model, kind), values))
    model.eval()
    return model


def _replace(state: Any, values: Any) -> Any:
    """Return a copy of the module's state with the values of a plain tree."""
    leaves = jax.tree.leaves(values)
    return jax.tree.unflatten(jax.tree.structure(state), leaves)


def antisymmetric(apply: Apply) -> Apply:
    """Return f(x) = (h(θ1, x) − h(θ2, x))/√2, the scaled difference of two copies of a network h.

    The empirical NTK of f is the mean of the copies' NTKs, and with θ1 = θ2 it is that of one copy.
    With θ1 near θ2 the network therefore starts near zero and stays in the lazy regime, which small
    weights would leave.

    Args:
        apply: the network h, a pure function (params, x) -> outputs.

    Returns:
        A pure function (params, x) -> f(x), with parameters {"plus": θ1, "minus": θ2}.
    """

    def difference(params: Any, x: Any) -> Any:
        return (apply(params["plus"], x) - apply(params["minus"], x)) * 0.5**0.5

    return difference


def antisymmetric_start(params: Any, key: Array, scale: Real) -> Any:
    """Return parameters of `antisymmetric` at which its outputs are near zero.

    Both copies have the parameters `params`, and Gaussian noise is added to the copy "plus". To
    first order, f(x) is then Gaussian with covariance (scale²/2) Θ(x, x') over the noise, where Θ
    is the NTK of the network. The start scale of the corresponding kernel problem is α = scale/√2.

    Args:
        params: parameters of one copy.
        key: random key of the noise.
        scale: standard deviation of the noise.

    Raises:
        ValueError: if scale is not positive.
    """
    _check.require(scale > 0, "scale", "a positive number", scale)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    moved = [
        leaf + jnp.asarray(scale, leaf.dtype) * jax.random.normal(each, leaf.shape, leaf.dtype)
        for leaf, each in zip(leaves, keys, strict=True)
    ]
    return {"plus": jax.tree.unflatten(tree, moved), "minus": params}
