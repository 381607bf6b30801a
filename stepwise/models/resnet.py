"""Residual networks (He et al. 2016), with torchvision's layout, and the representation after every
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
"""Blocks a stage, and whether they are bottlenecks."""
_he = nnx.initializers.variance_scaling(
    2.0, "fan_out", "normal"
)  # as torchvision: kaiming_normal_, fan_out


class ResNet(nnx.Module):
    """A residual network without its read-out: images [k, h, w, c] -> features [k, f], pooled over
    space.

    Args:
        blocks: residual blocks of each stage; every stage but the first halves height and width and
            doubles the width.
        width: channels of the first stage; 64 is the standard one, and f = 8 · width for four
            stages (4 times that with bottlenecks).
        bottleneck: blocks of 1 x 1, 3 x 3, 1 x 1 convolutions with four times the channels at the
            end (ResNet-50), instead of two 3 x 3 ones.
        stem: "imagenet", a 7 x 7 convolution and a pooling, each of stride 2, or "small", one 3 x 3
            convolution of stride 1, for images of some 32 pixels.
        norm: "batch", with statistics of the whole batch in training (of all devices) and running
            ones otherwise, or "group", of each image alone.
        channels: of the images.
        dtype: of the computation, such as bfloat16; parameters stay in `param_dtype`.
        rngs: the start's random numbers, flax.nnx.Rngs(seed).

    Raises:
        ValueError: a size is not positive, or stem or norm are unknown.
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
        of = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        convolution: Any = partial(_convolution, **of)
        normal: Any = partial(batch_norm if norm == "batch" else group_norm, **of)
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
        """A ResNet of a standard layout, with options as above (width, stem, norm, channels, dtype,
        rngs).

        Raises:
            ValueError: the name is unknown.
        """
        _check.require(name in LAYOUTS, "name", f"one of {', '.join(LAYOUTS)}", repr(name))
        blocks, bottleneck = LAYOUTS[name]
        return cls(blocks, bottleneck=bottleneck, **options)

    def representations(self, x: Numbers) -> dict[str, Float[Array, "k features"]]:
        """What the stem and every stage hand on, pooled over space: {"stem": [k, width], "stage1":
        ..., ...}.
        """
        x = nnx.relu(self.norm(self.stem(x)))
        if self.pooled_stem:
            x = nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        found = {"stem": _pooled(x)}
        for i, stage in enumerate(self.stages):
            for block in stage:
                x = block(x)
            found[f"stage{i + 1}"] = _pooled(x)
        return found

    def __call__(self, x: Numbers) -> Float[Array, "k features"]:
        """Features [k, f]: the last stage's."""
        return self.representations(x)[f"stage{len(self.stages)}"]


class _Block(nnx.Module):
    """x -> relu(x + F(x)), F two 3 x 3 convolutions or a bottleneck; 1 x 1 on x where the shape
    changes.
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
        # (channels in, channels out, side, stride); the stride on the 3 x 3, as torchvision's v1.5
        # has it
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


def _convolution(inputs: int, outputs: int, side: int, stride: int, **of: Any) -> nnx.Conv:
    pad = (
        side // 2
    )  # on both sides, as torchvision; "SAME" pads one side more where the stride is 2
    padding = ((pad, pad), (pad, pad))
    return nnx.Conv(
        inputs,
        outputs,
        (side, side),
        stride,
        padding=padding,
        use_bias=False,
        kernel_init=_he,
        **of,
    )


def _pooled(x: Array) -> Array:
    return jnp.mean(x, axis=(1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))


def count_parameters(module: nnx.Module) -> int:
    """How many numbers train; of a module, or of the shapes that `nnx.eval_shape` gives."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
