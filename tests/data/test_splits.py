"""Splits under the names that common tools write, and questions where the layout is unclear."""

import pytest

from stepwise import data
from stepwise.data import splits
from tests.data.samples import pictures, split_folder


def load(path, **options):
    return data.load(f"folder:{path}", **options)


@pytest.mark.parametrize(
    "names",
    [
        ("train", "valid"),
        ("train", "validation"),
        ("Train", "Val"),
        ("TRAINING", "Validation"),
        ("train", "dev"),
        ("train_set", "val_set"),
        ("trainset", "valset"),
        ("train2017", "val2017"),
        ("seg_train", "seg_val"),
        ("my-train-images", "my-dev-images"),
    ],
)
def test_validation_images_are_not_trained_on(tmp_path, names):
    split_folder(tmp_path, *names)
    images = load(tmp_path)
    assert len(images) == 12 and images.class_names == ("cats", "dogs")
    assert len(load(tmp_path, split="val")) == 6
    assert len(load(tmp_path, split="validation")) == 6
    with pytest.raises(data.MissingDataError, match=f"received the splits .*{names[1]}"):
        load(tmp_path, split="test")


@pytest.mark.parametrize("name", ["test", "Testing", "eval", "evaluation", "test_set"])
def test_a_test_split_has_several_names(tmp_path, name):
    split_folder(tmp_path, "train", name)
    assert len(load(tmp_path, split="test")) == 6


@pytest.mark.parametrize(
    "names", [("bullet_train", "crash_test"), ("car", "train"), ("Val", "cat")]
)
def test_classes_whose_names_hold_such_words_stay_classes(tmp_path, names):
    for i, name in enumerate(names):
        pictures(tmp_path / name, 2, i)
    assert load(tmp_path).class_names == names


def test_an_only_split_beside_folders_without_images_is_a_split(tmp_path):
    pictures(tmp_path / "train" / "cats", 2)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "0.txt").write_text("0 0.5 0.5 1 1")
    results = pictures(tmp_path / "results" / "predict", 1)
    for name in ("config.json", "arrays.npz"):
        (results / name).write_text("")
    assert load(tmp_path).class_names == ("cats",)


def test_two_folders_of_one_split_are_a_question_that_a_name_answers(tmp_path):
    split_folder(tmp_path, "train", "Test", "eval", counts=(4, 3, 2))
    with pytest.raises(
        data.DataError, match="for the split 'test', received Test and eval; pass one of these"
    ):
        load(tmp_path, split="test")
    assert len(load(tmp_path, split="eval")) == 4
    (tmp_path / "Val").symlink_to("train")
    (tmp_path / "validation").symlink_to("train")
    assert len(load(tmp_path, split="val")) == 8  # two links to one folder are one folder


@pytest.mark.parametrize(
    "names",
    [
        ("train_1", "test_1", "train_2", "test_2"),
        ("trainA", "testA", "trainB", "testB"),
        ("train2014", "val2014", "train2017", "val2017"),
        ("train-clean", "test-clean", "train-dirty", "test-dirty", "val-dirty"),
    ],
)
def test_several_sets_of_splits_are_a_question(tmp_path, names):
    for i, name in enumerate(names):
        pictures(tmp_path / name, 2, i)
    received = f"received {names[0]} and {names[2]}; pass folder:.*/{names[0]}$"
    with pytest.raises(data.DataError, match=received):
        load(tmp_path)
    assert len(load(tmp_path / names[0])) == 2


def test_a_plain_name_is_chosen_among_several_sets_of_splits(tmp_path):
    for i, name in enumerate(("train", "test", "train_old", "test_old", "val_old")):
        pictures(tmp_path / name, 2 + i, i)
    assert len(load(tmp_path)) == 2


def test_unlabeled_images_are_no_class_beside_a_split(tmp_path):
    pictures(tmp_path / "train" / "cats", 2)
    pictures(tmp_path / "train" / "dogs", 2, 1)
    pictures(tmp_path / "unlabeled", 3, 2)
    assert load(tmp_path).class_names == ("cats", "dogs")


@pytest.mark.parametrize(
    ("images", "masks"),
    [("images", "masks"), ("train/Images", "train/Labels"), ("JPEGImages", "SegmentationClass")],
)
def test_masks_are_no_class_beside_their_images(tmp_path, images, masks):
    for i, name in enumerate((images, masks)):
        pictures(tmp_path / name, 2, i)
    with pytest.raises(data.DataError, match=f"images and their masks.*; pass folder:.*/{images}$"):
        load(tmp_path)
    assert len(load(tmp_path / images)) == 2


@pytest.mark.parametrize(
    ("folders", "way_out"),
    [
        (("images/train", "images/val"), "folder:.*/images$"),
        (("archive/set/Train", "archive/set/Test"), "folder:.*/archive/set$"),
        (("cats/train", "cats/test", "dogs/train", "dogs/test"), "folder:.*/cats$"),
    ],
)
def test_splits_below_the_top_are_not_mixed(tmp_path, folders, way_out):
    for i, name in enumerate(folders):
        pictures(tmp_path / name, 2, i)
    with pytest.raises(data.DataError, match=f"expected splits directly in the folder.*{way_out}"):
        load(tmp_path)


def test_a_split_beside_a_folder_with_the_same_classes_is_a_question(tmp_path):
    split_folder(tmp_path, "train", "unseen")
    with pytest.raises(
        data.DataError, match="received 'train' beside 'unseen', both with cats, dogs"
    ):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Training", ("train", "")),
        ("val2017", ("val", "2017")),
        ("testdata", ("test", "data")),
        ("training-set", ("train", "set")),
        ("trainer", None),
        ("trains", None),
        ("contest", None),
        ("train_val", None),
        ("validated", None),
    ],
)
def test_the_split_of_a_name(name, expected):
    assert splits.split_of(name) == expected
