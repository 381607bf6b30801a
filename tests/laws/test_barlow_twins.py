import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from stepwise.laws import BarlowTwins

GAMMA = np.array([2.0, 1.0, 0.3, 0.0, -0.7])
LAM0 = np.array([1e-6, 0.2, 1.4, 0.5, -0.3])


def test_the_law_solves_its_differential_equation(x64):
    times = np.linspace(0, 3, 13)
    solved = solve_ivp(
        lambda t, lam: 8 * GAMMA * lam * (1 - lam),
        (0, 3),
        LAM0,
        method="DOP853",
        rtol=1e-12,
        atol=1e-15,
        t_eval=times,
    )
    np.testing.assert_allclose(
        BarlowTwins(GAMMA).eigenvalues(times, LAM0), solved.y.T, rtol=1e-9, atol=1e-13
    )


def test_the_law_is_the_formula_of_the_slides(x64):
    gamma, s0, t = (
        np.array([1.5, 0.4, -0.6]),
        np.array([1e-3, 0.3, 0.8]),
        np.linspace(0, 2, 9)[:, None],
    )
    s = np.exp(4 * gamma * t) / np.sqrt(s0**-2 + (np.exp(8 * gamma * t) - 1) * gamma)
    law, lam0 = BarlowTwins(gamma), gamma * s0**2
    np.testing.assert_allclose(law.eigenvalues(t[:, 0], lam0), gamma * s**2, rtol=1e-12)
    np.testing.assert_allclose(law.amplitude(t[:, 0], lam0) * s0, s, rtol=1e-12)


def test_amplitudes_of_modes_that_do_not_grow(x64):
    growth = BarlowTwins([1.0, 0.0, -1.0]).amplitude([0.0, 1.0, 1e6], [0.0, 0.0, -0.5])
    np.testing.assert_array_equal(growth[:, :2], 1)
    np.testing.assert_allclose(
        growth[:, 2], [1, np.exp(-4) / np.sqrt(1 + 0.5 * (1 - np.exp(-8))), 0], rtol=1e-12
    )


SPECIAL = [
    0.0,
    1.0,
    -1.0,
    0.5,
    1e6,
    1e30,
    -1e30,
    1e-30,
    -1e-30,
    2.0**-126,
    2.0**-149,
    3e38,
    -3e38,
    1 + 2e-7,
    1 - 6e-8,
]


@pytest.mark.parametrize("width", [32, 64])
@given(data=st.data())
@settings(max_examples=10)
def test_the_law_is_finite_at_every_time_mode_and_start(width, data):
    kind = f"float{width}"
    drawn = data.draw(
        st.lists(
            st.floats(allow_nan=False, allow_infinity=False, width=width), min_size=10, max_size=10
        )
    )
    numbers = np.array(SPECIAL + drawn, kind)
    gamma, lam0 = (grid.ravel() for grid in np.meshgrid(numbers, numbers))
    with jax.enable_x64(width == 64):
        out = np.asarray(BarlowTwins(gamma).eigenvalues(np.abs(numbers), lam0))
    assert out.dtype == kind
    assert np.isfinite(out).all()
    between = (lam0 >= 0) & (lam0 <= 1)
    assert ((out >= 0) & (out <= 1))[:, between].all()
    assert (out == lam0)[:, (lam0 == 0) | (lam0 == 1)].all()
    assert (out <= 0)[:, (lam0 < 0) & (gamma <= 0)].all()
    assert (out >= 1)[:, (lam0 > 1) & (gamma >= 0)].all()


def test_nothing_overflows_at_a_million_in_float32():
    out = BarlowTwins(np.float32([5, 1e-3, -5])).eigenvalues(
        np.float32([1e6, 1e30]), np.float32([1e-30, 1e-30, -0.9])
    )
    np.testing.assert_array_equal(out, [[1, 1, 0], [1, 1, 0]])


def test_learned_modes_stay_and_negative_ones_decay(dtype):
    law = BarlowTwins(np.array([3, 0.1, -0.2, 0], dtype))
    out = law.eigenvalues(np.array([0, 1, 100, 1e9], dtype), np.array([1, 1, -0.5, 0.3], dtype))
    np.testing.assert_array_equal(out[:, :2], 1)
    np.testing.assert_array_equal(out[-1], np.array([1, 1, 0, 0.3], dtype))
    assert (np.diff(out[:, 2]) >= 0).all()


def test_step_times_are_where_the_curve_is_one_half(x64):
    law, lam0 = BarlowTwins([2.0, 0.5, 0.01]), np.array([1e-9, 1e-3, 0.4])
    tau = np.asarray(law.step_times(lam0))
    np.testing.assert_allclose(np.diagonal(law.eigenvalues(tau, lam0)), 0.5, rtol=1e-12)
    np.testing.assert_allclose(
        tau, np.log(1 / lam0 - 1) / (8 * np.array([2, 0.5, 0.01])), rtol=1e-12
    )


@pytest.mark.parametrize(
    ("gamma", "lam0"),
    [(0.0, 0.1), (-1.0, -0.1), (1.0, 0.0), (1.0, 0.7), (1.0, 1.0), (1.0, 1.5), (1.0, -0.2)],
)
def test_a_mode_that_never_crosses_one_half_has_no_step(gamma, lam0, dtype):
    assert (
        np.asarray(BarlowTwins(np.array([gamma], dtype)).step_times(np.array([lam0], dtype)))[0]
        == np.inf
    )


def test_the_loss_sums_the_squared_distance_of_each_mode_from_one(x64):
    law, times = BarlowTwins([1.0, 0.5, -0.1]), np.linspace(0, 4, 7)
    lam0 = np.array([1e-3, 1e-3, -1e-3])
    curves = np.asarray(law.eigenvalues(times, lam0))
    np.testing.assert_allclose(law.loss(times, lam0), ((1 - curves) ** 2).sum(1), rtol=1e-13)
    assert law.loss([1e9], lam0)[0] == 1


@pytest.mark.parametrize(
    ("gamma", "limit"),
    [
        ([1, 0.5], 0.25),
        ([1, 0.5, -5], 0.1),
        ([1, -2], 0.25),
        ([1, -2.5], 0.2),
        ([-2], 0.25),
        ([0, 0], np.inf),
    ],
)
def test_the_largest_stable_lr_counts_negative_modes(gamma, limit, dtype):
    assert float(BarlowTwins(np.array(gamma, dtype)).max_stable_lr()) == np.array(limit, dtype)


def test_derivatives_in_gamma_and_lam0_equal_finite_differences(x64):
    times, gamma, lam0 = (
        np.array([0.1, 0.7, 2.0]),
        np.array([1.3, 0.4, -0.8, 0.0]),
        np.array([1e-2, 0.9, -0.4, 0.3]),
    )

    def total(gamma, lam0):
        return jnp.sum(
            jnp.sin(jnp.arange(12.0).reshape(3, 4)) * BarlowTwins(gamma).eigenvalues(times, lam0)
        )

    slopes = jax.jit(jax.grad(total, argnums=(0, 1)))(gamma, lam0)
    for which, slope in enumerate(slopes):
        for j in range(4):
            step = 1e-6 * np.eye(4)[j]
            ends = [
                total(*[a + s * step * (i == which) for i, a in enumerate((gamma, lam0))])
                for s in (1, -1)
            ]
            np.testing.assert_allclose(slope[j], (ends[0] - ends[1]) / 2e-6, rtol=1e-7, atol=1e-8)


def test_derivatives_at_fixed_points_are_those_of_the_linearised_law(dtype):
    for lam0, sign in ((0.0, 1), (1.0, -1)):
        for gamma in (0.5, -0.5, 0.0):
            slope = jax.grad(
                lambda lam, g=gamma: BarlowTwins(jnp.array([g])).eigenvalues([0.7], lam[None])[0, 0]
            )
            np.testing.assert_allclose(
                slope(jnp.asarray(lam0)), np.exp(sign * 8 * gamma * 0.7), rtol=1e-5
            )


def test_derivatives_are_finite_for_every_possible_sign_and_size(dtype):
    gamma, lam0 = np.array(
        [(g, lam) for g in (1.0, 0.0) for lam in (0.0, 1.0, 1e-35, 0.5, 2.0)]
        + [(g, lam) for g in (-1.0, -1e-3) for lam in (0.0, -1e-35, -1.0, -100.0)],
        dtype,
    ).T
    law = jax.jit(
        jax.jacrev(lambda g, lam: BarlowTwins(g).eigenvalues([0.0, 1.0, 1e6], lam), argnums=(0, 1))
    )
    for part in law(gamma, lam0):
        assert np.isfinite(part).all()


def test_laws_map_over_starts_and_modes(x64):
    lam0 = np.array([[1e-3, 1e-2], [0.1, 0.2], [0.3, -0.4]])
    gammas = np.array([[1, 0.5], [2, 0.1], [3, -1]])
    mapped = jax.jit(jax.vmap(lambda g, lam: BarlowTwins(g).eigenvalues([0.5, 1.0], lam)))(
        gammas, lam0
    )
    for one, g, lam in zip(mapped, gammas, lam0, strict=True):
        np.testing.assert_allclose(one, BarlowTwins(g).eigenvalues([0.5, 1.0], lam), rtol=1e-13)
    limits = jax.vmap(lambda g: BarlowTwins(g).max_stable_lr())(gammas)
    np.testing.assert_array_equal(limits, 1 / np.array([4.0, 8, 12]))
    assert jax.tree.map(lambda leaf: leaf * 2, BarlowTwins(gammas[0])).gamma[0] == 2


def test_the_law_uses_as_many_modes_as_the_start_has(dtype):
    assert BarlowTwins(np.ones(5, dtype)).eigenvalues(
        np.ones(3, dtype), np.full(2, 0.1, dtype)
    ).shape == (3, 2)
    with pytest.raises(
        ValueError, match=r"lam0: expected at most 2 entries.*received float.*\[3\]"
    ):
        BarlowTwins(np.ones(2, dtype)).eigenvalues(np.ones(1, dtype), np.full(3, 0.1, dtype))


@pytest.mark.parametrize(
    ("gamma", "message"),
    [
        ([[1.0]], "gamma: expected an array of rank 1"),
        ([np.nan], "gamma: expected finite entries, received 1 of 1 not finite"),
        (["a"], "gamma: expected real numbers"),
        ([1j], "gamma: expected real numbers"),
    ],
)
def test_modes_that_are_not_a_vector_of_finite_numbers_are_rejected(gamma, message):
    with pytest.raises(ValueError, match=message):
        BarlowTwins(gamma)


def measure_delay(gamma, s0, lr, level):
    """Iterate descent on one mode; return the fraction by which it crosses the level late."""
    lam, k = gamma * s0**2, 0
    flow = (np.log(level / (1 - level)) - np.log(lam / (1 - lam))) / (8 * gamma)
    while True:
        after = lam * (1 + 4 * lr * gamma * (1 - lam)) ** 2
        if after >= level:
            break
        lam, k = after, k + 1
    ends = [np.log(v / (1 - v)) for v in (lam, after, level)]
    return lr * (k + (ends[2] - ends[0]) / (ends[1] - ends[0])) / flow - 1


@pytest.mark.parametrize(("level", "bend"), [(0.5, 6), (1e-3, 3)])
def test_descent_is_late_by_the_predicted_fraction_to_first_order(level, bend, x64):
    gamma, s0 = 0.7, 1e-4
    lam0 = gamma * s0**2
    for lr in (0.016, 0.008, 0.004):
        measured = measure_delay(gamma, s0, lr, level)
        predicted = float(BarlowTwins([gamma]).descent_delay(lr, [lam0], level)[0])
        assert abs(measured / predicted - 1) < bend * lr * gamma


def test_the_delay_of_the_plateau_alone_is_twice_lr_gamma(x64):
    delay = BarlowTwins([0.7, 0.1]).descent_delay(0.01, [1e-12, 1e-12], 1e-3)
    np.testing.assert_allclose(delay, [0.014, 0.002], rtol=2e-4)
    half = BarlowTwins([0.7]).descent_delay(0.01, [1e-6])
    np.testing.assert_allclose(half, 0.014 * (1 - 3 * np.log(2) / np.log(1e6)), rtol=1e-5)
    never = BarlowTwins([0.7, 0.5, -1.0]).descent_delay(0.01, [0.6, 0.0, -0.1])
    np.testing.assert_array_equal(never, 0)
    with pytest.raises(ValueError, match="level: expected a number between 0 and 1, received 2"):
        BarlowTwins([0.7]).descent_delay(0.01, [1e-6], 2.0)
