import os
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
        match=r"set\.npz: expected an \.npz archive, received a path that does not exist",
    ):
        load(path)


@pytest.mark.parametrize(
    ("pixels", "line"),
    [
        (np.zeros((64, 3, 32, 32), np.uint8), "pixels.transpose(0, 2, 3, 1)"),
        (np.zeros((64, 1, 28, 28), np.uint8), "pixels.transpose(0, 2, 3, 1)"),
        (np.zeros((9, 13, 32, 32), np.uint8), "pixels.transpose(0, 2, 3, 1)"),
        (np.zeros((32, 32, 3, 70), np.uint8), "pixels.transpose(3, 0, 1, 2)"),
        (np.zeros((3, 32, 32, 70), np.uint8), "pixels.transpose(1, 2, 3, 0)"),
        (np.zeros((70, 28, 28), np.uint8), "pixels[..., None]"),
        (np.zeros((28, 28, 3), np.uint8), "pixels[None]"),
        (np.ones((5, 4, 4, 3)), "np.rint(255 * pixels).astype(np.uint8)"),
        (-np.ones((5, 4, 4, 3)), "np.rint(127.5 * (pixels + 1)).astype(np.uint8)"),
        (200 * np.ones((5, 4, 4, 3)), "np.rint(pixels).astype(np.uint8)"),
        (np.full((5, 4, 4, 3), 255), "pixels.astype(np.uint8)"),
        (np.full((5, 4, 4, 3), 65535, np.uint16), "np.rint(pixels / 257).astype(np.uint8)"),
        (np.ones((5, 4, 4, 3), bool), "255 * pixels.astype(np.uint8)"),
    ],
)
def test_pixels_of_another_order_or_scale_are_refused_with_the_line_that_converts(
    path, pixels, line
):
    np.savez(path, pixels=pixels)
    expected = "uint8 .n, H, W, C. with 1, 3 or 4 channels last .* received"
    with pytest.raises(data.DataError, match=expected) as error:
        load(path)
    assert f"convert them by pixels = {line}" in str(error.value)
    scope = {"np": np, "pixels": pixels}
    exec(f"pixels = {line}", scope)  # the line works
    np.savez(path, pixels=scope["pixels"])
    images = load(path)
    if pixels.dtype != np.uint8:
        assert images.pixels.min() == images.pixels.max() in (0, 200, 255)


def test_floats_channels_first_are_refused_with_both_lines(path):
    np.savez(path, pixels=np.ones((8, 3, 32, 32), np.float32))
    with pytest.raises(data.DataError, match=r"np\.rint\(255 .*; pixels = pixels\.transpose"):
        load(path)


def test_pixels_that_are_no_numbers_or_not_finite_have_no_line(path):
    for pixels in (
        np.full((2, 4, 4, 3), np.nan),
        np.full((2, 4, 4, 3), b"a"),
        np.zeros((2, 4, 4, 3), complex),
    ):
        np.savez(path, pixels=pixels)
        with pytest.raises(data.DataError, match=r"received \S+ \[2, 4, 4, 3\]$"):
            load(path)


def test_many_channels_last_are_accepted(path):
    np.savez(path, pixels=np.zeros((4, 16, 16, 13), np.uint8))
    assert load(path).pixels.shape == (4, 16, 16, 13)


def test_labels_in_a_column_are_accepted(path):
    np.savez(path, pixels=PIXELS, labels=LABELS[:, None])
    np.testing.assert_array_equal(load(path).labels, LABELS)


@pytest.mark.parametrize(
    ("labels", "line"),
    [
        (np.eye(3)[LABELS], "labels = labels.argmax(axis=1)"),
        (np.eye(3, dtype=int)[LABELS], "labels = labels.argmax(axis=1)"),
        (LABELS.astype(float), "labels = labels.astype(np.int32)"),
        (LABELS == 0, "labels = labels.astype(np.int32)"),
        (np.array(["a", "c", "b", "a", "c"]), "np.unique(labels, return_inverse=True)"),
        (LABELS.astype("S1"), "np.unique(labels, return_inverse=True)"),
    ],
)
def test_labels_of_another_form_are_refused_with_the_line_that_converts(path, labels, line):
    np.savez(path, pixels=PIXELS, labels=labels)
    with pytest.raises(data.DataError, match=r"labels of npz:.*set\.npz: expected ") as error:
        load(path)
    assert line in str(error.value)


def test_class_names_that_are_no_strings_are_refused(path):
    for names in (np.array([b"a", b"b", b"c"]), np.array([0.5, 1, 2])):
        np.savez(path, pixels=PIXELS, labels=LABELS, class_names=names)
        with pytest.raises(data.DataError, match=r"class_names of npz:.* an array of strings"):
            load(path)


def test_a_folder_or_a_single_array_is_refused_with_the_line_that_works(tmp_path):
    with pytest.raises(data.DataError, match=f"received a folder; pass folder:{tmp_path}"):
        load(tmp_path)
    np.save(tmp_path / "a.npy", PIXELS)
    with pytest.raises(data.DataError, match=rf"single array; run np\.savez\('{tmp_path}/a\.npz'"):
        load(tmp_path / "a.npy")


def headers(whole):
    """Damaged headers of an array: cut, spliced, and of other types and shapes."""
    text = "{'descr': '|u1', 'fortran_order': False, 'shape': (5, 4, 4, 1), }"
    yield from (text[:end] for end in range(0, len(text), 4))
    yield from (text[:i] + text[i + 7 :] for i in range(0, 60, 5))
    yield from (
        text.replace("|u1", kind) for kind in ("|S1", "|O", "|V1", "<U1", "<M8[s]", "zz", "<f8")
    )
    yield from (
        text.replace("5, 4", shape) for shape in ("-5, 4", "10**9, 4", "99999999999, 4", "5L, 4")
    )
    yield from ("(" * 300, "'" * 3, "{'descr': [('a', '|O')], 'fortran_order': False, 'shape': ()}")


@pytest.mark.parametrize("name", ["pixels", "labels", "class_names"])
def test_a_damaged_header_is_refused_by_name(path, name):
    arrays = {"pixels": PIXELS, "labels": LABELS, "class_names": np.array(["a", "b", "c"])}
    np.savez(path, **arrays)
    whole = load(path)
    with zipfile.ZipFile(path) as archive:
        members = {each: archive.read(each) for each in archive.namelist()}
    start = b"\x93NUMPY\x01\0"
    for header in headers(members[f"{name}.npy"]):
        with zipfile.ZipFile(path, "w") as archive:
            for each, content in members.items():
                if each == f"{name}.npy":
                    text = header.encode() + b"\n"
                    content = start + len(text).to_bytes(2, "little") + text + content[128:]
                archive.writestr(each, content)
        try:
            images = load(path)
        except data.DataError as error:
            assert "set.npz: expected" in str(error) and name in str(error), header
        else:  # the header means the same
            np.testing.assert_array_equal(images.pixels, whole.pixels)


@given(
    edits=st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), min_size=1, max_size=4),
    end=st.none() | st.integers(0, 1500),
)
def test_a_damaged_archive_is_read_or_refused_by_name(tmp_path_factory, edits, end):
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    np.savez(path, pixels=PIXELS, labels=LABELS)
    content = bytearray(path.read_bytes())
    for place, value in edits:
        content[place % len(content)] = value
    path.write_bytes(content[:end])
    try:
        images = load(path)
    except data.DataError as error:
        assert "damaged.npz: expected" in str(error) and str(error).isprintable()
    else:
        np.testing.assert_array_equal(images.pixels, PIXELS)
