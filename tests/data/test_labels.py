"""Labels of two splits meet by the names of their classes."""

import json
from dataclasses import replace

import numpy as np
import pytest

from stepwise import data
from stepwise.data import Images
from stepwise.training import runs
from tests.data.samples import coloured_splits, pictures

PIXELS = np.zeros((3, 4, 5, 3), np.uint8)


def images(names, labels=(0, 1, 1), source="here"):
    return Images(PIXELS, np.array(labels, np.int32), names, source)


def config(folder):
    return runs.Config(
        data=f"folder:{folder}", n_images=60, side=16, blocks=(1,), width=4, head=(2,), batch_size=8
    )


def test_a_test_split_without_the_first_class_is_classified_by_name(tmp_path):
    settings = config(coloured_splits(tmp_path / "set"))
    accuracies = runs.knn(settings, runs.encoder(settings), root=tmp_path, n_test=20)
    assert accuracies["pixels"] == accuracies["trained"] == 1.0
    again = runs.knn(settings, runs.encoder(settings), root=tmp_path, n_test=20)
    assert again == accuracies


def test_an_accuracy_that_was_stored_with_labels_by_number_is_not_used(tmp_path):
    settings = config(coloured_splits(tmp_path / "set"))
    encoder = runs.encoder(settings)
    runs.knn(settings, encoder, root=tmp_path, n_test=20)
    (cache,) = tmp_path.glob("*/knn-20-20-*.json")
    former = cache.with_name(cache.name.replace("-names", ""))
    cache.unlink()
    former.write_text(json.dumps({"pixels": 0.0, "untrained": 0.0, "trained": 0.0}))
    assert runs.knn(settings, encoder, root=tmp_path, n_test=20)["pixels"] == 1.0


def test_a_class_that_training_lacks_never_counts_as_right(tmp_path):
    folder = coloured_splits(tmp_path / "set")
    (folder / "train" / "green").rename(tmp_path / "green")
    settings = replace(config(folder), n_images=40)
    accuracies = runs.knn(settings, runs.encoder(settings), root=tmp_path, n_test=20)
    assert accuracies["pixels"] == 0.5


def test_labels_are_indices_into_the_names_of_the_reference(caplog):
    train, test = images(("a", "b", "c")), images(("b", "c"))
    assert data.align_labels(test, train).tolist() == [1, 2, 2]
    assert not caplog.records
    assert data.align_labels(images(("c", "x")), train).tolist() == [2, 3, 3]
    assert "here: classes that here lacks: x" in caplog.text
    assert data.align_labels(train, train).tolist() == [0, 1, 1]


def test_as_many_classes_with_other_names_are_not_taken_for_each_other():
    train, test = images(("a", "b", "c"), (0, 1, 2)), images(("b", "c", "d"), (0, 1, 2))
    assert data.align_labels(test, train).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("test", "train", "message"),
    [
        (images(("cats", "dogs")), images(("Cats", "Dogs")), "names that also occur in here: Cats"),
        (
            images(("a", "a")),
            images(("a", "b")),
            r"a different name for each class, received \['a'\]",
        ),
        (
            Images(PIXELS, None, (), "flat"),
            images(("a", "b")),
            "labels of flat: expected one for each",
        ),
    ],
)
def test_labels_that_cannot_meet_are_refused(test, train, message):
    with pytest.raises(data.DataError, match=message):
        data.align_labels(test, train)


def test_archives_meet_by_name_too(tmp_path):
    pictures(tmp_path / "dogs", 2)
    pictures(tmp_path / "cats", 1, 3)
    folder = data.load(f"folder:{tmp_path}")
    names = np.array(["dogs", "cats"])
    np.savez(tmp_path / "a.npz", pixels=PIXELS, labels=[0, 1, 0], class_names=names)
    archive = data.load(f"npz:{tmp_path}/a.npz")
    assert data.align_labels(archive, folder).tolist() == [1, 0, 1]
