"""Training to be dragged through: loss, eigenvalues and the embedding's cloud of points at the same
moments.
"""

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
from stepwise import problem, subject
from stepwise.methods import find
from stepwise.subject import Subject
from stepwise.training import runs

CLASSES = 8
"""More classes than this have no colours of their own; points are then coloured by their image's
brightness.
"""
MOMENTS = 60
"""Of the linear model; a network has those at which it was kept."""
SCALE = 32767


@dataclass(frozen=True)
class Replay:
    """One training.

    Attributes:
        name, title, note: what it is, and what its cloud is of.
        steps: at which the curves were measured [T].
        loss, eigenvalues: [T], [T, d].
        theory: loss [T] and eigenvalues [T, d] where there are any.
        moments: steps at which there is a cloud [S].
        cloud: [S, n, 3], on the directions in the order in which they were learned.
        colours: a number in [0, 1] or a class for each point, and the classes' names.
        step_times: of the modes that were learned.
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
        """As the page's script reads it: the cloud in 16-bit steps of its largest coordinate."""
        largest = float(np.abs(self.cloud).max()) or 1.0
        theirs = None if self.theory is None else [_short(each) for each in self.theory]
        return {
            "name": self.name,
            "title": self.title,
            "note": self.note,
            "steps": _short(self.steps),
            "loss": _short(self.loss),
            "eigenvalues": _short(self.eigenvalues.T),
            "theory": None
            if theirs is None
            else {"loss": theirs[0], "eigenvalues": _short(self.theory[1].T)},  # type: ignore[index]
            "moments": _short(self.moments),
            "points": self.cloud.shape[1],
            "cloud": base64.b64encode(
                np.round(self.cloud / largest * SCALE).astype("<i2").tobytes()
            ).decode(),
            "colours": _short(self.colours),
            "classes": list(self.classes),
            "stepTimes": _short(self.step_times[np.isfinite(self.step_times)]),
        }


def replays(found: list[Entry]) -> tuple[list[Replay], list[Subject], list[str]]:
    """Of the linear model and of fig3's networks, those networks, and what could not be had."""
    by_name = {entry.name: entry for entry in found if entry.folder is not None}
    made: list[Replay] = []
    subjects: list[Subject] = []
    missing: list[str] = []
    if "fig1" in by_name:
        try:
            made.append(linear(*stored(_folder(by_name["fig1"])), by_name["fig1"].config or {}))
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
                of = _kept(config, method)
                made.append(network(of, method))
                subjects.append(of)
            except UNUSABLE as error:
                missing.append(f"{find(method).title}'s training: {explained(error)}")
    return made, subjects, missing


def linear(found: Result, digest: str, config: dict[str, Any]) -> Replay:
    """The linear model's descent and closed form; its cloud is the closed form's, √λ_j(t) on mode j
    of the optimum.

    Raises:
        ValueError: the images are others by now than those of this digest.
    """
    a, numbers = found.arrays, found.numbers
    known = {field.name for field in fields(fig1_steps.Config)}
    settings = fig1_steps.Config(
        **{name: _tuples(value) for name, value in config.items() if name in known}
    )
    if fig1_steps.digest(settings) != digest:
        raise ValueError(
            f"the images of {settings.data} are others than those that fig1 was made from (make "
            f"fig1)"
        )
    with jax.enable_x64(settings.x64):
        p = problem.from_views(*images.crops(settings), center=settings.center)
        final = np.asarray(p.predict(3))[: p.n_pairs]
    steps, grown = (
        a["times"] / numbers["lr"],
        np.sqrt(np.maximum(a["theory_eigenvalues"][:, :3], 0)),
    )
    some = np.unique(np.linspace(0, len(steps) - 1, MOMENTS).astype(int))
    pixels = images.load(settings)
    return Replay(
        name="linear",
        title="Linear Barlow Twins",
        note="by the closed form",
        steps=steps,
        loss=a["loss"],
        eigenvalues=a["eigenvalues"],
        theory=(a["theory_loss"], a["theory_eigenvalues"]),
        moments=steps[some],
        cloud=grown[some, None, :] * final,
        colours=_brightness(pixels),
        classes=(),
        step_times=a["step_times"][0] / numbers["lr"],
    )


def network(of: Subject, method: str) -> Replay:
    """A network's training; its cloud is of one view of each image, at the networks that its run
    kept.
    """
    curves, numbers = of.run.trajectory, of.numbers
    z = of.embeddings_along[:, : len(of.x) // 2]
    z = z - z.mean(axis=1, keepdims=True)
    directions = learned_directions(z, np.asarray(of.steps), np.asarray(numbers["step_times"]))[
        :, :3
    ]
    labels = of.images.labels
    few = labels is not None and len(of.images.class_names) <= CLASSES
    return Replay(
        name=method,
        title=f"{find(method).title}, ResNet",
        note=f"{z.shape[1]} views, at the {len(of.steps)} networks that the run kept",
        steps=np.asarray(curves.stats["step"]),
        loss=np.asarray(curves.loss),
        eigenvalues=np.asarray(curves.eigenvalues),
        moments=np.asarray(of.steps),
        cloud=z @ np.pad(directions, ((0, 0), (0, 3 - directions.shape[1]))),
        colours=labels[of.indices] if few else _brightness(of.images.pixels[of.indices]),  # type: ignore[index]
        classes=of.images.class_names if few else (),
        step_times=np.asarray(numbers["step_times"], np.float64),
    )


def learned_directions(z: np.ndarray, steps: np.ndarray, step_times: np.ndarray) -> np.ndarray:
    """Directions of the output space in the order in which they were learned [d, k].

    The first is the leading principal direction at the first kept step after mode 1's own, the next
    the leading one orthogonal to it after mode 2's, and so on; then what is left, by its variance
    at the end. At the end alone the order cannot be told: there all learned eigenvalues are equal.

    Args:
        z: centred embeddings at the kept steps [S, n, d].
        steps: these steps [S].
        step_times: of the modes in steps, infinite where they were not learned.
    """
    d = z.shape[2]
    chosen = np.zeros((d, 0))
    when = [int(np.searchsorted(steps, t)) for t in np.sort(step_times[np.isfinite(step_times)])]
    for k in range(d):
        at = min(when[k], len(steps) - 1) if k < len(when) else len(steps) - 1
        left = z[at] - (z[at] @ chosen) @ chosen.T
        direction = np.linalg.svd(left, full_matrices=False)[2][0]
        direction = direction - chosen @ (chosen.T @ direction)
        chosen = np.column_stack([chosen, direction / np.linalg.norm(direction)])
    return chosen


def _kept(config: inspected.Config, method: str) -> Subject:
    """A finished run with all its networks; nothing is trained for a page.

    Raises:
        ValueError: it is not there.
    """
    training = config.training(method)
    folder = runs.folder(training, runs.load(training), config.runs_dir)
    last = max(runs.snapshot_steps(training), default=0)
    if not (folder / "snapshots" / f"step_{last}.npz").is_file():
        raise ValueError(f"no finished run of these images under {config.runs_dir}/ (make fig3)")
    trained = resnets.trained(config, method, silent)
    return subject.from_run(training, trained, config.n_pairs, root=config.runs_dir)


def _brightness(pixels: np.ndarray) -> np.ndarray:
    """Rank of each image's brightness, from 0 to 1."""
    means = np.asarray(pixels, np.float64).mean(axis=(1, 2, 3))
    return np.argsort(np.argsort(means)) / max(1, len(means) - 1)


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _folder(entry: Entry) -> Path:
    assert entry.folder is not None
    return entry.folder


def _short(values: Any) -> Any:
    """Nested lists of numbers of five digits, what is not finite as null."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, list):
        return [_short(value) for value in values]
    if isinstance(values, float):
        return float(f"{values:.5g}") if np.isfinite(values) else None
    return values
