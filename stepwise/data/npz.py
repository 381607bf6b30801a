"""Images from .npz archives, read without pickle."""

import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from stepwise.data.images import (
    DataError,
    Images,
    MissingDataError,
    fit_all,
    printable,
    require,
    require_split,
    subset,
)

NAMES = ("pixels", "labels", "class_names")
MOST_CLASSES = 2**16
CHANNELS = (1, 3, 4)
"""Numbers of channels of ordinary images. Other numbers are accepted if they are smaller than the
height and the width.
"""


def load(path: Path, split: str, limit: int | None, size: int | None, seed: int) -> Images:
    """Read pixels uint8 [n, H, W, C], and labels and class_names if present, from an .npz archive.

    Labels are integers [n] or [n, 1] from 0 to 65,535. Class names are strings; by default the
    classes are called 0, 1, ... The only split is train.

    Raises:
        DataError: if the file is not a zip archive, an array is missing, pickled or of another
            type, the axes of the pixels have another order, or labels are out of range or differ in
            number from the images. The message has the line that converts the array, if one does.
        MissingDataError: if the file does not exist.
    """
    name = printable(path)
    require_split(f"npz:{name}", split, ("train",))
    if path.is_dir():
        raise DataError(f"{name}: expected an .npz archive, received a folder; pass folder:{name}")
    if not path.is_file():
        raise MissingDataError(
            f"{name}: expected an .npz archive, received a path that does not exist"
        )
    require(
        zipfile.is_zipfile(path),
        name,
        "an .npz archive (a zip file of arrays)",
        f"a file that is not a zip archive{_convert_npy(path)}",
    )
    arrays = _read_arrays(path)
    pixels, labels = arrays["pixels"], None
    _require_pixels(name, pixels)
    if "labels" in arrays:
        labels = _check_labels(name, arrays["labels"], len(pixels))
    if "class_names" in arrays:
        names = _check_names(name, arrays["class_names"])
    else:
        names = () if labels is None else tuple(map(str, range(int(labels.max(initial=-1)) + 1)))
    whole = Images(pixels, labels, names, f"npz:{name}")
    keep = subset(len(pixels), limit, seed)
    chosen = pixels if len(keep) == len(pixels) else pixels[keep]
    return Images(
        fit_all(chosen, size), None if labels is None else labels[keep], names, whole.source
    )


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    name = printable(path)
    arrays: dict[str, Any] = {}
    member = "its list of arrays"
    try:
        with warnings.catch_warnings(), np.load(path, allow_pickle=False) as archive:
            warnings.simplefilter("ignore")  # about headers that Python 2 wrote
            members = archive.files
            for member in NAMES:
                if member in archive:
                    arrays[member] = archive[member]
    # A damaged header leads NumPy to errors of the tokenizer, of zlib and of others; zipfile raises
    # RuntimeError for encryption and for compression methods it does not support.
    except Exception as error:
        reason = printable(" ".join(str(error).split())) or type(error).__name__
        raise DataError(
            f"{name}: expected readable arrays without pickled objects, received an error in "
            f"{member}: {reason}"
        ) from error
    require("pixels" in arrays, name, "an array 'pixels' [n, H, W, C]", f"the arrays {members}")
    for member, array in arrays.items():
        # NumPy returns a member that does not start like an array as bytes.
        is_array = isinstance(array, np.ndarray)
        require(is_array, name, f"an array {member!r}", "a member that is not an array")
    return arrays


def _convert_npy(path: Path) -> str:
    """Return the line that converts a single array, if the file is one."""
    with path.open("rb") as file:
        if file.read(6) != b"\x93NUMPY":
            return ""
    target = printable(path.with_suffix(".npz"))
    if target == printable(path):
        return ", but a single array (.npy); store it by np.savez(path, pixels=np.load(path))"
    return (
        f", but a single array; run np.savez({target!r}, pixels=np.load({printable(path)!r})) and "
        f"pass npz:{target}"
    )


def _require_pixels(name: str, pixels: np.ndarray) -> None:
    """Raise DataError with the line that converts the pixels to uint8 [n, H, W, C]."""
    lines = [_convert_values(pixels), _convert_axes(pixels)]
    line = "; ".join(each for each in lines if each)
    shape, kind = pixels.shape, pixels.dtype
    fits = kind == np.uint8 and pixels.ndim == 4 and pixels.size > 0
    ordered = pixels.ndim != 4 or shape[3] in CHANNELS or shape[3] < min(shape[1:3])
    require(
        fits and ordered,
        f"pixels of npz:{name}",
        "uint8 [n, H, W, C] with 1, 3 or 4 channels last and at least one image",
        f"{kind} {list(shape)}{f'; convert them by {line}' if line else ''}",
    )


def _convert_values(pixels: np.ndarray) -> str:
    """Return the line that converts numbers to uint8 in 0 to 255; empty if there is none."""
    kind = pixels.dtype.kind
    if pixels.dtype == np.uint8 or kind not in "biuf" or pixels.size == 0:
        return ""
    if kind == "b":
        return "pixels = 255 * pixels.astype(np.uint8)"
    low, high = float(pixels.min()), float(pixels.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        return ""
    if kind == "f" and low >= 0 and high <= 1:
        return "pixels = np.rint(255 * pixels).astype(np.uint8)"
    if kind == "f" and low >= -1 and high <= 1:
        return "pixels = np.rint(127.5 * (pixels + 1)).astype(np.uint8)"
    if low >= 0 and high <= 255:
        return f"pixels = {'np.rint(pixels)' if kind == 'f' else 'pixels'}.astype(np.uint8)"
    if kind == "u" and high <= 65535:
        return "pixels = np.rint(pixels / 257).astype(np.uint8)  # if 65,535 is white"
    return ""


def _convert_axes(pixels: np.ndarray) -> str:
    """Return the line that puts the channels last; empty if they are, or if it is not clear."""
    shape = pixels.shape
    if pixels.ndim == 3:
        one = shape[2] in CHANNELS and min(shape[:2]) > 4
        return "pixels = pixels[None]" if one else "pixels = pixels[..., None]"
    if pixels.ndim != 4 or shape[3] in CHANNELS or shape[3] < min(shape[1:3]):
        return ""
    if shape[1] in CHANNELS or shape[1] < min(shape[2:]):
        return "pixels = pixels.transpose(0, 2, 3, 1)"
    if shape[2] in CHANNELS:
        return "pixels = pixels.transpose(3, 0, 1, 2)"
    if shape[0] in CHANNELS:
        return "pixels = pixels.transpose(1, 2, 3, 0)"
    return ""


def _check_labels(name: str, labels: np.ndarray, n: int) -> Int32[np.ndarray, "..."]:
    if labels.shape == (n, 1):
        labels = labels[:, 0]
    convert = ""
    if labels.ndim == 2 and labels.dtype.kind in "biuf" and labels.shape[1] > 1:
        convert = "; convert scores of each class by labels = labels.argmax(axis=1)"
    elif labels.dtype.kind in "bf" and labels.size and (labels == np.rint(labels)).all():
        convert = "; convert them by labels = labels.astype(np.int32)"
    elif labels.dtype.kind in "US":
        convert = (
            "; convert them by class_names, labels = np.unique(labels, return_inverse=True), and "
            "store class_names too"
        )
    received = f"{labels.dtype}{convert}"
    require(labels.dtype.kind in "iu", f"labels of npz:{name}", "integers", received)
    if convert:
        expected = f"int32 [{n}], one for each image"
        received = f"{labels.dtype} {list(labels.shape)}{convert}"
        require(False, f"labels of npz:{name}", expected, received)
    if labels.size:
        low, high = int(labels.min()), int(labels.max())
        received = f"{low} to {high}"
        fits = low >= 0 and high < MOST_CLASSES
        require(fits, f"labels of npz:{name}", f"0 to {MOST_CLASSES - 1}", received)
    return labels.astype(np.int32)


def _check_names(name: str, names: np.ndarray) -> tuple[str, ...]:
    fits = names.dtype.kind in "Uiu" and names.ndim <= 2
    received = f"{names.dtype} {list(names.shape)}"
    if names.dtype.kind == "S":
        received += "; convert them by class_names = np.char.decode(class_names)"
    require(fits, f"class_names of npz:{name}", "an array of strings", received)
    return tuple(printable(str(each)) for each in names.ravel())
