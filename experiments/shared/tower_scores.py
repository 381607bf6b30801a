"""What two towers know: their modes, what a mode says, and which captions are near a picture."""

import numpy as np
from jaxtyping import Float, Int

from stepwise.data import glyphs

LEARNED = 0.1
"""Singular value above which a mode matters to the loss: the size of its logits at a scale of 1."""


def spectrum(z: np.ndarray) -> Float[np.ndarray, " d"]:
    """Return the singular values of Z1 Z2ᵀ/n, of both towers' embeddings about their means.

    They are those of Σ1^{1/2} W1ᵀ W2 Σ2^{1/2} if the towers are linear.

    Args:
        z: embeddings of both towers [2, n, d].
    """
    C1, C2 = (np.atleast_2d(np.cov(each.astype(np.float64).T, bias=True)) for each in z)
    squares = np.sort(np.linalg.eigvals(C1 @ C2).real)[::-1]
    return np.sqrt(np.maximum(squares, 0))


def directions(z: np.ndarray) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n d"]]:
    """Return the scores of each picture and of each caption in the singular directions of Z1 Z2ᵀ/n.

    They are whitened: all have the same size. The largest picture's score of each mode is positive.
    """
    centred = z.astype(np.float64) - z.mean(axis=1, keepdims=True)
    (U1, s1, Vt1), (U2, s2, Vt2) = (np.linalg.svd(each, full_matrices=False) for each in centred)
    P, _, Qt = np.linalg.svd((s1[:, None] * Vt1) @ (s2[:, None] * Vt2).T)
    pictures, captions = U1 @ P, U2 @ Qt.T
    largest = np.take_along_axis(pictures, np.abs(pictures).argmax(axis=0)[None], axis=0)
    return pictures * np.sign(largest), captions * np.sign(largest)


def words(scores: np.ndarray, bags: np.ndarray, count: int) -> tuple[list[int], list[int]]:
    """Return the words whose captions have the largest and the smallest scores [n].

    A word's mean score counts in units of its standard error, so that rare words do not win by
    chance.
    """
    order = np.argsort((scores - scores.mean()) @ bags / np.sqrt(np.maximum(bags.sum(axis=0), 1)))
    return order[::-1][:count].tolist(), order[:count].tolist()


def extremes(scores: np.ndarray, pixels: np.ndarray, count: int) -> Int[np.ndarray, "2 count"]:
    """Return the rows of the largest and of the smallest scores [n], of equal pictures only one."""
    distinct = np.unique(glyphs.first_equal(pixels))
    order = distinct[np.argsort(scores[distinct])]
    return np.stack([order[::-1][:count], order[:count]])


def retrieval(z: np.ndarray, bags: np.ndarray, pixels: np.ndarray) -> dict[str, float]:
    """Return how often the nearest caption of a picture is its own, and by chance.

    Nearest is by the angle between the scores in the learned modes, each in units of its standard
    deviation, because a few modes outgrow the others by far. Captions of the same words count as
    one, and so do equal pictures. Without a learned mode the accuracy is that of chance.

    Args:
        z: both towers' embeddings [2, n, d].
        bags: words of the captions [n, V].
        pixels: the pictures [n, ...].
    """
    caption, picture = (glyphs.first_equal(x) for x in (bags, pixels))
    chance = float(np.mean(np.bincount(caption)[caption]) / len(caption))
    learned = int(np.sum(spectrum(z) >= LEARNED))
    if learned == 0:
        return {"accuracy": chance, "chance": chance}
    scores = np.stack(directions(z))[:, :, :learned]
    unit = scores / np.linalg.norm(scores, axis=2, keepdims=True)
    best = np.argmax(unit[0] @ unit[1].T, axis=1)
    hits = (caption[best] == caption) | (picture[best] == picture)
    return {"accuracy": float(hits.mean()), "chance": chance}
