"""Heads (read-outs, projectors, predictors), a perceptron backbone, and the encoder."""

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from stepwise import _check
from stepwise.models.normalisation import batch_norm
from stepwise.types import Numbers, Real, Whole


class Head(nnx.Module):
    """Dense layers, with batch normalisation and ReLU after each layer but the last.

    A linear read-out is Head(f, [d]). Published heads are

    - the projector of Barlow Twins: Head(f, [8192, 8192, 8192], bias=False);
    - the projector of SimCLR: Head(f, [2048, 2048, 128], last_norm=True);
    - the projector of VICReg: Head(f, [8192, 8192, 8192], last_bias=False);
    - the projector and the predictor of BYOL: Head(f, [4096, 256]).

    Args:
        inputs: number of features of the backbone.
        sizes: widths of the layers; the last is the embedding dimension d.
        norm: whether batch normalisation follows each hidden layer.
        last_norm: whether batch normalisation, without scale and offset, follows the last layer.
        bias: whether the layers have biases.
        last_bias: whether the last layer has a bias; by default, as `bias`.
        dtype: dtype of the computation. The last layer computes at least in float32, because
            bfloat16 cannot resolve the small differences of a small start.
        param_dtype: dtype of the parameters.
        rngs: random numbers of the start, flax.nnx.Rngs(seed).

    Raises:
        ValueError: if there are no sizes, or one is not positive.
    """

    def __init__(
        self,
        inputs: Whole,
        sizes: Sequence[Whole],
        *,
        norm: bool = True,
        last_norm: bool = False,
        bias: bool = True,
        last_bias: bool | None = None,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        widths = [int(inputs), *map(int, sizes)]
        _check.require(
            len(sizes) > 0 and min(widths) >= 1,
            "sizes",
            "positive numbers, one a layer",
            str(list(sizes)),
        )
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        last_dtype = None if dtype is None else jnp.promote_types(dtype, jnp.float32)
        last_options = options | {"dtype": last_dtype}
        last = len(sizes) - 1
        biases = [bias if i < last or last_bias is None else last_bias for i in range(len(sizes))]
        layers = zip(itertools.pairwise(widths), biases, strict=True)
        self.layers = nnx.List(
            nnx.Linear(a, b, use_bias=with_bias, **(last_options if i == last else options))
            for i, ((a, b), with_bias) in enumerate(layers)
        )
        norms = [batch_norm(b, **options) for b in widths[1:-1] if norm]
        self.norms = nnx.List(norms)
        self.last_norm = (
            batch_norm(widths[-1], use_scale=False, use_bias=False, **last_options)
            if last_norm
            else None
        )

    def __call__(self, x: Numbers) -> Float[Array, "k d"]:
        """Return the outputs [k, d]."""
        for i, layer in enumerate(self.layers[:-1]):
            x = layer(x)
            x = nnx.relu(self.norms[i](x) if len(self.norms) else x)
        x = self.layers[-1](x)
        x = x if self.last_norm is None else self.last_norm(x)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class Features(nnx.Module):
    """A multilayer perceptron as a backbone: images are flattened, and every layer ends in ReLU.

    Weights start from the He-normal distribution.

    Args:
        inputs: number of values in one flattened image.
        widths: widths of the hidden layers; the last is the number of features.
        rngs: random numbers of the start, flax.nnx.Rngs(seed).
        options: further arguments of `nnx.Linear`.

    Raises:
        ValueError: if there are no widths, or a size is not positive.
    """

    def __init__(
        self, inputs: Whole, widths: Sequence[Whole], *, rngs: nnx.Rngs, **options: Any
    ) -> None:
        sizes = [int(inputs), *map(int, widths)]
        _check.require(
            len(widths) > 0 and min(sizes) >= 1,
            "widths",
            "positive numbers, one a layer",
            str(widths),
        )
        he = nnx.initializers.he_normal()
        self.layers = nnx.List(
            nnx.Linear(a, b, kernel_init=he, rngs=rngs, **options)
            for a, b in itertools.pairwise(sizes)
        )
        self.features = sizes[-1]

    def representations(self, x: Numbers) -> dict[str, Float[Array, "k features"]]:
        """Return the output of every hidden layer: {"layer1": [k, width], ...}."""
        x, outputs = jnp.reshape(x, (len(x), -1)), {}
        for i, layer in enumerate(self.layers):
            x = nnx.relu(layer(x))
            outputs[f"layer{i + 1}"] = x
        return outputs

    def __call__(self, x: Numbers) -> Float[Array, "k features"]:
        """Return the features, which are the output of the last hidden layer."""
        return self.representations(x)[f"layer{len(self.layers)}"]


class Encoder(nnx.Module):
    """A backbone and its head: images [k, h, w, c] -> embeddings [k, d].

    Args:
        backbone: a module with a method `representations`, such as `ResNet` or `Features`. The
            method returns a dict of [k, f] arrays, the last of which holds the features.
        head: a module from features to embeddings, such as `Head`.
        mean, std: the backbone receives (x − mean)/std, for pixels x in [0, 1] as
            `views.positive_pairs` returns them; one number, or one for each channel.
    """

    def __init__(
        self,
        backbone: nnx.Module,
        head: nnx.Module,
        *,
        mean: Sequence[Real] = (0.5,),
        std: Sequence[Real] = (0.25,),
    ) -> None:
        self.backbone, self.head = backbone, head
        self.mean, self.std = tuple(mean), tuple(std)

    def __call__(self, x: Numbers) -> Float[Array, "k d"]:
        """Return the embeddings [k, d]."""
        return self.everything(x)[0]

    def everything(
        self, x: Numbers
    ) -> tuple[Float[Array, "k d"], dict[str, Float[Array, "k features"]]]:
        """Return the embeddings [k, d] and the hidden representations.

        The representations are a dict by name, in the order of computation.
        """
        leading = range(x.ndim - 1)
        mean, std = (
            jnp.expand_dims(jnp.asarray(values, x.dtype), leading)
            for values in (self.mean, self.std)
        )
        x = (x - mean) / std
        hidden: dict[str, Array] = self.backbone.representations(x)  # type: ignore[attr-defined]
        return self.head(list(hidden.values())[-1]), hidden


def offset_start(encoder: Encoder, norm: Real, *, rngs: nnx.Rngs) -> Encoder:
    """Set the last bias of an encoder's head to a random vector of this norm, in place.

    A loss of directions u = z/‖z‖ (SimCLR, BYOL) has no saddle at z = 0. Its small start therefore
    has small differences instead of small embeddings: all lie near one vector, z = b + small · W h.
    With ‖b‖ = norm, tangential modes of SimCLR then grow by the law of small dot products, with
    weights divided by norm.

    Args:
        encoder: an encoder whose head is a `Head`.
        norm: norm of the bias b.
        rngs: random numbers of its direction.

    Returns:
        The same encoder.

    Raises:
        ValueError: if the norm is not positive, or the head's last layer has no bias.
    """
    _check.require(norm > 0, "norm", "a positive number", norm)
    bias = encoder.head.layers[-1].bias  # type: ignore[attr-defined]
    _check.require(bias is not None, "encoder", "a head whose last layer has a bias", "one without")
    direction = jax.random.normal(rngs.params(), bias.shape, bias.dtype)
    bias[...] = norm * direction / jnp.linalg.norm(direction)
    return encoder


def scale_start(encoder: Encoder, scale: Real, where: Literal["head", "all"] = "head") -> Encoder:
    """Multiply the starting weights of an encoder by `scale`, in place: a small start.

    Args:
        encoder: the encoder.
        scale: the factor.
        where: which parameters to multiply. "head" means the weights and the bias of the head's
            last layer, and embeddings shrink by the factor `scale`. "all" means every parameter
            that trains, including the scales of normalisations, and embeddings shrink by more.

    Returns:
        The same encoder.

    Raises:
        ValueError: if the scale is not positive, `where` is unknown, or, for "head", the encoder's
            head is not a `Head`.
    """
    _check.require(scale > 0, "scale", "a positive number", scale)
    _check.require(where in ("head", "all"), "where", "'head' or 'all'", repr(where))
    fits = where == "all" or hasattr(getattr(encoder, "head", None), "layers")
    _check.require(
        fits, "encoder", "a models.Encoder, whose head is a models.Head", type(encoder).__name__
    )
    part = encoder.head.layers[-1] if where == "head" else encoder  # type: ignore[attr-defined]
    state = nnx.state(part, nnx.Param)
    nnx.update(part, jax.tree.map(lambda leaf: (leaf * scale).astype(leaf.dtype), state))
    return encoder
