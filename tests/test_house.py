"""The house rules: imports follow the data flow, rooms keep to their size, everything public says
what it does.
"""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = sorted((ROOT / "stepwise").rglob("*.py"))
FLOW = """
_moved
_check _npz types
laws eigen moments
augment data
neural_tangents
kernels.functions
kernels.tiles
kernels
views problem.problem
problem.spectrum
problem.gram
problem.linear
problem
spectra losses
models.normalisation
models.functional models.ntk models.resnet models.heads
models
trajectory
dynamics.loop dynamics.reduction dynamics.stabilised
dynamics
probes staircase attributes
entk.full
entk
training
subject
validity compare
plotting
record
cli.images
cli.figures cli.predict cli.train cli.kernels
cli
cli.__main__
"""
LAYER = {name: depth for depth, line in enumerate(FLOW.split("\n")) for name in line.split()}
INSTALLED_AS = {
    "sklearn": "scikit-learn",
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
        if name.split(".")[0] != "stepwise":
            continue
        there = room(name)
        assert there is not None, f"{module(path)} imports {name}, which has no place in FLOW"
        inside = here == there and (ROOT / "stepwise" / here).is_dir()
        assert LAYER[there] < LAYER[here] or inside, f"{module(path)} imports {name}"


def test_every_place_in_the_flow_is_a_module():
    names = {module(path).removeprefix("stepwise.") for path in PACKAGE}
    assert set(LAYER) <= names


def test_heavy_dependencies_live_in_one_room():
    for path in PACKAGE:
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
        found = places.search(path.read_text())
        assert not found, f"{path}: {found and found.group()}"


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.match(r"[\w-]+", line)[0].lower() for line in project["dependencies"]}
    files = [*PACKAGE, *(ROOT / "experiments").rglob("*.py")]
    tops = {name.split(".")[0] for path in files for name in imported(path)}
    outside = tops - set(sys.stdlib_module_names) - {"stepwise", "experiments"}
    assert {INSTALLED_AS.get(name, name) for name in outside} == declared
