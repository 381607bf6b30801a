"""Atomic writes, strict JSON, digests of data and of code, and locks."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stepwise import _files

ROOT = Path(__file__).resolve().parents[1]


def names(figure):
    return {
        str(path.relative_to(ROOT))
        for path in _files.imported_files(ROOT / "experiments" / figure, ROOT)
    }


def test_a_figure_needs_its_own_module_and_its_direct_and_indirect_imports():
    files = names("figures/fig6_hidden.py")
    assert {
        "experiments/figures/fig6_hidden.py",
        "experiments/figures/fig3_small_start.py",
        "experiments/shared/resnets.py",
    } <= files
    assert {
        "stepwise/training/runs.py",
        "stepwise/losses.py",
        "stepwise/models/resnet.py",
        "stepwise/__init__.py",
    } <= files


def test_a_figure_needs_no_other_figures_no_report_and_no_command_line():
    files = names("figures/fig2_symmetry.py")
    assert not [
        name
        for name in files
        if "/fig" in name and "fig2" not in name and "/figures/__init__" not in name
    ]
    assert not [
        name
        for name in files
        if name.startswith(("stepwise/cli", "experiments/report", "stepwise/losses"))
    ]


def test_the_hash_changes_with_the_imported_files_only(tmp_path):
    (tmp_path / "stepwise").mkdir()
    for name, text in {
        "__init__": "",
        "a": "from stepwise import b",
        "b": "X = 1",
        "c": "X = 1",
    }.items():
        (tmp_path / "stepwise" / f"{name}.py").write_text(text)
    figure = tmp_path / "fig.py"
    figure.write_text("def run():\n    import stepwise.a, numpy\n")
    before = _files.code_digest(figure, tmp_path)
    (tmp_path / "stepwise/c.py").write_text("X = 2")
    assert _files.code_digest(figure, tmp_path) == before
    (tmp_path / "stepwise/b.py").write_text("X = 2")
    assert _files.code_digest(figure, tmp_path) != before


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "sub" / "file.txt"
    with _files.replacing(path) as temporary:
        temporary.write_text("first")
        assert not path.exists()
    with pytest.raises(RuntimeError, match="killed"), _files.replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("killed")
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def test_json_is_strict_and_an_unsupported_value_leaves_no_file(tmp_path):
    content = {
        "a": np.array([1.5, np.nan]),
        2: (np.float32(0.5), np.inf),
        "p": Path("x"),
        "n": None,
    }
    _files.write_json(tmp_path / "a.json", content)
    read = json.loads((tmp_path / "a.json").read_text())
    assert read == {"a": [1.5, None], "2": [0.5, None], "p": "x", "n": None}
    with pytest.raises(TypeError):
        _files.write_json(tmp_path / "b.json", {"x": object()})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_digest_depends_on_bytes_alone(tmp_path):
    assert _files.digest("ab") == _files.digest(b"a", "b") == hashlib.sha256(b"ab").hexdigest()[:16]
    x = np.arange(6).reshape(2, 3)
    assert _files.digest(x[:, ::2]) == _files.digest(x[:, ::2].copy()) != _files.digest(x[:, 1:])


HOLDER = """
import sys, time
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from stepwise import _files
with _files.locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_excludes_other_processes_and_is_released_by_a_killed_one(tmp_path):
    lock = tmp_path / ".lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, lock], stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            assert other.stdout.readline() == "held\n"
            with (
                pytest.raises(BlockingIOError, match="another process"),
                _files.locked(lock, wait=False),
            ):
                pass
        finally:
            other.kill()
    with _files.locked(lock, wait=False):
        pass
