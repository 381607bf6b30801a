"""Residual networks (He et al. 2016) in torchvision's layout, with the representation after every
stage.
"""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from stepwise import _check
from stepwise.models.normalisation import batch_norm, group_norm
from stepwise.types import Numbers, Whole

Stem = Literal["imagenet", "small"]
Norm = Literal["batch", "group"]

LAYOUTS = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
}
"""Blocks of each stage, and whether they are bottlenecks, by name."""
# torchvision's initialisation of convolutions: kaiming_normal_ with fan_out
_he = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


class ResNet(nnx.Module):
    """A residual network without its read-out: images [k, h, w, c] -> features [k, f].

    Features are means over the positions of the last stage.

    Args:
        blocks: number of residual blocks in each stage. Every stage but the first halves the height
            and width of the images and doubles the number of channels.
        width: number of channels in the first stage. The standard width is 64. With four stages,
            f = 8 · width, or 32 · width with bottlenecks.
        bottleneck: whether blocks are bottlenecks (ResNet-50): convolutions of 1 x 1, 3 x 3 and
            1 x 1 with four times the channels at the end, instead of two of 3 x 3.
        stem: "imagenet", a 7 x 7 convolution and a max-pooling, each of stride 2; or "small", one
            3 x 3 convolution of stride 1, for images of about 32 pixels.
        norm: "batch", with the statistics of the whole batch (over all devices) in training and the
            running ones in evaluation; or "group", with the statistics of each image.
        channels: number of channels of the images.
        dtype: dtype of the computation, such as bfloat16.
        param_dtype: dtype of the parameters.
        rngs: random numbers of the start, flax.nnx.Rngs(seed).

    Raises:
        ValueError: if a size is not positive, or `stem` or `norm` is unknown.
    """

    def __init__(
        self,
        blocks: tuple[Whole, ...] = (2, 2, 2, 2),
        *,
        width: Whole = 64,
        bottleneck: bool = False,
        stem: Stem = "imagenet",
        norm: Norm = "batch",
        channels: Whole = 3,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        _check.require(
            len(blocks) > 0 and min(blocks) >= 1,
            "blocks",
            "positive numbers, one a stage",
            str(blocks),
        )
        _check.require(width >= 1, "width", "a positive number of channels", width)
        _check.require(stem in ("imagenet", "small"), "stem", "'imagenet' or 'small'", repr(stem))
        _check.require(norm in ("batch", "group"), "norm", "'batch' or 'group'", repr(norm))
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        convolution: Any = partial(_convolution, **options)
        normal: Any = partial(batch_norm if norm == "batch" else group_norm, **options)
        large = stem == "imagenet"
        self.pooled_stem = large
        self.stem = convolution(channels, width, 7 if large else 3, 2 if large else 1)
        self.norm = normal(width)
        stages, inputs = [], int(width)
        for i, count in enumerate(map(int, blocks)):
            outputs = int(width) * 2**i * (4 if bottleneck else 1)
            strides = [1 if i == 0 else 2] + [1] * (count - 1)
            stage = []
            for stride in strides:
                stage.append(_Block(inputs, outputs, stride, bottleneck, convolution, normal))
                inputs = outputs
            stages.append(nnx.List(stage))
        self.stages = nnx.List(stages)
        self.features = int(inputs)

    @classmethod
    def standard(
        cls, name: Literal["resnet18", "resnet34", "resnet50"], **options: Any
    ) -> "ResNet":
        """Create a ResNet of a standard layout.

        Args:
            name: "resnet18", "resnet34" or "resnet50".
            options: other arguments of `ResNet` (width, stem, norm, channels, dtype, rngs).

        Raises:
            ValueError: if the name is unknown.
        """
        _check.require(name in LAYOUTS, "name", f"one of {', '.join(LAYOUTS)}", repr(name))
        blocks, bottleneck = LAYOUTS[name]
        return cls(blocks, bottleneck=bottleneck, **options)

    def representations(self, x: Numbers) -> dict[str, Float[Array, "k features"]]:
        """Return the outputs of the stem and of every stage, averaged over positions.

        They are a dict {"stem": [k, width], "stage1": [k, ...], ...}.
        """
        x = nnx.relu(self.norm(self.stem(x)))
        if self.pooled_stem:
            x = nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        outputs = {"stem": _pool(x)}
        for i, stage in enumerate(self.stages):
            for block in stage:
                x = block(x)
            outputs[f"stage{i + 1}"] = _pool(x)
        return outputs

    def __call__(self, x: Numbers) -> Float[Array, "k features"]:
        """Return the features [k, f], which are the output of the last stage."""
        return self.representations(x)[f"stage{len(self.stages)}"]


class _Block(nnx.Module):
    """A residual block x -> relu(S(x) + F(x)).

    F is two 3 x 3 convolutions or a bottleneck. The shortcut S is a 1 x 1 convolution if the shape
    changes, and the identity otherwise.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        bottleneck: bool,
        convolution: Any,
        normal: Any,
    ) -> None:
        inner = outputs // 4 if bottleneck else outputs
        # (channels in, channels out, side, stride); the 3 x 3 convolution of a bottleneck has the
        # stride, as in torchvision's v1.5
        shapes = (
            [(inputs, inner, 1, 1), (inner, inner, 3, stride), (inner, outputs, 1, 1)]
            if bottleneck
            else [(inputs, outputs, 3, stride), (outputs, outputs, 3, 1)]
        )
        self.convolutions = nnx.List(convolution(*shape) for shape in shapes)
        self.norms = nnx.List(normal(shape[1]) for shape in shapes)
        changes = stride != 1 or inputs != outputs
        self.shortcut = convolution(inputs, outputs, 1, stride) if changes else None
        self.shortcut_norm = normal(outputs) if changes else None

    def __call__(self, x: Array) -> Array:
        y = x
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            y = norm(convolution(y if i == 0 else nnx.relu(y)))
        if self.shortcut is not None and self.shortcut_norm is not None:
            x = self.shortcut_norm(self.shortcut(x))
        return nnx.relu(x + y)


def _convolution(inputs: int, outputs: int, side: int, stride: int, **options: Any) -> nnx.Conv:
    # equal padding on both sides, as in torchvision; "SAME" pads unequally at stride 2
    pad = side // 2
    padding = ((pad, pad), (pad, pad))
    return nnx.Conv(
        inputs,
        outputs,
        (side, side),
        stride,
        padding=padding,
        use_bias=False,
        kernel_init=_he,
        **options,
    )


def _pool(x: Array) -> Array:
    return jnp.mean(x, axis=(1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))


def count_parameters(module: nnx.Module) -> int:
    """Count the trainable numbers of a module, or of the shapes that `nnx.eval_shape` returns."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
