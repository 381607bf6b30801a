import os

import numpy as np
import pytest

from stepwise import data

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 1), np.uint8)
LABELS = np.array([0, 2, 1, 0, 2])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "set.npz"


def load(path, **options):
    return data.load(f"npz:{path}", **options)


def test_labels_may_be_of_any_integer_type_and_class_names_default_to_numbers(path):
    np.savez_compressed(path, pixels=PIXELS, labels=LABELS.astype(np.uint8))
    images = load(path)
    np.testing.assert_array_equal(images.pixels, PIXELS)
    np.testing.assert_array_equal(images.labels, LABELS)
    assert images.class_names == ("0", "1", "2")


def test_class_names_are_read_if_present_and_labels_are_optional(path):
    np.savez(path, pixels=PIXELS, labels=LABELS, class_names=["a", "b", "c"])
    assert load(path).class_names == ("a", "b", "c")
    np.savez(path, pixels=PIXELS)
    assert load(path).labels is None


def test_a_limit_selects_images_with_their_labels(path):
    np.savez(path, pixels=np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1), labels=np.arange(50))
    few = load(path, limit=7)
    np.testing.assert_array_equal(few.pixels.ravel(), few.labels)
    assert len(few) == 7


class Trap:
    def __init__(self, sprung):
        self.sprung = sprung

    def __reduce__(self):
        return os.mkdir, (str(self.sprung),)


def test_pickled_arrays_are_refused_and_never_unpickled(path, tmp_path):
    sprung = tmp_path / "sprung"
    np.savez(path, pixels=np.array([Trap(sprung)], dtype=object))
    with pytest.raises(
        data.DataError, match=r"set\.npz: expected readable arrays without pickled objects"
    ):
        load(path)
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"labels": LABELS},
            r"set\.npz: expected an array 'pixels' .n, H, W, C., received the arrays \['labels'\]",
        ),
        ({"pixels": PIXELS / 255}, r"set\.npz: expected uint8 .* received float64 \[5, 4, 4, 1\]"),
        ({"pixels": PIXELS[..., 0]}, r"set\.npz: expected uint8 .* received uint8 \[5, 4, 4\]"),
        (
            {"pixels": PIXELS[:0], "labels": LABELS[:0]},
            r"set\.npz: expected .* at least one image, received uint8 \[0, ",
        ),
        (
            {"pixels": PIXELS, "labels": LABELS[:4]},
            r"set\.npz: expected int32 \[5\], .* received int32 \[4\]",
        ),
        (
            {"pixels": PIXELS, "labels": LABELS - 1},
            r"set\.npz: expected 0 to 65535, received -1 to 1",
        ),
        (
            {"pixels": PIXELS, "labels": LABELS + 2**40},
            r"set\.npz: expected 0 to 65535, received 1099511627776 to ",
        ),
        (
            {"pixels": PIXELS, "labels": LABELS / 2},
            r"set\.npz: expected integers, received float64",
        ),
        (
            {"pixels": PIXELS, "labels": LABELS, "class_names": ["a", "b"]},
            r"set\.npz: expected 0 to 1, an index into its 2 class names, received 0 to 2",
        ),
    ],
)
def test_invalid_arrays_are_refused(path, arrays, message):
    np.savez(path, **arrays)
    with pytest.raises(data.DataError, match=message):
        load(path)


def test_a_file_that_is_not_a_zip_archive_is_refused(path):
    with path.open("wb") as file:
        np.save(file, PIXELS)
    with pytest.raises(
        data.DataError,
        match=r"set\.npz: expected an \.npz archive .* received a file that is not a zip archive",
    ):
        load(path)


def test_a_damaged_zip_archive_is_refused(path):
    np.savez_compressed(path, pixels=PIXELS)
    content = bytearray(path.read_bytes())
    content[60:90] = bytes(30)
    path.write_bytes(content)
    with pytest.raises(data.DataError, match=r"set\.npz: expected readable arrays"):
        load(path)


def test_a_missing_file_is_missing_data(path):
    with pytest.raises(
        data.MissingDataError,
        match=r"set\.npz: expected an \.npz archive, received a path with no file",
    ):
        load(path)
