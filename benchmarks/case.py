"""Inputs of the benchmarks: crops of two photographs, their spectrum, and flows on it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.datasets import load_sample_images

from stepwise import laws, problem

SPECTRA = Path("results/bench/spectra")


@dataclass(frozen=True)
class Case:
    """Arguments of one flow until d modes are learned, with γ_1 = 1.

    Attributes:
        d: output dimension.
        n: number of pairs, with r = 2n − 1 modes (fewer if crops coincide).
        alpha: scale α of the start.
        samples: number of times.
    """

    d: int
    n: int
    alpha: float
    samples: int = 60

    def __str__(self) -> str:
        return f"d={self.d}, r={self.r}, α√γ₁={self.alpha:g}"

    @property
    def gamma(self) -> np.ndarray:
        """Eigenvalues [r] of the photographs, with negative ones, divided by the largest.

        They are stored in a file when they are first computed.
        """
        path = SPECTRA / f"photos_n{self.n}.npy"
        if not path.is_file():
            side = 6 * int(np.ceil(np.sqrt(2 * self.n / 3) / 6))  # so that m = 3 side² ≥ 2n
            x, x2 = crops(self.n, side)
            gamma = np.asarray(
                problem.from_views(x.astype(np.float64), x2.astype(np.float64)).gamma, np.float64
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, gamma / gamma[0])
        return np.load(path)

    @property
    def r(self) -> int:
        """Number of modes."""
        return self.gamma.size

    @property
    def start(self) -> np.ndarray:
        """Start A(0) [d, r]."""
        return self.alpha * np.random.default_rng(0).normal(size=(self.d, self.r))

    @property
    def times(self) -> np.ndarray:
        """Times from 0 to 1.2 times the last predicted step time."""
        lead = self.gamma[: self.d]
        size = np.abs(np.diagonal(np.linalg.qr(self.start[:, : self.d])[1]))
        growth = laws.BarlowTwins.RATE * lead
        steps = np.log(1 / np.clip(lead * size**2, 1e-300, 0.5) - 1) / growth
        return np.append(0, np.geomspace(steps[0] / 5 + 1e-3, 1.2 * steps.max(), self.samples - 1))


def crops(n: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut n pairs of overlapping crops of two photographs, float32 [n, 3 side²] in [0, 1]."""
    rng, photos = np.random.default_rng(0), load_sample_images().images
    which = rng.integers(len(photos), size=n)
    shift = max(2, side // 6)
    height, width = photos[0].shape[:2]
    y, x = rng.integers(height - side - shift, size=n), rng.integers(width - side - shift, size=n)
    views = []
    for _ in range(2):
        down, right = y + rng.integers(shift, size=n), x + rng.integers(shift, size=n)
        pixels = [
            photos[i][a : a + side, b : b + side]
            for i, a, b in zip(which, down, right, strict=True)
        ]
        views.append((np.stack(pixels) / np.float32(255)).reshape(n, -1).astype(np.float32))
    return views[0], views[1]
