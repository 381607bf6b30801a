"""All figures in one call: each runs even if another one fails, and the end lists the outcomes."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from experiments import arguments, run_all, run_one
from experiments.report.entries import header

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def faked(monkeypatch, tmp_path):
    """Replace the figures by ones that write two checks and exit with a chosen code.

    Returns the exit codes by name, the calls, and the folder of the results.
    """
    codes, calls = {}, []

    def main(argv):
        name = argv[0]
        calls.append(argv)
        folder = tmp_path / name / argv[argv.index("--preset") + 1]
        folder.mkdir(parents=True, exist_ok=True)
        code = codes.get(name, 0)
        checks = [{"name": "one", "passed": True}, {"name": "two", "passed": code == 0}]
        (folder / "summary.json").write_text(json.dumps({"checks": checks}))
        return code

    monkeypatch.setattr(run_one, "main", main)
    return codes, calls, tmp_path


def test_a_figure_that_fails_does_not_stop_the_others_and_is_named_at_the_end(faked, capsys):
    codes, calls, out = faked
    codes |= {"fig4": 1, "fig6": 1}
    assert run_all.main(["--out", str(out)]) == 1
    assert [argv[0] for argv in calls] == list(run_one.FIGURES)
    printed = capsys.readouterr().out
    count = len(run_one.FIGURES)
    assert f"[1 of {count}] fig1: at most about" in printed
    assert printed.count("FAIL two") == 2
    assert printed.count("2 of 2 checks passed") == count - 2


def test_a_smoke_run_passes_unless_a_figure_has_an_error(faked):
    codes, _, out = faked
    codes["fig6"] = 1
    assert run_all.main(["--preset", "smoke", "--out", str(out)]) == 0
    codes["fig2"] = 2
    assert run_all.main(["--preset", "smoke", "--out", str(out)]) == 2


def test_an_interrupted_figure_ends_the_call(faked):
    codes, calls, out = faked
    codes["fig2"] = 130
    assert run_all.main(["--out", str(out)]) == 130
    assert len(calls) == 2


def test_images_are_passed_to_figures_and_figures_can_be_chosen(faked):
    _, calls, out = faked
    assert run_all.main(["--out", str(out), "--data", "npz:a.npz", "--only", "fig2", "fig3"]) == 0
    assert [argv[0] for argv in calls] == ["fig2", "fig3"]
    assert all("npz:a.npz" in argv for argv in calls)


def test_pictures_without_captions_are_not_passed_to_a_figure_that_needs_captions(faked):
    _, calls, out = faked
    for data, passed in (("folder:x", False), ("pairs:x", True)):
        assert run_all.main(["--out", str(out), "--data", data, "--only", "clip", "fig2"]) == 0
        assert [data in argv for argv in calls[-2:]] == [True, passed]


def test_an_unknown_figure_is_rejected(faked, capsys):
    assert run_all.main(["--only", "fig99"]) == 2
    assert "expected names among fig1" in capsys.readouterr().err


@pytest.mark.parametrize("name", run_one.FIGURES)
def test_every_figure_has_a_title_of_one_line_and_expected_times(name):
    figure = run_one.module(name)
    title, empty, *_ = figure.__doc__.splitlines()
    assert title.endswith(".") and not empty
    assert figure.SECONDS.keys() == {"smoke", "laptop"} and min(figure.SECONDS.values()) > 0
    assert {"Claim", "Paper", "Command", "Expected"} <= header(figure.__doc__)[1].keys()


def test_a_new_figure_is_one_file(tmp_path, monkeypatch):
    """Each file in the folder is a figure, and the figures are sorted."""
    for stem in ("fig1_a", "fig10_b", "fig2_c", "table1_d", "laws", "clip_towers", "__init__"):
        (tmp_path / f"{stem}.py").write_text('"""Title."""')
    modules = arguments.figures_in(tmp_path)
    assert list(modules) == ["fig1", "fig2", "fig10", "table1", "clip", "laws"]
    assert modules["clip"] == "experiments.figures.clip_towers"


def test_make_has_a_target_for_each_figure():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    targets = re.findall(r"^  make (\S+) ", done.stdout, flags=re.MULTILINE)
    assert set(run_one.FIGURES) <= set(targets)
