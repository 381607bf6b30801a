"""Visible attributes of images, and their correlations with a direction of an embedding."""

from typing import Any

import numpy as np

from stepwise import _check
from stepwise.types import Numbers

LUMA = np.array([0.299, 0.587, 0.114])
"""Luma weights of red, green and blue (ITU-R BT.601)."""


def measure(pixels: Numbers) -> dict[str, np.ndarray]:
    """Measure brightness, contrast, saturation and hue of each image.

    Args:
        pixels: uint8 [n, h, w, c], c = 1 or 3.

    Returns:
        A dict of arrays [n]; images of one channel have only the first two:

        - brightness: mean luma in [0, 1];
        - contrast: standard deviation of the luma over the image;
        - saturation: mean of HSV's S = (max − min)/max over the colours of a pixel;
        - hue: angle in radians of the mean colour, in which pixels are weighted by their chroma.

    Raises:
        ValueError: if `pixels` is not such an array.
    """
    fits = (
        getattr(pixels, "dtype", None) == np.uint8
        and np.ndim(pixels) == 4
        and np.shape(pixels)[-1] in (1, 3)
    )
    _check.require(fits, "pixels", "uint8 [n, h, w, 1 or 3]", pixels)
    values = np.asarray(pixels, np.float64) / 255
    luma = values[..., 0] if values.shape[-1] == 1 else values @ LUMA
    measured = {"brightness": luma.mean(axis=(1, 2)), "contrast": luma.std(axis=(1, 2))}
    if values.shape[-1] == 1:
        return measured
    high, low = values.max(axis=-1), values.min(axis=-1)
    measured["saturation"] = np.where(high > 0, (high - low) / np.maximum(high, 1e-12), 0).mean(
        axis=(1, 2)
    )
    red, green, blue = np.moveaxis(values, -1, 0)
    measured["hue"] = np.arctan2(
        (3**0.5 * (green - blue)).mean(axis=(1, 2)), (2 * red - green - blue).mean(axis=(1, 2))
    )
    return measured


def correlations(
    scores: Numbers, pixels: Numbers, labels: Numbers | None = None
) -> dict[str, float]:
    """Correlate a score of each image with the image's attributes and, if present, its label.

    Brightness, contrast and saturation use Pearson's r in [-1, 1]. Hue is an angle φ and uses the
    multiple correlation of the score with (cos φ, sin φ). The class uses the correlation ratio η =
    sqrt(variance between classes/variance). The last two are in [0, 1].

    By chance alone, |r| is of order 1/√n and η of order sqrt(classes/n). A correlation is NaN if
    the score or the attribute has no variance; η is 0 if all images have the same label.

    Args:
        scores: one number per image [n].
        pixels: uint8 [n, h, w, c], c = 1 or 3, as for `measure`.
        labels: class of each image [n].

    Raises:
        ValueError: if the lengths differ, or `pixels` is not such an array.
    """
    scores = np.asarray(_check.real_array("scores", scores, ndim=1), np.float64)
    n = len(scores)
    _check.require(
        np.shape(pixels)[:1] == (n,), "pixels", f"{n} images, one for each score", pixels
    )
    measured: dict[str, Any] = measure(pixels)
    hue = measured.pop("hue", None)
    sizes = {name: _multiple_correlation(scores, [values]) for name, values in measured.items()}
    result = {name: r * np.sign(np.cov(scores, measured[name])[0, 1]) for name, r in sizes.items()}
    if hue is not None:
        result["hue"] = _multiple_correlation(scores, [np.cos(hue), np.sin(hue)])
    if labels is not None:
        labels = np.asarray(labels)
        _check.require(labels.shape == (n,), "labels", f"[{n}], one for each score", labels)
        present = np.unique(labels)
        result["class"] = _multiple_correlation(scores, [labels == each for each in present[:-1]])
    return {name: float(value) for name, value in result.items()}


def _multiple_correlation(scores: np.ndarray, variables: list[np.ndarray]) -> float:
    """Return the correlation of the scores with their least-squares fit by the variables."""
    centred = scores - scores.mean()
    total = float(centred @ centred)
    if total == 0:
        return float("nan")
    if not variables:
        return 0.0
    design = np.stack([np.asarray(each, np.float64) - np.mean(each) for each in variables], axis=1)
    if not design.any():
        return float("nan")
    fit = design @ np.linalg.lstsq(design, centred, rcond=None)[0]
    return float(np.sqrt(min(1.0, fit @ fit / total)))
