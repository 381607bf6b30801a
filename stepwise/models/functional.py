"""From a module to a pure function of its parameters, and a start near zero that keeps the kernel."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from stepwise import _check
from stepwise.dynamics.network import Apply
from stepwise.types import Real


def functional(model: nnx.Module) -> tuple[Apply, Any]:
    """(apply, params) of a Flax NNX module all of whose state is parameters: apply(params, x) is the module at x.

    Raises:
        ValueError: the module has other state too (batch statistics, random keys), which a pure function would drop.
    """
    graph, params, *rest = nnx.split(model, nnx.Param, ...)
    kept = jax.tree.leaves(rest, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    names = sorted({type(leaf).__name__ for leaf in kept})
    _check.require(not names, "model", "a module whose state is parameters only", f"also {', '.join(names)}")

    def apply(params: Any, x: Any) -> Any:
        module: Any = nnx.merge(graph, params)
        return module(x)

    return apply, params


def doubled(apply: Apply) -> Apply:
    """f(x) = (h(θ1, x) − h(θ2, x))/√2 of two copies, with parameters {"plus": θ1, "minus": θ2}.

    Its empirical NTK is the mean of the copies', and with θ1 = θ2 that of one copy, whatever f is: with θ1 near θ2 it
    starts near zero in the lazy regime, where small weights would leave it.
    """

    def difference(params: Any, x: Any) -> Any:
        return (apply(params["plus"], x) - apply(params["minus"], x)) * 0.5**0.5

    return difference


def doubled_start(params: Any, key: Array, scale: Real) -> Any:
    """Parameters of `doubled` near zero: both copies at `params`, one moved by Gaussian noise of this scale.

    f(x) is then Gaussian over the noise with covariance (scale²/2) Θ(x, x') to first order, Θ the network's own NTK:
    the start scale of a kernel problem is α = scale/√2.

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
