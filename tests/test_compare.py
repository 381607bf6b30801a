import json
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from stepwise.compare import compare
from stepwise.dynamics import closed_form, descent
from tests import problems
from tests.laws.examples import Half, HalfKnown

TAUS = np.array([2.0, 5.0, 9.0])


def curves(times, taus=TAUS, rate=3.0):
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-rate * (times[:, None] - taus)))


T = np.geomspace(0.1, 20, 400)


def test_a_run_equal_to_the_theory_has_no_gap(x64):
    p, A0 = problems.modes([1.0, 0.5, 0.2]), problems.gaussian((2, 3), 1e-3)
    theory = closed_form(p, A0, np.geomspace(0.01, 20, 300))
    gap = compare(theory, theory)
    np.testing.assert_array_equal(gap.step_time_error, 0)
    assert (gap.eigenvalue_rms, gap.loss_rms) == (0, 0)
    assert gap.alignment == pytest.approx(1)
    assert gap.count_within(0.0) == 2
    assert json.loads(json.dumps(gap.summary(), allow_nan=False))["step_time_error"] == [0, 0]


def test_a_known_delay_is_the_step_time_error():
    gap = compare((T, curves(T)), (T, curves(T, TAUS * [1.01, 1.1, 0.9])))
    np.testing.assert_allclose(gap.step_time_error, [0.01, 0.1, 0.1], atol=1e-6)
    np.testing.assert_allclose(gap.theory_steps, TAUS, rtol=1e-9)
    assert (gap.count_within(0.02), gap.count_within(0.11)) == (1, 3)
    assert gap.eigenvalue_rms > 0.01


def test_a_constant_gap_is_its_own_rms():
    gap = compare((T, np.full((400, 2), 0.3)), (T, np.full((400, 2), 0.4)))
    assert gap.eigenvalue_rms == pytest.approx(0.1)
    assert gap.loss_rms == pytest.approx(2 * 0.49 - 2 * 0.36)


def test_the_rms_does_not_depend_on_how_densely_a_run_was_logged():
    moved, values = TAUS * 1.1, []
    for times in (
        np.geomspace(0.1, 20, 3000),
        np.geomspace(0.1, 20, 700),
        np.linspace(0.1, 20, 4000),
    ):
        gap = compare((T, curves(T)), (times, curves(times, moved)))
        values.append([gap.eigenvalue_rms, gap.loss_rms])
    both = np.concatenate([np.geomspace(0.1, 20, 500), np.linspace(4, 6, 900)])
    both.sort()
    gap = compare((T, curves(T)), (both, curves(both, moved)))
    np.testing.assert_allclose(
        [*values[1:], [gap.eigenvalue_rms, gap.loss_rms]], [values[0]] * 3, rtol=5e-3
    )


def test_plain_arrays_tuples_dicts_and_trajectories_are_accepted(x64):
    p, A0 = problems.modes([1.0, 0.5, 0.2]), problems.gaussian((2, 3), 0.1)
    run = descent(p, A0, 0.02, 400, record_every=4)
    theory = closed_form(p, A0, np.linspace(0, 9, 300))
    whole = compare(theory, run)
    forms = [
        (run.times, run.eigenvalues),
        (np.asarray(run.times), np.asarray(run.eigenvalues), np.asarray(run.loss)),
        {"times": run.times, "eigenvalues": run.eigenvalues, "loss": run.loss},
        {"times": run.times, "eigenvalues": run.eigenvalues},
    ]
    for form in forms:
        gap = compare(theory, form)
        np.testing.assert_allclose(gap.step_time_error, whole.step_time_error)
        assert gap.eigenvalue_rms == pytest.approx(whole.eigenvalue_rms)
        assert gap.loss_rms == pytest.approx(whole.loss_rms)
        assert gap.alignment is None
    assert 0.9 < whole.alignment <= 1 + 1e-12


def test_truncated_problems_align_on_their_shared_modes(x64):
    p, A0 = problems.modes([1.0, 0.5, 0.2]), problems.gaussian((2, 3), 1e-5)
    times = np.geomspace(0.1, 30, 100)
    gap = compare(closed_form(p, A0, times), closed_form(p.truncate(2), A0[:, :2], times))
    assert gap.alignment == pytest.approx(1)
    none = replace(closed_form(p, A0, times), snapshots=None)
    assert compare(none, none).alignment is None


def test_modes_learned_in_only_one_have_an_infinite_error():
    gap = compare((T, curves(T)), (T, curves(T, np.array([2.0, 500, 900]))))
    np.testing.assert_allclose(gap.step_time_error, [0, np.inf, np.inf], atol=1e-9)
    assert gap.summary()["step_time_error"][1] is None
    neither = compare((T, curves(T, np.array([2.0, 500]))), (T, curves(T, np.array([2.0, 900]))))
    np.testing.assert_array_equal(neither.step_time_error, 0)
    assert neither.count_within(0.1) == 1


def test_with_different_dimensions_the_largest_eigenvalues_are_compared():
    gap = compare((T, curves(T)), (T, curves(T)[:, :2]))
    assert gap.step_time_error.shape == (2,)
    assert gap.eigenvalue_rms == 0


def test_only_shared_times_are_compared():
    gap = compare((T[100:], curves(T[100:])), (T[:300], curves(T[:300])))
    assert gap.eigenvalue_rms == 0
    from_zero = compare((np.r_[0, T], curves(np.r_[0, T])), (np.r_[0, T], curves(np.r_[0, T])))
    assert from_zero.eigenvalue_rms == 0


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            (T + 100, curves(T)),
            r"experiment: expected at least two samples at times that the theory covers",
        ),
        ((T[::-1], curves(T)), "experiment times: expected increasing numbers"),
        ((T, curves(T)[:5]), r"experiment eigenvalues: expected \[400, d\], a row for each time"),
        ((T, curves(T) * np.nan), "experiment eigenvalues: expected finite entries"),
        (
            (T, curves(T), np.ones(3)),
            r"experiment loss: expected \[400\], one for each time, received float64 \[3\]",
        ),
        ({"times": T}, "experiment: expected a dict with times and eigenvalues, received keys"),
        (
            (T,),
            r"experiment: expected \(times, eigenvalues\) or \(times, eigenvalues, loss\), "
            r"received a sequence of length 1",
        ),
    ],
)
def test_curves_that_cannot_be_compared_are_rejected_by_name(run, message):
    with pytest.raises(ValueError, match=message):
        compare((T, curves(T)), run)


def test_a_diverged_run_is_compared_up_to_the_divergence(x64):
    p = problems.modes(np.array([1.0, 0.5, -5.0]))
    A0 = problems.gaussian((2, 3), 1e-3)
    run = descent(p, A0, 0.9 / 4, 400, record_every=1)
    assert run.result.name == "diverged"
    gap = compare(closed_form(p, A0, run.times), run)
    assert np.isfinite(gap.eigenvalue_rms)
    assert np.isinf(gap.step_time_error).any()


def test_the_text_shows_which_modes_were_learned_and_their_errors():
    times = np.geomspace(0.1, 10, 200)

    def step(tau):
        return 1 / (1 + np.exp(-8 * (times - tau)))

    flat = np.zeros_like(times)
    gap = compare(
        (times, np.stack([step(1), step(3), flat], 1)),
        (times, np.stack([step(1.1), flat, flat], 1)),
    )
    assert gap.n_learned == 1 and gap.summary()["learned"] == 1
    first, second, third = str(gap).splitlines()[1:4]
    assert "10.0" in first and second.split()[-1] == third.split()[-1] == "-"
    assert "1 of 3 modes learned in both" in str(gap)


def test_a_step_is_half_of_the_final_eigenvalue_of_the_law(x64):
    times = np.geomspace(0.1, 10, 200)
    rising = 0.3 / (1 + np.exp(-3 * (times[:, None] - 2)))
    law = HalfKnown(np.ones(1))
    object.__setattr__(law, "rest", lambda: jnp.full(1, 0.3))
    gap = compare((times, rising), (times, rising), law=law)
    np.testing.assert_allclose(gap.theory_steps, [2], rtol=1e-4)
    assert compare((times, rising), (times, rising)).theory_steps[0] == np.inf


def test_the_loss_of_plain_curves_is_that_of_the_law_or_none(x64):
    p = problems.modes([1.0, 0.5])
    values = curves(T)[:, :2]
    half, none = (
        compare((T, values), (T, 0.9 * values), law=law, problem=p)
        for law in (lambda p, d: HalfKnown(p.gamma), lambda p, d: Half(p.gamma))
    )
    plain = compare((T, values), (T, 0.9 * values))
    assert half.loss_rms == pytest.approx(plain.loss_rms / 2)
    assert none.loss_rms is None and "loss rms" not in str(none)
    with pytest.raises(ValueError, match="problem: expected the problem of the function law="):
        compare((T, values), (T, values), law=lambda p, d: Half(p.gamma))


def test_eigenvalues_of_different_matrices_are_not_compared(x64):
    p, A0 = problems.modes([1.0, 0.5]), problems.gaussian((1, 2), 0.1)
    run = closed_form(p, A0, [1.0, 2.0, 3.0])
    with pytest.raises(
        ValueError, match="expected eigenvalues of the same matrix as the theory's, C, received"
    ):
        compare(run, replace(run, observable="covariance"))
