"""What the modes of a trained network see: the images at the two ends of each, and what goes with
them.
"""

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
"""Images at each end."""
BATCH = 256
SIDE = 48
"""Of an image on the page, px."""


@dataclass(frozen=True)
class Mode:
    """One learned direction: step, images at its lowest and highest scores (as one picture each),
    correlations.
    """

    number: int
    step: float
    low: str
    high: str
    correlations: dict[str, float]

    @property
    def strongest(self) -> str:
        """What it goes with most."""
        known = {name: abs(r) for name, r in self.correlations.items() if np.isfinite(r)}
        return max(known, key=lambda name: known[name]) if known else ""


@dataclass(frozen=True)
class Gallery:
    """The learned modes of one network, and how large a correlation of n images is by chance."""

    title: str
    n: int
    modes: list[Mode]

    @property
    def chance(self) -> float:
        """|r| that 95% of unrelated scores stay below."""
        return 1.96 / self.n**0.5


def gallery(of: Subject, method: str) -> Gallery:
    """All images that the network was trained on, embedded whole, along the directions in their
    order of learning.
    """
    z = of.embeddings_along[:, : len(of.x) // 2]
    step_times = np.asarray(of.numbers["step_times"], np.float64)
    directions = learned_directions(
        z - z.mean(axis=1, keepdims=True), np.asarray(of.steps), step_times
    )
    scores = probes.embeddings(of.run.encoder, of.images.pixels, batch_size=BATCH) @ directions
    pixels, labels = of.images.pixels, of.images.labels
    learned = np.sort(step_times[np.isfinite(step_times)])
    modes = []
    for j, step in enumerate(learned[: scores.shape[1]]):
        order = np.argsort(scores[:, j])
        found = attributes.correlations(scores[:, j], pixels, labels)
        ends = _strip(pixels[order[:ENDS]]), _strip(pixels[order[::-1][:ENDS]])
        modes.append(Mode(j + 1, float(step), *ends, found))
    return Gallery(f"{find(method).title}: {of.images.source}", len(pixels), modes)


def _strip(images: np.ndarray) -> str:
    """Images side by side as one PNG."""
    row = np.concatenate(list(images), axis=1)
    picture = Image.fromarray(row.squeeze() if row.shape[2] == 1 else row)
    wide = picture.resize((SIDE * len(images), SIDE), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    wide.save(file, "PNG", optimize=True)
    return embedded("image/png", file.getvalue())
