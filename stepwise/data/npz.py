"""Images from .npz archives, read without pickle."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from stepwise.data.images import (
    DataError,
    Images,
    MissingDataError,
    fit_all,
    require,
    require_split,
    subset,
)

NAMES = ("pixels", "labels", "class_names")
MOST_CLASSES = 2**16


def load(path: Path, split: str, limit: int | None, size: int | None, seed: int) -> Images:
    """Read pixels uint8 [n, H, W, C], and labels and class_names if present, from an .npz archive.

    Labels are integers [n] from 0 to 65,535. Class names are strings; by default the classes are
    called 0, 1, ... The only split is train.

    Raises:
        DataError: if the file is not a zip archive, an array is missing, pickled or of another
            type, or labels are out of range or differ in number from the images.
        MissingDataError: if the file does not exist.
    """
    require_split(f"npz:{path}", split, ("train",))
    if not path.is_file():
        raise MissingDataError(f"{path}: expected an .npz archive, received a path with no file")
    require(
        zipfile.is_zipfile(path),
        path,
        "an .npz archive (a zip file of arrays)",
        "a file that is not a zip archive",
    )
    arrays = _read_arrays(path)
    pixels, labels = arrays["pixels"], None
    if "labels" in arrays:
        labels = _check_labels(path, arrays["labels"])
    if "class_names" in arrays:
        names = tuple(map(str, arrays["class_names"].ravel()))
    else:
        names = () if labels is None else tuple(map(str, range(int(labels.max(initial=-1)) + 1)))
    whole = Images(pixels, labels, names, f"npz:{path}")
    keep = subset(len(pixels), limit, seed)
    chosen = pixels if len(keep) == len(pixels) else pixels[keep]
    return Images(
        fit_all(chosen, size), None if labels is None else labels[keep], names, whole.source
    )


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in NAMES if name in archive}
            names = archive.files
    # zipfile raises RuntimeError for encryption and for compression methods it does not support.
    except (
        ValueError,
        EOFError,
        OSError,
        MemoryError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise DataError(
            f"{path}: expected readable arrays without pickled objects, received an error: {error}"
        ) from error
    require("pixels" in arrays, path, "an array 'pixels' [n, H, W, C]", f"the arrays {names}")
    for name, array in arrays.items():
        # NumPy returns a member that does not start like an array as bytes.
        require(
            isinstance(array, np.ndarray),
            path,
            f"an array {name!r}",
            "a member that is not an array",
        )
    return arrays


def _check_labels(path: Path, labels: np.ndarray) -> Int32[np.ndarray, "..."]:
    require(labels.dtype.kind in "iu", f"labels of npz:{path}", "integers", str(labels.dtype))
    if labels.size:
        low, high = int(labels.min()), int(labels.max())
        received = f"{low} to {high}"
        require(
            low >= 0 and high < MOST_CLASSES,
            f"labels of npz:{path}",
            f"0 to {MOST_CLASSES - 1}",
            received,
        )
    return labels.astype(np.int32)
