"""What stands on a backbone: read-out, projector, predictor; and the whole encoder."""

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
    """Dense layers, each but the last followed by batch normalisation (unless switched off) and
    ReLU.

    A linear read-out is Head(f, [d]); the projector of Barlow Twins Head(f, [8192, 8192, 8192],
    bias=False), that of SimCLR Head(f, [2048, 2048, 128], last_norm=True), of VICReg Head(f, [8192,
    8192, 8192], last_bias=False), and BYOL's projector and predictor Head(f, [4096, 256]).

    Args:
        inputs: features of the backbone.
        sizes: of the layers, the last one d.
        norm: batch normalisation after each hidden layer.
        last_norm: and after the last, without scale and offset.
        bias: of the layers; the last one's is `last_bias`.
        dtype: of the computation; the last layer computes in float32 at least, since a small
            start's differences are below what bfloat16 tells apart.

    Raises:
        ValueError: a size is not positive, or there is none.
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
        of = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        wide = of | {"dtype": None if dtype is None else jnp.promote_types(dtype, jnp.float32)}
        last = len(sizes) - 1
        biases = [bias if i < last or last_bias is None else last_bias for i in range(len(sizes))]
        layers = zip(itertools.pairwise(widths), biases, strict=True)
        self.layers = nnx.List(
            nnx.Linear(a, b, use_bias=with_bias, **(wide if i == last else of))
            for i, ((a, b), with_bias) in enumerate(layers)
        )
        norms = [batch_norm(b, **of) for b in widths[1:-1] if norm]
        self.norms = nnx.List(norms)
        self.last_norm = (
            batch_norm(widths[-1], use_scale=False, use_bias=False, **wide) if last_norm else None
        )

    def __call__(self, x: Numbers) -> Float[Array, "k d"]:
        """Outputs [k, d]."""
        for i, layer in enumerate(self.layers[:-1]):
            x = layer(x)
            x = nnx.relu(self.norms[i](x) if len(self.norms) else x)
        x = self.layers[-1](x)
        x = x if self.last_norm is None else self.last_norm(x)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class Features(nnx.Module):
    """A multilayer perceptron as a backbone: flattened images -> the last hidden layer, He-normal
    weights.

    Raises:
        ValueError: a size is not positive, or there is none.
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
        """What every hidden layer hands on: {"layer1": [k, width], ...}."""
        x, found = jnp.reshape(x, (len(x), -1)), {}
        for i, layer in enumerate(self.layers):
            x = nnx.relu(layer(x))
            found[f"layer{i + 1}"] = x
        return found

    def __call__(self, x: Numbers) -> Float[Array, "k features"]:
        """The last hidden layer."""
        return self.representations(x)[f"layer{len(self.layers)}"]


class Encoder(nnx.Module):
    """A backbone and its head: images [k, h, w, c] -> embeddings [k, d].

    Args:
        backbone: a module with `representations` (a dict of [k, f] arrays, the last of which are
            its outputs), such as `ResNet` or `Features`.
        head: a module from features to embeddings, such as `Head`.
        mean, std: pixels in [0, 1] enter the backbone as (x − mean)/std, so that the encoder is a
            function of images as `views.positive_pairs` makes them; one number, or one a channel.
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
        """Embeddings [k, d]."""
        return self.everything(x)[0]

    def everything(
        self, x: Numbers
    ) -> tuple[Float[Array, "k d"], dict[str, Float[Array, "k features"]]]:
        """Embeddings [k, d], and the hidden representations by name, in the order in which they are
        computed.
        """
        x = (x - jnp.asarray(self.mean, x.dtype)) / jnp.asarray(self.std, x.dtype)
        found: dict[str, Array] = self.backbone.representations(x)  # type: ignore[attr-defined]
        return self.head(list(found.values())[-1]), found


def offset_start(encoder: Encoder, norm: Real, *, rngs: nnx.Rngs) -> Encoder:
    """The encoder with its head's last bias brought to this norm, in a random direction, in place.

    A loss of directions u = z/‖z‖ (SimCLR, BYOL) has no saddle at z = 0, and its small start is not
    one of small z but one of small differences: embeddings near one vector, z = b + small · W h.
    With ‖b‖ = norm, tangential modes of SimCLR then grow by the law of small dot products with
    weights divided by norm.

    Raises:
        ValueError: the norm is not positive, or the head's last layer has no bias.
    """
    _check.require(norm > 0, "norm", "a positive number", norm)
    bias = encoder.head.layers[-1].bias  # type: ignore[attr-defined]
    _check.require(bias is not None, "encoder", "a head whose last layer has a bias", "one without")
    direction = jax.random.normal(rngs.params(), bias.shape, bias.dtype)
    bias[...] = norm * direction / jnp.linalg.norm(direction)
    return encoder


def scale_start(encoder: Encoder, scale: Real, where: Literal["head", "all"] = "head") -> Encoder:
    """The encoder with its starting weights multiplied by `scale`, in place: a small start.

    Args:
        where: "head", the weights (and bias) of the head's last layer, whose outputs shrink by the
            factor; or "all", every parameter that trains, scales of normalisations included, whose
            outputs shrink by more.

    Raises:
        ValueError: the scale is not positive, or `where` is unknown.
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
