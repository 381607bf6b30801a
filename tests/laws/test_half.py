"""A law at half the rates of Barlow Twins doubles every time: no solver has constants of a loss."""

import jax
import numpy as np
import pytest

from stepwise import laws, validity
from stepwise.compare import compare
from stepwise.dynamics import closed_form, descent, flow, reduction
from tests import problems
from tests.laws.examples import Half, HalfKnown

GAMMA = np.array([1.0, 0.7, 0.45, 0.3, 0.1, -0.4])
MANY = np.r_[1.0, 0.8, 0.55, np.linspace(0.05, -0.05, 90)]
TIMES = np.linspace(0, 12, 25)


def half(problem, d):
    return Half(problem.gamma)


def known(problem, d):
    return HalfKnown(problem.gamma)


BOTH = pytest.mark.parametrize("law", [half, known], ids=["minimal", "known"])


@BOTH
def test_the_closed_form_takes_twice_as_long(law, x64):
    p, A0 = problems.modes(GAMMA), problems.gaussian((3, 6), 1e-3)
    one, two = closed_form(p, A0, TIMES), closed_form(p, A0, 2 * TIMES, law=law)
    exact = {"rtol": 1e-12, "atol": 1e-15} if law is known else {"rtol": 1e-4, "atol": 1e-8}
    np.testing.assert_allclose(two.eigenvalues, one.eigenvalues, **exact)
    np.testing.assert_allclose(two.loss, one.loss / 2, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(two.snapshots, one.snapshots, **(exact | {"atol": 1e-8}))
    assert two.result.name == one.result.name == "converged"
    np.testing.assert_array_equal(two.rest, one.rest)


@pytest.mark.parametrize("scale", [1e-2, 1e-6])
def test_the_reduced_flow_takes_twice_as_long_with_the_same_steps(scale, x64):
    p, A0 = problems.modes(MANY), problems.gaussian((3, 93), scale)
    times = np.linspace(0, 1.2 * np.log(1 / scale**2) / (8 * MANY[2]), 9)
    one, two = flow(p, A0, times), flow(p, A0, 2 * times, law=known)
    np.testing.assert_allclose(two.eigenvalues, one.eigenvalues, rtol=1e-9, atol=1e-12)
    for name in ("steps", "rejected", "modes_kept", "error_bound"):
        np.testing.assert_allclose(two.stats[name], one.stats[name], rtol=1e-9)
    assert int(two.stats["modes_kept"]) < 93


@pytest.mark.parametrize("scale", [1e-2, 1e-5])
def test_a_law_of_unknown_form_is_integrated_whole_and_takes_twice_as_long(scale, x64):
    p, A0 = problems.modes(MANY), problems.gaussian((3, 93), scale)
    times = np.linspace(0, 1.2 * np.log(1 / scale**2) / (8 * MANY[2]), 9)
    fine = {"rtol": 1e-9, "atol": 1e-14}
    one = flow(p, A0, times, reduce=False, **fine)
    two = flow(p, A0, 2 * times, law=half, **fine)
    np.testing.assert_allclose(two.eigenvalues, one.eigenvalues, atol=1e-7)
    np.testing.assert_allclose(two.loss, one.loss / 2, atol=1e-6)
    np.testing.assert_allclose(two.snapshots, one.snapshots, atol=1e-6)
    assert int(two.stats["modes_kept"]) == 93 and float(two.stats["error_bound"]) == 0


def test_a_long_rest_takes_the_stabilised_steps_of_its_own_rate(x64):
    p, A0 = problems.modes(GAMMA), problems.gaussian((3, 6), 1e-3)
    one, two = flow(p, A0, [0.0, 1e4]), flow(p, A0, [0.0, 2e4], law=known)
    assert int(one.stats["steps"]) == int(two.stats["steps"])
    np.testing.assert_allclose(two.eigenvalues, one.eigenvalues, rtol=1e-9)


@BOTH
def test_descent_at_twice_the_rate_takes_the_same_steps(law, x64):
    p, A0 = problems.modes(GAMMA), problems.gaussian((3, 6), 0.1)
    one, two = descent(p, A0, 0.02, 400), descent(p, A0, 0.04, 400, law=law)
    np.testing.assert_allclose(two.times, 2 * one.times, rtol=1e-14)
    np.testing.assert_allclose(two.eigenvalues, one.eigenvalues, rtol=1e-11, atol=1e-15)
    np.testing.assert_allclose(two.loss, one.loss / 2, rtol=1e-9, atol=1e-15)
    assert ("lr_limit" in two.stats) is (law is known)
    assert float(two.stats.get("lr_limit", 0.5)) == 2 * float(one.stats["lr_limit"])


def test_the_same_modes_are_left_out_until_twice_the_time(x64):
    A0 = problems.gaussian((3, 93), 1e-3)
    law = HalfKnown(MANY)
    one, two = (
        reduction.reduce(MANY, A0, 10.0, 5e-8),
        reduction.reduce(MANY, A0, 20.0, 5e-8, law=law),
    )
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-18)
    assert one.gamma.size < 40
    assert reduction.leading(MANY, A0, 5.0, 1e-5) == pytest.approx(
        reduction.leading(MANY, A0, 10.0, 1e-5, law=law)
    )
    whole = reduction.reduce(MANY, A0, 20.0, 5e-8, law=Half(MANY))
    assert (whole.gamma.size, whole.bound) == (93, 0.0)
    assert reduction.leading(MANY, A0, 10.0, 1e-5, law=Half(MANY)) == (93, 0.0)


@BOTH
@pytest.mark.parametrize("known_start", [True, False])
def test_validity_expects_twice_the_times_and_the_same_errors(law, known_start, x64):
    p = problems.modes(GAMMA)
    start = {"A0": problems.gaussian((3, 6), 1e-4)} if known_start else {"start_scale": 1e-4}
    one, two = (
        validity.report(p, 3, lr=0.01, **start),
        validity.report(p, 3, lr=0.02, law=law, **start),
    )
    np.testing.assert_allclose(two.step_times, 2 * one.step_times, rtol=1e-6)
    for name in ("gap", "spread", "expected_error"):
        np.testing.assert_allclose(getattr(two, name), getattr(one, name), rtol=1e-6)
    # A law without its own `descent_delay` has the delay of the plateau, 2 lr γ of the default law.
    np.testing.assert_allclose(two.delay, 2 * 0.01 * GAMMA[:3], rtol=1e-12)
    assert two.small == one.small and two.n_positive == one.n_positive
    limits = (two.lr_limit, two.stable)
    assert limits == ((2 * one.lr_limit, True) if law is known else (None, None))


@BOTH
def test_compare_predict_and_optimum_follow_the_law(law, x64):
    p, A0 = problems.modes(GAMMA), problems.gaussian((2, 6), 1e-3)
    theories = closed_form(p, A0, TIMES), closed_form(p, A0, 2 * TIMES, law=law)
    runs = flow(p, A0, TIMES, rtol=1e-8), flow(p, A0, 2 * TIMES, law=law, rtol=1e-8)
    one, two = (compare(theory, run) for theory, run in zip(theories, runs, strict=True))
    np.testing.assert_allclose(two.theory_steps, 2 * one.theory_steps, rtol=1e-4)
    np.testing.assert_allclose(two.experiment_steps, 2 * one.experiment_steps, rtol=1e-4)
    np.testing.assert_allclose(two.step_time_error, one.step_time_error, atol=1e-4)
    assert two.loss_rms == pytest.approx(one.loss_rms / 2, rel=1e-2)
    np.testing.assert_allclose(p.predict(2, law=law), p.predict(2), rtol=1e-12)
    np.testing.assert_allclose(p.optimum(2, law=law), p.optimum(2), rtol=1e-12)
    if law is known:
        assert float(p.max_stable_lr(law=law)) == 2 * float(p.max_stable_lr())


def test_step_times_of_the_law_itself_double(x64):
    lam0 = np.array([1e-6, 1e-5])
    one = laws.BarlowTwins(GAMMA).step_times(lam0)
    for law in (Half(GAMMA), HalfKnown(GAMMA)):
        np.testing.assert_allclose(law.step_times(lam0), 2 * one, rtol=1e-6)


def test_a_user_law_compiles_and_maps_in_both_precisions(dtype):
    p = problems.modes(GAMMA, dtype)
    starts = problems.gaussian((3, 2, 6), 1e-2).astype(dtype)
    times = TIMES.astype(dtype)
    for solve in (
        lambda A: closed_form(p, A, times, law=half),
        lambda A: flow(p, A, times, law=half),
        lambda A: descent(p, A, 0.05, 40, record_every=10, law=half),
    ):
        mapped = jax.jit(jax.vmap(solve))(starts)
        alone = solve(starts[1])
        assert mapped.eigenvalues.dtype == mapped.loss.dtype == alone.eigenvalues.dtype == dtype
        np.testing.assert_allclose(mapped.eigenvalues[1], alone.eigenvalues, atol=2e-4)
    tau = np.asarray(Half(p.gamma).step_times(np.array([1e-5, 1e-4], dtype)))
    assert tau.dtype == dtype
    expected = 2 * laws.BarlowTwins(GAMMA).step_times([1e-5, 1e-4])
    np.testing.assert_allclose(tau, expected, rtol=1e-4)
