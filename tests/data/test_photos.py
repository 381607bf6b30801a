import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from stepwise import data
from stepwise.data.photos import SEAM


def windows(name, side, columns):
    """All patches of a side at steps of a pixel, as bytes."""
    photo = load_sample_image(f"{name}.jpg")[:, columns]
    view = np.lib.stride_tricks.sliding_window_view(photo, (side, side), (0, 1))[
        :: side // 8, :: side // 8
    ]
    return {patch.transpose(1, 2, 0).tobytes() for row in view for patch in row}


def test_the_default_has_more_patches_than_a_patch_has_pixel_values_half_of_each_photograph():
    images = data.load("photos")
    assert images.pixels.shape == (4096, 32, 32, 3) and images.class_names == ("china", "flower")
    assert images.pixels[0].size < 4096
    assert np.bincount(images.labels).tolist() == [2048, 2048]
    assert data.load("photos", split="test").pixels.shape == (1024, 32, 32, 3)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("side", [32, 64])
def test_patches_of_the_side_asked_for_are_exact_cuts_of_the_half_of_their_split(split, side):
    columns = {"train": slice(0, SEAM), "test": slice(SEAM, None)}
    images = data.load("photos", split=split, size=side, limit=200)
    # 200 patches of 10 groups of a side and a photograph in turn, ordered by side: 20 of each.
    first = {32: 0, 64: 80}[side]
    for label, name in enumerate(images.class_names):
        here = windows(name, side, columns[split])
        patches = images.pixels[first + 20 * label :][:20]
        assert all(patch.tobytes() in here for patch in patches)
        assert len({patch.tobytes() for patch in patches}) == 20
        assert (images.labels[first + 20 * label :][:20] == label).all()


def test_the_same_arguments_give_the_same_patches_whatever_the_global_random_state():
    np.random.seed(1)  # noqa: NPY002
    first = data.load("photos", limit=64, size=16, seed=3)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    again = data.load("photos", limit=64, size=16, seed=3)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert (data.load("photos", limit=64, size=16, seed=4).pixels != first.pixels).any()


def test_a_smaller_limit_is_a_subset_of_a_larger_one_in_the_same_order():
    few, many = (data.load("photos", limit=limit, size=8).pixels for limit in (30, 300))
    places = [np.flatnonzero((many == patch).all((1, 2, 3)))[0] for patch in few]
    assert (np.diff(places) > 0).all()


def test_the_smallest_limits_still_see_both_photographs():
    assert data.load("photos", limit=2).labels.tolist() == [0, 1]


@pytest.mark.parametrize(("split", "most"), [("train", 39316), ("test", 10612)])
def test_more_patches_than_there_are_is_refused_with_their_number(split, most):
    match = f"limit: expected {most} photo patches at the most, found {most + 1}"
    with pytest.raises(data.DataError, match=match):
        data.load("photos", split=split, limit=most + 1)


def test_every_patch_there_is_can_be_had():
    images = data.load("photos", split="test", limit=10612, size=1)
    assert np.bincount(images.labels).tolist() == [5306, 5306]
