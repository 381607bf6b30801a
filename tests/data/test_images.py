import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwise.data.images import DataError, Images, fit, fit_all, subset

PIXELS = np.zeros((3, 4, 5, 3), np.uint8)
LABELS = np.array([0, 1, 1], np.int32)


def test_valid_arrays_are_stored_without_a_copy():
    images = Images(PIXELS, LABELS, ("a", "b"), "here")
    assert images.pixels is PIXELS and images.labels is LABELS and len(images) == 3


@pytest.mark.parametrize(
    ("pixels", "received"),
    [
        (PIXELS.astype(np.float32), r"float32 \[3, 4, 5, 3\]"),
        (PIXELS[0], r"uint8 \[4, 5, 3\]"),
        (PIXELS[:0], r"uint8 \[0, 4, 5, 3\]"),
    ],
)
def test_pixels_of_another_type_or_rank_or_without_images_are_refused(pixels, received):
    with pytest.raises(DataError, match=f"pixels of here: expected uint8 .* received {received}"):
        Images(pixels, None, (), "here")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            LABELS.astype(np.int64),
            r"expected int32 \[3\], one for each image, received int64 \[3\]",
        ),
        (LABELS[:2], r"expected int32 \[3\], one for each image, received int32 \[2\]"),
        (LABELS + np.int32(1), "expected 0 to 1, an index into its 2 class names, received 1 to 2"),
        (
            LABELS - np.int32(1),
            "expected 0 to 1, an index into its 2 class names, received -1 to 0",
        ),
    ],
)
def test_labels_of_another_type_number_or_range_are_refused(labels, message):
    with pytest.raises(DataError, match=f"labels of here: {message}"):
        Images(PIXELS, labels, ("a", "b"), "here")


@given(
    n=st.integers(1, 200),
    small=st.integers(1, 250),
    more=st.integers(0, 100),
    seed=st.integers(0, 9),
)
def test_a_subset_is_distinct_ascending_and_part_of_any_larger_subset(n, small, more, seed):
    chosen = subset(n, small, seed)
    assert len(chosen) == min(n, small)
    assert (np.diff(chosen) > 0).all() and chosen[0] >= 0 and chosen[-1] < n
    assert set(chosen) <= set(subset(n, small + more, seed))


def test_another_seed_chooses_another_subset():
    assert (subset(1000, 20, 0) != subset(1000, 20, 1)).any()


@given(height=st.integers(3, 12), width=st.integers(3, 12), channels=st.integers(1, 5))
def test_fitting_to_the_short_side_crops_exactly(height, width, channels):
    image = np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    np.testing.assert_array_equal(fit(image, side), image[top : top + side, left : left + side])


@given(
    colour=st.lists(st.integers(0, 255), min_size=1, max_size=5),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.integers(1, 40),
)
def test_a_plain_image_keeps_its_colour_at_any_size(colour, shape, size):
    image = np.broadcast_to(np.array(colour, np.uint8), (*shape, len(colour)))
    assert (fit(image, size) == np.array(colour, np.uint8)).all()


def test_shrinking_averages_a_pattern_that_sampling_would_alias():
    checkers = np.indices((32, 32)).sum(0) % 2 * 255
    inner = fit(np.repeat(checkers[..., None], 3, 2).astype(np.uint8), 16)[2:-2, 2:-2]
    assert np.abs(inner.astype(int) - 127.5).max() <= 1


def test_each_channel_is_resized_by_itself():
    image = np.random.default_rng(0).integers(0, 256, (9, 9, 4), np.uint8)
    alone = [fit(image[..., k : k + 1], 6)[..., 0] for k in range(4)]
    np.testing.assert_array_equal(fit(image, 6), np.stack(alone, -1))
    np.testing.assert_array_equal(fit(image[..., :3], 6), np.stack(alone[:3], -1))


def test_images_that_already_have_the_size_are_not_copied():
    pixels = np.zeros((2, 7, 7, 3), np.uint8)
    assert fit_all(pixels, 7) is pixels and fit_all(pixels, None) is pixels
