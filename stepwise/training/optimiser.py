"""The optimiser of a run: any optax transformation, with a state of plain arrays."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from stepwise import _check
from stepwise.training.plan import Plan


class Optimiser:
    """The optax transformation of a plan.

    Random keys in its state are stored as their numbers, which a checkpoint can hold. Every update
    receives `value`, `grad` and `value_fn` of its batch, as line searches and transformations of
    the kind `reduce_on_plateau` need; others ignore them. One that names its arguments, such as
    `sam`, receives those alone, and `grad_fn`.

    Args:
        plan: its `optimiser` is a transformation, or a function from a learning rate or schedule to
            one, which is called with the plan's `lr`.

    Raises:
        ValueError: if it is neither.
    """

    def __init__(self, plan: Plan) -> None:
        transformation = plan.optimiser
        if not _is_transformation(transformation) and callable(transformation):
            transformation = transformation(plan.lr)
        _check.require(
            _is_transformation(transformation),
            "Plan.optimiser",
            "an optax transformation, or a function from a learning rate to one",
            type(transformation).__name__,
        )
        self._transformation = optax.with_extra_args_support(transformation)
        self._generators: dict[int, str] = {}
        named = inspect.signature(self._transformation.update).parameters.values()
        takes_all = any(each.kind == each.VAR_KEYWORD for each in named)
        self._names = None if takes_all else {each.name for each in named}

    def init(self, params: Any) -> Any:
        """Return the first state."""
        state = jax.jit(self._transformation.init)(params)
        leaves = jax.tree.leaves(state)
        self._generators = {
            i: str(jax.random.key_impl(leaf)) for i, leaf in enumerate(leaves) if _is_key(leaf)
        }
        return _with_numbers(state)

    def update(
        self,
        gradient: Any,
        state: Any,
        params: Any,
        value_fn: Callable[[Any], Array],
        value: Array,
    ) -> tuple[Any, Any]:
        """Return the updates of the parameters and the next state.

        Raises:
            ValueError: if the optimiser needs parameters of a type of its own, as lookahead does.
        """
        leaves, tree = jax.tree.flatten(state)
        for i, impl in self._generators.items():
            leaves[i] = jax.random.wrap_key_data(leaves[i], impl=impl)
        extra: dict[str, Any] = {"value": value, "grad": gradient, "value_fn": value_fn}
        if self._names is not None:  # a line search passes what it does not use to `value_fn`
            extra["grad_fn"] = lambda params, step: jax.grad(value_fn)(params)
            extra = {name: each for name, each in extra.items() if name in self._names}
        try:
            updates, state = self._transformation.update(
                gradient, jax.tree.unflatten(tree, leaves), params, **extra
            )
        except (AttributeError, TypeError) as error:
            expected = "an optimiser of a plain tree of parameters"
            received = f"one whose update raises {type(error).__name__}: {error}"
            raise ValueError(f"Plan.optimiser: expected {expected}, received {received}") from error
        return updates, _with_numbers(state)


def is_matrix(path: tuple[Any, ...], leaf: Any) -> bool:
    """Return whether a weight maps inputs to outputs: a matrix, a convolution, an attention's map.

    The biases of attention have two axes, and tokens and positions are vectors of their own.
    """
    return leaf.ndim > 1 and str(getattr(path[-1], "key", path[-1])) in ("kernel", "prototypes")


def as_matrices(params: Any) -> Any:
    """Return how Muon sees each weight: all axes but the last as inputs, the last as outputs.

    Queries, keys and values have one axis of inputs, then those of the heads and their width.
    """

    def axes(path: tuple[Any, ...], leaf: Any) -> Any:
        if not is_matrix(path, leaf):
            return None
        names = {str(getattr(each, "key", each)) for each in path}
        inputs = 1 if names & {"query", "key", "value"} else leaf.ndim - 1
        every = tuple(range(leaf.ndim))
        return optax.contrib.MuonDimensionNumbers(every[:inputs], every[inputs:])

    return jax.tree_util.tree_map_with_path(axes, params)


def _is_transformation(value: Any) -> bool:
    return callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.asarray(leaf).dtype, jax.dtypes.prng_key)


def _with_numbers(state: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, state)
