"""Gallery of a network's modes: the images at both ends of each, and its correlations."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from experiments.report.entries import embedded
from experiments.report.replay import learned_directions
from stepwise import attributes, probes
from stepwise.methods import find
from stepwise.subject import Subject

ENDS = 6
"""Number of images at each end."""
BATCH = 256
SIDE = 48
"""Side in pixels of an image on the page."""


@dataclass(frozen=True)
class Mode:
    """One learned direction: number, step time, images, and correlations with image attributes.

    `low` and `high` each show the images with the lowest and highest scores as one picture.
    """

    number: int
    step: float
    low: str
    high: str
    correlations: dict[str, float]

    @property
    def strongest(self) -> str:
        """Attribute with the largest absolute correlation; "" if none is finite."""
        finite = {name: abs(r) for name, r in self.correlations.items() if np.isfinite(r)}
        return max(finite, key=lambda name: finite[name]) if finite else ""


@dataclass(frozen=True)
class Gallery:
    """Learned modes of one network, and the size of a chance correlation over its n images."""

    title: str
    n: int
    modes: list[Mode]

    @property
    def chance(self) -> float:
        """Value below which |r| of 95% of unrelated scores lies."""
        return 1.96 / self.n**0.5


def gallery(subject: Subject, method: str) -> Gallery:
    """Embed all training images without augmentation, and sort them along learned directions."""
    z = subject.embeddings_along[:, : len(subject.x) // 2]
    step_times = np.asarray(subject.numbers["step_times"], np.float64)
    directions = learned_directions(
        z - z.mean(axis=1, keepdims=True), np.asarray(subject.steps), step_times
    )
    pixels, labels = subject.images.pixels, subject.images.labels
    scores = probes.embeddings(subject.run.encoder, pixels, batch_size=BATCH) @ directions
    learned = np.sort(step_times[np.isfinite(step_times)])
    modes = []
    for j, step in enumerate(learned[: scores.shape[1]]):
        order = np.argsort(scores[:, j])
        correlations = attributes.correlations(scores[:, j], pixels, labels)
        ends = _strip(pixels[order[:ENDS]]), _strip(pixels[order[::-1][:ENDS]])
        modes.append(Mode(j + 1, float(step), *ends, correlations))
    return Gallery(f"{find(method).title}: {subject.images.source}", len(pixels), modes)


def _strip(images: np.ndarray) -> str:
    """Join images side by side into one PNG."""
    row = np.concatenate(list(images), axis=1)
    picture = Image.fromarray(row.squeeze() if row.shape[2] == 1 else row)
    wide = picture.resize((SIDE * len(images), SIDE), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    wide.save(file, "PNG", optimize=True)
    return embedded("image/png", file.getvalue())
