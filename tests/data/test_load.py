import subprocess
import sys
import zipfile

import numpy as np
import pytest

from stepwise import data
from tests.data import layouts
from tests.data.samples import pictures


@pytest.mark.parametrize(
    "name", ["cifar", "", "folder:", "folder", "npz", "photos:here", "cifar10:"]
)
def test_an_unknown_name_is_refused_with_the_names_known(name):
    known = r"'photos', 'glyphs', 'cifar10', 'stl10', 'folder:PATH', 'pairs:PATH' or 'npz:PATH'"
    with pytest.raises(data.DataError, match=f"expected {known}, received '{name}'"):
        data.load(name)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("photos", "'train' or 'test'"),
        ("cifar10", "'train' or 'test'"),
        ("stl10", "'train' or 'test' or 'unlabeled'"),
        ("folder:x", "'train' or 'val' or 'test'"),
        ("npz:x", "'train'"),
    ],
)
def test_an_unknown_split_is_refused_with_the_splits_known(name, known):
    with pytest.raises(data.DataError, match=f"split of {name}: expected {known}, received 'all'"):
        data.load(name, split="all")


@pytest.mark.parametrize("argument", ["limit", "size"])
@pytest.mark.parametrize("value", [0, -3])
def test_limit_and_size_are_positive(argument, value):
    with pytest.raises(
        data.DataError, match=f"{argument}: expected a positive integer or None, received {value}"
    ):
        data.load("photos", **{argument: value})


@pytest.mark.parametrize("name", ["cifar10", "stl10"])
def test_a_root_without_the_set_is_missing_data_and_names_what_was_expected(tmp_path, name):
    with pytest.raises(
        data.MissingDataError, match=rf"{tmp_path}: expected .*\.tar\.gz, received none"
    ):
        data.load(name, root=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_a_relative_path_starts_at_the_root(tmp_path, kind):
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "absent")):
        data.load(f"{kind}:absent", root=tmp_path)


def test_size_resizes_the_images_of_the_subset(tmp_path):
    layouts.write(tmp_path, layouts.cifar_files())
    native = data.load("cifar10", root=tmp_path, limit=5)
    small = data.load("cifar10", root=tmp_path, limit=5, size=8)
    assert small.pixels.shape == (5, 8, 8, 3)
    np.testing.assert_array_equal(small.labels, native.labels)
    means = native.pixels.mean((1, 2)), small.pixels.mean((1, 2))
    np.testing.assert_allclose(*means, atol=8)


def test_a_path_without_its_prefix_is_refused_with_the_name_that_works(tmp_path):
    pictures(tmp_path / "images", 1)
    np.savez(tmp_path / "set.npz", pixels=np.zeros((1, 2, 2, 3), np.uint8))
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.write(tmp_path / "set.npz", "a")
    for name, line in {
        "images/": "pass 'folder:images/'",
        "images": "pass 'folder:images'",
        "Folder:images": "pass 'folder:images'",
        "folder": None,
        "set.npz": "pass 'npz:set.npz'",
        "set.zip": "run `unzip set.zip -d set`, and pass 'folder:set'",
        "images/im000.png": "pass the folder that holds it, 'folder:images'",
        "CIFAR-10": "pass 'cifar10'",
        "absent": None,
    }.items():
        with pytest.raises(data.DataError, match="name: expected 'photos', ") as error:
            data.load(name, root=tmp_path)
        assert str(error.value).endswith(line or f"received {name!r}")


def test_a_seed_is_a_whole_number(tmp_path):
    with pytest.raises(data.DataError, match="seed: expected a whole number from 0, received -1"):
        data.load(f"folder:{pictures(tmp_path, 2)}", limit=1, seed=-1)


def test_arguments_of_another_type_are_refused_by_name(tmp_path):
    """A separate process is used, because the test session checks argument types first."""
    code = """
import sys
from pathlib import Path
from stepwise import data
name = f"folder:{sys.argv[1]}"
for given in ({"skip_damaged": "no"}, {"split": None}, {"name": None}, {"name": Path(name[7:])}):
    try:
        data.load(**({"name": name} | given))
    except data.DataError as error:
        print(error)
"""
    command = [sys.executable, "-c", code, str(pictures(tmp_path, 2))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[:2] == [
        "skip_damaged: expected True or False, received 'no'",
        "split: expected a name, received None",
    ]
    assert lines[2].endswith("received None")
    assert lines[3].endswith(f"received PosixPath; pass 'folder:{tmp_path}'")
