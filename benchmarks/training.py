"""Training steps of ResNet-18 on the CPU, compared with PyTorch; the cost of drawing views."""

import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from benchmarks import child
from benchmarks.case import crops
from benchmarks.child import Outcome, measure
from benchmarks.report import Row
from stepwise import models, views
from stepwise.methods import DEFAULT, METHODS
from stepwise.training.plan import Plan
from stepwise.training.step import Step

TORCH = Path(".venv-torch/bin/python")
"""Interpreter of the peer, in an environment with PyTorch that `make bench` creates."""
DIMENSIONS, RATE, MOMENTUM = 10, 1e-4, 0.9
CHECKED, FIRST, AGREE = 8, 3, 1e-9
"""Settings of the check, in float64 on `CHECKED` pairs, that both sides compute the same.

The loss, the norm of its gradient and the mean loss of `FIRST` steps must agree to the fraction
`AGREE`; otherwise there is no ratio. Momentum acts from the third step on.
"""
RECIPES: dict[str, Any] = {
    # an image and its mirror image: these views are not random, so the peer can store them
    "mirror": views.Recipe(views.View(), views.View(flip=1.0)),
    "none": views.Recipe(views.View(), views.View()),
    "small": "small",
}


def rows(quick: bool) -> Iterator[Row]:
    """Measure each width against PyTorch, and the recipe "small" against no augmentation."""
    pairs, side, times = (4, 16, 1) if quick else (64, 32, 2)
    blocks = (1, 1) if quick else (2, 2, 2, 2)
    for width, steps in [(4, 1)] if quick else [(16, 10), (64, 2)]:
        network = "ResNet of 2 blocks" if quick else "ResNet-18"
        case = f"{network}, width {width}, {2 * pairs} images of {side} px"
        sizes = [blocks, width, pairs, side, steps]
        with tempfile.TemporaryDirectory() as folder:
            compiled = [False] if quick else [False, True]
            yield from _against_torch(case, sizes, Path(folder) / "start.npz", compiled, times)
        # both in turn and then again, so that a busy moment of the machine affects both sides
        turns = [
            [child.run("training:ours", recipe, *sizes) for recipe in ("none", "small")]
            for _ in range(times)
        ]
        none, small = (min(turn, key=_seconds) for turn in zip(*turns, strict=True))
        longer = small.seconds / none.seconds
        note = f'recipe "small" makes a step {longer:.3f} times as long; at most 1.15 is allowed'
        yield Row(
            "views",
            case,
            "no augmentation",
            small.seconds / steps,
            small.compile,
            small.megabytes,
            none.seconds / steps,
            none.megabytes,
            0.87,
            note=note,
        )


def _against_torch(
    case: str, sizes: list[Any], file: Path, compiled: list[bool], times: int
) -> Iterator[Row]:
    blocks, width, pairs, side, steps = sizes
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    start = child.run("training:start", blocks, width, pairs, side)
    np.savez(file, **start.arrays)  # type: ignore[arg-type]
    ours: list[Outcome] = []
    theirs: dict[str, list[Outcome]] = {
        "PyTorch, torch.compile" if each else "PyTorch": [] for each in compiled
    }
    failed: dict[str, str] = {}
    note = ""
    try:
        note = _agreement(start, child.run("torch_side:start", str(file), python=TORCH))
    except (RuntimeError, OSError) as error:
        failed = dict.fromkeys(theirs, _last_line(error))
    for _ in range(times):
        ours.append(child.run("training:ours", "mirror", *sizes))
        for name in theirs.keys() - failed.keys():
            try:
                arguments = (str(file), steps, cores, name != "PyTorch")
                theirs[name].append(child.run("torch_side:time_steps", *arguments, python=TORCH))
            except RuntimeError as error:  # for example torch.compile without a C++ compiler
                failed[name] = _last_line(error)
    best = min(ours, key=_seconds)
    measurements = (best.seconds / steps, best.compile, best.megabytes)
    speed = 2 * pairs * steps / best.seconds
    for name, outcomes in theirs.items():
        if name in failed:
            yield Row(
                "training",
                case,
                name,
                *measurements,
                None,
                0,
                0,
                note=f"{speed:.0f} images/s; no peer: {failed[name]}",
            )
            continue
        peer = min(outcomes, key=_seconds)
        rate = (
            f"{speed:.0f} against {2 * pairs * steps / peer.seconds:.0f} images/s; compile "
            f"{peer.compile:.3g} s"
        )
        yield Row(
            "training",
            case,
            name,
            *measurements,
            peer.seconds / steps,
            peer.megabytes,
            0,
            peer.late,
            f"{rate}; {note}",
        )


def _seconds(outcome: Outcome) -> float:
    return outcome.seconds


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]


def _agreement(ours: Outcome, theirs: Outcome) -> str:
    """Describe how well both sides agree on the same weights and views in float64.

    Raises:
        RuntimeError: if they do not agree to `AGREE`.
    """
    off = {
        name: abs(theirs.arrays[name] / ours.arrays[name] - 1)
        for name in ("loss", "gradient", "losses")
    }
    count, peer = (int(side.arrays["parameters"]) for side in (ours, theirs))
    note = (
        f"torch {theirs.arrays['version']}; {count} parameters (peer {peer}); in float64 agree to "
        f"{off['loss']:.0e} "
        f"(loss), {off['gradient']:.0e} (norm of the gradient), {off['losses']:.0e} (loss of "
        f"{FIRST} steps)"
    )
    if count != peer or not all(each < AGREE for each in off.values()):
        raise RuntimeError(f"not the same computation: {note}")
    return note


def ours(
    recipe: str,
    blocks: tuple[int, ...],
    width: int,
    pairs: int,
    side: int,
    steps: int,
    d: int = DIMENSIONS,
) -> Outcome:
    """Measure this package's training step in float32, with the images on the device."""
    jax.config.update("jax_platforms", "cpu")  # the peer runs on the CPU
    step = make_step(blocks, width, draw_pixels(pairs, side), recipe, np.float32, d=d)[0]
    state = step.start()

    def call() -> dict[str, Any]:
        nonlocal state
        state = step.advance(state, steps)
        return {"ok": state["ok"]}

    outcome = measure(call, repeats=9, budget=12.0)
    if not outcome.arrays["ok"]:
        raise RuntimeError(f"width {width}: expected finite steps, received one that is not finite")
    return outcome


def start(blocks: tuple[int, ...], width: int, pairs: int, side: int) -> Outcome:
    """Return weights and views for the peer, and the float64 results that it must reproduce."""
    jax.config.update("jax_platforms", "cpu")
    # in float32 a layer's gradient is accurate only to 1e-2 here
    jax.config.update("jax_enable_x64", True)
    pixels = draw_pixels(pairs, side)
    step, encoder = make_step(blocks, width, pixels[:CHECKED], "mirror", np.float64)
    loss, _, slopes = step.gradient(step.start())
    state = step.advance(step.start(), FIRST)
    arrays = {
        "images": mirror_pairs(pixels),
        "checked": len(pixels[:CHECKED]),
        "first": FIRST,
        "rate": RATE,
        "momentum": MOMENTUM,
        "loss": loss,
        "gradient": optax.tree.norm(slopes),
        "losses": state["loss_sum"] / state["taken"],
        "parameters": models.count_parameters(encoder),
    } | name_weights(step.params["encoder"])
    return Outcome(0.0, arrays={name: np.asarray(value) for name, value in arrays.items()})


def draw_pixels(pairs: int, side: int) -> np.ndarray:
    """Return crops of the photographs, uint8 [pairs, side, side, 3]."""
    return np.rint(255 * crops(pairs, side)[0]).astype(np.uint8).reshape(pairs, side, side, 3)


def mirror_pairs(pixels: np.ndarray) -> np.ndarray:
    """Return the views of the recipe "mirror", float32 [2, n, h, w, 3]."""
    x = pixels / np.float32(255)
    return np.stack([x, x[:, :, ::-1]])


def name_weights(params: Any) -> dict[str, Any]:
    """Return the arrays of an encoder by the names that `torch_side.encoder` reads."""
    return {
        "weights/" + jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


def make_step(
    blocks: tuple[int, ...],
    width: int,
    pixels: np.ndarray,
    recipe: str,
    dtype: Any,
    *,
    d: int = DIMENSIONS,
    rate: float = RATE,
    scale: float = 1.0,
) -> tuple[Step, nnx.Module]:
    """Return the training step of a ResNet on full batches of the images, and the network.

    The weights of the head are multiplied by `scale` at the start.
    """
    options = {"param_dtype": dtype, "rngs": nnx.Rngs(0)}
    backbone = models.ResNet(blocks, width=width, stem="small", **options)
    encoder = models.Encoder(backbone, models.Head(backbone.features, [d], **options))
    models.scale_start(encoder, scale)
    sgd = partial(optax.sgd, momentum=MOMENTUM)
    plan = Plan(10**6, len(pixels), rate, sgd, RECIPES[recipe], probe=2)
    return Step(encoder, pixels, METHODS[DEFAULT].objective, plan, None, None), encoder
