"""`python -m benchmarks --quick` runs, and its rows appear in the table and in the file.

No test asserts a speed.
"""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import child, monitor, report, training
from stepwise.cli import main

ROOT = __file__.rsplit("/tests/", 1)[0]


def _run(*arguments, cwd=ROOT):
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=os.environ | {"PYTHONPATH": ROOT}
    )


@pytest.mark.slow
def test_each_pair_prints_its_rows_and_writes_them(tmp_path):
    output = tmp_path / "bench.json"
    done = _run(
        "setup", "kernels", "ensemble", "closed_form", "flow", "--quick", "--output", str(output)
    )
    assert done.returncode == 0, done.stderr
    assert report.HEAD in done.stdout
    content = json.loads(output.read_text())
    words = Counter(row["name"].split()[0] for row in content["rows"])
    assert content["quick"] and words == {
        "setup": 3,
        "kernel": 5,
        "ensemble": 2,
        "closed": 1,
        "flow": 1,
    }
    for row in content["rows"]:
        assert f"| {row['name']}: {row['case']} |" in done.stdout
        assert row["ours_s"] > 0 and row["peer_s"] > 0 and row["ratio"] > 0


@pytest.mark.long
def test_training_has_its_rows_with_or_without_pytorch(tmp_path):
    output = tmp_path / "bench.json"
    done = _run("training", "--quick", "--output", str(output))
    assert done.returncode == 0, done.stderr
    torch, drawing = json.loads(output.read_text())["rows"]
    assert torch["name"] == "training" and torch["ours_s"] > 0
    assert drawing["name"] == "views" and drawing["ratio"] > 0
    if torch["peer_s"] is None:  # a row has a ratio only if both sides compute the same
        assert "no peer: " in torch["note"] and torch["ratio"] is None
        assert (
            not (Path(ROOT) / training.TORCH).is_file()
            or "No module named 'torch'" in torch["note"]
        )
    else:
        assert (
            torch["ratio"] > 0
            and "1454 parameters (peer 1454); in float64 agree to" in torch["note"]
        )


@pytest.mark.long
def test_the_monitor_has_rows_of_its_cost_and_of_a_run_in_pytorch(tmp_path):
    output = tmp_path / "bench.json"
    done = _run("monitor", "--quick", "--output", str(output))
    assert done.returncode == 0, done.stderr
    layers, embeddings, *runs = json.loads(output.read_text())["rows"]
    assert "8 features" in layers["case"] and "embeddings only" in embeddings["case"]
    assert layers["peer"] == "50 training steps" and layers["ratio"] > 0 < embeddings["ratio"]
    assert [row["case"] for row in runs] == [
        f"8 pairs, 20 steps in {dtype}" for dtype in ("float32", "float64")
    ]
    for row in runs:  # the reports are compared, and a note says how well they agree
        expected = "no peer: " if row["peer_s"] is None else "3 forecasts agree to "
        assert expected in row["note"]
        assert row["peer_s"] is None or "sensitivity agrees to " in row["note"]


@pytest.mark.long
@pytest.mark.skipif(not (Path(ROOT) / training.TORCH).is_file(), reason="PyTorch is not here")
def test_the_pytorch_example_logs_files_that_watch_reads(tmp_path, capsys):
    command = [str(Path(ROOT) / training.TORCH), "-m", "benchmarks.torch_monitor"]
    done = subprocess.run(
        [*command, str(tmp_path / "run"), "--steps", "50"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "step_0.npz",
        "step_50.npz",
    ]
    options = ["--lr", "0.002", "--momentum", "0.9", "--batch-size", "128", "--once"]
    assert main(["watch", str(tmp_path / "run"), *options]) == 0
    printed = capsys.readouterr().out
    assert "step 0, loss 10: 0 of 10 modes learned" in printed and "step 50, loss" in printed


def test_the_pytorch_code_of_the_documentation_is_that_of_the_example():
    page = (Path(ROOT) / "docs" / "stuck.md").read_text()
    example = (Path(ROOT) / "benchmarks" / "torch_monitor.py").read_text()
    example = example.replace("  # type: ignore[no-untyped-def]", "")
    for name in ("log_arrays", "sample", "sensitivity"):
        (code,) = re.findall(rf"^def {name}\(.*?(?=\n\n|\n```)", page, flags=re.DOTALL | re.M)
        assert f"\n\n{code}\n" in example, name


def test_reports_are_compared_until_other_modes_are_learned():
    def reports(*learned, step=40.0):
        said = SimpleNamespace(coming=True, step=step, low=35.0, high=45.0)
        values = np.array([0.5, 0.1])
        return [
            SimpleNamespace(step=i, learned=k, eigenvalues=values, forecast=said)
            for i, k in learned
        ]

    ours = reports((0, 0), (10, 1), (20, 1))
    note = monitor._agreement(ours, ours)
    assert "in 3 of 3 reports; 3 forecasts agree to 0e+00 (step)" in note
    note = monitor._agreement(ours, reports((0, 0), (10, 1), (20, 2), step=41.0))
    assert "in 2 of 3 reports; other modes from step 20 on; 2 forecasts agree to 3e-02" in note
    with pytest.raises(RuntimeError, match="other modes are learned at step 10"):
        monitor._agreement(ours, reports((0, 0), (10, 2), (20, 2)))


@pytest.mark.long
def test_the_empirical_ntk_has_rows_of_peers_growth_and_estimates(tmp_path):
    output = tmp_path / "entk.json"
    done = _run("entk", "--quick", "--output", str(output), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    batch, torch, growth, large, sketch = json.loads(output.read_text())["rows"]
    assert (
        batch["peer"] == "nt.batch, b = 1"
        and batch["ratio"] > 0
        and "kernels agree to" in batch["note"]
    )
    assert (
        ("no peer: " in torch["note"])
        if torch["peer_s"] is None
        else ("kernels agree to" in torch["note"])
    )
    assert "GF/s" in growth["note"] and "exact" in large["case"]
    assert "stated" in sketch["note"] and sketch["ratio"] > 0
    assert (tmp_path / "results/bench/entk.png").is_file()


def test_a_peer_that_computes_something_else_is_an_error():
    ours = {"loss": 2.0, "gradient": 3.0, "losses": 1.9, "parameters": 10}
    theirs = ours | {"version": "2"}

    def note(**other):
        return training._agreement(
            child.Outcome(1, arrays=ours), child.Outcome(1, arrays=theirs | other)
        )

    assert "10 parameters (peer 10)" in note() and "agree to 1e-10 (loss)" in note(loss=2 + 2e-10)
    for other in ({"parameters": 11}, {"gradient": 3.001}, {"losses": float("nan")}):
        with pytest.raises(RuntimeError, match="not the same computation"):
            note(**other)


def test_a_side_runs_in_its_own_process_within_its_limit():
    done = child.run("setup:ours", 60, 12, 3)
    assert done.arrays["gamma"].shape == (3,) and 0 < done.seconds < 60 and not done.late
    assert child.run("setup:ours", 60, 12, 3, limit=0.1).late
    with pytest.raises(
        RuntimeError, match=r"setup:ours.*exit status 1(.|\n)*modes: expected a whole number"
    ):
        child.run("setup:ours", 60, 12, 0)


def test_a_missing_interpreter_is_an_error_that_names_it():
    with pytest.raises(FileNotFoundError, match="no/such/python"):
        child.run("setup:ours", 60, 12, 3, python=Path("no/such/python"))


def test_a_row_without_its_peer_has_no_ratio():
    row = report.Row(
        "training", "d=1", "PyTorch", 0.5, 1.0, 2.0, None, 0.0, 2, note="no peer: not here"
    )
    assert row.ratio is None
    assert (
        report.line(row)
        == "| training: d=1 | 500 ms | 1 s | 2 MB | PyTorch | none |  |  |  | no peer: not here |"
    )


def test_an_unknown_name_is_rejected_by_name():
    done = _run("flwo", "--quick")
    assert done.returncode == 2 and "flwo" in done.stderr and "closed_form" in done.stderr


def test_a_peer_stopped_at_its_limit_gives_a_lower_bound():
    row = report.Row("flow", "d=1", "peer", 0.5, 1.0, 2.0, 60.0, 0.0, 100, bound=True)
    assert row.ratio == 120
    assert "**> 120x**" in report.line(row) and "100x met" in report.line(row)
    row = report.Row("flow", "d=1", "peer", 1.0, 1.0, 2.0, 60.0, 0.0, 100, bound=True)
    assert "**> 60x**" in report.line(row) and "100x open" in report.line(row)
