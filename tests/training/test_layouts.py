"""Loss, batch statistics and gradient do not depend on how many devices or processes share the
batch.
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


def started(out, devices, *more):
    flags = {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
    }
    command = [sys.executable, "-m", "tests.training.layouts", str(out), *map(str, more)]
    return subprocess.Popen(
        command, cwd=ROOT, env=os.environ | flags, stderr=subprocess.PIPE, text=True
    )


def finished(out, *children):
    errors = [child.communicate(timeout=600)[1] for child in children]
    assert not any(child.returncode for child in children), errors
    return read(out)


def here(out):
    """On this process's one device."""
    with jax.enable_x64(True):
        layouts.main(out)
    return read(out)


def read(out):
    with np.load(out / "numbers.npz") as found:
        return dict(found)


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def same(found, reference, rtol=1e-6):
    for name in reference.keys() - {"devices", "processes"}:
        # Adam makes steps of any size of a gradient that is zero but for rounding, as a bias before
        # a normalisation has
        scale = (
            1
            if name.startswith("trained")
            else np.abs(np.nan_to_num(reference[name])).max(initial=0)
        )
        np.testing.assert_allclose(
            found[name], reference[name], rtol=rtol, atol=rtol * scale + 1e-12, err_msg=name
        )


@pytest.mark.slow
def test_eight_devices_and_two_processes_compute_what_one_device_does(tmp_path):
    for name in ("one", "eight", "two", "resumed"):
        (tmp_path / name).mkdir()
    one = here(tmp_path / "one")
    eight = finished(tmp_path / "eight", started(tmp_path / "eight", 8))
    port = free_port()
    two = finished(tmp_path / "two", *(started(tmp_path / "two", 4, port, i) for i in range(2)))
    assert [int(each["devices"]) for each in (one, eight, two)] == [1, 8, 8]
    assert int(two["processes"]) == 2
    same(eight, one)
    same(two, one)
    # a checkpoint of two processes goes on, from half way, on one device
    shutil.copytree(tmp_path / "two" / "run", tmp_path / "resumed" / "run")
    shutil.rmtree(tmp_path / "resumed" / "run" / "checkpoints" / "step_6")
    resumed = here(tmp_path / "resumed")
    same(resumed, {name: value for name, value in one.items() if name.startswith("trained")})
