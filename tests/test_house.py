"""The house rules: imports follow the data flow, rooms keep to their size, everything public says
what it does.
"""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = sorted((ROOT / "stepwise").rglob("*.py"))
FLOW = """
_moved
_check _files _random _terminal _threads _user
_npz types
laws eigen moments
augment data
recipes
neural_tangents
kernels.functions
kernels.tiles
kernels
views problem.problem
problem.spectrum
problem.gram
problem.linear
problem
_linearisation _transformations
growth updates
spectra losses._pairs
losses.correlation losses.contrastive losses.distillation losses.isotropy losses.words
losses.centring
losses
models.normalisation
models.functional models.ntk models.resnet models.heads models.prototypes models.vit
models
methods trajectory
dynamics.loop dynamics.reduction dynamics.stabilised
dynamics
probes staircase attributes
entk
training
subject
validity compare
plotting
forecast
record
cli
cli.__main__
"""
LAYER = {name: depth for depth, line in enumerate(FLOW.split("\n")) for name in line.split()}
INSTALLED_AS = {
    "sklearn": "scikit-learn",
    "fontTools": "fonttools",
    "PIL": "pillow",
    "neural_tangents": "neural-tangents",
    "orbax": "orbax-checkpoint",
    "tensorboardX": "tensorboardx",
}
ALONE = {
    "matplotlib": "stepwise.plotting",
    "neural_tangents": "stepwise.neural_tangents",
    "orbax": "stepwise.training.checkpoints",
    "tensorboardX": "stepwise.training.log",
}


def module(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path):
    """Full names of what a file imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert all(alias.name != "*" for alias in node.names), f"{path}: star import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(name):
    """The layered module that a dotted name of the package lies in: the longest that is listed, or
    none.
    """
    parts = name.split(".")[1:]
    return next(
        (key for n in range(len(parts), 0, -1) if (key := ".".join(parts[:n])) in LAYER), None
    )


@pytest.mark.parametrize("path", PACKAGE, ids=module)
def test_a_module_imports_only_what_lies_before_it_in_the_flow(path):
    here = room(module(path))
    if module(path) == "stepwise":
        inner = [name for name in imported(path) if name.startswith("stepwise")]
        assert inner == ["stepwise._moved"]
        return
    assert here is not None, f"{module(path)} has no place in FLOW"
    for name in imported(path):
        if name.split(".")[0] != "stepwise" or name == "stepwise":
            continue
        there = room(name)
        assert there is not None, f"{module(path)} imports {name}, which has no place in FLOW"
        inside = here == there and (ROOT / "stepwise" / here).is_dir()
        assert LAYER[there] < LAYER[here] or inside, f"{module(path)} imports {name}"


def test_every_place_in_the_flow_is_a_module():
    names = {module(path).removeprefix("stepwise.") for path in PACKAGE}
    assert set(LAYER) <= names


def test_heavy_dependencies_live_in_one_room():
    for path in [*PACKAGE, *(ROOT / "experiments").rglob("*.py")]:
        for name in imported(path):
            keeper = ALONE.get(name.split(".")[0])
            assert keeper in (None, module(path)), f"{module(path)} imports {name}"


@pytest.mark.parametrize("path", PACKAGE, ids=module)
def test_everything_public_has_a_docstring(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    for node in [
        *tree.body,
        *(inner for outer in tree.body if isinstance(outer, ast.ClassDef) for inner in outer.body),
    ]:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path}:{node.lineno} {node.name}"


def test_modules_stay_below_four_hundred_lines():
    for path in PACKAGE:
        lines = len(path.read_text().splitlines())
        assert lines < 400, f"{module(path)} has {lines} lines: look for the second noun inside"


def test_no_file_names_a_place_of_one_machine():
    places = re.compile(r"(?<![\w./])/(?:home|root|Users|work|tmp|mnt|opt|private)/|[A-Z]:\\\\")
    for path in [
        *PACKAGE,
        *(ROOT / "experiments").rglob("*.py"),
        *(ROOT / "benchmarks").rglob("*.py"),
    ]:
        match = places.search(path.read_text())
        assert match is None, f"{path}: {match and match.group()}"


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    core, kernels, figures = (
        {re.match(r"[\w-]+", line)[0].lower() for line in lines}
        for lines in (project["dependencies"], extras["kernels"], extras["figures"])
    )
    assert packages(PACKAGE) == core | kernels
    assert packages(sorted((ROOT / "experiments").rglob("*.py"))) - core == figures


def packages(files):
    """Distributions of what files import, but for this project and Python's own library."""
    tops = {name.split(".")[0] for path in files for name in imported(path)}
    outside = tops - set(sys.stdlib_module_names) - {"stepwise", "experiments"}
    return {INSTALLED_AS.get(name, name) for name in outside}


@pytest.mark.parametrize(
    ("command", "absent"),
    [
        ("--version", {"tyro", "numpy", "jax", "matplotlib"}),
        ("--help", {"numpy", "jax", "flax", "matplotlib", "stepwise.data"}),
        ("predict --help", {"numpy", "jax", "flax", "matplotlib", "stepwise.data"}),
        ("train --help", {"numpy", "jax", "flax", "matplotlib", "stepwise.data"}),
        ("figure --help", {"numpy", "jax", "flax", "matplotlib", "stepwise.data"}),
        ("data show photos", {"jax", "flax", "matplotlib", "sklearn", "pooch"}),
    ],
)
def test_a_command_imports_only_what_it_needs(command, absent):
    code = (
        "import contextlib, io, sys\nfrom stepwise.cli import main\n"
        f"with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        f"    main({command.split()})\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "stepwise.cli" in loaded and not absent & loaded


def test_the_laws_import_jax_and_little_else():
    code = "import sys, stepwise.laws\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    heavy = {"flax", "optax", "diffrax", "equinox", "orbax", "matplotlib", "sklearn", "PIL", "tyro"}
    assert "jax" in loaded and not heavy & loaded


def test_the_figures_of_the_command_line_choose_as_the_library_does():
    from typing import get_args, get_type_hints

    from stepwise.cli.commands import Predict
    from stepwise.moments import CENTERS

    assert set(get_args(get_type_hints(Predict)["center"])) == set(CENTERS)


def test_no_conditional_expression_stands_within_another():
    folders = ("stepwise", "experiments", "benchmarks", "docs", "tests")
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            inner = [each for each in ast.walk(node) if isinstance(each, ast.IfExp)]
            if isinstance(node, ast.IfExp):
                assert inner == [node], f"{path}:{node.lineno}"


NAMED = ("stepwise.methods", "stepwise.losses", "stepwise.laws", "stepwise.recipes")
"""Where the name of a method may stand: its row, its loss, its law, and recipes of views."""


def test_a_methods_name_stands_in_its_row_its_loss_and_its_law_alone():
    from stepwise.methods import METHODS

    files = [*PACKAGE, *(ROOT / "experiments").rglob("*.py")]
    for path in files:
        if not module(path).startswith(NAMED):
            named = {name for name in words(path) if name in METHODS}
            assert not named, f"{module(path)} names {sorted(named)}: read stepwise.methods"


def words(path):
    """Names that a file uses, and its strings, but not the text of its docstrings."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Name):
            yield node.id


VAGUE = {"of", "found", "some", "made"}
"""Words that name neither a thing nor an action."""


def test_names_are_nouns_or_verbs():
    for path in [*PACKAGE, *(ROOT / "experiments").rglob("*.py")]:
        vague = sorted({name for name in names(path) if name.strip("_") in VAGUE})
        assert not vague, f"{module(path)}: name {vague} after the thing or the action"


def names(path):
    """Names that a file defines: variables, arguments, functions, classes, fields."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


PHRASES = re.compile(
    r"\b(?:go|goes|gone|going) on (?:where|with|from|there|again|after)|\bto be had\b|"
    r"\bwhere it is there\b|\bmend(?:s|ed|ing)?\b|\bworked out\b|\blooked at\b|"
    r"\bgoes on on\b|\(source, (?:eq|fig|Prop|Table)|\bthe source's\b",
    flags=re.IGNORECASE,
)
"""Phrases that a native reader stumbles over (docs/design.md, CONTRIBUTING.md)."""


def test_prose_has_no_phrase_of_the_former_dialect():
    files = [*PACKAGE, *(ROOT / "experiments").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    files += [ROOT / "Makefile", *ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    files += [*(ROOT / "docs").rglob("*.py"), *(ROOT / "experiments").rglob("*.html")]
    for path in files:
        match = PHRASES.search(" ".join(path.read_text().split()))
        assert match is None, f"{path.relative_to(ROOT)}: {match.group()}"
