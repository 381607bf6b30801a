"""The flow's cases: a power-law spectrum with a negative tail, a Gaussian start, times until d modes are learned."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Case:
    """Arguments of one flow: α is the start's scale, √γ_1 = 1."""

    d: int
    r: int
    alpha: float
    samples: int = 60

    def __str__(self) -> str:
        return f"d={self.d}, r={self.r}, α√γ₁={self.alpha:g}"

    @property
    def gamma(self) -> np.ndarray:
        """γ_j = j^{-1.5}, as of natural images, for nine modes in ten; the others −0.1 k^{-1.5} from the far end."""
        negative = self.r // 10
        down = np.arange(1, self.r - negative + 1) ** -1.5
        return np.concatenate([down, -0.1 * np.arange(negative, 0, -1) ** -1.5])

    @property
    def start(self) -> np.ndarray:
        """A(0) [d, r]."""
        return self.alpha * np.random.default_rng(0).normal(size=(self.d, self.r))

    @property
    def times(self) -> np.ndarray:
        """From 0 to 1.2 times the last predicted step time."""
        lead = self.gamma[: self.d]
        size = np.abs(np.diagonal(np.linalg.qr(self.start[:, : self.d])[1]))
        steps = np.log(1 / np.clip(lead * size**2, 1e-300, 0.5) - 1) / (8 * lead)
        return np.linspace(0, 1.2 * steps.max(), self.samples)
