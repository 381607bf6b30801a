"""A training step of ResNet-18 on the CPU: images a second against PyTorch's, and what drawing
views adds to it.
"""

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
from benchmarks.child import Outcome, measured
from benchmarks.report import Row
from stepwise import models, views
from stepwise.methods import DEFAULT, METHODS
from stepwise.training.plan import Plan
from stepwise.training.step import Step

TORCH = Path(".venv-torch/bin/python")
"""The peer's interpreter: PyTorch is in an environment of its own, which `make bench` makes."""
DIMENSIONS, RATE, MOMENTUM = 10, 1e-4, 0.9
CHECKED, FIRST, AGREE = 8, 3, 1e-9
"""In float64 on so many pairs, a peer's loss, its gradient's norm and the mean loss of the first
steps (momentum acts from the third) are to agree with ours to this fraction: it computes something
else otherwise, and gets no ratio.
"""
RECIPES: dict[str, Any] = {
    # an image and its mirror: views that are fixed whatever is drawn, so that the peer can hold
    # them in memory
    "mirror": views.Recipe(views.View(), views.View(flip=1.0)),
    "none": views.Recipe(views.View(), views.View()),
    "small": "small",
}


def rows(quick: bool) -> Iterator[Row]:
    """Each width against PyTorch as it comes and compiled, then the recipe "small" against no
    augmentation.
    """
    pairs, side, times = (4, 16, 1) if quick else (64, 32, 2)
    blocks = (1, 1) if quick else (2, 2, 2, 2)
    for width, steps in [(4, 1)] if quick else [(16, 10), (64, 2)]:
        network = "ResNet of 2 blocks" if quick else "ResNet-18"
        case = f"{network}, width {width}, {2 * pairs} images of {side} px"
        sizes = [blocks, width, pairs, side, steps]
        with tempfile.TemporaryDirectory() as folder:
            compiled = [False] if quick else [False, True]
            yield from _against_torch(case, sizes, Path(folder) / "start.npz", compiled, times)
        # one after the other and again, so that a busy moment of the machine does not fall on one
        # side alone
        turns = [
            [child.run("training:ours", recipe, *sizes) for recipe in ("none", "small")]
            for _ in range(times)
        ]
        none, small = (min(turn, key=_seconds) for turn in zip(*turns, strict=True))
        longer = small.seconds / none.seconds
        note = f'recipe "small" makes a step {longer:.3f} times as long; 1.15 is the most allowed'
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
                side_of = (str(file), steps, cores, name != "PyTorch")
                theirs[name].append(child.run("torch_side:timed", *side_of, python=TORCH))
            except RuntimeError as error:  # torch.compile without a C++ compiler
                failed[name] = _last_line(error)
    best = min(ours, key=_seconds)
    of, speed = (
        (best.seconds / steps, best.compile, best.megabytes),
        2 * pairs * steps / best.seconds,
    )
    for name, outcomes in theirs.items():
        if name in failed:
            yield Row(
                "training",
                case,
                name,
                *of,
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
            *of,
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
    """Says how well both sides agree on the same weights and views in float64.

    Raises:
        RuntimeError: they compute something else.
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
    recipe: str, blocks: tuple[int, ...], width: int, pairs: int, side: int, steps: int
) -> Outcome:
    """`dynamics.training`'s step, from images on the device to the next weights, in float32."""
    jax.config.update("jax_platforms", "cpu")  # as the peer
    step = _step(blocks, width, _pixels(pairs, side), recipe, np.float32)[0]
    state = step.start()

    def call() -> dict[str, Any]:
        nonlocal state
        state = step.advance(state, steps)
        return {"ok": state["ok"]}

    outcome = measured(call, repeats=9, budget=12.0)
    if not outcome.arrays["ok"]:
        raise RuntimeError(f"width {width}: expected steps that stay finite, at least one did not")
    return outcome


def start(blocks: tuple[int, ...], width: int, pairs: int, side: int) -> Outcome:
    """Weights and views that the peer starts from, and in float64 what it should find on the first
    `CHECKED` pairs.
    """
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)  # in float32 a layer's gradient is good to 1e-2 here
    pixels = _pixels(pairs, side)
    step, encoder = _step(blocks, width, pixels[:CHECKED], "mirror", np.float64)
    loss, _, slopes = step.gradient(step.start())
    some = step.advance(step.start(), FIRST)
    x = pixels / np.float32(255)
    found = {
        "images": np.stack([x, x[:, :, ::-1]]),
        "checked": len(pixels[:CHECKED]),
        "first": FIRST,
        "rate": RATE,
        "momentum": MOMENTUM,
        "loss": loss,
        "gradient": optax.tree.norm(slopes),
        "losses": some["loss_sum"] / some["taken"],
        "parameters": models.count_parameters(encoder),
    }
    for path, leaf in jax.tree_util.tree_leaves_with_path(step.params["encoder"]):
        found["weights/" + jax.tree_util.keystr(path, simple=True, separator=".")] = leaf
    return Outcome(0.0, arrays={name: np.asarray(value) for name, value in found.items()})


def _pixels(pairs: int, side: int) -> np.ndarray:
    return np.rint(255 * crops(pairs, side)[0]).astype(np.uint8).reshape(pairs, side, side, 3)


def _step(
    blocks: tuple[int, ...], width: int, pixels: np.ndarray, recipe: str, dtype: Any
) -> tuple[Step, nnx.Module]:
    of = {"param_dtype": dtype, "rngs": nnx.Rngs(0)}
    backbone = models.ResNet(blocks, width=width, stem="small", **of)
    encoder = models.Encoder(backbone, models.Head(backbone.features, [DIMENSIONS], **of))
    sgd = partial(optax.sgd, momentum=MOMENTUM)
    plan = Plan(10**6, len(pixels), RATE, sgd, RECIPES[recipe], probe=2)
    return Step(encoder, pixels, METHODS[DEFAULT].objective, plan, None, None), encoder
