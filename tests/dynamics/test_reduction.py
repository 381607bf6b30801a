import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from stepwise.dynamics import reduction
from tests import problems


def curves(gamma, A0, times):
    d, r = A0.shape
    if r == 0:
        return np.zeros((len(times), d))

    def field(t, flat):
        AD = flat.reshape(d, r) * gamma
        return (4 * (AD - AD @ flat.reshape(d, r).T @ AD)).ravel()

    solved = solve_ivp(
        field, (0, times[-1]), A0.ravel(), method="DOP853", rtol=1e-10, atol=1e-14, t_eval=times
    )
    return problems.spectrum(gamma, solved.y.T.reshape(-1, d, r))


@given(seed=st.integers(0, 2**16))
@settings(max_examples=60)
def test_eigenvalues_stay_within_the_bound_whatever_the_spectrum(seed):
    rng = np.random.default_rng(seed)
    d, r, low = rng.integers(1, 4), rng.integers(8, 40), rng.choice([-0.5, 0, 0.5, 0.9])
    gamma = np.sort(np.r_[1, rng.uniform(low, 0.2 if low < 0.2 and rng.random() < 0.5 else 1, r)])[
        ::-1
    ]
    scale, tol = 10 ** rng.uniform(-5, -0.7), 10 ** rng.uniform(-7, -1.5)
    A0 = problems.gaussian((d, r + 1), scale / np.sqrt(r), seed)
    until = rng.uniform(0.2, 2) * np.log(r / scale**2) / (8 * max(gamma[d - 1], 0.05))
    small = reduction.reduce(gamma, A0, until, tol)
    assert small.bound <= tol
    times = np.linspace(0, until, 6)
    gap = np.abs(curves(gamma, A0, times) - curves(small.gamma, small.A0, times)).max()
    assert gap <= small.bound + 1e-8


def test_many_slow_modes_become_few(x64):
    gamma = np.r_[1, 0.7, 0.5, np.linspace(0.02, -0.02, 200)]
    A0 = problems.gaussian((3, 203), 1e-3)
    small = reduction.reduce(gamma, A0, 10.0, 5e-8)
    assert small.gamma.size <= 30
    np.testing.assert_allclose(
        small.expansion @ small.expansion.T, np.eye(small.gamma.size), atol=1e-12
    )
    np.testing.assert_allclose(small.A0, A0 @ small.expansion.T, atol=1e-15)


def test_no_mode_is_left_out_for_a_large_start_or_zero_tolerance(x64):
    gamma, A0 = np.array([1.0, 0.1, 1e-9]), problems.gaussian((2, 3), 1e-6)
    for start, tol in ((A0, 0.0), (A0 * 1e7, 1e-3)):
        small = reduction.reduce(gamma, start, 1.0, tol)
        np.testing.assert_array_equal(small.expansion, np.eye(3))
        assert small.bound == 0


def test_only_few_leading_modes_matter_until_an_early_time(x64):
    gamma, A0 = np.r_[1, 0.5, np.linspace(0.1, -0.1, 30)], problems.gaussian((2, 32), 1e-5)
    few, bound = reduction.leading(gamma, A0, 5.0, 1e-5)
    assert few == 2
    assert 0 < bound <= 1e-5
    times = np.linspace(0, 5, 6)
    gap = np.abs(curves(gamma, A0, times) - curves(gamma[:few], A0[:, :few], times)).max()
    assert gap <= bound
    assert reduction.leading(gamma, A0, 5.0, 1e-30) == (32, 0.0)


@pytest.mark.parametrize(
    "A0", [np.zeros((2, 3)), np.full((2, 3), 1e-200), np.diag([1e-3, 0, 1e-3])]
)
def test_starts_without_some_modes_raise_no_warning(A0, x64):
    small = reduction.reduce(np.array([1.0, 0.5, -0.5]), A0, 3.0, 1e-7)
    assert np.isfinite(small.bound)
    assert np.isfinite(small.A0).all()


def test_all_modes_are_leading_if_the_bound_cannot_hold():
    gamma = np.array([1.0, 0.5, 0.1, -0.2])
    assert reduction.leading(gamma, 3 * problems.gaussian((2, 4), 1.0), 10.0, 1e-3) == (4, 0.0)
