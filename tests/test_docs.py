"""README and documentation are true: code runs, commands exist, tables are as measured."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from stepwise.cli import commands, main
from tests.conftest import optimised

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import measured  # noqa: E402

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
GENERATED = {"methods.md", "laws.md", "tutorial.md", "api.md"}
PAGES = [page for page in PAGES if page.name not in GENERATED]
NUMBER = re.compile(r"[-+]?\d+\.?\d*(?:e[-+]?\d+)?")


def kernels_page_holds(names):
    """Theory predicts the steps of descent with a kernel, and of a wide network."""
    compare, flow = names["compare"], names["dynamics"].flow
    assert int((names["p"].gamma > 0).sum()) == 60  # a positive definite kernel of 60 pairs
    network = compare(flow(names["p"], names["A0"], names["real"].times), names["real"])
    assert compare(names["theory"], names["run"]).count_within(0.05) == 3
    assert network.count_within(0.15) == 3 and network.eigenvalue_rms < 0.05


def training_page_holds(names):
    """The small network of the first block learns, and features have a row an image."""
    assert names["learned"] >= 1 and len(names["features"]) == 128


CLAIMS = {"kernels.md": kernels_page_holds, "training.md": training_page_holds}
"""What must be true of the numbers that a page computes."""


def blocks(page, language):
    """The code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.M)


@pytest.mark.parametrize(
    "page", [page for page in PAGES[1:] if blocks(page, "python")], ids=lambda page: page.name
)
@optimised()
def test_the_python_of_a_page_runs(page, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # files and runs of the page's code
    names = {"__name__": page.stem}
    for code in blocks(page, "python"):
        if "jax.distributed" in code:  # needs a process that has not used JAX yet
            run([sys.executable, "-c", code])
        else:
            exec(compile(code, page.name, "exec"), names)
        capsys.readouterr()
    CLAIMS.get(page.name, lambda names: None)(names)


@optimised()
def test_the_readme_prints_what_it_says(capsys):
    (code,) = blocks(README, "python")
    names = {}
    exec(compile(code, README.name, "exec"), names)
    printed, shown = capsys.readouterr().out, blocks(README, "text")[0]
    assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", shown).split()
    pairs = zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True)
    for ours, theirs in pairs:
        assert float(ours) == pytest.approx(float(theirs), rel=0.05, abs=0.02)
    assert names["compare"](names["theory"], names["run"]).count_within(0.05) == 4


def test_the_readme_is_a_front_door():
    assert len(README.read_bytes()) <= 8 * 1024


def lines(page):
    """The commands of a page's shell blocks, without comments."""
    for language in ("text", "bash"):
        for block in blocks(page, language):
            yield from (line.split("  #")[0].strip() for line in block.splitlines())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_can_be_given(page, monkeypatch, capsys):
    given = []
    for name in ("Predict", "Train", "Align", "Entk", "Forecast", "Watch", "Show", "Fetch"):
        monkeypatch.setattr(getattr(commands, name), "run", lambda self: given.append(self) or 0)
    asked = [line for line in lines(page) if line.startswith("stepwise ")]
    for line in asked:
        if line != "stepwise --version":
            assert main(shlex.split(line)[1:]) == 0, (page, line)


def test_every_make_target_of_a_page_exists():
    shown = run(["make", "help"], cwd=ROOT)
    known = set(re.findall(r"^  make (\S+) ", shown, flags=re.MULTILINE))
    known |= {path.stem for path in (ROOT / "docs" / "extending").glob("*.py")}  # the examples
    for page in PAGES:
        for line in lines(page):
            if line.startswith("make "):
                targets = [word for word in shlex.split(line)[1:] if "=" not in word]
                assert set(targets) <= known, (page, line)
        named = re.findall(r"`make ([a-z][a-z0-9-]*)", page.read_text())
        assert set(named) <= known, page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_links_to_exists(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", page.read_text()):
        built = page.parent / target
        if not target.startswith("https://") and built.name not in GENERATED:
            assert built.is_file(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_of_a_page_are_those_that_were_measured(page):
    assert measured.fill(page.read_text()) == page.read_text(), "run `make measured`"


def test_a_table_that_nobody_measured_is_refused():
    with pytest.raises(ValueError, match="nothing: expected one of"):
        measured.block("nothing")


def run(command, **options):
    """What a command prints; its failure is the test's."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        **options,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
