"""A PyTorch training loop whose steps `stepwise watch` forecasts.

This module runs where PyTorch and NumPy are installed and JAX and `stepwise` are not:

    python -m benchmarks.torch_monitor runs/torch
    stepwise watch runs/torch --lr 0.002 --momentum 0.9 --batch-size 128 --once

The second command runs elsewhere, while the first one trains or later. `log_arrays`, `sample` and
`sensitivity` are those of docs/stuck.md.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found]

from benchmarks.torch_side import Encoder, barlow_twins_unnormalised

LR, MOMENTUM, BATCH = 0.002, 0.9, 128
"""Settings of SGD, and the number of pairs in a batch."""
EVERY = 50
"""Number of steps between two samples."""


def log_arrays(folder, step, **arrays):  # type: ignore[no-untyped-def]
    temporary = Path(folder) / f".step_{step}.npz"
    temporary.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open("wb") as file:
        np.savez(file, **arrays)
    temporary.replace(temporary.with_name(f"step_{step}.npz"))  # a reader never sees half a file


def sample(trunk, last, criterion, view1, view2):  # type: ignore[no-untyped-def]
    with torch.no_grad():
        features1, features2 = trunk(torch.cat([view1, view2])).chunk(2)  # as in training
        z1, z2 = last(features1), last(features2)  # last = torch.nn.Linear(f, d)
        loss = criterion(z1, z2)
    arrays = {"z1": z1, "z2": z2, "loss": loss}
    arrays |= {"features1": features1, "features2": features2, "head": last.weight}
    return {name: array.detach().float().cpu().numpy() for name, array in arrays.items()}


def sensitivity(trunk, view1, view2, weights, rows):  # type: ignore[no-untyped-def]
    a, b = trunk(torch.cat([view1, view2])).chunk(2)  # with gradients
    mean = (a.mean(0) + b.mean(0)) / 2
    a, b = a - mean, b - mean
    w, rows = (torch.as_tensor(part, dtype=a.dtype, device=a.device) for part in (weights, rows))
    w = w / w.norm()
    gamma = ((a @ w) * (b @ w)).mean()
    if len(rows):  # what the learned modes explain does not count
        y, y2, n = a @ rows.T, b @ rows.T, len(a)
        mixed = (y.T @ (b @ w) + y2.T @ (a @ w)) / (2 * n)
        gamma = gamma - mixed @ torch.linalg.solve((y.T @ y2 + y2.T @ y) / (2 * n), mixed)
    slopes = torch.autograd.grad(gamma, list(trunk.parameters()), allow_unused=True)
    square = sum(float(slope.square().sum()) for slope in slopes if slope is not None)
    gamma = gamma.item()
    return square / (4 * gamma**2) if gamma > 0 else 0.0


FREQUENCIES = [(0, 0), (1, 0), (0, 1), (2, 1), (3, 3)]
"""Waves of the images, across and along, the strong ones first."""


def make_images(n: int, side: int) -> Any:
    """Return images [n, 3, side, side] in [0, 1]: sums of coloured waves."""
    where = torch.arange(side) / side
    waves = [
        torch.cos(2 * torch.pi * (i * where[:, None] + j * where[None])) for i, j in FREQUENCIES
    ]
    strength = 0.25 * torch.tensor([2.0**-i for i in range(len(waves))])
    amounts = torch.randn(n, 3, len(waves)) * strength
    return (0.5 + amounts @ torch.stack(waves).flatten(1)).reshape(n, 3, side, side).clamp(0, 1)


def draw_views(images: Any) -> tuple[Any, Any]:
    """Return two views of each image: mirrored at random, with noise and of random brightness."""

    def view() -> Any:
        mirrored = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(3), images)
        brightness = 0.05 * torch.randn(len(images), 1, 1, 1)
        return (mirrored + brightness + 0.05 * torch.randn_like(images)).clamp(0, 1)

    return view(), view()


def main() -> None:
    """Train, and log a sample every `EVERY` steps."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torch_monitor", description=__doc__)
    parser.add_argument("folder", help="folder for the files step_N.npz")
    parser.add_argument("--steps", type=int, default=400, help="number of training steps")
    options = parser.parse_args()
    torch.manual_seed(0)
    images = make_images(1280, 16)
    held1, held2 = draw_views(images[1024:])  # 256 pairs that training does not use
    net = Encoder(width=16, blocks=[1, 1, 1], d=10)
    last = net.head.layers[0]
    with torch.no_grad():
        last.weight.mul_(1e-3)  # a small start, from which modes are learned one by one
    optimiser = torch.optim.SGD(net.parameters(), lr=LR, momentum=MOMENTUM)
    for step in range(options.steps + 1):
        if step % EVERY == 0:
            arrays = sample(net.backbone, last, barlow_twins_unnormalised, held1, held2)
            log_arrays(options.folder, step, **arrays)
            print(f"step {step}: loss {arrays['loss']:.4g}", flush=True)
        view1, view2 = draw_views(images[torch.randperm(1024)[:BATCH]])
        optimiser.zero_grad()
        barlow_twins_unnormalised(*net(torch.cat([view1, view2])).chunk(2)).backward()
        optimiser.step()


if __name__ == "__main__":
    main()
