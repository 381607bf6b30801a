"""Loss, batch statistics and gradient do not depend on the number of devices or processes that
share the batch.
"""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.training import layouts

ROOT = Path(__file__).resolve().parents[2]


def start(out, devices, *more):
    flags = {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
    }
    command = [sys.executable, "-m", "tests.training.layouts", str(out), *map(str, more)]
    return subprocess.Popen(
        command, cwd=ROOT, env=os.environ | flags, stderr=subprocess.PIPE, text=True
    )


def finish(out, *children):
    errors = [child.communicate(timeout=600)[1] for child in children]
    assert not any(child.returncode for child in children), errors
    return read(out)


def run_here(out):
    """Run the program on the one device of this process."""
    with jax.enable_x64(True):
        layouts.main(out)
    return read(out)


def read(out):
    with np.load(out / "numbers.npz") as arrays:
        return dict(arrays)


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def assert_same(numbers, reference, rtol=1e-6):
    for name in reference.keys() - {"devices", "processes"}:
        # a bias before a normalisation has a gradient of pure rounding error, and Adam scales this
        # to steps of any size
        scale = (
            1
            if name.startswith("trained")
            else np.abs(np.nan_to_num(reference[name])).max(initial=0)
        )
        np.testing.assert_allclose(
            numbers[name], reference[name], rtol=rtol, atol=rtol * scale + 1e-12, err_msg=name
        )


@pytest.mark.slow
def test_eight_devices_and_two_processes_compute_the_same_as_one_device(tmp_path):
    for name in ("one", "eight", "two", "resumed"):
        (tmp_path / name).mkdir()
    one = run_here(tmp_path / "one")
    eight = finish(tmp_path / "eight", start(tmp_path / "eight", 8))
    port = free_port()
    two = finish(tmp_path / "two", *(start(tmp_path / "two", 4, port, i) for i in range(2)))
    assert [int(each["devices"]) for each in (one, eight, two)] == [1, 8, 8]
    assert int(two["processes"]) == 2
    assert_same(eight, one)
    assert_same(two, one)
    # a checkpoint of two processes resumes, from half way, on one device
    shutil.copytree(tmp_path / "two" / "run", tmp_path / "resumed" / "run")
    shutil.rmtree(tmp_path / "resumed" / "run" / "checkpoints" / "step_6")
    resumed = run_here(tmp_path / "resumed")
    assert_same(resumed, {name: value for name, value in one.items() if name.startswith("trained")})
