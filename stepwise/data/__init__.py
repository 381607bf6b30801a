"""Images, from wherever they lie, as uint8 arrays.

`load` is the door. Behind it, in the order of the flow: `download` brings official archives,
`binary`, `folder`, `npz` and `photos` read one layout each, `images` holds what they return.
Nothing here is unpickled, and nothing needs JAX.
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

    - `photos`: patches of the two photographs that scikit-learn carries, no network; splits train,
      test (`photos.load`).
    - `cifar10`, `stl10`: the official binary layouts, splits train, test, and unlabeled of stl10
      (`binary`).
    - `folder:PATH`: a folder of images, one class a sub-folder or flat; splits train, val, test
      (`folder.load`).
    - `npz:PATH`: an archive of the arrays pixels and labels; it has one split, train (`npz.load`).

    `root` is where cifar10 and stl10 lie: the folder of their files, one that contains it, or one
    with the official archive. Without it they are downloaded once (170 MB and 2.6 GB) to the user's
    cache, or to the folder named by the environment variable STEPWISE_CACHE. For folder and npz, a
    relative PATH starts at `root`.

    `limit` keeps that many images: a random subset given by `seed` alone, so that a set sorted by
    class keeps all its classes, in the order of the files. A smaller limit is a subset of a larger
    one, and a limit of n or more keeps all (photos have a maximum instead). Only the images kept
    are read, but for npz. `size` gives square images of that side in px: the central square,
    resized with Pillow's antialiased bicubic filter; an image that has the side already is not
    touched.

    Raises DataError (a ValueError), which names the file, what was expected and what was found, for
    an argument or a file that is not what it should be, and MissingDataError (a FileNotFoundError
    too) where there is none.
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
    raise DataError(f"name: expected {KNOWN}, found {name!r}")
