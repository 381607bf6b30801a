"""Which files a figure depends on: all that it imports, and nothing else."""

from pathlib import Path

from experiments import sources

ROOT = Path(__file__).resolve().parents[2]


def names(figure):
    return {str(path.relative_to(ROOT)) for path in sources.needed(ROOT / "experiments" / figure)}


def test_a_figure_needs_its_own_module_what_it_imports_and_what_that_imports():
    found = names("fig6_hidden.py")
    assert {
        "experiments/fig6_hidden.py",
        "experiments/fig3_small_start.py",
        "experiments/resnets.py",
    } <= found
    assert {
        "stepwise/runs.py",
        "stepwise/losses.py",
        "stepwise/models/resnet.py",
        "stepwise/__init__.py",
    } <= found


def test_it_does_not_need_other_figures_the_page_or_the_command_line():
    found = names("fig2_symmetry.py")
    assert not [name for name in found if "fig" in name and "fig2" not in name]
    assert not [
        name
        for name in found
        if name.startswith(("stepwise/cli", "experiments/report", "stepwise/losses"))
    ]


def test_the_hash_changes_with_a_file_that_is_needed_and_with_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    (tmp_path / "stepwise").mkdir()
    for name, text in {
        "__init__": "",
        "a": "from stepwise import b",
        "b": "X = 1",
        "c": "X = 1",
    }.items():
        (tmp_path / "stepwise" / f"{name}.py").write_text(text)
    figure = tmp_path / "fig.py"
    figure.write_text("def run():\n    import stepwise.a, numpy\n")
    before = sources.code(figure)
    (tmp_path / "stepwise/c.py").write_text("X = 2")
    assert sources.code(figure) == before
    (tmp_path / "stepwise/b.py").write_text("X = 2")
    assert sources.code(figure) != before
