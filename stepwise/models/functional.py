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

Forward = Callable[..., tuple[Any, dict[str, Any], Any]]
"""(params, stats, inputs, train, dropout=True) -> (outputs, representations by name, stats)."""

_STATISTICS = nnx.Any(nnx.BatchStat, nnx.RngState)


def functional(model: nnx.Module) -> tuple[Apply, Any]:
    """Split a Flax NNX module into a pure function and its parameters.

    Returns:
        (apply, params), where apply(params, x) is the output of the module at x.

    Raises:
        ValueError: if the module has state other than parameters (batch statistics), which a pure
            function would drop, or has layers such as dropout that are not in evaluation mode.
    """
    graph, *states = nnx.split(model, nnx.Param, nnx.RngState, ...)
    params, random, *rest = states
    _require_no_state(rest, "a module whose state is parameters only")
    layers = [layer for _, layer in nnx.iter_modules(model)] if jax.tree.leaves(random) else []
    active = [layer for layer in layers if getattr(layer, "deterministic", True) is False]
    _check.require(
        not active,
        "model",
        "random layers in evaluation mode (call model.eval())",
        f"{', '.join(sorted({type(layer).__name__ for layer in active}))} in training mode",
    )

    def apply(params: Any, x: Any) -> Any:
        module: Any = nnx.merge(graph, params, random)
        return module(x)

    return apply, params


def stateful(model: nnx.Module) -> tuple[Forward, Any, Any]:
    """Split a module with batch statistics into a pure function, its parameters and its statistics.

    The statistics include the keys and counters of random layers such as dropout, as numbers.

    Returns:
        (forward, params, stats), where params and stats are plain trees of arrays, and
        forward(params, stats, x, train, dropout=True) -> (outputs, representations, stats). If
        `train` is true, normalisations use the statistics of the batch, and the running ones are
        returned updated; otherwise they use the running ones. Random layers are active if both
        `train` and `dropout` are true, and each call then draws new numbers. The representations
        are a dict of arrays for a module that has them (`Encoder`), and empty otherwise.

    Raises:
        ValueError: if the module has state that is neither parameters, nor batch statistics, nor
            random keys.
    """
    graph, *states = nnx.split(model, nnx.Param, _STATISTICS, ...)
    params, stats, *rest = states
    _require_no_state(rest, "a module of parameters, batch statistics and random keys only")

    def forward(
        new_params: Any, new_stats: Any, x: Any, train: bool, dropout: bool = True
    ) -> tuple[Any, dict[str, Any], Any]:
        module: Any = nnx.merge(graph, _replace(params, new_params), _replace(stats, new_stats))
        module.train() if train else module.eval()
        if not dropout:
            module.set_attributes(deterministic=True, raise_if_not_found=False)
        everything = getattr(module, "everything", None)
        outputs, hidden = (module(x), {}) if everything is None else everything(x)
        return outputs, hidden, _plain(nnx.state(module, _STATISTICS))

    return forward, _plain(params), _plain(stats)


def evaluation(model: nnx.Module) -> tuple[Apply, Any]:
    """Split a module into a pure function in evaluation mode and its parameters.

    Returns:
        (apply, params), where apply(params, x) uses the module's present running batch statistics.
        `entk.gram` takes this pair.

    Raises:
        ValueError: if the module has state that is neither parameters, nor batch statistics, nor
            random keys.
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
    for kind, values in ((nnx.Param, params), (_STATISTICS, stats)):
        nnx.update(model, _replace(nnx.state(model, kind), values))
    model.eval()
    return model


def _require_no_state(state: Any, expected: str) -> None:
    """Reject the state that remains after a split, by the names of its types."""
    variables = jax.tree.leaves(state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    names = sorted({type(leaf).__name__ for leaf in variables})
    _check.require(not names, "model", expected, f"also {', '.join(names)}")


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(state: Any) -> Any:
    """Return the module's state as a plain tree, with the numbers of its random keys."""
    return jax.tree.map(
        lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, nnx.to_pure_dict(state)
    )


def _replace(state: Any, values: Any) -> Any:
    """Return a copy of the module's state with the values of a plain tree."""
    leaves, tree = jax.tree.flatten(state)
    pairs = zip(leaves, jax.tree.leaves(values), strict=True)
    return jax.tree.unflatten(tree, [_like(old, value) for old, value in pairs])


def _like(old: Any, value: Any) -> Any:
    """Return the value, as a random key if the old one is a key."""
    impl = str(jax.random.key_impl(old)) if _is_key(old) else None
    return value if impl is None else jax.random.wrap_key_data(value, impl=impl)


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
