import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from stepwise import data
from stepwise.data.photos import SEAM


def windows(name, side, columns):
    """Return all patches of a side, at steps of side / 8 px, as bytes."""
    photo = load_sample_image(f"{name}.jpg")[:, columns]
    view = np.lib.stride_tricks.sliding_window_view(photo, (side, side), (0, 1))[
        :: side // 8, :: side // 8
    ]
    return {patch.transpose(1, 2, 0).tobytes() for row in view for patch in row}


def test_by_default_patches_outnumber_pixel_values_and_photographs_have_equal_shares():
    images = data.load("photos")
    assert images.pixels.shape == (4096, 32, 32, 3) and images.class_names == ("china", "flower")
    assert images.pixels[0].size < 4096
    assert np.bincount(images.labels).tolist() == [2048, 2048]
    assert data.load("photos", split="test").pixels.shape == (1024, 32, 32, 3)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("side", [32, 64])
def test_patches_that_need_no_resizing_are_exact_cuts_of_their_split(split, side):
    columns = {"train": slice(0, SEAM), "test": slice(SEAM, None)}
    images = data.load("photos", split=split, size=side, limit=200)
    # 200 patches from 10 groups (5 sides, 2 photographs), sorted by side: 20 per group.
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


def test_two_patches_show_both_photographs():
    assert data.load("photos", limit=2).labels.tolist() == [0, 1]


@pytest.mark.parametrize(("split", "most"), [("train", 39316), ("test", 10612)])
def test_a_limit_above_the_number_of_patches_is_refused(split, most):
    match = f"limit: expected at most {most} photo patches, received {most + 1}"
    with pytest.raises(data.DataError, match=match):
        data.load("photos", split=split, limit=most + 1)


def test_a_limit_may_select_all_patches():
    images = data.load("photos", split="test", limit=10612, size=1)
    assert np.bincount(images.labels).tolist() == [5306, 5306]
