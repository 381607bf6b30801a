"""`stepwise train`: a network on one's own images, kept under runs/ and gone on with after a
kill."""

import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from stepwise import plotting, record, staircase
from stepwise.training import runs


@dataclass(frozen=True)
class _Given(runs.Config):
    """As it was given: `Train.run` makes a runs.Config of it, which says in one line what is
    wrong."""

    def __post_init__(self) -> None:
        """Refuse nothing yet."""


@dataclass(frozen=True)
class Train:
    """Train an encoder, and count the modes that it learns one at a time.

    The run is kept under RUNS-DIR/HASH-OF-CONFIG with its checkpoints and log: killed at any moment
    it goes on, to the same bits, when the same command is given again.
    """

    given: tyro.conf.OmitArgPrefixes[_Given] = field(default_factory=_Given)
    runs_dir: Path = Path("runs")
    """Folder of the training runs."""
    out: Path = Path("results/train")
    """Folder in which the run's own one has summary.json, arrays.npz, config.json and the figure.
    """

    def run(self) -> int:
        """Train, or go on, or read; then write its files."""
        began = time.perf_counter()
        config = runs.Config(**asdict(self.given))
        record.require_writable("--out", self.out)
        record.require_writable("--runs-dir", self.runs_dir)
        images = runs.load(config)
        folder = runs.folder(config, images, self.runs_dir)
        print(
            f"{images.source}: {len(images)} images, {config.method}, {config.steps} steps; "
            f"{folder}"
        )
        trained = runs.train(config, root=self.runs_dir, progress=sys.stderr.isatty())
        if not trained.finished:
            raise KeyboardInterrupt
        arrays, numbers = (
            staircase.curves(trained.trajectory),
            staircase.numbers(trained.trajectory),
        )
        steps = ", ".join(f"{step:.0f}" for step in numbers["step_times"] if np.isfinite(step))
        print(f"{staircase.counted(numbers)}, at steps {steps or '-'}")
        out = self.out / folder.name
        with plotting.style():
            end = f": {numbers['result']}" if numbers["result"].startswith("diverged") else ""
            figure = _figure(arrays, numbers, f"{config.method}, {images.source}{end}")
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
    axes[1].set_title(f"B  {staircase.counted(numbers)}")
    plotting.eigenvalues(axes[2], (a["times"], a["covariance"], a["loss"]))
    axes[2].set_ylabel("eigenvalues of the covariance")
    axes[2].set_title("C  The embedding's covariance")
    fig.suptitle(plotting.plain(title), fontsize=12)
    return fig
