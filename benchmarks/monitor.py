"""The monitor: its cost beside training, and its forecasts of a run in PyTorch.

A row's alternative is 50 training steps, the time between two reports. The ratio must be at least
100 for a monitor that costs less than 1% of training. The forward pass of the sample is not
included.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from benchmarks import child, training
from benchmarks.child import Outcome, measure
from benchmarks.report import Row
from stepwise import forecast, losses, views
from stepwise.forecast import Monitor, Report, log_arrays, stream

BETWEEN = 50
"""Number of training steps between two reports."""
AIM = 100.0
RATE, SMALL = 0.004, 1e-3
"""Learning rate, and the scale of the head at the start."""


def rows(quick: bool) -> Iterator[Row]:
    """Measure the cost of reports with and without features, and compare a run with PyTorch's."""
    cases: list[tuple[str, tuple[int, ...], int, int, int, int]] = [
        ("laptop preset", (1, 1, 1, 1), 16, 64, 10, 10),
        ("ResNet-18", (2, 2, 2, 2), 64, 256, 64, 1),
    ]
    side, n = 32, 256
    if quick:
        cases, side, n = [("ResNet of 2 blocks", (1, 1), 4, 8, 4, 1)], 16, 16
    for network, blocks, width, batch, d, steps in cases:
        taken = child.run("training:ours", "small", blocks, width, batch, side, steps, d)
        between = taken.seconds / steps * BETWEEN
        features = width * 2 ** (len(blocks) - 1)
        case = f"{network}, width {width}, batches of {batch} pairs; {n} pairs, d = {d}"
        for layers in (True, False):
            outcome = child.run("monitor:follow", blocks, width, n, side, d, batch, layers)
            learned = outcome.arrays["learned"]
            share = f"a report every {BETWEEN} steps takes {outcome.seconds / between:.2%} as long"
            yield Row(
                "monitor",
                f"{case}, {f'{features} features' if layers else 'embeddings only'}",
                f"{BETWEEN} training steps",
                outcome.seconds,
                outcome.compile,
                outcome.megabytes,
                between,
                taken.megabytes,
                AIM,
                note=f"{share}; {learned.min()} to {learned.max()} modes learned; compile is that "
                f"of {len(learned)} reports",
            )
    yield from _against_torch(quick)


def follow(
    blocks: tuple[int, ...], width: int, n: int, side: int, d: int, batch: int, layers: bool
) -> Outcome:
    """Measure a report, the mean over those of a head that learns on fixed features.

    The features are those of the network at its start. The reports end when all modes are learned.
    """
    jax.config.update("jax_platforms", "cpu")
    pixels = training.draw_pixels(n, side)
    encoder = training.make_step(blocks, width, pixels, "small", np.float32, d=d, scale=SMALL)[1]
    pair = views.positive_pairs(pixels, jax.random.key(0), "small")
    hidden: Any = encoder.everything(jnp.concatenate(pair))[1]  # type: ignore[attr-defined]
    first, second = np.split(np.asarray(list(hidden.values())[-1]), 2)
    heads = _learn(first, second, np.asarray(encoder.head.layers[0].kernel).T)  # type: ignore[attr-defined]
    learned: list[int] = []

    def call() -> dict[str, Any]:
        monitor = Monitor(lr=RATE, momentum=training.MOMENTUM, batch_size=batch)
        learned.clear()
        for i, head in enumerate(heads):
            given = {"features1": first, "features2": second, "head": head} if layers else {}
            report = monitor.add(
                BETWEEN * i, first @ head.T, second @ head.T, loss=float(d), **given
            )
            learned.append(report.learned)
            if report.learned == d:  # there is nothing to forecast any more
                break
        return {"learned": learned}

    outcome = measure(call, repeats=4, budget=60.0)
    return Outcome(
        outcome.seconds / len(learned), outcome.compile, outcome.megabytes, arrays=outcome.arrays
    )


def _learn(first: np.ndarray, second: np.ndarray, head: np.ndarray, count: int = 20) -> Any:
    """Train a head on fixed features by heavy ball, and return it every `BETWEEN` steps."""
    mean = (first.mean(axis=0) + second.mean(axis=0)) / 2
    a, b = (first - mean).astype(np.float64), (second - mean).astype(np.float64)
    moment = (a.T @ b + b.T @ a) / (2 * len(a))
    H, velocity, heads = head.astype(np.float64), 0.0, []
    for step in range(BETWEEN * count):
        if step % BETWEEN == 0:
            heads.append(H.astype(np.float32))
        C = H @ moment @ H.T
        velocity = training.MOMENTUM * velocity + 4 * (C - np.eye(len(C))) @ H @ moment
        H = H - RATE * velocity
    return heads


def _against_torch(quick: bool) -> Iterator[Row]:
    """Compare the reports on a run with those on the same run in PyTorch, in both precisions."""
    blocks, width, n, side = ((1, 1), 4, 8, 16) if quick else ((1, 1, 1, 1), 16, 64, 32)
    steps, every = (20, 10) if quick else (100, 10)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for dtype in ("float32", "float64"):
        with tempfile.TemporaryDirectory() as name:
            file, ours, theirs = (str(Path(name) / part) for part in ("start.npz", "jax", "torch"))
            case = f"{n} pairs, {steps} steps in {dtype}"
            sizes = (blocks, width, n, side, steps, every)
            run = child.run("monitor:train", file, ours, *sizes, dtype)
            reports = _reports(ours)
            arguments = (file, theirs, steps, every, dtype == "float64", cores)
            peer, note = None, ""
            try:
                peer = child.run("torch_logged:train", *arguments, python=training.TORCH)
                note = _agreement(reports, _reports(theirs))
                off = peer.arrays["sensitivity"] / run.arrays["sensitivity"] - 1
                note += f"; sensitivity agrees to {abs(float(off)):.0e}"
            except (RuntimeError, OSError) as error:
                note = f"no peer: {str(error).strip().splitlines()[-1]}"
            yield Row(
                "monitored run",
                case,
                "PyTorch",
                run.seconds,
                0.0,
                0.0,
                None if peer is None else peer.seconds,
                0.0,
                0.0,
                note=note,
            )


def train(
    file: str,
    folder: str,
    blocks: tuple[int, ...],
    width: int,
    n: int,
    side: int,
    steps: int,
    every: int,
    dtype: str,
) -> Outcome:
    """Train on n pairs, log samples of n other pairs, and write what the peer needs to `file`.

    Returns:
        The time of `every` steps; and the sensitivity of the backbone half-way, along the direction
        of the next mode, which `file` holds.
    """
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", dtype == "float64")
    pixels = training.draw_pixels(2 * n, side)
    kind, images = np.dtype(dtype).type, pixels[:n]
    step, _ = training.make_step(blocks, width, images, "mirror", kind, rate=RATE, scale=SMALL)
    held = training.mirror_pairs(pixels[n:])
    arrays: dict[str, Any] = {
        "images": training.mirror_pairs(pixels[:n]),
        "held": held,
        "rate": RATE,
        "momentum": training.MOMENTUM,
    } | training.name_weights(step.params["encoder"])

    @jax.jit
    def evaluate(params: Any, stats: Any) -> tuple[Any, Any]:
        z, hidden, _ = step.forward(params, stats, np.concatenate(held), True)
        return z, list(hidden.values())[-1]

    state, seconds, strength = step.start(), np.inf, np.nan
    for now in range(0, steps + 1, every):
        params, stats = state["params"]["encoder"], state["stats"]["encoder"]
        z, features = (np.split(np.asarray(part), 2) for part in evaluate(params, stats))
        head = np.asarray(params["head"]["layers"][0]["kernel"]).T
        parts: dict[str, Any] = {"z1": z[0], "z2": z[1], "head": head}
        parts |= {
            "features1": features[0],
            "features2": features[1],
            "loss": losses.barlow_twins_unnormalised(*z),
        }
        log_arrays(folder, now, **{name: np.float32(part) for name, part in parts.items()})

        def features_of(backbone: Any, params: Any = params, stats: Any = stats) -> Any:
            return jnp.split(evaluate(params | {"backbone": backbone}, stats)[1], 2)

        def measure_strength(
            direction: np.ndarray, rows: np.ndarray, now: int = now, params: Any = params
        ) -> float:
            nonlocal strength
            arrays.update(at=now, direction=direction, rows=rows)
            strength = forecast.sensitivity(features_of, params["backbone"], direction, rows)
            return strength

        settings: dict[str, Any] = {"momentum": training.MOMENTUM, "sensitivity": measure_strength}
        forecast.next_step(features[0], features[1], head, step=now, lr=RATE, **settings)
        if now < steps:
            begun = time.perf_counter()
            state = jax.block_until_ready(step.advance(state, every))
            seconds = min(seconds, time.perf_counter() - begun)
    np.savez(file, **arrays)
    return Outcome(seconds, arrays={"sensitivity": np.asarray(strength)})


def _reports(folder: str) -> list[Report]:
    """Return the reports of a monitor on the files of a folder."""
    monitor = Monitor(lr=RATE, momentum=training.MOMENTUM)
    samples = map(stream.read_arrays, stream.files(Path(folder)))
    return [monitor.add(step, **arrays) for step, arrays in samples]


def _agreement(ours: list[Report], theirs: list[Report]) -> str:
    """Describe how well two series of reports agree, until they differ in the learned modes.

    Rounding grows while two networks train, so that they differ in the end.

    Raises:
        RuntimeError: if the learned modes differ before a mode is learned.
    """
    same = [
        a for a, b in zip(ours, theirs, strict=True) if (a.step, a.learned) != (b.step, b.learned)
    ]
    end = same[0].step if same else ours[-1].step + 1
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a.step < end]
    learned = [a.learned for a, _ in pairs]
    if same and not any(learned):
        raise RuntimeError(f"other modes are learned at step {end}")
    coming = [(a, b) for a, b in pairs if a.forecast.coming and b.forecast.coming]
    off = {
        name: max(
            abs(getattr(b.forecast, name) - getattr(a.forecast, name)) / (a.forecast.step - a.step)
            for a, b in coming
        )
        for name in ("step", "low", "high")
    }
    values = max(float(np.abs(b.eigenvalues - a.eigenvalues).max()) for a, b in pairs)
    later = f"; other modes from step {end} on" if same else ""
    return (
        f"the same {learned[0]} to {learned[-1]} modes are learned in {len(pairs)} of {len(ours)} "
        f"reports{later}; {len(coming)} forecasts agree to {off['step']:.0e} (step), "
        f"{off['low']:.0e} (low), {off['high']:.0e} (high) of the remaining steps; eigenvalues "
        f"agree to {values:.0e}"
    )
