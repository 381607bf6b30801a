import mmap
import tracemalloc

import numpy as np
import pytest

from stepwise import data
from tests.data import layouts


def is_mapped(array):
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array, mmap.mmap)


@pytest.fixture
def cifar(tmp_path):
    return layouts.write(tmp_path / "cifar-10-batches-bin", layouts.cifar_files())


@pytest.fixture
def stl(tmp_path):
    return layouts.write(tmp_path / "stl10_binary", layouts.stl_files())


def test_a_cifar_record_is_a_label_then_red_green_and_blue_row_by_row(cifar):
    record = np.zeros(3073, np.uint8)
    record[0] = 7
    record[1 + 0 * 1024 + 2 * 32 + 5] = 11
    record[1 + 1 * 1024 + 31 * 32 + 0] = 22
    record[1 + 2 * 1024 + 0 * 32 + 31] = 33
    (cifar / "test_batch.bin").write_bytes(record.tobytes())
    images = data.load("cifar10", split="test", root=cifar)
    assert images.labels.tolist() == [7] and images.class_names[7] == "horse"
    expected = np.zeros((32, 32, 3), np.uint8)
    expected[2, 5] = 11, 0, 0
    expected[31, 0] = 0, 22, 0
    expected[0, 31] = 0, 0, 33
    np.testing.assert_array_equal(images.pixels[0], expected)


def test_cifar_train_is_the_five_files_in_order_and_a_limit_selects_rows_of_them(cifar):
    records = [
        np.frombuffer((cifar / name).read_bytes(), np.uint8).reshape(-1, 3073)
        for name in layouts.BATCHES
    ]
    records = np.concatenate(records)
    whole = data.load("cifar10", root=cifar.parent)
    np.testing.assert_array_equal(whole.labels, records[:, 0])
    np.testing.assert_array_equal(
        whole.pixels.transpose(0, 3, 1, 2).reshape(15, 3072), records[:, 1:]
    )
    few = data.load("cifar10", root=cifar.parent, limit=6, seed=1)
    rows = [np.flatnonzero((whole.pixels == image).all((1, 2, 3)))[0] for image in few.pixels]
    assert (np.diff(rows) > 0).all() and len(rows) == 6
    np.testing.assert_array_equal(few.labels, whole.labels[rows])


def test_an_stl_image_has_its_rows_and_columns_the_right_way_round(stl):
    # Column-major: the row index varies fastest within a channel. Each byte encodes its own row,
    # column or channel.
    channel, column, row = np.indices((3, 96, 96))
    for name, code in (("row", row), ("column", column), ("channel", channel)):
        (stl / "unlabeled_X.bin").write_bytes(code.astype(np.uint8).tobytes())
        image = data.load("stl10", split="unlabeled", root=stl).pixels[0]
        axis = {"row": 0, "column": 1, "channel": 2}[name]
        np.testing.assert_array_equal(image, np.indices((96, 96, 3))[axis])


def test_stl_labels_count_from_zero_and_the_unlabeled_have_none(stl):
    images = data.load("stl10", split="test", root=stl.parent)
    assert images.labels.tolist() == [0, 1, 2, 3] and images.class_names == layouts.NAMES
    assert data.load("stl10", split="unlabeled", root=stl.parent).labels is None


def test_a_limit_selects_images_with_their_labels(stl):
    whole, few = (data.load("stl10", root=stl, limit=limit) for limit in (None, 2))
    np.testing.assert_array_equal(few.pixels, whole.pixels[few.labels])


@pytest.mark.parametrize(
    ("name", "split"), [("cifar10", "test"), ("stl10", "train"), ("stl10", "unlabeled")]
)
def test_a_set_of_one_file_is_a_read_only_view_of_it(tmp_path, name, split):
    layouts.write(tmp_path, layouts.cifar_files() | layouts.stl_files())
    pixels = data.load(name, split=split, root=tmp_path).pixels
    assert is_mapped(pixels) and not pixels.flags.writeable


def test_a_subset_of_unlabeled_stl_at_full_size_reads_only_its_own_rows(stl):
    with (stl / "unlabeled_X.bin").open("r+b") as file:
        file.truncate(100_000 * 27648)  # a sparse file: its 2.7 GB use no disk space
        file.seek(99_999 * 27648)
        file.write(b"\xff" * 27648)
    tracemalloc.start()
    try:
        whole = data.load("stl10", split="unlabeled", root=stl)
        few = data.load("stl10", split="unlabeled", root=stl, limit=20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(whole) == 100_000 and (whole.pixels[-1] == 255).all() and not whole.pixels[-2].any()
    assert len(few) == 20
    assert peak < 5e6


@pytest.mark.parametrize("cut", [100, 3072])
def test_a_cifar_file_cut_short_is_refused_with_the_bytes_expected_and_received(cifar, cut):
    (cifar / "data_batch_2.bin").write_bytes(bytes(30_730_000 - cut))
    left = 3073 - cut
    expected = r"a whole number of 3,073-byte records \(officially 10,000 in 30,730,000 bytes\)"
    received = f"{30_730_000 - cut:,} bytes, 9,999 records and {left:,} bytes more"
    with pytest.raises(
        data.DataError, match=rf"data_batch_2\.bin: expected {expected}, received {received}"
    ):
        data.load("cifar10", root=cifar)


def test_a_cifar_file_with_fewer_records_than_the_longest_is_refused(cifar):
    (cifar / "data_batch_2.bin").write_bytes(bytes(2 * 3073))
    with pytest.raises(
        data.DataError, match=r"data_batch_2\.bin: expected 3 records of 3,073 bytes.* received 2"
    ):
        data.load("cifar10", root=cifar, limit=1)


def test_an_empty_file_is_refused(cifar):
    (cifar / "test_batch.bin").write_bytes(b"")
    with pytest.raises(data.DataError, match=r"test_batch\.bin: expected .* received 0 bytes"):
        data.load("cifar10", root=cifar, split="test")


def test_a_cifar_label_out_of_range_is_refused_by_file_and_record(cifar):
    content = bytearray((cifar / "data_batch_4.bin").read_bytes())
    content[2 * 3073] = 200
    (cifar / "data_batch_4.bin").write_bytes(content)
    with pytest.raises(
        data.DataError, match=r"data_batch_4\.bin: expected labels 0 to 9, received 200 in record 2"
    ):
        data.load("cifar10", root=cifar)


@pytest.mark.parametrize("label", [0, 11])
def test_an_stl_label_out_of_range_is_refused_by_file_and_record(stl, label):
    (stl / "train_y.bin").write_bytes(bytes([1, label, 3, 4]))
    match = rf"train_y\.bin: expected labels 1 to 10, received {label} in record 1"
    with pytest.raises(data.DataError, match=match):
        data.load("stl10", root=stl)


def test_stl_images_cut_at_a_record_no_longer_match_their_labels(stl):
    (stl / "train_X.bin").write_bytes(bytes(3 * 27648))
    match = r"train_y\.bin: expected 3 labels, one for each image of train_X\.bin, received 4"
    with pytest.raises(data.DataError, match=match):
        data.load("stl10", root=stl)


def test_stl_images_cut_within_a_record_are_refused(stl):
    (stl / "unlabeled_X.bin").write_bytes(bytes(2 * 27648 - 1))
    match = r"unlabeled_X\.bin: expected .*100,000 in 2,764,800,000 bytes\), received 55,295 bytes"
    with pytest.raises(data.DataError, match=match):
        data.load("stl10", root=stl, split="unlabeled")


@pytest.mark.parametrize("name", ["data_batch_3.bin", "batches.meta.txt"])
def test_a_missing_file_is_named(cifar, name):
    (cifar / name).unlink()
    for received in ("a path that does not exist", "a folder"):
        message = f"{cifar / name}: expected .* received {received}"
        with pytest.raises(data.MissingDataError, match=message):
            data.load("cifar10", root=cifar)
        (cifar / name).mkdir(exist_ok=True)


def test_another_number_of_class_names_is_refused(stl):
    (stl / "class_names.txt").write_text("cat\ndog\n")
    with pytest.raises(
        data.DataError, match=r"class_names\.txt: expected 10 class names.* received 2"
    ):
        data.load("stl10", root=stl)
