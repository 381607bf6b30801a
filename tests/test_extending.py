"""The files of docs/extending are complete: a law, a method and a figure, each in one file."""

import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.report.entries import header
from stepwise import compare, dynamics, laws, methods, plotting, validity
from stepwise.cli import main
from tests import problems
from tests.conftest import optimised
from tests.experiments.figures import labelled_panels

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "extending"
NAME = f"{FOLDER / 'quartic.py'}:METHOD"
SMALL = [
    "--n-images", "64", "--side", "12", "--blocks", "1", "--width", "4", "--head", "2",
    "--batch-size", "32", "--probe", "32", "--records", "30", "--steps", "400", "--lr", "0.01",
]  # fmt: skip


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def linear(x64):
    """Return a problem of six modes, one of them negative, and a small start."""
    p = problems.modes([1.0, 0.7, 0.4, 0.2, 0.1, -0.3])
    return p, p.start(jax.random.key(1), d=3, scale=1e-5)


def test_the_files_are_short():
    for name, most in {"weighted": 45, "quartic": 80, "delays": 110}.items():
        assert len((FOLDER / f"{name}.py").read_text().splitlines()) <= most


def test_every_solver_accepts_the_law_and_half_the_weight_doubles_the_times(linear):
    p, A0 = linear
    law = load("weighted").law
    times = np.linspace(0, 30, 400)
    plain = dynamics.closed_form(p, A0, times)
    np.testing.assert_allclose(
        dynamics.closed_form(p, A0, 2 * times, law=law).eigenvalues, plain.eigenvalues, rtol=1e-6
    )
    np.testing.assert_allclose(
        dynamics.flow(p, A0, 2 * times, law=law).eigenvalues,
        dynamics.flow(p, A0, times).eigenvalues,
        atol=1e-4,
    )
    report = validity.report(p, 3, A0=A0, law=law, lr=0.01)
    np.testing.assert_allclose(report.step_times, 2 * validity.report(p, 3, A0=A0).step_times)
    assert report.stable is None


def test_the_law_of_the_method_is_that_of_its_loss(linear):
    p, A0 = linear
    row = methods.find(NAME)
    law = laws.law_of(row.law, p, 3)
    lr = 0.02 * float(law.max_stable_lr())
    steps = int(1.3 * float(law.step_times(laws.effective_start(A0) ** 2 * p.gamma[:3])[-1]) / lr)
    run = dynamics.descent(p, A0, lr, steps, law=law, loss=row.objective.loss)
    same = dynamics.descent(p, A0, lr, steps, law=law)
    np.testing.assert_allclose(run.eigenvalues, same.eigenvalues, atol=1e-10)
    theory = dynamics.closed_form(p, A0, run.times, law=law)
    flow = dynamics.flow(p, A0, run.times, law=law)
    assert compare.compare(theory, flow, law=law).count_within(0.02) == 3
    assert compare.compare(theory, run, law=law).count_within(0.05) == 3


def test_the_stable_rate_of_the_method_is_the_largest(linear):
    p, _ = linear
    law = laws.law_of(methods.find(NAME).law, p, 3)
    A = np.asarray(p.optimum(3, law=law)) * 1.001
    limit = float(law.max_stable_lr())
    stays = dynamics.descent(p, A, 0.98 * limit, 400, law=law)
    leaves = dynamics.descent(p, A, 1.05 * limit, 400, law=law)
    assert abs(stays.eigenvalues[-1] - 1).max() < 1e-2
    assert not abs(leaves.eigenvalues[-1] - 1).max() < 1e-2


@pytest.mark.slow
@optimised()
def test_predict_and_train_accept_the_file_of_the_method(tmp_path, capsys):
    flags = ["--n-pairs", "40", "--side", "24", "--d", "2", "--out", str(tmp_path / "predict")]
    assert main(["predict", "--method", NAME, *flags]) == 0
    printed = capsys.readouterr().out
    assert "Quartic" in printed and "modes can be learned" in printed
    config = json.loads((tmp_path / "predict" / "config.json").read_text())
    assert config["method"] == "quartic"
    assert (tmp_path / "predict" / "figure.png").is_file()
    where = ["--runs-dir", str(tmp_path / "runs"), "--out", str(tmp_path / "train")]
    with jax.enable_x64(False):
        assert main(["train", "--method", NAME, *SMALL, *where]) == 0
    assert "Quartic" in capsys.readouterr().out
    (out,) = (tmp_path / "train").iterdir()
    numbers = json.loads((out / "summary.json").read_text())["numbers"]
    assert numbers["crossed"] >= 1 and (out / "figure.png").is_file()


def test_the_figure_meets_its_claim_and_a_wrong_prediction_fails_it(x64):
    figure = load("delays")
    assert {"Claim", "Paper", "Command", "Expected"} <= header(figure.__doc__)[1].keys()
    result = figure.run(figure.Config.smoke())
    assert all(check.passed for check in figure.check(result))
    wrong = dict(result.arrays, predicted=1.3 * result.arrays["predicted"])
    assert not all(check.passed for check in figure.check(type(result)(wrong, result.numbers)))
    assert labelled_panels(figure, result) == 1
    plotting.plt.close("all")
