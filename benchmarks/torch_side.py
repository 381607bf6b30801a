"""PyTorch's side of a training step.

This module runs in the environment of PyTorch and must not import JAX or `stepwise`.
"""

import os
from typing import Any

# compilation is measured, so results of an earlier run must not be reused
os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"

import numpy as np
import torch  # type: ignore[import-not-found]
from torch import nn
from torch.nn import functional  # type: ignore[import-not-found]

from benchmarks.child import Outcome, measure


def time_steps(start: str, steps: int, threads: int, compiled: bool) -> Outcome:
    """Measure training steps in float32, channels-last, with or without torch.compile."""
    torch.set_num_threads(threads)
    take, _ = make_step(start, None, torch.float32, compiled)
    return measure(
        lambda: {"loss": np.array([take() for _ in range(steps)])}, repeats=9, budget=12.0
    )


def start(start: str) -> Outcome:
    """Compute in float64 the numbers that `training.start` returns for comparison."""
    with np.load(start) as file:
        checked, first = int(file["checked"]), int(file["first"])
    take, net = make_step(start, checked, torch.float64, False)
    losses = [take()]
    # the gradients of the first step, which remain until the next
    slopes = torch.cat([p.grad.ravel() for p in net.parameters()])
    gradient = float(slopes.norm())
    losses += [take() for _ in range(first - 1)]
    numbers = {
        "loss": losses[0],
        "losses": np.mean(losses),
        "gradient": gradient,
        "parameters": len(slopes),
        "version": torch.__version__,
    }
    return Outcome(0.0, arrays={name: np.asarray(value) for name, value in numbers.items()})


def make_step(start: str, pairs: int | None, dtype: Any, compiled: bool) -> tuple[Any, Any]:
    """Return a function that takes one step of SGD, and the network that it changes.

    The function returns the loss before the step.
    """
    with np.load(start) as file:
        arrays = dict(file)
    net = encoder(arrays).to(dtype=dtype, memory_format=torch.channels_last).train()
    views = torch.from_numpy(arrays["images"][:, :pairs].reshape(-1, *arrays["images"].shape[2:]))
    images = views.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(
        net.parameters(), lr=float(arrays["rate"]), momentum=float(arrays["momentum"])
    )

    def objective(images: Any) -> Any:
        return barlow_twins_unnormalised(*net(images).chunk(2))

    evaluate = torch.compile(objective) if compiled else objective

    def take() -> float:
        optimiser.zero_grad()
        loss = evaluate(images)
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    return take, net


def encoder(arrays: dict[str, np.ndarray]) -> Any:
    """Build the network with the weights of a file."""
    prefix = "weights/"
    weights = {
        name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)
    }
    positions = {
        tuple(map(int, name.split(".")[2:4]))
        for name in weights
        if name.startswith("backbone.stages.")
    }
    blocks = np.bincount([stage for stage, _ in positions]).tolist()
    net = Encoder(
        weights["backbone.stem.kernel"].shape[-1], blocks, len(weights["head.layers.0.bias"])
    ).double()
    # running statistics have the same initial values as flax's; every other array is in the file
    net.load_state_dict(
        {_name(name): _transpose(value) for name, value in weights.items()}
        | dict(net.named_buffers())
    )
    return net


def barlow_twins_unnormalised(z1: Any, z2: Any) -> Any:
    """Return ‖C − I‖_F², C = (z1ᵀ z2 + z2ᵀ z1)/(2n), centred at the mean of all 2n embeddings."""
    mean = (z1.mean(0) + z2.mean(0)) / 2
    C = (z1 - mean).T @ (z2 - mean) / len(z1)
    return (((C + C.T) / 2 - torch.eye(len(C), dtype=C.dtype)) ** 2).sum()


class Encoder(nn.Module):
    """`models.Encoder` of a ResNet with plain blocks, a small stem and a linear head.

    The modules have the same names as in `stepwise.models`.
    """

    def __init__(self, width: int, blocks: list[int], d: int) -> None:
        super().__init__()
        self.backbone, self.head = Backbone(width, blocks), nn.Module()
        self.head.layers = nn.ModuleList([nn.Linear(width * 2 ** (len(blocks) - 1), d)])

    def forward(self, x: Any) -> Any:
        """Return embeddings [k, d] of images [k, 3, h, w] in [0, 1]."""
        return self.head.layers[0](self.backbone(x))


class Backbone(nn.Module):
    """The encoder before its head."""

    def __init__(self, width: int, blocks: list[int]) -> None:
        super().__init__()
        self.stem, self.norm = _convolution(3, width, 3, 1), nn.BatchNorm2d(width)
        stages, c = [], width
        for i, count in enumerate(blocks):
            outputs = width * 2**i
            later = [Block(outputs, outputs, 1) for _ in range(count - 1)]
            stages.append(nn.ModuleList([Block(c, outputs, 1 if i == 0 else 2), *later]))
            c = outputs
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Any) -> Any:
        """Return features [k, f] of images [k, 3, h, w] in [0, 1]."""
        # the views are float32 on both sides
        x = ((x - 0.5) / 0.25).to(self.stem.weight.dtype)
        x = functional.relu(self.norm(self.stem(x)), inplace=True)
        for stage in self.stages:
            for block in stage:
                x = block(x)
        return x.mean((2, 3))


class Block(nn.Module):
    """x -> relu(x + F(x)) with two 3 x 3 convolutions F, and a 1 x 1 one on x for a new shape."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            [_convolution(inputs, outputs, 3, stride), _convolution(outputs, outputs, 3, 1)]
        )
        self.norms = nn.ModuleList([nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)])
        changes = stride != 1 or inputs != outputs
        self.shortcut: Any = _convolution(inputs, outputs, 1, stride) if changes else None
        self.shortcut_norm: Any = nn.BatchNorm2d(outputs) if changes else None

    def forward(self, x: Any) -> Any:
        # in place, as in torchvision
        y = functional.relu(self.norms[0](self.convolutions[0](x)), inplace=True)
        y = self.norms[1](self.convolutions[1](y))
        y += x if self.shortcut is None else self.shortcut_norm(self.shortcut(x))
        return functional.relu(y, inplace=True)


def _convolution(inputs: int, outputs: int, side: int, stride: int) -> Any:
    return nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, bias=False)


def _name(path: str) -> str:
    """Translate a name of flax; its kernels and scales are weights in PyTorch."""
    stem, leaf = path.rsplit(".", 1)
    return f"{stem}.{'bias' if leaf == 'bias' else 'weight'}"


def _transpose(kernel: np.ndarray) -> Any:
    """Transpose [h, w, in, out] to [out, in, h, w], and [in, out] to [out, in]."""
    axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[kernel.ndim]
    return torch.from_numpy(np.ascontiguousarray(kernel.transpose(axes)))
