"""The head of DINO, which compares features with prototypes."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from stepwise import _check
from stepwise.types import Numbers, Whole

_START = nnx.initializers.truncated_normal(0.02, lower=-2.0, upper=2.0)
FLOOR = 1e-12
"""Smallest norm by which a vector is divided."""


class PrototypeHead(nnx.Module):
    """Dense layers with GELU, then products with prototypes: features [k, f] -> logits [k, K].

    With the outputs h of the layers and prototypes v_j, logit j is u(h) · u(v_j), u(x) = x/‖x‖. The
    authors' head is PrototypeHead(f, [2048, 2048, 256], 65536). Logits of normalised vectors are at
    most 1 in size and never start small, so the law of DINO, which is that of linear prototypes
    (`Head(f, [K])`), describes neither their growth nor its threshold.

    Args:
        inputs: number of features of the backbone.
        sizes: widths of the layers; the last is that of the bottleneck.
        prototypes: number of prototypes K.
        normalise: whether the outputs of the layers are divided by their norms.
        weight_norm: whether prototypes are divided by their norms.
        dtype: dtype of the computation. Logits are computed at least in float32.
        param_dtype: dtype of the parameters.
        rngs: random numbers of the start, flax.nnx.Rngs(seed).

    Raises:
        ValueError: if there are no sizes, or a size is not positive.
    """

    def __init__(
        self,
        inputs: Whole,
        sizes: Sequence[Whole],
        prototypes: Whole,
        *,
        normalise: bool = True,
        weight_norm: bool = True,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        widths = [int(inputs), *map(int, sizes)]
        fits = len(sizes) > 0 and min(widths) >= 1
        _check.require(fits, "sizes", "positive numbers, one a layer", str(list(sizes)))
        _check.whole("prototypes", prototypes, 1)
        self.normalise, self.weight_norm = normalise, weight_norm
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.layers = nnx.List(
            nnx.Linear(a, b, kernel_init=_START, **options) for a, b in itertools.pairwise(widths)
        )
        # as torch.nn.Linear starts: uniform, with the variance 1/3 over the number of inputs
        uniform = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        start = uniform(rngs.params(), (widths[-1], int(prototypes)), param_dtype)
        self.prototypes = nnx.Param(start)

    def __call__(self, x: Numbers) -> Float[Array, "k K"]:
        """Return the logits [k, K]."""
        for i, layer in enumerate(self.layers):
            x = layer(x if i == 0 else nnx.gelu(x, approximate=False))
        x = jnp.asarray(x)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        prototypes = self.prototypes[...].astype(x.dtype)
        x = _unit(x, 1) if self.normalise else x
        return x @ (_unit(prototypes, 0) if self.weight_norm else prototypes)


def _unit(x: Array, axis: int) -> Array:
    squares = jnp.sum(x**2, axis=axis, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squares, FLOOR**2))
