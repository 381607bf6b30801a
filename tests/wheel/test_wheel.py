"""The wheel in its own environment: what it installs, what runs, and messages on missing extras.

`make test-wheel` builds the wheel, installs it with pip, and runs this file with this project's own
pytest. STEPWISE_WHEEL_PYTHON names the interpreter of the environment that has the wheel.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = os.environ.get("STEPWISE_WHEEL_PYTHON", "")
INSTALL = (ROOT / "docs" / "install.md").read_text()


def run(*command, cwd):
    """Run a program of the wheel's environment, without the clone on its path."""
    hidden = ("PYTHONPATH", "STEPWISE_WHEEL_PYTHON")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True
    )


def python(code, cwd):
    done = run(PYTHON, "-c", code, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def stepwise():
    assert PYTHON, "run this test with `make test-wheel`"
    return Path(PYTHON).with_name("stepwise")


def names(cwd):
    code = (
        "from importlib.metadata import distributions as d; print(*{x.name.lower() for x in d()})"
    )
    return set(python(code, cwd).split())


def test_the_wheel_installs_no_tensorflow_and_nothing_that_only_a_clone_needs(stepwise, tmp_path):
    installed = names(tmp_path)
    assert {"stepwise", "jax", "flax", "optax", "diffrax", "matplotlib"} <= installed
    foreign = {"tensorflow", "tf2jax", "neural-tangents", "pytest", "sphinx", "playwright"}
    assert not foreign & installed


def test_the_installed_package_has_types_and_the_version_of_the_project(stepwise, tmp_path):
    code = (
        "import stepwise, importlib.metadata as m, pathlib, json;"
        "print(json.dumps([stepwise.__file__, stepwise.__version__, m.version('stepwise'),"
        "(pathlib.Path(stepwise.__file__).parent / 'py.typed').is_file()]))"
    )
    file, version, metadata, typed = json.loads(python(code, tmp_path))
    assert "site-packages" in file and typed
    project = (ROOT / "pyproject.toml").read_text()
    assert version == metadata == re.search(r'^version = "(.*)"', project, flags=re.M)[1]
    assert run(stepwise, "--version", cwd=tmp_path).stdout == f"stepwise {version}\n"


def test_the_ten_lines_of_the_readme_run(stepwise, tmp_path):
    readme = (ROOT / "README.md").read_text()
    lines = re.search(r"```python\n(import jax\n.*?)```", readme, flags=re.S)[1]
    assert "modes learned" in python(lines, tmp_path)


def test_the_install_pages_commands_run(stepwise, tmp_path):
    commands = re.findall(r"^stepwise .*", INSTALL, flags=re.M)
    assert len(commands) >= 3
    for command in commands:
        done = run(stepwise, *command.split()[1:], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "results/predict/figure.png").is_file()


def test_a_small_network_trains_and_its_kernel_is_scored(stepwise, tmp_path):
    flags = (
        "--n-images 48 --side 8 --blocks 1 --width 4 --head 2 --steps 40 --batch-size 16 "
        "--probe 16 --lr 0.02 --records 20 --snapshots 2"
    )
    done = run(stepwise, "train", *flags.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    more = ["--run-dir", folder, "--n-pairs", "16", "--resamples", "10"]
    done = run(stepwise, "align", *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "its eNTK" in done.stdout


def test_the_message_of_figure_says_that_it_needs_a_clone(stepwise, tmp_path):
    for flags in ([], ["--preset", "smoke"]):
        done = run(stepwise, "figure", "fig1", *flags, cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert "a clone of the repository" in done.stderr


def test_infinite_width_names_the_command_that_installs_it_and_runs_afterwards(stepwise, tmp_path):
    wide = ["predict", "--model", "infinite_width", "--n-pairs", "20", "--side", "24", "--d", "2"]
    done = run(stepwise, *wide, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    (command,) = re.findall(r"^pip (install --no-deps .*)$", INSTALL, flags=re.M)
    assert f"pip {command}" in done.stderr  # message and page have the same command
    arguments = [part.strip('"') for part in command.split()]
    done = run(PYTHON, "-m", "pip", "--disable-pip-version-check", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = run(stepwise, *wide, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not {"tensorflow", "tf2jax"} & names(tmp_path)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-v"]))
