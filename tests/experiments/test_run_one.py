"""The runner writes results, rejects bad arguments, and only redraws what it has computed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.contract import Check
from experiments.figures import fig2_symmetry
from experiments.run_one import Arguments, configured, main
from experiments.shared import linear_model
from stepwise import plotting

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.xdist_group("fig2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    assert main(["fig2", "--preset", "smoke", "--out", str(out)]) == 0
    return out / "fig2" / "smoke"


def test_a_run_writes_numbers_arrays_settings_and_both_drawings(folder):
    files = {path.name for path in folder.iterdir()}
    assert files == {"summary.json", "arrays.npz", "config.json", "figure.png", "figure.pdf"}
    summary = json.loads((folder / "summary.json").read_text())
    assert {"checks", "seconds", "versions", "device", "commit", "numbers"} <= summary.keys()
    assert all(
        {"name", "value", "bound", "passed", "premise"} <= check.keys()
        for check in summary["checks"]
    )
    assert json.loads((folder / "config.json").read_text())["n_pairs"] == 100


def test_running_again_only_redraws(folder, capsys, monkeypatch):
    def compute(*_, **__):
        raise AssertionError("computed again")

    before = (folder / "arrays.npz").read_bytes()
    (folder / "figure.png").unlink()
    monkeypatch.setattr(fig2_symmetry, "run", compute)
    assert main(["fig2", "--preset", "smoke", "--out", str(folder.parents[1])]) == 0
    assert "drawing from" in capsys.readouterr().out
    assert (folder / "figure.png").stat().st_size > 10_000
    assert (folder / "arrays.npz").read_bytes() == before


def test_a_damaged_file_of_arrays_is_computed_again(folder, capsys):
    arrays = folder / "arrays.npz"
    arrays.write_bytes(arrays.read_bytes()[:1000])
    assert main(["fig2", "--preset", "smoke", "--out", str(folder.parents[1])]) == 0
    assert "drawing from" not in capsys.readouterr().out
    assert arrays.stat().st_size > 1000


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--set", "colour=blue"], "expected FIELD=VALUE with a field among"),
        (["--set", "angles"], "received 'angles'"),
        (
            ["--set", "angles=4", "--set", "records=20"],
            "--set: expected once, with all",
        ),
        (["--data", "folder:/nowhere/at/all"], "/nowhere/at/all"),
        (["--data", "cifar11"], "cifar11"),
        (["--redraw", "--set", "angles=12"], "--redraw"),
    ],
)
def test_a_bad_argument_is_one_line_and_exit_code_2(flags, message, capsys, tmp_path):
    assert main(["fig2", "--preset", "smoke", "--out", str(tmp_path), *flags]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
    assert list(tmp_path.iterdir()) == []


def test_any_field_of_the_config_can_be_set():
    arguments = Arguments(
        "fig1", set=("d=3", "scales=0.1,0.01", "x64=False", "center=per_view"), data="cifar10"
    )
    config = configured(linear_model, arguments)
    assert (config.d, config.scales, config.x64, config.center) == (
        3,
        (0.1, 0.01),
        False,
        "per_view",
    )
    assert config.data == "cifar10"
    assert config.n_pairs == linear_model.Config.laptop().n_pairs


def test_the_presets_differ_in_scale_only():
    smoke, laptop, paper = (
        getattr(linear_model.Config, name)() for name in ("smoke", "laptop", "paper")
    )
    assert smoke.n_pairs < laptop.n_pairs == paper.n_pairs == 500
    assert (laptop.d, laptop.start_scale) == (10, 1e-6)
    assert paper.data == "cifar10"
    assert max(smoke.lr_gamma, laptop.lr_gamma, paper.lr_gamma) <= 0.01


def test_a_killed_run_leaves_no_partial_file(tmp_path):
    command = [
        sys.executable,
        "-m",
        "experiments",
        "fig1",
        "--preset",
        "smoke",
        "--out",
        str(tmp_path),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_interrupted_run_stores_its_first_part_and_is_computed_again(
    tmp_path, monkeypatch, capsys
):
    def stopped(config, progress):
        yield fig2_symmetry.Result({"half": np.zeros(2)}, {"half": True})
        raise KeyboardInterrupt

    arguments = ["fig2", "--preset", "smoke", "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(fig2_symmetry, "run", stopped)
        patch.setattr(fig2_symmetry, "check", lambda result: [Check("half", 1, 1, "==")])
        patch.setattr(fig2_symmetry, "plot", lambda result: plotting.figure())
        assert main(arguments) == 130
    folder = tmp_path / "fig2" / "smoke"
    assert json.loads((folder / "summary.json").read_text())["numbers"] == {"half": True}
    assert "run the same command to resume" in capsys.readouterr().err
    assert main(arguments) == 0
    assert "drawing from" not in capsys.readouterr().out
    assert "half" not in json.loads((folder / "summary.json").read_text())["numbers"]


def test_other_images_at_the_same_path_are_computed_again(tmp_path, capsys):
    generator = np.random.default_rng(0)
    arguments = [
        "fig2",
        "--preset",
        "smoke",
        "--data",
        f"npz:{tmp_path / 'a.npz'}",
        "--out",
        str(tmp_path / "out"),
    ]
    redrawn = []
    for _ in range(2):
        pixels = generator.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
        np.savez(tmp_path / "a.npz", pixels=pixels)
        main([*arguments, "--set", "angles=4", "records=20"])
        redrawn.append("drawing from" in capsys.readouterr().out)
    assert redrawn == [False, False]
