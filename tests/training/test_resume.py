"""A run that was killed, stopped or damaged resumes to the same bits."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optax
import pytest

from tests.training import small

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return small.numbers(small.run(tmp_path_factory.mktemp("reference")))


def start(folder, pause):
    command = [sys.executable, "-m", "tests.training.small", str(folder), str(pause)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def count_lines(folder):
    log = folder / "log.jsonl"
    return len(log.read_text().splitlines()) if log.is_file() else 0


def wait_for(child, folder, count):
    """Wait until the log has `count` lines; return whether the child still runs."""
    while child.poll() is None and count_lines(folder) < count:
        time.sleep(0.005)
    return child.poll() is None


def assert_same(numbers, reference):
    assert numbers.keys() == reference.keys()
    for name in reference:
        np.testing.assert_array_equal(numbers[name], reference[name], err_msg=name)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(reference, tmp_path):
    kills = 0
    for count in (2, 14, 21):
        child = start(tmp_path, 0.05)
        if wait_for(child, tmp_path, count):
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
        child.communicate()
    assert kills == 3
    newest = max(
        (tmp_path / "checkpoints").glob("step_*"), key=lambda path: int(path.name.split("_")[1])
    )
    manifest = newest / "state" / "manifest.ocdbt"
    manifest.write_bytes(manifest.read_bytes()[:20])
    child = start(tmp_path, 0)
    out, err = child.communicate()
    assert child.returncode == 0 and out.startswith("finished"), err
    assert f"{newest.name}: refused" in err
    with np.load(tmp_path / "numbers.npz") as arrays:
        assert_same(dict(arrays), reference)
    assert count_lines(tmp_path) == len(reference["times"])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_a_run_which_resumes_to_the_same_bits(number, reference, tmp_path):
    child = start(tmp_path, 0.05)
    assert wait_for(child, tmp_path, 8)
    child.send_signal(number)
    out, err = child.communicate()
    assert child.returncode == 0 and out.startswith("unfinished"), err
    count = int(out.split()[1])
    assert 8 <= count < 20
    with np.load(tmp_path / "numbers.npz") as arrays:
        np.testing.assert_array_equal(arrays["loss"], reference["loss"][:count])
    assert_same(small.numbers(small.run(tmp_path)), reference)


def test_the_folder_of_another_run_is_refused_and_unchanged(tmp_path):
    small.run(tmp_path, steps=4)
    before = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    with pytest.raises(
        ValueError, match=r"expected a checkpoint of this run, none is usable; .*'samples', 'times'"
    ):
        small.run(tmp_path, steps=6)
    with pytest.raises(ValueError, match=r"it differs in \['times'\]"):
        small.run(tmp_path, steps=4, lr=optax.warmup_cosine_decay_schedule(0.0, 0.02, 10, 120))
    assert before == sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
