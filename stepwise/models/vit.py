"""A vision transformer (Dosovitskiy et al. 2021) with the representation after every stage."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from stepwise import _check
from stepwise.types import Numbers, Whole

HEAD = 64
"""Width of an attention head, as in the published sizes."""


class ViT(nnx.Module):
    """A vision transformer without its read-out: images [k, h, w, c] -> features [k, width].

    Patches become tokens, to which a learned embedding of their position is added. A class token
    goes first, and its value after the last layer are the features. Each layer normalises before it
    acts (pre-norm): multi-head attention, then a perceptron with four times the width and GELU.
    Weights start from a normal distribution of standard deviation 0.02 that is cut at two standard
    deviations, and biases from 0.

    Images of another size than `side` have interpolated position embeddings, as local crops do in
    DINO. There is no batch normalisation and no dropout.

    Args:
        blocks: number of layers in each stage. The stages differ in nothing but in that the
            representation after each of them is recorded.
        side: side of the images, in pixels; a multiple of `patch`.
        patch: side of a patch, in pixels.
        width: numbers in a token, a multiple of the number of attention heads.
        heads: number of attention heads; by default one for each 64 numbers, as in the published
            sizes ViT-Ti (192), ViT-S (384) and ViT-B (768), which have twelve layers.
        channels: number of channels of the images.
        dtype: dtype of the computation, such as bfloat16.
        param_dtype: dtype of the parameters.
        rngs: random numbers of the start, flax.nnx.Rngs(seed).

    Raises:
        ValueError: if a size is not positive, `patch` does not divide `side`, or `heads` does not
            divide `width`.
    """

    def __init__(
        self,
        blocks: tuple[Whole, ...] = (3, 3, 3, 3),
        *,
        side: Whole = 32,
        patch: Whole = 4,
        width: Whole = 192,
        heads: Whole | None = None,
        channels: Whole = 3,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        fits = len(blocks) > 0 and min(blocks) >= 1
        _check.require(fits, "blocks", "positive numbers, one a stage", str(blocks))
        heads = max(1, int(width) // HEAD) if heads is None else heads
        for name, value in (("patch", patch), ("width", width), ("heads", heads)):
            _check.whole(name, value, 1)
        fits = side >= patch and side % patch == 0
        _check.require(fits, "side", f"a multiple of the patches' {patch} pixels", side)
        _check.require(width % heads == 0, "width", f"a multiple of {heads} heads", width)
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.patch, self.grid, self.features = int(patch), int(side) // int(patch), int(width)
        self.embed = _linear(int(channels) * self.patch**2, self.features, **options)
        draw = _START(rngs.params(), (1 + self.grid**2, self.features), param_dtype)
        self.token = nnx.Param(jnp.zeros((1, 1, self.features), param_dtype))
        self.positions = nnx.Param(draw)
        self.stages = nnx.List(
            nnx.List(_Layer(self.features, int(heads), **options) for _ in range(count))
            for count in map(int, blocks)
        )
        self.norm = _norm(self.features, **options)

    def representations(self, x: Numbers) -> dict[str, Float[Array, "k width"]]:
        """Return the class token after every stage, normalised by the last layer's normalisation.

        They are a dict {"stage1": [k, width], ...}, and the last are the features.

        Raises:
            ValueError: if the images' height or width is not a multiple of the patches' side.
        """
        fits = jnp.ndim(x) == 4 and jnp.shape(x)[0] > 0
        _check.require(fits, "x", "at least one image [k, h, w, c]", x)
        k, height, width, channels = jnp.shape(x)
        rows, columns = height // self.patch, width // self.patch
        fits = rows * self.patch == height and columns * self.patch == width and rows * columns > 0
        _check.require(fits, "x", f"images whose sides are multiples of {self.patch} pixels", x)
        x = jnp.reshape(x, (k, rows, self.patch, columns, self.patch, channels))
        tokens = self.embed(jnp.swapaxes(x, 2, 3).reshape(k, rows * columns, -1))
        first = jnp.broadcast_to(self.token[...].astype(tokens.dtype), (k, 1, self.features))
        positions = self._positions(rows, columns).astype(tokens.dtype)
        tokens = jnp.concatenate([first, tokens], axis=1) + positions[None]
        outputs = {}
        for i, stage in enumerate(self.stages):
            for layer in stage:
                tokens = layer(tokens)
            seen = self.norm(tokens[:, 0])
            outputs[f"stage{i + 1}"] = seen.astype(jnp.promote_types(seen.dtype, jnp.float32))
        return outputs

    def __call__(self, x: Numbers) -> Float[Array, "k width"]:
        """Return the features [k, width], the class token after the last layer."""
        return self.representations(x)[f"stage{len(self.stages)}"]

    def _positions(self, rows: int, columns: int) -> Array:
        """Return the embedding of each position, with that of the class token first."""
        whole = self.positions[...]
        if (rows, columns) == (self.grid, self.grid):
            return whole
        grid = whole[1:].reshape(self.grid, self.grid, -1)
        moved = jax.image.resize(grid, (rows, columns, self.features), "cubic", antialias=False)
        return jnp.concatenate([whole[:1], moved.reshape(rows * columns, -1)])


class _Layer(nnx.Module):
    """A transformer layer: x + attention(norm(x)), then x + perceptron(norm(x))."""

    def __init__(self, width: int, heads: int, **options: Any) -> None:
        self.norms = nnx.List(_norm(width, **options) for _ in range(2))
        self.attention = nnx.MultiHeadAttention(
            heads, width, kernel_init=_START, decode=False, **options
        )
        self.inner = _linear(width, 4 * width, **options)
        self.outer = _linear(4 * width, width, **options)

    def __call__(self, x: Array) -> Array:
        x = x + self.attention(self.norms[0](x))
        return x + self.outer(nnx.gelu(self.inner(self.norms[1](x)), approximate=False))


_START = nnx.initializers.truncated_normal(0.02, lower=-2.0, upper=2.0)


def _linear(inputs: int, outputs: int, **options: Any) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, kernel_init=_START, **options)


def _norm(width: int, **options: Any) -> nnx.LayerNorm:
    return nnx.LayerNorm(width, epsilon=1e-6, use_fast_variance=False, **options)
