"""`python -m benchmarks --quick` runs: rows appear in the table and in the file. Never a word on how fast."""

import json
import subprocess
import sys

import pytest

from benchmarks import child, report

ROOT = __file__.rsplit("/tests/", 1)[0]


def _run(*arguments):
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.slow
@pytest.mark.parametrize("name, rows", [("flow", 1), ("setup", 3), ("kernels", 5), ("ensemble", 2), ("closed_form", 1)])
def test_each_pair_prints_its_rows_and_writes_them(name, rows, tmp_path):
    output = tmp_path / "bench.json"
    done = _run(name, "--quick", "--output", str(output))
    assert done.returncode == 0, done.stderr
    assert report.HEAD in done.stdout
    found = json.loads(output.read_text())
    assert len(found["rows"]) == rows and found["quick"]
    for row in found["rows"]:
        assert f"| {row['name']}: {row['case']} |" in done.stdout
        assert row["ours_s"] > 0 and row["peer_s"] > 0 and row["ratio"] > 0


def test_a_side_runs_in_a_process_of_its_own_within_its_limit():
    done = child.run("setup:ours", 60, 12, 3)
    assert done.arrays["gamma"].shape == (3,) and 0 < done.seconds < 60 and not done.late
    assert child.run("setup:ours", 60, 12, 3, limit=0.1).late
    with pytest.raises(RuntimeError, match=r"setup:ours.*exit status 1(.|\n)*modes: expected a whole number"):
        child.run("setup:ours", 60, 12, 0)


def test_an_unknown_name_is_refused_by_name():
    done = _run("flwo", "--quick")
    assert done.returncode == 2 and "flwo" in done.stderr and "closed_form" in done.stderr


def test_a_peer_stopped_at_its_limit_gives_a_lower_bound():
    row = report.Row("flow", "d=1", "peer", 0.5, 1.0, 2.0, 60.0, 0.0, 100, bound=True)
    assert row.ratio == 120
    assert "**> 120x**" in report.line(row) and "100x met" in report.line(row)
    row = report.Row("flow", "d=1", "peer", 1.0, 1.0, 2.0, 60.0, 0.0, 100, bound=True)
    assert "**> 60x**" in report.line(row) and "100x open" in report.line(row)
