"""Atomic writes, strict JSON, digests of data and of code, and locks."""

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwise import _files, _npz
from stepwise.problem import Problem, from_gram
from stepwise.trajectory import Result, Trajectory

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
        "stepwise/losses/__init__.py",
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


def saved_problem(path):
    from_gram(np.eye(4, dtype=np.float32)).save(path)
    return Problem.load


def saved_trajectory(path):
    times, loss = np.arange(3.0), np.array([2.0, np.inf, np.nan])
    result = Result(np.array(2), np.array(1), "the rate")
    Trajectory(times, np.ones((3, 2)), loss, result, source="here", stats={"steps": 3}).save(path)
    return Trajectory.load


SAVED = {"problem": saved_problem, "trajectory": saved_trajectory}


def rewrite(path, change):
    """Replace members of an .npz by `change(name, content)`, with valid checksums."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, change(name, content))


@pytest.mark.parametrize("kind", SAVED)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"'descr': '<f4'", b"'descr': '|S4'"),
        (b"'descr': '<f8'", b"'descr': '|S8'"),
        (b"'descr': '<f4'", b"'descr': '<U1'"),
        (b"'descr': '<f8'", b"'descr': '<M8'"),
        (b"'descr': '<i8'", b"'descr': '|S8'"),
        (b"'descr': '<f4'", b"'descr': '|O4'"),
        (b"'descr': '<f8'", b"'descr': '|O8'"),
        (b"'descr': ", b"'descr  : "),
        (b"'fortran_order': ", b"(((((((((((((((('"),
        (b"'shape': (", b"''ape': ("),
        (b", 'shape'", b"        "),
    ],
)
def test_a_damaged_header_of_a_stored_array_is_refused_by_name(tmp_path, kind, old, new):
    path = tmp_path / "saved.npz"
    load = SAVED[kind](path)
    load(path)
    changed = []

    def change(name, content):
        if old in content and name != "header.npy":
            changed.append(name)
            return content.replace(old, new, 1)
        return content

    rewrite(path, change)
    if changed:
        with pytest.raises(ValueError, match=r"saved\.npz: .*expected") as error:
            load(path)
        assert "Value '" not in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["gamma", "features", "basis", "offset", "lowest"])
def test_a_stored_problem_must_be_finite(tmp_path, name, value):
    path = tmp_path / "p.npz"
    saved_problem(path)
    with np.load(path) as file:
        arrays = dict(file)
    arrays[name] = np.full_like(arrays[name], value)
    np.savez(path, **arrays)
    match = rf"p\.npz: {name}: expected finite numbers, received \d+ of \d+ not finite"
    with pytest.raises(ValueError, match=match):
        Problem.load(path)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("problem", "features"),
        ("problem", "offset"),
        ("problem", "lowest"),
        ("trajectory", "eigenvalues"),
        ("trajectory", "loss"),
    ],
)
def test_stored_arrays_must_fit_each_other(tmp_path, kind, name):
    path = tmp_path / "a.npz"
    load = SAVED[kind](path)
    with np.load(path) as file:
        arrays = dict(file)
    for wrong in (arrays[name][None], np.concatenate([np.atleast_1d(arrays[name])] * 2, axis=-1)):
        if kind == "trajectory" and wrong.shape[1:] == arrays[name].shape:
            continue  # as a batch of runs has it
        if kind == "trajectory" and name == "eigenvalues":
            wrong = arrays[name][:2]
        np.savez(path, **arrays | {name: wrong})
        with pytest.raises(ValueError, match=rf"a\.npz: {name}: expected real numbers \["):
            load(path)
    complex_numbers = arrays[name].astype(complex)
    np.savez(path, **arrays | {name: complex_numbers})
    with pytest.raises(ValueError, match=rf"a\.npz: {name}: expected real numbers .* complex128"):
        load(path)


def test_a_trajectory_that_diverged_is_loaded_as_it_was(tmp_path):
    load = saved_trajectory(tmp_path / "t.npz")
    np.testing.assert_array_equal(load(tmp_path / "t.npz").loss, [2, np.inf, np.nan])
    with np.load(tmp_path / "t.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "t.npz", **arrays | {"times": np.array([0, np.nan, 2])})
    with pytest.raises(ValueError, match="times: expected finite numbers, received 1 of 3"):
        load(tmp_path / "t.npz")


@pytest.mark.parametrize("kind", SAVED)
def test_a_header_without_an_entry_is_refused_by_name(tmp_path, kind):
    path = tmp_path / "a.npz"
    load = SAVED[kind](path)
    with np.load(path) as file:
        arrays = dict(file)
    about = json.loads(str(arrays.pop("header")))
    for key in ("center", "linear") if kind == "problem" else ("source", "cause"):
        rest = {name: value for name, value in about.items() if name != key}
        np.savez(path, header=json.dumps(rest), **arrays)
        with pytest.raises(ValueError, match=rf"a\.npz: .* without \['{key}'\]"):
            load(path)
    np.savez(path, header=json.dumps([about]), **arrays)
    with pytest.raises(ValueError, match="received something else"):
        load(path)


def test_members_that_are_no_arrays_are_refused_by_name(tmp_path):
    _npz.write(tmp_path / "a.npz", "K", {"a": np.ones(3)}, {})
    rewrite(tmp_path / "a.npz", lambda name, content: b"text" if name == "a.npy" else content)
    with pytest.raises(ValueError, match=r"a\.npz: a: expected an array, received another kind"):
        _npz.read(tmp_path / "a.npz", "K", ("a",))


@given(
    kind=st.sampled_from(sorted(SAVED)),
    member=st.integers(0, 20),
    edits=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=3),
)
def test_a_damaged_member_is_loaded_or_refused_by_name(tmp_path_factory, kind, member, edits):
    path = tmp_path_factory.getbasetemp() / "member.npz"
    load = SAVED[kind](path)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()

    def change(name, content):
        damaged = bytearray(content)
        for place, value in edits if name == names[member % len(names)] else ():
            damaged[place % len(damaged)] = value
        return bytes(damaged)

    rewrite(path, change)
    try:
        load(path)
    except ValueError as error:
        assert str(error).startswith(f"{path}: ")
