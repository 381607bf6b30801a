"""Replays of training: loss, eigenvalues and the point cloud of the embedding at each moment."""

import base64
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.contract import Result, silent
from experiments.figures import fig1_steps
from experiments.report.entries import UNUSABLE, Entry, explained, stored
from experiments.shared import images, inspected, resnets
from stepwise import problem
from stepwise import subject as subjects
from stepwise.methods import find
from stepwise.subject import Subject
from stepwise.training import runs

CLASSES = 8
"""Largest number of classes that are coloured; with more, points have their image's brightness."""
MOMENTS = 60
"""Number of moments of the linear model; a network has one for each snapshot."""
SCALE = 32767
"""Integer that stands for the largest coordinate of a cloud."""


@dataclass(frozen=True)
class Replay:
    """Curves and point clouds of one training run.

    Attributes:
        name: identifier of the run.
        title: name for the page.
        note: what the points of the cloud are.
        steps: steps at which the curves were recorded [T].
        loss: loss [T].
        eigenvalues: eigenvalues of C [T, d].
        moments: steps at which there is a cloud [S].
        cloud: points [S, n, 3], on the directions in the order in which they were learned.
        colours: a number in [0, 1] or the index of a class for each point [n].
        classes: names of the classes; empty if `colours` are numbers.
        step_times: step times of the modes in steps, infinite for modes that were not learned.
        theory: predicted loss [T] and eigenvalues [T, d], if there is a prediction.
    """

    name: str
    title: str
    note: str
    steps: np.ndarray
    loss: np.ndarray
    eigenvalues: np.ndarray
    moments: np.ndarray
    cloud: np.ndarray
    colours: np.ndarray
    classes: tuple[str, ...]
    step_times: np.ndarray
    theory: tuple[np.ndarray, np.ndarray] | None = None

    def data(self) -> dict[str, Any]:
        """Return the data for the page's script, with the cloud as base64 of 16-bit integers."""
        largest = float(np.abs(self.cloud).max()) or 1.0
        theory = None
        if self.theory is not None:
            theory = {"loss": _short(self.theory[0]), "eigenvalues": _short(self.theory[1].T)}
        return {
            "name": self.name,
            "title": self.title,
            "note": self.note,
            "steps": _short(self.steps),
            "loss": _short(self.loss),
            "eigenvalues": _short(self.eigenvalues.T),
            "theory": theory,
            "moments": _short(self.moments),
            "points": self.cloud.shape[1],
            "cloud": base64.b64encode(
                np.round(self.cloud / largest * SCALE).astype("<i2").tobytes()
            ).decode(),
            "colours": _short(self.colours),
            "classes": list(self.classes),
            "stepTimes": _short(self.step_times[np.isfinite(self.step_times)]),
        }


def replays(entries: list[Entry]) -> tuple[list[Replay], list[Subject], list[str]]:
    """Build replays of the linear model and of fig3's networks.

    Returns:
        The replays, the networks among them, and a line for each run that is not available.
    """
    by_name = {entry.name: entry for entry in entries if entry.folder is not None}
    available: list[Replay] = []
    networks: list[Subject] = []
    missing: list[str] = []
    if "fig1" in by_name:
        try:
            available.append(
                linear(*stored(_folder(by_name["fig1"])), by_name["fig1"].config or {})
            )
        except UNUSABLE as error:
            missing.append(f"the linear model's training: {explained(error)}")
    if "fig3" in by_name:
        entry = by_name["fig3"]
        known = {field.name for field in fields(inspected.Config)}
        given = {
            name: _tuples(value) for name, value in (entry.config or {}).items() if name in known
        }
        config = inspected.Config(**given)
        for method in config.methods:
            try:
                subject = _open_run(config, method)
                available.append(network(subject, method))
                networks.append(subject)
            except UNUSABLE as error:
                missing.append(f"{find(method).title}'s training: {explained(error)}")
    return available, networks, missing


def linear(result: Result, digest: str, config: dict[str, Any]) -> Replay:
    """Build the replay of the linear model from fig1's result.

    The cloud is computed from the closed form: mode j of the optimum is scaled by √λ_j(t).

    Args:
        result: result of fig1.
        digest: hash of the images from which it was computed.
        config: its configuration.

    Raises:
        ValueError: if the images have changed since.
    """
    a, numbers = result.arrays, result.numbers
    known = {field.name for field in fields(fig1_steps.Config)}
    settings = fig1_steps.Config(
        **{name: _tuples(value) for name, value in config.items() if name in known}
    )
    if fig1_steps.digest(settings) != digest:
        raise ValueError(
            f"data: expected the images from which fig1 was computed, received other images of "
            f"{settings.data}; run `make fig1`"
        )
    with jax.enable_x64(settings.x64):
        p = problem.from_views(*images.crops(settings), center=settings.center)
        final = np.asarray(p.predict(3))[: p.n_pairs]
    steps = a["times"] / numbers["lr"]
    sizes = np.sqrt(np.maximum(a["theory_eigenvalues"][:, :3], 0))
    chosen = np.unique(np.linspace(0, len(steps) - 1, MOMENTS).astype(int))
    pixels = images.load(settings)
    return Replay(
        name="linear",
        title="Linear Barlow Twins",
        note="computed from the closed form",
        steps=steps,
        loss=a["loss"],
        eigenvalues=a["eigenvalues"],
        theory=(a["theory_loss"], a["theory_eigenvalues"]),
        moments=steps[chosen],
        cloud=sizes[chosen, None, :] * final,
        colours=_brightness(pixels),
        classes=(),
        step_times=a["step_times"][0] / numbers["lr"],
    )


def network(subject: Subject, method: str) -> Replay:
    """Build the replay of a network; the cloud has one view of each image at each snapshot."""
    curves, numbers = subject.run.trajectory, subject.numbers
    z = subject.embeddings_along[:, : len(subject.x) // 2]
    z = z - z.mean(axis=1, keepdims=True)
    steps, step_times = np.asarray(subject.steps), np.asarray(numbers["step_times"], np.float64)
    directions = learned_directions(z, steps, step_times)[:, :3]
    pixels, labels = subject.images.pixels[subject.indices], subject.images.labels
    classes: tuple[str, ...] = ()
    colours = _brightness(pixels)
    if labels is not None and len(subject.images.class_names) <= CLASSES:
        colours, classes = labels[subject.indices], subject.images.class_names
    return Replay(
        name=method,
        title=f"{find(method).title}, ResNet",
        note=f"{z.shape[1]} views at {len(steps)} steps of the run",
        steps=np.asarray(curves.stats["step"]),
        loss=np.asarray(curves.loss),
        eigenvalues=np.asarray(curves.eigenvalues),
        moments=steps,
        cloud=z @ np.pad(directions, ((0, 0), (0, 3 - directions.shape[1]))),
        colours=colours,
        classes=classes,
        step_times=step_times,
    )


def learned_directions(z: np.ndarray, steps: np.ndarray, step_times: np.ndarray) -> np.ndarray:
    """Compute the directions of the output space in the order in which they were learned [d, d].

    The first is the leading principal direction at the first snapshot after mode 1's step time, the
    second is the leading direction orthogonal to it after mode 2's step time, and so on. The
    remaining directions are sorted by their variance at the end. The end alone does not show the
    order, because all learned eigenvalues are equal there.

    Args:
        z: centred embeddings at the snapshots [S, n, d].
        steps: steps of the snapshots [S].
        step_times: step times of the modes in steps, infinite for modes that were not learned.
    """
    d = z.shape[2]
    directions = np.zeros((d, 0))
    when = [int(np.searchsorted(steps, t)) for t in np.sort(step_times[np.isfinite(step_times)])]
    for k in range(d):
        index = min(when[k], len(steps) - 1) if k < len(when) else len(steps) - 1
        rest = z[index] - (z[index] @ directions) @ directions.T
        direction = np.linalg.svd(rest, full_matrices=False)[2][0]
        direction = direction - directions @ (directions.T @ direction)
        directions = np.column_stack([directions, direction / np.linalg.norm(direction)])
    return directions


def _open_run(config: inspected.Config, method: str) -> Subject:
    """Open a finished run with all its snapshots, without training anything.

    Raises:
        ValueError: if there is no such run.
    """
    training = config.training(method)
    folder = runs.folder(training, runs.load(training), config.runs_dir)
    last = max(runs.snapshot_steps(training), default=0)
    if not (folder / "snapshots" / f"step_{last}.npz").is_file():
        raise ValueError(
            f"runs_dir: expected a finished run of these images, received {config.runs_dir}/ "
            "without one; run `make fig3`"
        )
    trained = resnets.trained(config, method, silent)
    return subjects.from_run(training, trained, config.n_pairs, root=config.runs_dir)


def _brightness(pixels: np.ndarray) -> np.ndarray:
    """Return the rank of each image by brightness, scaled to [0, 1]."""
    means = np.asarray(pixels, np.float64).mean(axis=(1, 2, 3))
    return np.argsort(np.argsort(means)) / max(1, len(means) - 1)


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _folder(entry: Entry) -> Path:
    assert entry.folder is not None
    return entry.folder


def _short(values: Any) -> Any:
    """Convert to nested lists of numbers with five digits, with None for non-finite values."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, list):
        return [_short(value) for value in values]
    if isinstance(values, float):
        return float(f"{values:.5g}") if np.isfinite(values) else None
    return values
