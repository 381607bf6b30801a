"""Forecasts of a small network: during training, and of its saved networks afterwards."""

import json

import numpy as np
import pytest

from stepwise.cli import main

pytestmark = pytest.mark.xdist_group("forecast_run")

FLAGS = [
    "--n-images", "64", "--side", "16", "--blocks", "1", "1", "--width", "8", "--head", "3",
    "--steps", "160", "--batch-size", "32", "--probe", "64", "--lr", "0.02", "--records", "25",
    "--snapshots", "6",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    base = tmp_path_factory.mktemp("run")
    flags = [*FLAGS, "--runs-dir", str(base / "runs"), "--out", str(base / "out")]
    assert main(["train", *flags]) == 0
    (folder,) = (base / "runs").iterdir()
    return folder, base


def test_training_records_its_forecasts(run):
    folder, _ = run
    rows = [json.loads(line) for line in (folder / "callbacks.jsonl").read_text().splitlines()]
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [entry["step"] for entry in log]
    for row, entry in zip(rows, log, strict=True):
        assert row["learned"] == sum(value >= 0.5 for value in entry["eigenvalues"])
        if row["learned"] < 3 and "next_step" in row:
            assert row["step"] < row["next_low"] < row["next_step"] < row["next_high"]
    first = next(entry["step"] for entry in log if entry["eigenvalues"][0] >= 0.5)
    assert rows[0]["next_step"] == pytest.approx(first, rel=0.35)


def test_saved_networks_are_forecast_and_scored(run, capsys):
    folder, base = run
    capsys.readouterr()
    flags = ["--run-dir", str(folder), "--n-pairs", "64", "--out", str(base / "forecast")]
    assert main(["forecast", *flags]) == 0
    text = capsys.readouterr().out
    assert "0 modes learned; the next one is expected at step" in text
    summary = json.loads((base / "forecast" / "summary.json").read_text())["numbers"]
    names = {"step", "learned", "amplitude", "predicted", "low", "high", "actual", "extrapolated"}
    assert names <= set(summary["forecasts"][0])
    assert summary["forecasts"][0]["step"] == 0 and summary["counted"] >= 2
    assert summary["median_factor"] < 2
    assert (base / "forecast" / "figure.png").is_file()
    with np.load(base / "forecast" / "arrays.npz") as stored:
        assert stored["eigenvalues"].shape[1] == 3


def test_a_run_without_a_forecast_is_refused(run, tmp_path, capsys):
    folder, _ = run
    config = json.loads((folder / "config.json").read_text())
    for changes, message in (
        ({"snapshots": 0}, "--snapshots 29"),
        ({"optimiser": "adam"}, "sgd"),
        ({"method": "byol"}, "embeddings of two views alone"),
        ({"weight_decay": 0.1}, "weight_decay"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | changes))
        assert main(["forecast", "--run-dir", str(tmp_path), "--out", str(tmp_path / "o")]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.long
def test_another_loss_and_a_projector_are_forecast(tmp_path, capsys):
    base = ["--runs-dir", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    flags = [*FLAGS, "--method", "simclr", "--head", "8", "3", "--steps", "60", "--snapshots", "3"]
    assert main(["train", *flags, *base]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    flags = ["--run-dir", str(folder), "--n-pairs", "64", "--out", str(tmp_path / "forecast")]
    assert main(["forecast", *flags]) == 0
    summary = json.loads((tmp_path / "forecast" / "summary.json").read_text())["numbers"]
    entries = summary["forecasts"]
    assert len(entries) >= 3 and all(entry["level"] > 0 for entry in entries)
    assert all(entry["predicted"] or entry["reason"] for entry in entries)
    assert (tmp_path / "forecast" / "figure.png").is_file()
