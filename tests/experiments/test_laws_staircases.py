"""laws is a test: descent of every loss takes its steps when the law says."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.contract import Check
from experiments.figures import laws_staircases
from experiments.shared import descents, law_cases
from stepwise import laws
from stepwise.methods import METHODS
from tests.conftest import optimised
from tests.experiments.figures import failed, labelled_panels

pytestmark = pytest.mark.xdist_group("laws")


@pytest.fixture(scope="module")
@optimised()
def result():
    with jax.enable_x64(True):
        return laws_staircases.run(laws_staircases.Config.smoke())


@pytest.mark.slow
def test_every_check_of_the_smoke_run_passes(result):
    assert failed(laws_staircases, result) == set()
    assert all(isinstance(check, Check) for check in laws_staircases.check(result))


@pytest.mark.slow
def test_a_late_step_fails_unless_the_report_flags_it(result):
    numbers = {name: [dict(each) for each in result.numbers[name]] for name in ("shared", "images")}
    numbers["shared"][0]["step_errors"] = [0.0, 0.03, 0.0]
    numbers["images"][0]["step_errors"] = [0.0, 0.2, 0.0, 0.0]
    late = dataclasses.replace(result, numbers=result.numbers | numbers)
    names = failed(laws_staircases, late)
    assert len(names) == 2 and any(name.startswith("images, ") for name in names)
    numbers["images"][0]["risk"] = [False, True, False, False]
    flagged = dataclasses.replace(result, numbers=result.numbers | numbers)
    assert not any(name.startswith("images, ") for name in failed(laws_staircases, flagged))
    numbers["images"] = [each | {"risk": [True] * 4} for each in numbers["images"]]
    untrusted = dataclasses.replace(result, numbers=result.numbers | numbers)
    assert any(name.startswith("images: share") for name in failed(laws_staircases, untrusted))


@pytest.mark.slow
def test_each_special_prediction_can_fail(result):
    shifted = {
        "growth_without": result.arrays["growth_without"] + 1,
        "wait_small": np.full_like(result.arrays["wait_small"], 20.0),
        "refused_0": result.arrays["refused_0"] + 0.1,
        "power_2": result.arrays["power_2"] * result.arrays["power_2_start"],
    }
    for name, values in shifted.items():
        wrong = dataclasses.replace(result, arrays=result.arrays | {name: values})
        assert len(failed(laws_staircases, wrong)) >= 1, name


@pytest.mark.slow
def test_every_panel_is_labelled(result):
    count = len(result.numbers["shared"]) + len(result.numbers["images"])
    assert labelled_panels(laws_staircases, result) == count + 4


def test_every_law_of_a_staircase_has_a_case():
    shown = {type(case.law) for case in law_cases.shared_basis(16, 0)}
    abstract = {laws.Law, laws.SimCLR}
    known = {kind for kind in vars(laws).values() if isinstance(kind, type)}
    known = {kind for kind in known if issubclass(kind, laws.Law)} - abstract
    # supervised modes have no plateau
    assert known - shown == {laws.Supervised}


def test_the_loss_of_every_law_of_pairs_is_that_of_its_method(x64):
    pairs = law_cases.made_up(16, 0)
    for row in METHODS.values():
        if row.law is None:
            continue
        law = laws.law_of(row.law, pairs, 3)
        targets = row.objective.decay is not None and not row.objective.predictor
        model = descents.model_of(law, descents.loss_of(row, 3), targets)
        weights = model.begin(np.full((3, 4), 1e-3))
        assert np.isfinite(model.value(weights, pairs.x, pairs.x2)), row.name
        assert model.observe(weights, pairs.x, pairs.x2).ndim == 2


def test_made_up_pairs_have_exactly_their_moments():
    for pairs in (law_cases.made_up(32, 1), law_cases.mirrored(law_cases.made_up(32, 1))):
        sigma = (pairs.x.T @ pairs.x + pairs.x2.T @ pairs.x2) / (2 * pairs.n_pairs)
        gamma = (pairs.x.T @ pairs.x2 + pairs.x2.T @ pairs.x) / (2 * pairs.n_pairs)
        np.testing.assert_allclose(sigma, np.diag(pairs.sigma), atol=1e-12)
        np.testing.assert_allclose(gamma, np.diag(pairs.gamma), atol=1e-12)
