import json

import jax
import numpy as np
import pytest
from scipy.stats import spearmanr

from stepwise import laws, problem, spectra, validity
from stepwise.dynamics import closed_form, flow
from tests import problems
from tests.laws import pairs

pytestmark = pytest.mark.xdist_group("validity")  # the measurement is shared
GAMMA = 0.75 ** np.arange(8.0)
D, SCALE, STARTS = 3, 1e-4, 24


@pytest.fixture(scope="module")
def measured():
    """Errors of the closed form's step times [starts, d], and the reports that predict them."""
    with jax.enable_x64(True):
        p = problems.modes(GAMMA)
        A0 = problems.gaussian((STARTS, D, 8), SCALE)
        times = np.linspace(0, 1.5 * np.log(1 / SCALE**2) / (8 * GAMMA[D - 1]), 400)
        runs = jax.jit(jax.vmap(lambda A: flow(p, A, times, rtol=1e-9, atol=1e-12)))(A0).eigenvalues
        theory = jax.jit(jax.vmap(lambda A: closed_form(p, A, times)))(A0).eigenvalues
        steps = np.stack([spectra.step_times(times, run) for run in runs])
        errors = np.abs(steps / np.stack([spectra.step_times(times, each) for each in theory]) - 1)
        before = validity.report(p, D, start_scale=SCALE)
        return errors, steps, [validity.report(p, D, A0=A) for A in A0], before


def test_the_expected_error_of_a_known_start_is_the_measured_error(measured):
    errors, _, reports, _ = measured
    expected = np.stack([report.expected_error for report in reports])
    assert np.isfinite(errors).all()
    assert spearmanr(expected.ravel(), errors.ravel()).statistic > 0.8
    ratio = errors / expected
    assert np.mean((ratio < validity.KNOWN) & (ratio > 1 / 20)) > 0.8


def test_the_report_for_an_unknown_start_describes_the_drawn_ones(measured):
    errors, steps, _, before = measured
    ratio = np.median(errors, axis=0) / before.expected_error
    assert ((ratio > 1 / 8) & (ratio < 8)).all()
    assert np.mean(errors > validity.UNLUCKY * before.expected_error) < 0.15
    np.testing.assert_allclose(steps.mean(0), before.step_times, rtol=0.1)
    np.testing.assert_allclose(steps.std(0) / steps.mean(0), before.spread, rtol=0.5)


def test_modes_not_at_risk_are_within_the_tolerance(measured):
    errors, _, reports, _ = measured
    risk = np.stack([report.at_risk for report in reports])
    assert 0 < risk.mean() < 1
    assert np.mean(errors[~risk] > 0.02) < 0.05


def test_the_spread_of_step_times_is_that_of_the_chi_squared_law(x64):
    report = validity.report(problems.modes(GAMMA), D, start_scale=1e-6)
    A = problems.gaussian((4000, D, 8), 1e-6, seed=5)
    s0 = np.asarray(jax.vmap(laws.effective_start)(A))
    tau = np.asarray(laws.BarlowTwins(GAMMA).step_times(np.exp(np.log(GAMMA[:D] * s0**2).mean(0))))
    each = np.log(1 / (GAMMA[:D] * s0**2) - 1) / (8 * GAMMA[:D])
    np.testing.assert_allclose(report.step_times, tau, rtol=5e-3)
    np.testing.assert_allclose(report.spread, each.std(0) / each.mean(0), rtol=0.06)


def test_a_smaller_start_and_a_wider_gap_are_safer(x64):
    wide, narrow = problems.modes(0.3 ** np.arange(4.0)), problems.modes(0.95 ** np.arange(4.0))
    for p, q, scale, other in ((wide, narrow, 1e-4, 1e-4), (narrow, narrow, 1e-12, 1e-3)):
        one, two = (
            validity.report(p, 3, start_scale=scale),
            validity.report(q, 3, start_scale=other),
        )
        assert (one.expected_error[:2] < two.expected_error[:2]).all()
        assert (one.gap[:3] > two.gap[:3]).all()
    assert not validity.report(wide, 3, start_scale=1e-6).at_risk.any()
    assert validity.report(narrow, 3, start_scale=1e-3).at_risk.all()


def test_each_broken_assumption_gives_a_sentence(dtype):
    p = problems.modes([1.0, 0.4, -5.0], dtype)
    good = validity.report(p, 2, start_scale=1e-5, lr=1e-3)
    assert good.warnings() == []
    assert (good.stable, good.small) == (True, True)
    assert good.lr_limit == pytest.approx(0.1)
    lam0 = np.exp(-8 * np.array([1, 0.4]) * good.step_times)  # 1/(1/λ0 − 1) of these starts
    np.testing.assert_allclose(
        good.delay, [2e-3, 8e-4] * (1 - 3 * np.log(2) / np.log(1 / lam0)), rtol=1e-6
    )
    bad = validity.report(p, 4, start_scale=1.0, lr=0.2)
    text = " | ".join(bad.warnings())
    assert "2 of 4 dimensions cannot be learned: only 2 modes grow" in text
    assert "the start is not small: at scale 1 its eigenvalues are not below 0.01 of their" in text
    assert "lr = 0.2 is not below the stability limit 0.1" in text
    assert "step times may be off by more than 2.0%: mode 1, 2 (" in text
    assert len(str(bad).splitlines()) == 1 + 2 + 4  # the modes that can be learned
    np.testing.assert_array_equal(bad.step_times[2:], np.inf)
    np.testing.assert_array_equal(bad.at_risk[2:], False)
    assert validity.report(p, 2, start_scale=1e-5).stable is None


@pytest.mark.parametrize(
    "A0",
    [
        np.zeros((2, 3)),
        np.full((4, 3), 0.1),
        np.diag([1e-3, 0, 1e-3]),
        5 * np.eye(3),
        np.full((1, 3), 1e-200),
    ],
)
def test_reports_of_unusual_starts_can_be_written_as_json(A0, x64):
    report = validity.report(problems.modes([1.0, 0.4, -5.0]), len(A0), A0=A0, lr=0.01)
    summary = json.loads(json.dumps(report.summary(), allow_nan=False))
    assert len(summary["expected_error"]) == len(A0)
    assert not np.isnan(report.expected_error).any()
    assert not np.isnan(report.step_times).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "start_scale, A0: expected exactly one of them, received none or both"),
        (
            {"start_scale": 1.0, "A0": np.ones((2, 3))},
            "start_scale, A0: expected exactly one of them",
        ),
        ({"start_scale": 0.0}, r"start_scale: expected a positive number, received 0\.0"),
        ({"A0": np.ones((3, 3))}, r"A0: expected shape \[2, 3\], received float64 \[3, 3\]"),
        ({"start_scale": 1.0, "lr": -1.0}, "lr: expected a positive learning rate"),
        ({"start_scale": 1.0, "tolerance": 0.0}, "tolerance: expected a positive number"),
    ],
)
def test_bad_arguments_are_rejected_by_name(options, message, x64):
    with pytest.raises(ValueError, match=message):
        validity.report(problems.modes([1.0, 0.4, -5.0]), 2, **options)


def test_a_refused_mode_is_said_with_the_reason(x64):
    gamma, sigma = np.array([0.6, 0.3, 0.1]), np.array([1.0, 1.0, 0.9])
    p = pair_problem(gamma, sigma)
    report = validity.report(
        p, 3, law=lambda p, d: laws.DINO(p.gamma, p.sigma, d), start_scale=1e-6
    )
    assert report.n_positive == 1 and report.n_known == 1
    assert [number for number, _ in report.refused] == [2, 3]
    text = str(report)
    said = "mode 2 by size of γ is not learned: agreement 0.30 is below 0.40, the ratio of the temp"
    assert said in text and "mode 3 by size of γ is not learned: agreement 0.11" in text
    byol = validity.report(
        p, 3, law=lambda p, d: laws.BYOL(p.gamma, p.sigma, 0.2), start_scale=1e-6
    )
    assert byol.refused == ((3, "agreement 0.11 is not beyond 0.20, the start of the predictor"),)
    quadratic = validity.report(
        p, 3, law=lambda p, d: laws.QuadraticVICReg(p.gamma, p.sigma, 2.0, 1.0), start_scale=1e-6
    )
    reason = "agreement is not above 0.50 = 1 − variance/invariance"
    assert quadratic.refused == ((2, reason), (3, reason))
    assert validity.report(p, 3, start_scale=1e-6).refused == ()


def test_a_law_of_the_first_mode_vouches_for_no_other(x64):
    p = pair_problem(np.array([0.8, 0.3, 0.1]), np.array([1.0, 0.8, 0.5]))
    report = validity.report(p, 3, law=laws.VICReg, start_scale=1e-9)
    assert report.n_known == 1 and report.n_positive == 3
    assert not report.at_risk[0] and report.at_risk[1:].all()
    assert np.isinf(report.step_times[1:]).all()
    assert "the law gives the step of mode 1 only; later steps of this loss depend on" in str(
        report
    )


def test_later_modes_are_at_risk_where_views_are_not_gaussian(x64):
    rng = np.random.default_rng(0)
    gamma, sigma = np.array([0.8, 0.2]), np.array([1.0, 0.5])

    def report(common):
        """Views whose modes are uncorrelated, with a common factor of each pair."""
        a, b = rng.normal(size=(2, 4000, 2)) * common[:, None]
        a, b = (part - part.mean(axis=0) for part in (a, b))
        a = a / a.std(axis=0) * np.sqrt((sigma + gamma) / 2)
        b = b / b.std(axis=0) * np.sqrt((sigma - gamma) / 2)
        views = np.concatenate([a + b, a - b]), np.concatenate([a - b, a + b])
        p = problem.from_views(*views, center="pooled")
        law = build(p)
        return validity.report(p, 2, law=law, start_scale=1e-7, tolerance=0.1)

    def build(p):
        return laws.OneTowerCLIP(p.gamma, p.sigma, 1.0, d=2)

    gaussian, heavy = report(np.ones(4000)), report(rng.exponential(size=4000))
    assert gaussian.dependence.max() < 0.1 and not gaussian.at_risk.any()
    assert heavy.dependence[0] == 0 and heavy.dependence[1] > 1
    assert list(heavy.at_risk) == [False, True]
    assert "the law assumes Gaussian views, which these are not: fourth moments of" in str(heavy)


def pair_problem(gamma, sigma):
    return problem.from_views(*pairs.both_orders(*pairs.pairs(gamma, sigma, 30)), center="pooled")
