"""Networks in NTK parametrisation: weights have unit variance, and each layer divides by the square
root of its number of inputs.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from stepwise import _check
from stepwise.types import Numbers, Real, Whole


class Dense(nnx.Module):
    """A dense layer y = (w_std/√inputs) x W + b_std b, with standard normal W and b.

    Jacot et al. (2018), section 3. With this scaling the gradient with respect to W, and with it
    the learning rate, has a limit as the width grows. `neural_tangents.stax.Dense` with the same
    numbers is the layer of infinite width.
    """

    def __init__(
        self,
        inputs: Whole,
        outputs: Whole,
        *,
        w_std: Real = 1.0,
        b_std: Real = 0.0,
        rngs: nnx.Rngs,
        dtype: Any = None,
    ) -> None:
        dtype = jax.dtypes.canonicalize_dtype(dtype or float)
        self.kernel = nnx.Param(
            jax.random.normal(rngs.params(), (int(inputs), int(outputs)), dtype)
        )
        self.bias = (
            nnx.Param(jax.random.normal(rngs.params(), (int(outputs),), dtype)) if b_std else None
        )
        self.w_scale, self.b_std = float(w_std) / inputs**0.5, float(b_std)

    def __call__(self, x: Numbers) -> Float[Array, "k outputs"]:
        """Return the outputs of the layer [k, outputs]."""
        y = self.w_scale * (x @ self.kernel[...])
        return y if self.bias is None else y + self.b_std * self.bias[None]


class MLP(nnx.Module):
    """A multilayer perceptron in NTK parametrisation; inputs are flattened.

    Args:
        inputs: number of values in one flattened input.
        widths: widths of the hidden layers; may be empty.
        outputs: number of outputs d.
        activation: nonlinearity after every hidden layer.
        w_std, b_std: standard deviations of weights and biases of every layer, as in
            `neural_tangents.stax.Dense`.
        rngs: random numbers of the start, flax.nnx.Rngs(seed).
        dtype: dtype of the parameters; by default JAX's default float.

    Raises:
        ValueError: if a size is not positive.
    """

    def __init__(
        self,
        inputs: Whole,
        widths: Sequence[Whole],
        outputs: Whole,
        *,
        activation: Callable[[Array], Array] = jax.nn.relu,
        w_std: Real = 1.0,
        b_std: Real = 0.0,
        rngs: nnx.Rngs,
        dtype: Any = None,
    ) -> None:
        sizes = [inputs, *widths, outputs]
        _check.require(min(sizes) >= 1, "sizes", "positive numbers of units", str(sizes))
        self.layers = nnx.List(
            Dense(a, b, w_std=w_std, b_std=b_std, rngs=rngs, dtype=dtype)
            for a, b in itertools.pairwise(sizes)
        )
        self.activation = activation

    def __call__(self, x: Numbers) -> Float[Array, "k outputs"]:
        """Return the outputs [k, d] of inputs [k, ...]."""
        x = jnp.reshape(x, (len(x), -1))
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)
