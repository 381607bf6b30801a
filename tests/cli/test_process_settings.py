"""The commands work whatever the settings of the process: strict JAX, streams in ASCII."""

import os
import subprocess
import sys

import pytest

TRAIN = [
    "--n-images", "32", "--side", "8", "--blocks", "1", "--width", "4", "--head", "2",
    "--steps", "4", "--batch-size", "16", "--probe", "16", "--lr", "0.02", "--records", "3",
    "--snapshots", "0",
]  # fmt: skip
COMMANDS = {
    "predict": ["predict", "--data", "photos", "--n-pairs", "32"],
    "train": ["train", "--data", "photos", *TRAIN],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_runs_where_implicit_broadcasting_is_an_error(name, tmp_path):
    environment = os.environ | {"JAX_NUMPY_RANK_PROMOTION": "raise"}
    command = [sys.executable, "-m", "stepwise.cli", *COMMANDS[name], "--out", str(tmp_path / name)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_devices_that_are_not_here_are_one_line():
    environment = os.environ | {"JAX_PLATFORMS": "quantum"}
    command = [sys.executable, "-m", "stepwise.cli", *COMMANDS["predict"]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith("(cpu is always one), received 'quantum'")


def test_characters_that_the_terminal_lacks_are_escaped(tmp_path):
    command = [sys.executable, "-m", "stepwise.cli", *COMMANDS["predict"]]
    for encoding, escaped in (("ascii", b"\\u03b3 ="), ("utf-8", "γ =".encode())):
        environment = os.environ | {"PYTHONIOENCODING": encoding}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert escaped in done.stdout


@pytest.mark.parametrize("arguments", ["--version", "data show photos"])
def test_an_output_that_is_closed_or_full_gives_no_traceback(arguments):
    """A full device is an error in words; the results of a command do not need the output."""
    command = f"{sys.executable} -m stepwise.cli {arguments}"
    for target, code in ((">&-", 0), ("> /dev/full", 2)):
        done = subprocess.run(["sh", "-c", f"{command} {target}"], capture_output=True, text=True)
        assert done.returncode == code and "Traceback" not in done.stderr
    assert done.stderr.endswith(": the output: No space left on device\n")
