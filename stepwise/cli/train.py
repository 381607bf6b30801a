"""`stepwise train`: train a network on images; an interrupted run resumes."""

import json
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from stepwise import _files, methods, plotting, record, staircase
from stepwise.cli.commands import Train
from stepwise.data import Images
from stepwise.forecast.live import NextStep
from stepwise.training import runs

STILL = 1e-6
"""Relative change of the embeddings' variance below which they did not change, or collapsed."""


def run(options: Train) -> int:
    """Train, resume or load the run; then write its files."""
    began = time.perf_counter()
    settings = asdict(options.settings)
    changes = {name: value for name, value in settings.items() if value is not None}
    config = runs.Config.for_method(**changes)
    title = methods.find(config.method).title
    record.require_writable("--out", options.out)
    record.require_writable("--runs-dir", options.runs_dir)
    images = runs.load(config)
    _require_batch(options, config, len(images))
    folder = runs.folder(config, images, options.runs_dir)
    print(f"{images.source}: {len(images)} images, {title}, {config.steps} steps; {folder}")
    if config.probe > len(images):
        print(
            f"loss and eigenvalues are measured on all {len(images)} images, which are fewer than "
            f"--probe {config.probe}"
        )
    if (folder / "checkpoints").is_dir():
        print("this run exists: it is loaded if it is finished, and resumed if not")
    else:
        shorter = _find_shorter(config, options.runs_dir)
        if shorter is not None:
            print(
                f"{shorter} is the same run with fewer steps; this one starts again at step 0, "
                f"because its curves are recorded at other steps"
            )
    callbacks = _forecasts(config) if options.forecast else []
    trained = methods.run_with(
        config.method,
        lambda: runs.train(config, root=options.runs_dir, callbacks=callbacks),
    )
    if not trained.finished:
        raise KeyboardInterrupt
    arrays, numbers = (
        staircase.curves(trained.trajectory),
        staircase.numbers(trained.trajectory),
    )
    diverged = numbers["result"].startswith("diverged")
    if not diverged:
        print(f"{numbers['result']} after {config.steps} steps")
    print(_describe_steps(numbers))
    if numbers["growing"]:
        print("a mode was still growing at the end: raise --steps to let it finish")
    out = options.out / folder.name
    with plotting.style():
        end = f": {numbers['result']}" if diverged else ""
        figure = _figure(arrays, numbers, f"{title}, {images.source}{end}")
        settings = asdict(config) | {"command": "train"}
        seconds = time.perf_counter() - began
        written = record.write(
            out,
            "training",
            arrays=arrays,
            numbers=numbers,
            config=settings,
            seconds=seconds,
            figure=figure,
        )
    print(written)
    failure = _failure(images, arrays, numbers, config.lr)
    if failure is not None:
        print(failure, file=sys.stderr)
        return 1
    snapshots = ", ".join(map(str, runs.snapshot_steps(config)))
    print(
        f"networks saved at steps {snapshots}"
        if snapshots
        else "only the last network is saved; --snapshots saves earlier ones"
    )
    print(f"next: stepwise align --run-dir {folder}")
    return 0


def _forecasts(config: runs.Config) -> list[NextStep]:
    """Return the callback that forecasts the next step, if the run has a forecast."""
    try:
        return [NextStep(config)]
    except ValueError:
        return []


def _require_batch(options: Train, config: runs.Config, count: int) -> None:
    """Reject a batch larger than the set of images, with a command that works."""
    if count >= config.batch_size:
        return
    data = shlex.quote(config.data)
    raise ValueError(
        f"--batch-size: expected at most the {count} images of --data and --n-images, "
        f"received {config.batch_size}; use more images or a smaller batch, for example: "
        f"stepwise train --data {data} --n-images {count} --batch-size {max(2, count // 2)}"
    )


def _find_shorter(config: runs.Config, root: Path) -> Path | None:
    """Return the folder of a run that differs only in having fewer steps, if there is one."""
    wanted, defaults = (
        json.loads(json.dumps(_files.jsonable(asdict(each)))) for each in (config, runs.Config())
    )
    for path in sorted(root.glob("*/config.json")):
        try:
            stored = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        steps = stored.get("steps") if isinstance(stored, dict) else None
        fewer = isinstance(steps, int) and steps < config.steps
        # a run of an earlier version lacks the settings that were added since
        others = (name for name in wanted if name != "steps")
        if fewer and all(stored.get(name, defaults[name]) == wanted[name] for name in others):
            return path.parent
    return None


def _failure(
    images: Images, arrays: dict[str, np.ndarray], numbers: dict[str, Any], lr: float
) -> str | None:
    """Say why a training learned nothing, or return None."""
    if numbers["result"].startswith("diverged"):
        return f"{numbers['result']}; try --lr {lr / 4:.2g}"
    spread = arrays["covariance"][:, 0]
    if numbers["crossed"] == 0 and abs(spread[-1] - spread[0]) <= STILL * spread[0]:
        if (images.pixels == images.pixels[:1]).all():
            return "nothing was learned, because all images are the same; give other --data"
        return f"nothing was learned: the embeddings did not change; try --lr {lr * 10:.2g}"
    if spread[-1] <= STILL * spread.max():
        return (
            f"the embeddings collapsed to one point; try --lr {lr / 4:.2g}, or a --method whose "
            f"loss keeps them apart"
        )
    return None


def _describe_steps(numbers: dict[str, Any]) -> str:
    """Say how many modes were learned, and at which training steps."""
    steps = [f"{step:.0f}" for step in numbers["step_times"] if np.isfinite(step)]
    if not steps:
        return staircase.describe(numbers)
    noun = "step" if len(steps) == 1 else "steps"
    return f"{staircase.describe(numbers)}; half of the final values at {noun} {', '.join(steps)}"


def _figure(a: dict[str, np.ndarray], numbers: dict[str, Any], title: str) -> plotting.Figure:
    """Draw the loss, the eigenvalues of C, and those of the embedding's covariance."""
    fig = plotting.figure(13, 4.4)
    axes: Any = fig.subplots(1, 3)
    run = (a["times"], a["eigenvalues"], a["loss"])
    plotting.loss(axes[0], run, label="loss on the probe images")
    axes[0].set_title("A  Loss")
    plotting.eigenvalues(axes[1], run)
    axes[1].set_ylabel("eigenvalues of the cross-view moment C")
    axes[1].set_title(f"B  {staircase.describe(numbers)}")
    plotting.eigenvalues(axes[2], (a["times"], a["covariance"], a["loss"]))
    axes[2].set_ylabel("eigenvalues of the covariance matrix")
    axes[2].set_title("C  Covariance of the embedding")
    fig.suptitle(plotting.plain(title), fontsize=12)
    return fig
