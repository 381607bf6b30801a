"""Image data sets, loaded as uint8 arrays.

`load` is the entry point. `download` fetches the official archives; `binary`, `folder`, `npz` and
`photos` read one layout each; `images` defines the `Images` that they return. No file is unpickled,
and JAX is not needed.
"""

import os
from pathlib import Path

import numpy as np

from stepwise.data import binary, folder, npz, photos
from stepwise.data.images import DataError, Images, MissingDataError, require

__all__ = ["DataError", "Images", "MissingDataError", "load"]

KNOWN = "'photos', 'cifar10', 'stl10', 'folder:PATH' or 'npz:PATH'"


def load(
    name: str,
    *,
    split: str = "train",
    root: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    size: int | None = None,
    seed: int = 0,
) -> Images:
    """Load a set of images: pixels uint8 [n, H, W, C], labels int32 [n] or None.

    Args:
        name: the data set:

            - `photos`: patches of two photographs that are part of scikit-learn (no download);
              splits train and test (`photos.load`).
            - `cifar10`, `stl10`: the official binary layouts; splits train and test, and unlabeled
              for stl10 (`binary`).
            - `folder:PATH`: a folder of images, either flat or with one sub-folder per class;
              splits train, val and test (`folder.load`).
            - `npz:PATH`: an archive of the arrays pixels and labels; one split, train (`npz.load`).
        split: the split to load.
        root: for cifar10 and stl10, the folder of their files, its parent folder, or a folder that
            contains the official archive. By default they are downloaded once (170 MB and 2.6 GB)
            to the folder named by the environment variable STEPWISE_CACHE, or else to the user's
            cache. For folder and npz, a relative PATH starts at `root`.
        limit: number of images to load: a random subset, determined by `seed` alone and in the
            order of the files, so that a set sorted by class keeps all its classes. The subset of
            a smaller limit is part of that of a larger one. A limit of n or more loads all images;
            photos have a maximum instead. Only the images of the subset are read, except for npz.
        size: side of the returned square images in px. The central square is resized with Pillow's
            antialiased bicubic filter; an image of this size is returned unchanged.
        seed: seed of the random subset.

    Raises:
        DataError: if an argument or a file is invalid; a ValueError whose message names the
            argument or file, what was expected and what was received.
        MissingDataError: if a file or folder does not exist; also a FileNotFoundError.
    """
    for argument, value in (("limit", limit), ("size", size)):
        fits = isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 1
        require(value is None or fits, argument, "a positive integer or None", value)
    base = Path(root).expanduser() if root is not None else None
    match name.partition(":"):
        case ("photos", "", ""):
            return photos.load(split, limit, size, seed)
        case ("cifar10", "", ""):
            return binary.cifar10(base, split, limit, size, seed)
        case ("stl10", "", ""):
            return binary.stl10(base, split, limit, size, seed)
        case ("folder", ":", path) if path:
            return folder.load((base or Path()) / Path(path).expanduser(), split, limit, size, seed)
        case ("npz", ":", path) if path:
            return npz.load((base or Path()) / Path(path).expanduser(), split, limit, size, seed)
    raise DataError(f"name: expected {KNOWN}, received {name!r}")
