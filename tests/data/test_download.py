import signal
import subprocess
import sys
import tarfile
import threading

import pytest

from stepwise import data
from stepwise.data import binary
from tests.data import layouts

FOLDER = "cifar-10-batches-bin"
LOCK = f".{FOLDER}.lock"
FILES = layouts.cifar_files(each=40)
ARCHIVE = layouts.packed(FOLDER, FILES | {"readme.html": b"not wanted"})


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STEPWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache"


def left(folder):
    return {path.name for path in folder.iterdir()} - {LOCK}


def link(name, target, kind=tarfile.SYMTYPE):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def device(name):
    member = tarfile.TarInfo(name)
    member.type = tarfile.CHRTYPE
    return member


def test_the_official_urls_and_checksums_are_unchanged():
    assert binary.CIFAR10.url == "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    assert binary.CIFAR10.md5 == "c32a1d4ab5d03f1284b67883e8d87530"
    assert binary.STL10.url == "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz"
    assert binary.STL10.md5 == "91f7769df0f17e558f3565bffb0c7dfb"


def test_a_download_is_unpacked_once_and_leaves_only_the_files(cache, monkeypatch):
    with layouts.serving(ARCHIVE) as server:
        layouts.claim(monkeypatch, ARCHIVE, url=server.url)
        assert len(data.load("cifar10")) == 200
        assert len(data.load("cifar10", split="test")) == 40
        assert server.requests == 1
    assert left(cache) == {FOLDER}
    assert {path.name: path.read_bytes() for path in (cache / FOLDER).iterdir()} == FILES


def test_stl_is_downloaded_the_same_way(cache, monkeypatch):
    body = layouts.packed("stl10_binary", layouts.stl_files())
    with layouts.serving(body) as server:
        layouts.claim(monkeypatch, body, "STL10", url=server.url)
        assert len(data.load("stl10", split="unlabeled")) == 4


def test_a_wrong_checksum_is_refused_and_leaves_nothing(cache, monkeypatch):
    with layouts.serving(ARCHIVE) as server:
        official = layouts.claim(monkeypatch, b"another", url=server.url)
        expected = f"expected an archive of MD5 {official.md5}"
        match = f"{server.url}: {expected}, received an error: .*does not match"
        with pytest.raises(data.DataError, match=match):
            data.load("cifar10")
    assert left(cache) == set()


def test_an_unreachable_server_raises_one_clear_error(cache, monkeypatch):
    with layouts.serving(ARCHIVE) as server:
        url = server.url
    layouts.claim(monkeypatch, ARCHIVE, url=url)
    with pytest.raises(
        data.DataError, match=f"{url}: expected an archive of MD5 .* received an error: "
    ):
        data.load("cifar10")
    assert left(cache) == set()


def test_a_connection_cut_half_way_leaves_nothing_and_the_next_call_recovers(cache, monkeypatch):
    with layouts.serving(ARCHIVE) as server:
        layouts.claim(monkeypatch, ARCHIVE, url=server.url)
        server.stop = len(ARCHIVE) // 2
        with pytest.raises(data.DataError, match=f"{server.url}: expected an archive of MD5"):
            data.load("cifar10")
        assert left(cache) == set()
        server.stop = None
        assert len(data.load("cifar10")) == 200


def test_after_a_process_killed_half_way_the_next_call_recovers(cache, monkeypatch):
    with layouts.serving(ARCHIVE) as server:
        archive = layouts.claim(monkeypatch, ARCHIVE, url=server.url)
        server.stop, server.wait = len(ARCHIVE) // 2, True
        program = (
            "from stepwise.data import binary, load; from stepwise.data.download import Archive; "
            f"binary.CIFAR10 = {archive!r}; load('cifar10')"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program], stderr=subprocess.DEVNULL
        ) as process:
            assert server.half_sent.wait(30)
            process.send_signal(signal.SIGKILL)
        assert left(cache) == {f".{FOLDER}.partial"}
        server.stop, server.wait = None, False
        assert len(data.load("cifar10")) == 200
    assert left(cache) == {FOLDER}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such lock")
def test_two_threads_loading_the_same_set_download_it_once(cache, monkeypatch):
    with layouts.serving(ARCHIVE) as server:
        layouts.claim(monkeypatch, ARCHIVE, url=server.url)
        server.stop, server.wait = len(ARCHIVE) // 2, True
        sizes = []
        both = [
            threading.Thread(target=lambda: sizes.append(len(data.load("cifar10"))))
            for _ in range(2)
        ]
        for thread in both:
            thread.start()
        assert server.half_sent.wait(30)
        server.let_go.set()
        for thread in both:
            thread.join()
        assert sizes == [200, 200] and server.requests == 1


def test_an_official_archive_in_the_root_is_verified_and_unpacked_there(tmp_path, monkeypatch):
    archive = layouts.claim(monkeypatch, ARCHIVE)
    (tmp_path / archive.filename).write_bytes(ARCHIVE)
    assert len(data.load("cifar10", root=tmp_path)) == 200
    assert left(tmp_path) == {archive.filename, FOLDER}


def test_an_archive_in_the_root_with_another_checksum_is_refused(tmp_path):
    (tmp_path / binary.CIFAR10.filename).write_bytes(ARCHIVE)
    match = rf"cifar-10-binary\.tar\.gz: expected MD5 {binary.CIFAR10.md5}, received [0-9a-f]{{32}}"
    with pytest.raises(data.DataError, match=match):
        data.load("cifar10", root=tmp_path)
    assert left(tmp_path) == {binary.CIFAR10.filename}


@pytest.mark.parametrize(
    ("member", "content", "received"),
    [
        (tarfile.TarInfo("../climbed"), b"x", r"a path '\.\./climbed' that leads out"),
        (tarfile.TarInfo(f"{FOLDER}/../../climbed"), b"x", "a path .* that leads out"),
        (tarfile.TarInfo("/tmp/climbed"), b"x", "a path '/tmp/climbed' that leads out"),
        (link(f"{FOLDER}/way", "../.."), b"", r"a link .*way' to '\.\./\.\.'"),
        (link(f"{FOLDER}/way", "/etc/passwd", tarfile.LNKTYPE), b"", "a link .* to '/etc/passwd'"),
        (device(f"{FOLDER}/null"), b"", "a device or pipe .*null'"),
    ],
)
def test_an_archive_member_outside_the_folder_is_refused_by_name(
    tmp_path, monkeypatch, member, content, received
):
    body = layouts.packed(FOLDER, FILES, (member, content))
    root = tmp_path / "a" / "root"
    archive = layouts.claim(monkeypatch, body)
    layouts.write(root, {archive.filename: body})
    expected = "plain files and folders inside the archive's own folder"
    with pytest.raises(
        data.DataError, match=rf"cifar-10-binary\.tar\.gz: expected {expected}, received {received}"
    ):
        data.load("cifar10", root=root)
    assert left(root) == {archive.filename}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["root"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (ARCHIVE[: len(ARCHIVE) // 2], "a complete .tar.gz archive, received an error: "),
        (b"no archive", "a complete .tar.gz archive, received an error: "),
        (
            layouts.packed(FOLDER, {"test_batch.bin": b""}),
            "the files .*data_batch_1.*, received an archive without them",
        ),
    ],
    ids=[
        "cut",
        "no archive",
        "without files",
    ],  # an archive contains the time, so its bytes make no stable id
)
def test_an_archive_that_is_cut_or_lacks_files_is_refused_and_leaves_nothing(
    tmp_path, monkeypatch, body, message
):
    archive = layouts.claim(monkeypatch, body)
    layouts.write(tmp_path, {archive.filename: body})
    with pytest.raises(data.DataError, match=f"expected {message}"):
        data.load("cifar10", root=tmp_path)
    assert left(tmp_path) == {archive.filename}
