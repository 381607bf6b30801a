"""From a module to a pure function of its parameters, and a start near zero that keeps the
kernel."""

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
    """(apply, params) of a Flax NNX module all of whose state is parameters: apply(params, x) is
    the module at x.

    Raises:
        ValueError: the module has other state too (batch statistics, random keys), which a pure
            function would drop.
    """
    graph, params, *rest = nnx.split(model, nnx.Param, ...)
    kept = jax.tree.leaves(rest, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    names = sorted({type(leaf).__name__ for leaf in kept})
    _check.require(
        not names, "model", "a module whose state is parameters only", f"also {', '.join(names)}"
    )

    def apply(params: Any, x: Any) -> Any:
        module: Any = nnx.merge(graph, params)
        return module(x)

    return apply, params


def stateful(model: nnx.Module) -> tuple[Forward, Any, Any]:
    """(forward, params, stats) of a module with batch statistics, as plain trees of arrays.

    forward(params, stats, x, train) -> (outputs, representations, stats): with train,
    normalisations use the batch's statistics and return the updated running ones; without, they use
    the running ones. The representations are those of a module that has them (`Encoder`), and none
    otherwise.

    Raises:
        ValueError: the module has state that is neither parameters nor batch statistics (random
            keys).
    """
    graph, *states = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    params, stats, *rest = states
    kept = jax.tree.leaves(rest, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    names = sorted({type(leaf).__name__ for leaf in kept})
    _check.require(
        not names,
        "model",
        "a module of parameters and batch statistics only",
        f"also {', '.join(names)}",
    )

    def forward(
        new_params: Any, new_stats: Any, x: Any, train: bool
    ) -> tuple[Any, dict[str, Any], Any]:
        module: Any = nnx.merge(graph, _with(params, new_params), _with(stats, new_stats))
        module.train() if train else module.eval()
        everything = getattr(module, "everything", None)
        out, found = (module(x), {}) if everything is None else everything(x)
        return out, found, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

    return forward, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def evaluation(model: nnx.Module) -> tuple[Apply, Any]:
    """(apply, params) of a module in evaluation mode: apply(params, x) with its running batch
    statistics held fixed, as `entk.gram` takes it.

    Raises:
        ValueError: the module has state that is neither parameters nor batch statistics.
    """
    forward, params, stats = stateful(model)
    return lambda params, x: forward(params, stats, x, False)[0], params


def restore(model: nnx.Module, params: Any, stats: Any) -> nnx.Module:
    """The module with these parameters and statistics (as `stateful` gives them), in place, in
    evaluation mode.
    """
    for kind, values in ((nnx.Param, params), (nnx.BatchStat, stats)):
        nnx.update(model, _with(nnx.state(model, kind), values))
    model.eval()
    return model


def _with(state: Any, values: Any) -> Any:
    """A copy of the module's state with the plain tree's values."""
    leaves = jax.tree.leaves(values)
    return jax.tree.unflatten(jax.tree.structure(state), leaves)


def antisymmetric(apply: Apply) -> Apply:
    """f(x) = (h(θ1, x) − h(θ2, x))/√2 of two copies, with parameters {"plus": θ1, "minus": θ2}.

    Its empirical NTK is the mean of the copies', and with θ1 = θ2 that of one copy, whatever f is:
    with θ1 near θ2 it starts near zero in the lazy regime, where small weights would leave it.
    """

    def difference(params: Any, x: Any) -> Any:
        return (apply(params["plus"], x) - apply(params["minus"], x)) * 0.5**0.5

    return difference


def antisymmetric_start(params: Any, key: Array, scale: Real) -> Any:
    """Parameters of `antisymmetric` near zero: both copies at `params`, one of them moved by
    Gaussian noise of this scale.

    f(x) is then Gaussian over the noise with covariance (scale²/2) Θ(x, x') to first order, Θ the
    network's own NTK: the start scale of a kernel problem is α = scale/√2.

    Raises:
        ValueError: scale is not positive.
    """
    _check.require(scale > 0, "scale", "a positive number", scale)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    moved = [
        leaf + jnp.asarray(scale, leaf.dtype) * jax.random.normal(each, leaf.shape, leaf.dtype)
        for leaf, each in zip(leaves, keys, strict=True)
    ]
    return {"plus": jax.tree.unflatten(tree, moved), "minus": params}
