"""`stepwise train`: train a network on images; an interrupted run resumes."""

import sys
import time
from dataclasses import asdict
from typing import Any

import numpy as np

from stepwise import methods, plotting, record, staircase
from stepwise.cli.commands import Train
from stepwise.training import runs


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
    folder = runs.folder(config, images, options.runs_dir)
    print(f"{images.source}: {len(images)} images, {title}, {config.steps} steps; {folder}")
    if (folder / "checkpoints").is_dir():
        print("this run exists: it is loaded if it is finished, and resumed if not")
    trained = methods.run_with(config.method, lambda: runs.train(config, root=options.runs_dir))
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
    if diverged:
        print(f"{numbers['result']}; try --lr {config.lr / 4:.2g}", file=sys.stderr)
        return 1
    snapshots = ", ".join(map(str, runs.snapshot_steps(config)))
    print(
        f"networks saved at steps {snapshots}"
        if snapshots
        else "only the last network is saved; --snapshots saves earlier ones"
    )
    print(f"next: stepwise align --run-dir {folder}")
    return 0


def _describe_steps(numbers: dict[str, Any]) -> str:
    """Say how many modes were learned, and at which training steps."""
    steps = [f"{step:.0f}" for step in numbers["step_times"] if np.isfinite(step)]
    place = f", at step{'s' if len(steps) > 1 else ''} {', '.join(steps)}" if steps else ""
    return staircase.describe(numbers) + place


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
