"""Patches of the two photographs in scikit-learn: natural images that need no download."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from stepwise.data.images import Images, fit, require, require_split

CLASS_NAMES = ("china", "flower")
SIDES = (32, 48, 64, 96, 128)
STRIDE = 8  # steps per side: patches of side s are s / 8 px apart
SEAM = 480  # px; train uses the columns left of it, test those from it on, of 640 in all
# 4,096 patches of 32 px outnumber their 3,072 pixel values, so their moments can have full rank.
DEFAULT = {"train": 4096, "test": 1024}


def load(split: str, limit: int | None, size: int | None, seed: int) -> Images:
    """Cut patches of 32, 48, 64, 96 and 128 px from both photographs and resize them to `size` px.

    The default size is 32 px. The label is the photograph. Training patches lie in the left 480
    columns and test patches in the right 160, which hold the flower's blurred background; no pixel
    is in both.

    Patches of side s lie on a lattice of step s / 8: 39,316 training and 10,612 test patches.
    `seed` alone chooses `limit` of them (by default 4,096 for training and 1,024 for testing), in
    equal numbers per photograph and side until one group is used up. The patches of a smaller limit
    are among those of a larger one. They are sorted by side, photograph, row and column.

    Raises:
        DataError: if `limit` exceeds the number of patches.
    """
    require_split("photos", split, DEFAULT)
    photographs = _photographs(split)
    patches = _choose_patches(
        [photo.shape[:2] for photo in photographs], limit or DEFAULT[split], seed
    )
    size = size or 32
    pixels = np.empty((len(patches), size, size, 3), np.uint8)
    for place, (side, photo, row, column) in zip(pixels, patches, strict=True):
        place[...] = fit(photographs[photo][row : row + side, column : column + side], size)
    return Images(pixels, patches[:, 1].astype(np.int32), CLASS_NAMES, f"photos/{split}")


def _photographs(split: str) -> list[UInt8[np.ndarray, "h w 3"]]:
    # Equivalent to sklearn.datasets.load_sample_image, whose import takes three seconds.
    (folder,) = find_spec("sklearn").submodule_search_locations  # type: ignore[union-attr, misc]
    columns = slice(0, SEAM) if split == "train" else slice(SEAM, None)
    paths = [Path(folder) / "datasets" / "images" / f"{name}.jpg" for name in CLASS_NAMES]
    return [np.asarray(Image.open(path))[:, columns] for path in paths]


def _choose_patches(
    shapes: list[tuple[int, int]], count: int, seed: int
) -> Int[np.ndarray, "patches 4"]:
    """Choose patches (side, photograph, row, column), in equal numbers per side and photograph."""
    groups = [
        np.array(
            [
                (side, photo, row, column)
                for row in range(0, height - side + 1, side // STRIDE)
                for column in range(0, width - side + 1, side // STRIDE)
            ]
        )
        for side in SIDES
        for photo, (height, width) in enumerate(shapes)
    ]
    patches = np.concatenate(groups)
    require(count <= len(patches), "limit", f"at most {len(patches)} photo patches", count)
    rng = np.random.default_rng(seed)
    # The lowest ranks come from all groups in equal numbers, until a group is used up.
    rank = np.concatenate([rng.permutation(len(group)) for group in groups])
    return patches[np.sort(np.argsort(rank, kind="stable")[:count])]
