"""All figures in one call: each is made whatever becomes of the others, and the end says what came
of them.
"""

import json

import pytest

from experiments import figures, run


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

    monkeypatch.setattr(run, "main", main)
    return codes, asked, tmp_path


def test_a_figure_that_fails_does_not_stop_the_others_and_is_named_at_the_end(faked, capsys):
    codes, asked, out = faked
    codes |= {"fig4": 1, "fig6": 1}
    assert figures.main(["--out", str(out)]) == 1
    assert [argv[0] for argv in asked] == list(run.FIGURES)
    said = capsys.readouterr().out
    assert "[1 of 9] fig1: at most about" in said
    assert said.count("FAIL two") == 2
    assert said.count("2 of 2 checks passed") == 7


def test_a_smoke_run_passes_where_all_runs_and_fails_where_one_does_not(faked):
    codes, _, out = faked
    codes["fig6"] = 1
    assert figures.main(["--preset", "smoke", "--out", str(out)]) == 0
    codes["fig2"] = 2
    assert figures.main(["--preset", "smoke", "--out", str(out)]) == 2


def test_an_interrupted_figure_ends_it(faked):
    codes, asked, out = faked
    codes["fig2"] = 130
    assert figures.main(["--out", str(out)]) == 130
    assert len(asked) == 2


def test_images_are_handed_to_those_that_read_them_and_some_can_be_chosen(faked):
    _, asked, out = faked
    assert figures.main(["--out", str(out), "--data", "npz:a.npz", "--only", "fig2", "fig3"]) == 0
    assert [argv[0] for argv in asked] == ["fig2", "fig3"]
    assert all("npz:a.npz" in argv for argv in asked)


def test_an_unknown_figure_is_refused(faked, capsys):
    assert figures.main(["--only", "fig99"]) == 2
    assert "expected some of fig1" in capsys.readouterr().err


def test_every_figure_has_its_expected_time():
    for times in figures.SECONDS.values():
        assert times.keys() == run.FIGURES.keys()
