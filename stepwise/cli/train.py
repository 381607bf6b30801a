"""`stepwise train`: a network on one's own images, kept under runs/ and gone on with after a
kill."""

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
    given = {name: value for name, value in asdict(options.settings).items() if value is not None}
    config = runs.Config.for_method(**given)
    title = methods.find(config.method).title
    record.require_writable("--out", options.out)
    record.require_writable("--runs-dir", options.runs_dir)
    images = runs.load(config)
    folder = runs.folder(config, images, options.runs_dir)
    print(f"{images.source}: {len(images)} images, {title}, {config.steps} steps; {folder}")
    if (folder / "checkpoints").is_dir():
        print("found this run: it is resumed, or loaded if it is finished")
    trained = methods.run_with(config.method, lambda: runs.train(config, root=options.runs_dir))
    if not trained.finished:
        raise KeyboardInterrupt
    arrays, numbers = (
        staircase.curves(trained.trajectory),
        staircase.numbers(trained.trajectory),
    )
    steps = ", ".join(f"{step:.0f}" for step in numbers["step_times"] if np.isfinite(step))
    print(f"{staircase.describe(numbers)}, at steps {steps or '-'}")
    if numbers["growing"]:
        print("the run ended while a mode was still growing: with more --steps it learns more")
    out = options.out / folder.name
    with plotting.style():
        end = f": {numbers['result']}" if numbers["result"].startswith("diverged") else ""
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
    if numbers["result"].startswith("diverged"):
        print(f"{numbers['result']}; try --lr {config.lr / 4:.2g}", file=sys.stderr)
        return 1
    kept = runs.snapshot_steps(config)
    print(
        f"networks kept at steps {', '.join(map(str, kept))}"
        if kept
        else "no networks kept (--snapshots)"
    )
    print(f"next: stepwise align --run-dir {folder}")
    return 0


def _figure(a: dict[str, np.ndarray], numbers: dict[str, Any], title: str) -> plotting.Figure:
    """Loss, eigenvalues of C, and of the embedding's covariance."""
    fig = plotting.figure(13, 4.4)
    axes: Any = fig.subplots(1, 3)
    run = (a["times"], a["eigenvalues"], a["loss"])
    plotting.loss(axes[0], run, label="loss on the probe")
    axes[0].set_title("A  Loss")
    plotting.eigenvalues(axes[1], run)
    axes[1].set_title(f"B  {staircase.describe(numbers)}")
    plotting.eigenvalues(axes[2], (a["times"], a["covariance"], a["loss"]))
    axes[2].set_ylabel("eigenvalues of the covariance")
    axes[2].set_title("C  The embedding's covariance")
    fig.suptitle(plotting.plain(title), fontsize=12)
    return fig
