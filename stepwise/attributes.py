"""What a direction of an embedding sees: its correlation with what a person would say of an image
first.
"""

from typing import Any

import numpy as np

from stepwise import _check
from stepwise.types import Numbers

LUMA = np.array([0.299, 0.587, 0.114])
"""Of red, green and blue (ITU-R BT.601)."""


def measure(pixels: Numbers) -> dict[str, np.ndarray]:
    """Brightness, contrast, saturation and hue of each image, from uint8 [n, h, w, c], c = 1 or 3.

    brightness: mean luma in [0, 1]; contrast: its standard deviation over the image; saturation:
    mean of HSV's S, (max − min)/max of the colours; hue: angle in radians of the mean colour,
    weighed by its chroma. Grey images have the first two only.

    Raises:
        ValueError: pixels are no such array.
    """
    fits = (
        getattr(pixels, "dtype", None) == np.uint8
        and np.ndim(pixels) == 4
        and np.shape(pixels)[-1] in (1, 3)
    )
    _check.require(fits, "pixels", "uint8 [n, h, w, 1 or 3]", pixels)
    values = np.asarray(pixels, np.float64) / 255
    luma = values[..., 0] if values.shape[-1] == 1 else values @ LUMA
    found = {"brightness": luma.mean(axis=(1, 2)), "contrast": luma.std(axis=(1, 2))}
    if values.shape[-1] == 1:
        return found
    high, low = values.max(axis=-1), values.min(axis=-1)
    found["saturation"] = np.where(high > 0, (high - low) / np.maximum(high, 1e-12), 0).mean(
        axis=(1, 2)
    )
    red, green, blue = np.moveaxis(values, -1, 0)
    found["hue"] = np.arctan2(
        (3**0.5 * (green - blue)).mean(axis=(1, 2)), (2 * red - green - blue).mean(axis=(1, 2))
    )
    return found


def correlations(
    scores: Numbers, pixels: Numbers, labels: Numbers | None = None
) -> dict[str, float]:
    """How a score of each image [n] goes with what `measure` says of it, and with its class where
    it has one.

    brightness, contrast and saturation by Pearson's r in [-1, 1]; hue, which is an angle φ, by the
    multiple correlation of the score with (cos φ, sin φ), and class by the correlation ratio η =
    sqrt(variance between classes/variance), both in [0, 1]. By chance alone |r| is of order 1/√n
    and η of order sqrt(classes/n). NaN where there is no variance.

    Raises:
        ValueError: the lengths do not fit, or as `measure`.
    """
    scores = np.asarray(_check.real_array("scores", scores, ndim=1), np.float64)
    n = len(scores)
    _check.require(
        np.shape(pixels)[:1] == (n,), "pixels", f"{n} images, one for each score", pixels
    )
    measured: dict[str, Any] = measure(pixels)
    hue = measured.pop("hue", None)
    found = {name: _explained(scores, [values]) for name, values in measured.items()}
    found = {name: r * np.sign(np.cov(scores, measured[name])[0, 1]) for name, r in found.items()}
    if hue is not None:
        found["hue"] = _explained(scores, [np.cos(hue), np.sin(hue)])
    if labels is not None:
        labels = np.asarray(labels)
        _check.require(labels.shape == (n,), "labels", f"[{n}], one for each score", labels)
        present = np.unique(labels)
        found["class"] = _explained(scores, [labels == label for label in present[:-1]])
    return {name: float(value) for name, value in found.items()}


def _explained(scores: np.ndarray, by: list[np.ndarray]) -> float:
    """Multiple correlation: that of the scores with their least-squares fit by these."""
    centred = scores - scores.mean()
    total = float(centred @ centred)
    if total == 0:
        return float("nan")
    if not by:
        return 0.0
    design = np.stack([np.asarray(each, np.float64) - np.mean(each) for each in by], axis=1)
    if not design.any():
        return float("nan")
    fit = design @ np.linalg.lstsq(design, centred, rcond=None)[0]
    return float(np.sqrt(min(1.0, fit @ fit / total)))
