"""The command line: its help, one-line errors and files, and numbers equal to the library's."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from stepwise import data, methods, problem, validity, views
from stepwise.cli import commands, main, train
from stepwise.training import runs

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (
    ["predict"],
    ["train"],
    ["entk"],
    ["align"],
    ["forecast"],
    ["watch"],
    ["figure"],
    ["data"],
    ["data", "show"],
    ["data", "fetch"],
)
FILES = {"summary.json", "arrays.npz", "config.json", "figure.png", "figure.pdf"}
SMALL = [
    "--n-images", "48", "--side", "8", "--blocks", "1", "--width", "4", "--head", "2",
    "--steps", "40",
    "--batch-size", "16", "--probe", "16", "--lr", "0.02", "--records", "20", "--snapshots", "2",
    "--no-forecast",
]  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "mine.npz"
    np.savez(path, pixels=data.load("photos", limit=80, size=24).pixels)
    return f"npz:{path}"


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    """A run and the folder of its results."""
    base = tmp_path_factory.mktemp("train")
    flags = ["--data", images, "--runs-dir", str(base / "runs"), "--out", str(base / "out"), *SMALL]
    with jax.enable_x64(False):
        assert main(["train", *flags]) == 0
    (run,) = (base / "runs").iterdir()
    return run, base, flags


@pytest.mark.parametrize("command", [[], *COMMANDS], ids=" ".join)
def test_help_describes_a_command(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert " ".join(["usage: stepwise", *command]) in text
    assert len(text) > 400


def test_the_help_of_train_names_the_group_and_the_defaults_in_words(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert "training options" in text and "(default: the method's)" in text
    assert "None" not in text and "''" not in text


def test_the_help_names_every_method_and_recipe(capsys):
    assert ", ".join(methods.METHODS) == commands.METHODS
    assert ", ".join(views.RECIPES) == commands.RECIPES
    for command in ("predict", "train", "entk", "align"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        text = capsys.readouterr().out
        assert set(views.RECIPES) <= set(re.findall(r"\w+", text))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "--data", "folder:/nowhere"], "/nowhere: expected a folder of images"),
        (["predict", "--recipe", "crop21"], "--recipe: expected one of crop20, small, "),
        (
            ["align", "--network", "nowhere.py:build", "--recipe", "crop21"],
            "--recipe: expected one of crop20, small, ",
        ),
        (["predict", "--side", "16"], "use --side 20 or more, or another --recipe"),
        (["predict", "--n-pairs", "1"], "--n-pairs: expected a whole number from 2, received 1"),
        (["predict", "--side", "0"], "--side: expected a positive integer or None, received 0"),
        (
            ["predict", "--n-pairs", "99999999"],
            "--n-pairs: expected at most 39316 photo patches",
        ),
        (["predict", "--data", "photo"], "--data: expected 'photos', "),
        (
            ["predict", "--start-scale", "-1"],
            "--start-scale: expected a positive number, received -1.0",
        ),
        (["train", "--batch-size", "0"], "--batch-size"),
        (
            ["train", "--n-images", "99999999"],
            "--n-images: expected at most 39316 photo patches",
        ),
        (["train", "--side", "1"], "--side: expected a whole number from 8, received 1"),
        (["train", "--lr", "-1"], "--lr: expected a positive number, received -1.0"),
        (["train", "--steps", "-5"], "--steps: expected a positive whole number, received -5"),
        (["align"], "--run-dir, --network: expected exactly one, received none"),
        (
            ["entk", "--run-dir", "nowhere"],
            "nowhere: expected the folder of a run, which contains config.json, received a path "
            "that does not exist",
        ),
        (
            ["entk", "--run-dir", "."],
            "expected the folder of a run, which contains config.json, received a folder without "
            "it",
        ),
        (
            ["entk", "--network", "nowhere.py:build"],
            "--network: expected an existing file in FILE.py:NAME",
        ),
        (
            ["align", "--network", "nowhere.py:build", "--resamples", "-1"],
            "--resamples: expected a whole number from 0",
        ),
        (["figure", "fig2", "--set", "colour=blue"], "expected FIELD=VALUE"),
        (["figure", "fig1", "--data", "photo"], "--data: expected 'photos', "),
        (["data", "show", "cifar11"], "name: expected 'photos', "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_error_is_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("stepwise ")
    assert "Traceback" not in error and error.count("\n") == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_images_that_do_not_fit_in_memory_are_a_one_line_error(monkeypatch, capsys):
    def load(*args, **kwargs):
        raise MemoryError("Unable to allocate 34.9 GiB")

    monkeypatch.setattr(data, "load", load)
    assert main(["predict"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "stepwise predict: out of memory; try fewer or smaller images: Unable to"
    )
    assert error.count("\n") == 1


def test_an_unknown_flag_is_rejected_without_a_traceback(capsys):
    with pytest.raises(SystemExit) as end:
        main(["predict", "--colour", "blue"])
    assert end.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_script_is_installed_and_prints_its_version():
    done = subprocess.run(
        [Path(sys.executable).parent / "stepwise", "--version"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stdout.startswith("stepwise 0.")


def test_a_prediction_equals_the_librarys(images, tmp_path, capsys):
    flags = [
        "--data",
        images,
        "--n-pairs",
        "60",
        "--side",
        "24",
        "--d",
        "3",
        "--out",
        str(tmp_path),
        "--lr",
        "0.001",
    ]
    assert main(["predict", *flags]) == 0
    assert {path.name for path in tmp_path.iterdir()} == FILES
    with jax.enable_x64(True):
        pixels = data.load(images, limit=60, size=24).pixels
        pair = views.positive_pairs(pixels, jax.random.key(1), "crop20")
        p = problem.from_views(*(np.asarray(view, np.float64) for view in pair))
        expected = validity.report(p, 3, start_scale=1e-6, lr=0.001)
    assert str(expected) in capsys.readouterr().out
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["numbers"]["validity"] == expected.summary()
    assert {"seconds", "versions", "device", "commit"} <= summary.keys()
    with np.load(tmp_path / "arrays.npz") as arrays:
        np.testing.assert_array_equal(arrays["gamma"], p.gamma)
        # the drawn closed form crosses one half at the reported step times
        rises = [np.interp(0.5, arrays["eigenvalues"][:, j], arrays["times"]) for j in range(3)]
    np.testing.assert_allclose(rises, expected.step_times, rtol=0.02)


def test_a_wide_networks_prediction_runs(images, tmp_path):
    flags = [
        "--data",
        images,
        "--n-pairs",
        "20",
        "--d",
        "2",
        "--model",
        "infinite_width",
        "--out",
        str(tmp_path),
    ]
    assert main(["predict", *flags]) == 0
    assert {path.name for path in tmp_path.iterdir()} == FILES


@pytest.mark.slow
def test_a_finished_training_is_loaded_and_not_repeated(trained, capsys):
    run, base, flags = trained
    (out,) = (base / "out").iterdir()
    assert out.name == run.name
    assert {path.name for path in out.iterdir()} == FILES
    before = (run / "log.jsonl").read_bytes()
    with jax.enable_x64(False):
        assert main(["train", *flags]) == 0
    assert (run / "log.jsonl").read_bytes() == before
    text = capsys.readouterr().out
    assert f"stepwise align --run-dir {run}" in text
    assert "finished after 40 steps" in text and "stopped" not in text
    config = json.loads((out / "config.json").read_text())
    assert config["steps"] == 40 and config["command"] == "train"


@pytest.mark.slow
def test_alignment_has_both_nulls_and_its_kernels_are_stored_with_the_run(
    trained, capsys, tmp_path
):
    run, _, _ = trained
    flags = [
        "--run-dir",
        str(run),
        "--n-pairs",
        "16",
        "--resamples",
        "10",
        "--out",
        str(tmp_path / "align"),
    ]
    with jax.enable_x64(False):
        assert main(["align", *flags]) == 0
        text = capsys.readouterr().out
        assert all(
            name in text
            for name in ("its eNTK", "eNTK, at the start", "pixel kernel", "random subspaces")
        )
        scores = json.loads((tmp_path / "align" / "summary.json").read_text())["numbers"]["scores"]
        assert all(0 <= score["alignment"] <= 1 for score in scores.values())
        assert (
            main(
                ["entk", "--run-dir", str(run), "--n-pairs", "16", "--out", str(tmp_path / "entk")]
            )
            == 0
        )
    with np.load(tmp_path / "entk" / "arrays.npz") as arrays:
        K = arrays["K"]
    (stored,) = (run / "entk").glob("step_40_*.npz")
    with np.load(stored) as arrays:
        np.testing.assert_array_equal(arrays["K"], K)
    assert {path.name for path in (tmp_path / "entk").iterdir()} == FILES


@pytest.mark.slow
def test_a_run_is_analysed_from_within_its_folder_without_training(
    trained, capsys, tmp_path, monkeypatch
):
    run, _, _ = trained
    monkeypatch.chdir(run)
    logs = set(run.rglob("log.jsonl"))
    # what a run leaves that was killed while writing a checkpoint; orbax removes it
    (run / "checkpoints" / "step_40.orbax-checkpoint-tmp").mkdir()
    with jax.enable_x64(False):
        flags = ["--n-pairs", "60", "--resamples", "2", "--d", "2"]
        assert main(["align", "--run-dir", ".", *flags, "--out", str(tmp_path)]) == 0
    assert set(run.rglob("log.jsonl")) == logs
    text = capsys.readouterr().out
    assert "step 40" in text and "only 48 of the 60 requested images are available" in text


@pytest.mark.slow
def test_a_step_without_a_network_and_changed_images_are_rejected(trained, capsys, tmp_path):
    run, _, _ = trained
    with jax.enable_x64(False):
        assert main(["entk", "--run-dir", str(run), "--step", "3", "--out", str(tmp_path)]) == 2
        assert (
            "--step: expected a step that the run saved, one of 0, 1, 40" in capsys.readouterr().err
        )
        path = run.parent.parent / "other" / run.name
        shutil.copytree(run, path)
        config = json.loads((run / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | {"data": "photos"}))
        assert main(["align", "--run-dir", str(path), "--out", str(tmp_path)]) == 2
        assert (
            "after its configuration and the images of photos, received another name"
            in capsys.readouterr().err
        )
    assert not list(tmp_path.iterdir())


NETWORK = """
import sys
import jax, jax.numpy as jnp, numpy as np
import beside
def build():
    params = {"w": jax.random.normal(jax.random.key(0), (108, 3)) / 10, "b": jnp.zeros(3)}
    return lambda p, x: jnp.tanh(x.reshape(len(x), -1) @ p["w"] + p["b"]), params
def wrong():
    return 3
def broken():
    raise RuntimeError("inside")
def other():
    apply, params = build()
    return apply, {"w": 2 * params["w"], "b": params["b"]}
def infinite():
    apply, params = build()
    return lambda p, x: apply(p, x) / 0.0, params
def alike():
    apply, params = build()
    return lambda p, x: apply(p, 0 * x), params
def leaving():
    sys.exit(0)
def swapped():
    return build()[::-1]
def not_jax():
    apply, params = build()
    return lambda p, x: jnp.asarray(np.asarray(apply(p, x))), params
number = 3
"""


def test_a_network_of_ones_own(tmp_path, images, capsys, monkeypatch):
    file = tmp_path / "net.py"
    file.write_text(NETWORK)
    (tmp_path / "beside.py").write_text("")
    monkeypatch.setattr(sys, "path", [*sys.path])
    flags = ["--data", images, "--side", "6", "--n-pairs", "20", "--out", str(tmp_path / "out")]
    with jax.enable_x64(False):
        assert main(["align", "--network", f"{file}:build", "--resamples", "5", *flags]) == 0
        assert "its eNTK" in capsys.readouterr().out
        # another network replaces the first one's kernel file
        assert main(["align", "--network", f"{file}:other", "--resamples", "0", *flags]) == 0
        output = capsys.readouterr().out
        assert "its eNTK" in output and "[" not in output and "nan" not in output
        assert main(["align", "--network", f"{file}:build", *flags, "--side", "7"]) == 2
        assert (
            "expected apply(params, x [40, 7, 7, 3]), received TypeError" in capsys.readouterr().err
        )
        for name, message in {
            "broken": "received RuntimeError: inside (line 11)",
            "leaving": "received SystemExit: 0 (line",
            "swapped": "expected (apply, params), where apply is a function, received dict",
            "not_jax": "expected a pure JAX function apply(params, x) of one view or more, "
            "received Tracer",
            "alike": "it has collapsed",
            "number": "expected a function number",
            "wrong": "expected a function that returns (apply, params)",
            "absent": "expected a function absent",
            "infinite": "expected finite embeddings",
        }.items():
            assert main(["align", "--network", f"{file}:{name}", *flags]) == 2
            assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_diverged_is_reported_and_not_analysed(images, tmp_path, capsys, monkeypatch):
    titles, draw = [], train._figure
    monkeypatch.setattr(train, "_figure", lambda *args: titles.append(args[-1]) or draw(*args))
    flags = [
        "--data",
        images,
        "--runs-dir",
        str(tmp_path / "runs"),
        "--out",
        str(tmp_path / "out"),
        *SMALL,
    ]
    with jax.enable_x64(False):
        assert main(["train", *flags, "--lr", "1e6"]) == 1
        printed = capsys.readouterr()
        assert "no modes learned\n" in printed.out and "finished" not in printed.out
        assert "diverged by step" in titles[0]
        assert (
            "diverged by step" in printed.err
            and "try --lr 2.5e+05" in printed.err
            and "next" not in printed.out
        )
        (run,) = (tmp_path / "runs").iterdir()
        assert main(["align", "--run-dir", str(run), "--out", str(tmp_path / "align")]) == 2
        assert (
            "expected a finished run of 40 steps, received one that ended at step"
            in capsys.readouterr().err
        )


def test_another_package_called_experiments_is_not_imported(tmp_path):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__init__.py").write_text(
        "raise RuntimeError('not to be imported')"
    )
    command = [sys.executable, "-m", "stepwise.cli", "figure", "fig2"]
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "within a clone of the repository" in done.stderr


def test_a_path_with_dollar_signs_is_drawn_and_missing_images_are_reported(tmp_path, capsys):
    name = r"a$\frac$"
    np.savez(tmp_path / f"{name}.npz", pixels=data.load("photos", limit=10, size=24).pixels)
    flags = ["--data", f"npz:{tmp_path / name}.npz", "--n-pairs", "20", "--d", "2", "--side", "24"]
    assert main(["predict", *flags, "--out", str(tmp_path / "out")]) == 0
    assert "only 10 of the 20 requested images are available" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES


def test_a_folder_that_cannot_be_written_to_is_rejected_before_anything_is_computed(
    images, tmp_path, capsys
):
    (tmp_path / "file").write_text("")
    assert main(["predict", "--data", images, "--out", str(tmp_path / "file" / "x")]) == 2
    assert "--out: expected a folder that can be written to" in capsys.readouterr().err


@pytest.mark.slow
def test_an_interrupted_training_ends_with_exit_code_130_and_a_checkpoint(images, tmp_path):
    flags = ["--data", images, *SMALL, "--steps", "4000", "--checkpoint-every", "20"]
    command = [sys.executable, "-m", "stepwise.cli", "train", *flags]
    first = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    limit = time.monotonic() + 300
    while not list(tmp_path.glob("runs/*/checkpoints/step_*")) and time.monotonic() < limit:
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    _, error = first.communicate(timeout=120)
    assert first.returncode == 130, error
    assert b"interrupted; run the same command to resume" in error and b"Traceback" not in error
    reached = max(int(path.name[5:]) for path in tmp_path.glob("runs/*/checkpoints/step_*"))
    assert 20 <= reached < 4000


def test_images_are_described(images, capsys):
    assert main(["data", "show", images]) == 0
    assert "80 images of 24 x 24 px, 3 channels" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_training_resumes_with_the_same_command(images, tmp_path):
    flags = [
        "--data",
        images,
        "--runs-dir",
        "runs",
        *SMALL,
        "--steps",
        "400",
        "--checkpoint-every",
        "20",
    ]
    command = [sys.executable, "-m", "stepwise.cli", "train", *flags]
    first = subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    )
    limit = time.monotonic() + 300
    while not list(tmp_path.glob("runs/*/checkpoints/step_*")) and time.monotonic() < limit:
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    (out,) = (tmp_path / "results/train").iterdir()
    config = runs.Config(
        data=images, n_images=48, side=8, blocks=(1,), width=4, head=(2,), steps=400, batch_size=16,
        probe=16, lr=0.02, records=20, snapshots=2, checkpoint_every=20,
    )  # fmt: skip
    with jax.enable_x64(False):
        whole = runs.train(config, root=tmp_path / "whole").trajectory
    with np.load(out / "arrays.npz") as arrays:
        np.testing.assert_array_equal(arrays["eigenvalues"], whole.eigenvalues)
    assert run.name == out.name
