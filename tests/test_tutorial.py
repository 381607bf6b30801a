"""The tutorial runs from its first line to its last, at smoke size."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "docs" / "tutorial.py"), "--smoke"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for said in (
        "step time",
        "modes learned",
        "eNTK, trained",
        "pixel kernel",
        "the kernel turned by",
        "RankMe",
    ):
        assert said in done.stdout
    assert {path.name for path in (tmp_path / "results" / "tutorial").glob("*.png")} == {
        "linear.png",
        "network.png",
    }
