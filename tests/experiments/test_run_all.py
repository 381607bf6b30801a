"""All figures in one call: each is made whatever becomes of the others, and the end says what came
of them.
"""

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
    """Every figure writes a summary of two checks; what is asked for is kept, and codes can be
    set."""
    codes, asked = {}, []

    def main(argv):
        name = argv[0]
        asked.append(argv)
        folder = tmp_path / name / argv[argv.index("--preset") + 1]
        folder.mkdir(parents=True, exist_ok=True)
        code = codes.get(name, 0)
        checks = [{"name": "one", "passed": True}, {"name": "two", "passed": code == 0}]
        (folder / "summary.json").write_text(json.dumps({"checks": checks}))
        return code

    monkeypatch.setattr(run_one, "main", main)
    return codes, asked, tmp_path


def test_a_figure_that_fails_does_not_stop_the_others_and_is_named_at_the_end(faked, capsys):
    codes, asked, out = faked
    codes |= {"fig4": 1, "fig6": 1}
    assert run_all.main(["--out", str(out)]) == 1
    assert [argv[0] for argv in asked] == list(run_one.FIGURES)
    said = capsys.readouterr().out
    assert "[1 of 9] fig1: at most about" in said
    assert said.count("FAIL two") == 2
    assert said.count("2 of 2 checks passed") == 7


def test_a_smoke_run_passes_where_all_runs_and_fails_where_one_does_not(faked):
    codes, _, out = faked
    codes["fig6"] = 1
    assert run_all.main(["--preset", "smoke", "--out", str(out)]) == 0
    codes["fig2"] = 2
    assert run_all.main(["--preset", "smoke", "--out", str(out)]) == 2


def test_an_interrupted_figure_ends_it(faked):
    codes, asked, out = faked
    codes["fig2"] = 130
    assert run_all.main(["--out", str(out)]) == 130
    assert len(asked) == 2


def test_images_are_handed_to_those_that_read_them_and_some_can_be_chosen(faked):
    _, asked, out = faked
    assert run_all.main(["--out", str(out), "--data", "npz:a.npz", "--only", "fig2", "fig3"]) == 0
    assert [argv[0] for argv in asked] == ["fig2", "fig3"]
    assert all("npz:a.npz" in argv for argv in asked)


def test_an_unknown_figure_is_refused(faked, capsys):
    assert run_all.main(["--only", "fig99"]) == 2
    assert "expected some of fig1" in capsys.readouterr().err


@pytest.mark.parametrize("name", run_one.FIGURES)
def test_every_figure_says_in_one_line_what_it_is_and_what_it_costs(name):
    figure = run_one.module(name)
    title, empty, *_ = figure.__doc__.splitlines()
    assert title.endswith(".") and not empty
    assert figure.SECONDS.keys() == {"smoke", "laptop"} and min(figure.SECONDS.values()) > 0
    assert {"Claim", "Paper", "Command", "Expected"} <= header(figure.__doc__)[1].keys()


def test_a_new_figure_is_one_file(tmp_path, monkeypatch):
    """A file in the folder makes a name, an order, and a target of make."""
    for stem in ("fig1_a", "fig10_b", "fig2_c", "table1_d", "laws", "clip_towers", "__init__"):
        (tmp_path / f"{stem}.py").write_text('"""Title."""')
    found = arguments.figures_in(tmp_path)
    assert list(found) == ["fig1", "fig2", "fig10", "table1", "clip", "laws"]
    assert found["clip"] == "experiments.figures.clip_towers"


def test_make_has_a_target_for_each_figure():
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    targets = re.findall(r"^  make (\S+) ", said.stdout, flags=re.MULTILINE)
    assert set(run_one.FIGURES) <= set(targets)
