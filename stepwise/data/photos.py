"""Two photographs that come with scikit-learn, cut into patches: natural images without a
network."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from stepwise.data.images import Images, fit, require, require_split

CLASS_NAMES = ("china", "flower")
SIDES = (32, 48, 64, 96, 128)
STRIDE = 8  # patches to a side: neighbours on the lattice of side s are s / 8 px apart
SEAM = 480  # px; of the 640 columns, train has those to the left of it and test those from it on
# 4,096 patches of 32 px are more than their 3,072 pixel values, so that moments over them can have
# full rank.
DEFAULT = {"train": 4096, "test": 1024}


def load(split: str, limit: int | None, size: int | None, seed: int) -> Images:
    """Cut patches of 32, 48, 64, 96 and 128 px out of both photographs and resize them to `size`,
    or 32 px.

    The label is the photograph. Train patches lie in the left 480 columns, test patches in the
    right 160, where the flower's blurred background is: no pixel is in both. Patches of side s lie
    on a lattice of step s / 8; `seed` alone chooses `limit` of them (4,096 of train, 1,024 of test
    unless given), as many of each photograph and side as there are. There are 39,316 of train and
    10,612 of test; a greater limit raises DataError. A smaller limit chooses a subset of a larger
    one's. The order is by side, photograph, row and column.
    """
    require_split("photos", split, DEFAULT)
    photographs = _photographs(split)
    patches = _chosen([photo.shape[:2] for photo in photographs], limit or DEFAULT[split], seed)
    size = size or 32
    pixels = np.empty((len(patches), size, size, 3), np.uint8)
    for place, (side, photo, row, column) in zip(pixels, patches, strict=True):
        place[...] = fit(photographs[photo][row : row + side, column : column + side], size)
    return Images(pixels, patches[:, 1].astype(np.int32), CLASS_NAMES, f"photos/{split}")


def _photographs(split: str) -> list[UInt8[np.ndarray, "h w 3"]]:
    # As sklearn.datasets.load_sample_image, whose import takes three seconds.
    (folder,) = find_spec("sklearn").submodule_search_locations  # type: ignore[union-attr, misc]
    columns = slice(0, SEAM) if split == "train" else slice(SEAM, None)
    paths = [Path(folder) / "datasets" / "images" / f"{name}.jpg" for name in CLASS_NAMES]
    return [np.asarray(Image.open(path))[:, columns] for path in paths]


def _chosen(shapes: list[tuple[int, int]], count: int, seed: int) -> Int[np.ndarray, "patches 4"]:
    """Choose patches (side, photograph, row, column), as many of each side and photograph as there
    are.
    """
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
    every = np.concatenate(groups)
    require(count <= len(every), "limit", f"{len(every)} photo patches at the most", count)
    rng = np.random.default_rng(seed)
    # Taking the lowest ranks over all groups takes the groups in turn, until one is used up.
    rank = np.concatenate([rng.permutation(len(group)) for group in groups])
    return every[np.sort(np.argsort(rank, kind="stable")[:count])]
