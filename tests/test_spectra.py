import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwise import spectra
from tests import problems


def logistic(t, tau, rate=1.0):
    return 1 / (1 + np.exp(-rate * (np.asarray(t)[:, None] - tau)))


@given(
    tau=st.floats(0.3, 9.7),
    rate=st.floats(0.2, 3),
    level=st.floats(0.01, 0.99),
    grid=st.integers(3, 9),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_step_times_of_logistic_curves_are_exact_on_any_grid(tau, rate, level, grid, seed):
    inner = np.sort(np.random.default_rng(seed).uniform(0.1, 9.9, grid))
    times = np.r_[0, inner + 1e-6 * np.arange(grid), 10]
    crossing = tau + np.log(level / (1 - level)) / rate
    measured = spectra.step_times(times, logistic(times, np.array([tau]), rate), level)[0]
    if 0.01 < crossing < 9.99:
        assert measured == pytest.approx(crossing, abs=1e-8)
    elif not -0.01 < crossing < 10.01:
        assert measured == np.inf


def test_measured_step_times_agree_with_the_law(x64):
    from stepwise.laws import BarlowTwins

    law, times = BarlowTwins([1.0, 0.5, 0.2, -0.1]), np.linspace(0, 20, 40)
    lam0 = np.array([1e-4, 1e-4, 0.7, -0.1])
    measured = spectra.step_times(times, law.eigenvalues(times, lam0))
    np.testing.assert_allclose(measured, law.step_times(lam0), rtol=1e-9)


def test_curves_that_do_not_rise_through_the_level_have_no_step():
    t, nan, inf = np.arange(4.0), np.nan, np.inf
    curves = np.array(
        [
            [0, 0, 0.4, 0.4],
            [1, 0.9, 0.6, 0.4],
            [0, nan, 1, 1],
            [0.1, 0.2, nan, nan],
            [0.2, inf, 1, 1],
        ]
    ).T
    np.testing.assert_array_equal(spectra.step_times(t, curves), np.inf)


def test_the_first_crossing_is_interpolated_in_the_logit_or_in_the_value():
    t = np.array([0.0, 2, 4, 6, 8])
    curves = np.array(
        [[0.2, 0.8, 0.1, 0.9, 1], [0, 1, 1, 1, 1], [-0.5, 0.5, 0.5, 1, 1], [0.4, 1.4, 1, 1, 1]]
    ).T
    np.testing.assert_allclose(spectra.step_times(t, curves), [1, 1, 2, 0.2])
    np.testing.assert_allclose(spectra.step_times(t, 3 * curves[:, 1:2], 1.5), [1])


@pytest.mark.parametrize(
    ("times", "curves", "message"),
    [
        (
            [0, 1],
            np.zeros((3, 1)),
            r"eigenvalues: expected \[2, d\], a row for each time, received float64 \[3, 1\]",
        ),
        ([0, 1], np.zeros(2), "eigenvalues: expected"),
        ([1, 1], np.zeros((2, 1)), "times: expected increasing numbers"),
        ([0, np.nan], np.zeros((2, 1)), "times: expected finite entries"),
        ([], np.zeros((0, 1)), "eigenvalues: expected"),
    ],
)
def test_curves_that_do_not_fit_their_times_are_refused(times, curves, message):
    with pytest.raises(ValueError, match=message):
        spectra.step_times(times, curves)


@pytest.mark.parametrize("center", [False, True])
def test_eigenvalues_are_those_of_the_cross_view_moment(center, dtype):
    rng = np.random.default_rng(0)
    z1, z2 = rng.normal(size=(30, 4)) + 1, rng.normal(size=(30, 4)) + 2
    expected = np.linalg.eigvalsh(problems.cross_moment(z1, z2, "pooled" if center else "none"))[
        ::-1
    ]
    values = spectra.eigenvalues(z1.astype(dtype), z2.astype(dtype), center=center)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)
    assert values.dtype == dtype
    turned = spectra.eigenvalues(
        (z1 @ problems.rotation(4)).astype(dtype), (z2 @ problems.rotation(4)).astype(dtype)
    )
    if not center:
        np.testing.assert_allclose(turned, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"z2: expected shape \[30, 4\] as z1"):
        spectra.eigenvalues(z1, z2[:, :3])


@given(seed=st.integers(0, 2**16), d=st.integers(1, 4))
@settings(max_examples=20)
def test_alignment_depends_on_the_spans_alone(seed, d):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(9, d)), rng.normal(size=(9, d))
    mix, turn = rng.normal(size=(d, d)) + 3 * np.eye(d), problems.rotation(9, seed)
    score = spectra.subspace_alignment(a, b)
    assert 0 <= score <= 1 + 1e-12
    for one, two in ((b, a), (a @ mix, b), (a, b * rng.uniform(0.1, 10, d)), (turn @ a, turn @ b)):
        assert spectra.subspace_alignment(one, two) == pytest.approx(score, abs=1e-10)
    assert spectra.subspace_alignment(a, a @ mix) == pytest.approx(1)


def test_alignment_of_orthogonal_nested_and_random_spans():
    eye = np.eye(10)
    assert spectra.subspace_alignment(eye[:, :3], eye[:, 3:6]) == 0
    assert spectra.subspace_alignment(eye[:, :3], eye[:, 2:5]) == pytest.approx(1 / 3)
    assert spectra.subspace_alignment(eye[:, :2], eye[:, :5]) == 1
    rng = np.random.default_rng(0)
    scores = [
        spectra.subspace_alignment(rng.normal(size=(10, 3)), rng.normal(size=(10, 3)))
        for _ in range(600)
    ]
    assert np.mean(scores) == pytest.approx(
        spectra.random_alignment(3, 10), abs=4 * np.std(scores) / np.sqrt(600)
    )
    assert spectra.random_alignment(50, 2000) == 0.025


@pytest.mark.parametrize(
    "bad", [np.ones((6, 2)), np.zeros((6, 1)), np.ones((2, 3)), np.ones((6, 0))]
)
def test_a_span_of_fewer_dimensions_than_columns_is_refused(bad):
    with pytest.raises(
        ValueError, match=rf"b: expected full column rank {bad.shape[1]}, received rank"
    ):
        spectra.subspace_alignment(np.eye(6)[:, :2], bad)
    with pytest.raises(ValueError, match="b: expected 6 rows as a"):
        spectra.subspace_alignment(np.eye(6)[:, :2], np.eye(5)[:, :2])
    with pytest.raises(
        ValueError, match=r"d: expected a number in 1 ... 5, the number of rows, received 6"
    ):
        spectra.random_alignment(6, 5)


def test_rankme_counts_the_dimensions_in_use():
    turn = problems.rotation(40)
    assert spectra.rankme(turn[:, :5]) == pytest.approx(5, rel=1e-4)
    assert spectra.rankme(np.outer(turn[0], np.ones(5))) == pytest.approx(1, abs=1e-4)
    p = np.array([4, 2, 1, 1]) / 8
    assert spectra.rankme(turn[:, :4] * p @ problems.rotation(4)) == pytest.approx(
        np.exp(-p @ np.log(p)), rel=1e-5
    )
    assert spectra.rankme(7 * turn[:, :5]) == pytest.approx(spectra.rankme(turn[:, :5]))
    with pytest.raises(ValueError, match="z: expected embeddings that are not all zero"):
        spectra.rankme(np.zeros((3, 2)))


def test_a_mode_steps_alone_if_the_next_has_not_begun():
    t = np.linspace(0, 10, 1001)

    def step(tau, height=1.0):
        return height / (1 + np.exp(-20 * (t - tau)))

    curves = np.stack([step(1), step(4, 0.8), step(4.05, 0.8), step(8, 0.9), step(9, 0.3)], axis=1)
    crossed, alone = spectra.steps_alone(t, curves, learned=0.5)
    # the fifth stays below 1/2, and the second steps together with the third
    assert (crossed, alone) == (4, 3)
    assert spectra.steps_alone(t, 0 * curves) == (0, 0)
    # in another unit, the same curves have the same counts if the threshold is in that unit
    assert spectra.steps_alone(t, 0.01 * curves, learned=0.005) == (4, 3)
    assert spectra.steps_alone(t, 0.01 * curves, learned=0.5) == (0, 0)
    assert spectra.steps_alone(t, 0.01 * curves) == spectra.steps_alone(t, 100 * curves) == (5, 4)
