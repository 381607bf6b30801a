"""Which files of a folder are data: each real file once, and nothing that programs left there."""

import os
import shutil
import socket

import numpy as np
import pytest
from PIL import Image

from stepwise import data
from stepwise.data import tree
from tests.data.samples import pictures


def load(path, **options):
    return data.load(f"folder:{path}", **options)


def counts(images):
    return dict(zip(images.class_names, np.bincount(images.labels).tolist(), strict=True))


def test_a_link_up_does_not_repeat_the_folder(tmp_path):
    pictures(tmp_path / "set" / "cats", 5, 1)
    pictures(tmp_path / "set" / "dogs", 5, 2)
    (tmp_path / "set" / "cats" / "latest").symlink_to("..")
    assert counts(load(tmp_path / "set")) == {"cats": 5, "dogs": 5}
    (tmp_path / "set" / "cats" / "latest").unlink()
    # a link to a folder above the set would bring in its neighbours
    pictures(tmp_path / "other", 3, 3)
    (tmp_path / "set" / "dogs" / "home").symlink_to("../..")
    images = load(tmp_path / "set")
    assert counts(images) == {"cats": 5, "dogs": 5}
    assert images.notes == ("left out: links to what is read already (1)",)


@pytest.mark.parametrize("name", ["main", "zz"])
def test_an_alias_of_a_folder_counts_once_under_its_real_name(tmp_path, name):
    pictures(tmp_path / "main-v1", 5)
    (tmp_path / name).symlink_to("main-v1")
    assert counts(load(tmp_path)) == {"main-v1": 5}


def test_a_cycle_of_links_between_two_folders_ends(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        pictures(tmp_path / name, 2, ord(name))
        (tmp_path / name / "next").symlink_to(f"../{other}")
    (tmp_path / "loop").symlink_to("loop")
    assert counts(load(tmp_path)) == {"a": 2, "b": 2}
    assert tree.walk(tmp_path).skipped == {tree.REPEATED: 2, tree.BROKEN: 1}


def test_links_that_lead_elsewhere_are_read_once_in_their_own_class(tmp_path):
    store = pictures(tmp_path / "store", 4)
    for i, label in enumerate(("cats", "cats", "dogs", "dogs")):
        (tmp_path / "set" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / label / f"{i}.png").symlink_to(store / f"im00{i}.png")
    (tmp_path / "set" / "dogs" / "again.png").symlink_to("2.png")
    (tmp_path / "set" / "dogs" / "lost.png").symlink_to("absent.png")
    images = load(tmp_path / "set")
    assert counts(images) == {"cats": 2, "dogs": 2}
    assert "broken links (1)" in images.notes[0]


def test_two_names_of_one_file_count_once(tmp_path):
    pictures(tmp_path / "cats", 3)
    (tmp_path / "backup").mkdir()
    for file in (tmp_path / "cats").iterdir():
        os.link(file, tmp_path / "backup" / file.name)
    assert len(load(tmp_path)) == 3
    # equal files are not the same file
    shutil.copytree(tmp_path / "cats", tmp_path / "copy")
    assert len(load(tmp_path)) == 6


def test_a_split_may_consist_of_links_into_another(tmp_path):
    pictures(tmp_path / "train", 4)
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "0.png").symlink_to("../train/im000.png")
    assert len(load(tmp_path, split="val")) == 1 and len(load(tmp_path)) == 4


def test_hidden_files_and_those_of_other_programs_are_left_out(tmp_path):
    pictures(tmp_path / "cats", 2)
    for place in (
        ".thumbnails",
        "__MACOSX/cats",
        "cats/@eaDir/im000.png",
        "cats/.ipynb_checkpoints",
        "$RECYCLE.BIN",
        "System Volume Information",
        "#recycle",
    ):
        pictures(tmp_path / place, 1, 7)
    Image.new("RGB", (40, 40)).save(tmp_path / "cats" / "._im000.png")
    for name in ("Thumbs.db", "ehthumbs.db", ".DS_Store", "desktop.ini"):
        Image.new("RGB", (40, 40)).save(tmp_path / "cats" / name, "JPEG")
    images = load(tmp_path)
    assert counts(images) == {"cats": 2} and images.notes == ()


@pytest.mark.parametrize(
    "names", [("config.json", "arrays.npz", "summary.json"), ("config.json", "arrays.npz")]
)
def test_results_of_this_package_are_no_data(tmp_path, names):
    pictures(tmp_path, 3)
    folder = pictures(tmp_path / "results" / "predict", 1)
    for name in names:
        (folder / name).write_text("{}")
    run = pictures(tmp_path / "runs" / "0123", 1)
    for name in ("config.json", "log.jsonl"):
        (run / name).write_text("{}")
    (run / "checkpoints").mkdir()
    images = load(tmp_path)
    assert len(images) == 3 and images.labels is None
    assert str(data.describe(f"folder:{tmp_path}")).endswith(
        "3 read, 2 skipped: results of stepwise (2)"
    )
    with pytest.raises(data.MissingDataError, match=r"left out: results of stepwise \(1\)"):
        load(folder)


def test_the_checkpoints_of_another_program_do_not_hide_the_images_beside_them(tmp_path):
    pictures(tmp_path / "cats", 2)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text("{}")
    assert counts(load(tmp_path)) == {"cats": 2}


def test_pipes_and_sockets_are_not_opened(tmp_path):
    pictures(tmp_path, 2)
    os.mkfifo(tmp_path / "camera.png")
    place = os.open(tmp_path, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{place}/live.jpg")
        os.close(place)
        images = load(tmp_path)
    assert len(images) == 2
    assert images.notes == ("left out: neither files nor folders (2)",)


def test_all_unreadable_folders_are_named_at_once_or_skipped(tmp_path, monkeypatch):
    for name in ("cats", "dogs", "emus"):
        pictures(tmp_path / name, 2, ord(name[0]))
    scan = os.scandir

    def scandir(path):
        if str(path).endswith(("cats", "emus")):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    match = r"received 2 that cannot: emus \(Permission denied\), cats \(Perm.*--skip-damaged"
    with pytest.raises(data.DataError, match=match):
        load(tmp_path)
    images = load(tmp_path, skip_damaged=True)
    assert counts(images) == {"dogs": 2}
    assert "folders that cannot be read (2)" in images.notes[0]


@pytest.mark.parametrize("name", [b"caf\xe9", b"a\nb\x1b[31m", "猫".encode()])
def test_any_file_name_works_and_messages_have_one_printable_line(tmp_path, name):
    folder = tmp_path / os.fsdecode(name)
    pictures(folder / os.fsdecode(name), 2)
    (folder / os.fsdecode(name) / os.fsdecode(name + b".png")).write_bytes(b"damaged")
    with pytest.raises(data.DataError, match="received an error") as error:
        load(folder)
    images = load(folder, skip_damaged=True)
    for text in (str(error.value), images.source, *images.class_names):
        assert text.isprintable() and text.encode()
    assert len(images) == 2
    assert str(data.describe(f"folder:{folder}", skip_damaged=True)).encode()
