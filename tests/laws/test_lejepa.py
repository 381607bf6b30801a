"""LeJEPA, against the flow of its loss on Gaussian pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.ode import odeint
from scipy.special import hyp1f1
from scipy.stats import norm, qmc

from stepwise import losses
from stepwise.laws import lejepa, sphere
from stepwise.laws.lejepa import LeJEPA
from stepwise.losses import isotropy

N = 256


def pairs(rho, sigma, n=N):
    """Return two views [n, r], nearly Gaussian, with exactly these moments and symmetric pairs."""
    r = len(rho)
    points = norm.ppf(qmc.Sobol(2 * r, seed=1).random(n // 2))
    points -= points.mean(0)
    points = points @ np.linalg.inv(np.linalg.cholesky(points.T @ points / len(points))).T
    same, apart = np.sqrt((1 + rho) / 2) * points[:, :r], np.sqrt((1 - rho) / 2) * points[:, r:]
    both = (
        np.concatenate([same + apart, same - apart]),
        np.concatenate([same - apart, same + apart]),
    )
    return both[0] * np.sqrt(sigma), both[1] * np.sqrt(sigma)


def directions(d):
    """Return directions whose averages are those of the sphere in d = 1 or 2."""
    if d == 1:
        return np.ones((1, 1))
    angle = np.pi * np.arange(8) / 8
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


@pytest.mark.parametrize(("d", "seed", "weight"), [(1, 0, 0.02), (2, 1, 0.02), (2, 2, 0.003)])
def test_curves_are_those_of_the_loss_on_gaussian_pairs(d, seed, weight, x64):
    rng = np.random.default_rng(seed)
    rho, sigma = rng.uniform(0.4, 0.9, d), np.array([1.0, 0.7])[:d] * rng.uniform(0.8, 1.0, d)
    law, lam0 = LeJEPA(rho * sigma, sigma, d, weight, N), np.full(d, 1e-3)
    x, x2 = pairs(rho, sigma)

    def loss(W):
        return losses.lejepa(x @ W.T, x2 @ W.T, weight=weight, slices=directions(d))

    tau = np.asarray(law.step_times(lam0))
    times = jnp.linspace(0, 2 * tau.max(), 41)
    start = law.aligned_start(lam0)
    states = jax.jit(lambda W: odeint(lambda W, t: -jax.grad(loss)(W), W, times, rtol=1e-6))(start)
    curves = jax.vmap(lambda W: jnp.diagonal(law.measure(W)))(states)
    expected = np.asarray(law.eigenvalues(times, lam0))
    # A sample of 256 pairs is not quite Gaussian.
    np.testing.assert_allclose(curves, expected, atol=0.03)
    half = np.array([np.interp(tau[j], times, expected[:, j] - curves[:, j]) for j in range(d)])
    slope = [np.interp(tau[j], times, np.gradient(curves[:, j], times)) for j in range(d)]
    np.testing.assert_allclose(half / slope / tau, 0, atol=0.01)
    rate = np.log(curves[2] / lam0) / times[2]
    early = np.log(expected[2] / lam0) / times[2]
    np.testing.assert_allclose(rate, early, rtol=0.01)
    end = law.eigenvalues(50 * times, lam0)[-1]
    np.testing.assert_allclose(end, law.rest()[law.order], rtol=1e-6)


def test_the_loss_near_zero_has_the_gradient_of_the_formula(x64):
    rho, sigma, weight = np.array([0.8, 0.1, -0.5]), np.array([1.0, 0.6, 2.0]), 0.004
    law = LeJEPA(rho * sigma, sigma, 2, weight, N)
    x, x2 = pairs(rho, sigma)
    W = 1e-5 * np.random.default_rng(0).normal(size=(2, 3))

    def loss(W):
        return losses.lejepa(x @ W.T, x2 @ W.T, weight=weight, slices=directions(2))

    measured = -jax.grad(loss)(jnp.asarray(W))
    np.testing.assert_allclose(measured, W * law.growth()[None] / 2, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(law.rhs(W), W * law.growth()[None] / 2, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(law.objective(np.zeros((2, 3))), 0.4020 * weight * N, rtol=2e-4)
    np.testing.assert_allclose(law.objective(np.zeros((2, 3))), loss(np.zeros((2, 3))), rtol=1e-9)
    np.testing.assert_allclose(loss(1e5 * W), law.objective(1e5 * W), rtol=0.02)


def test_the_constants_are_those_of_the_loss():
    np.testing.assert_array_equal(lejepa.KNOTS, isotropy.KNOTS[1:])
    np.testing.assert_allclose(lejepa.GAUSSIAN, isotropy.GAUSSIAN[1:])
    np.testing.assert_allclose(lejepa.WEIGHTS, isotropy.WEIGHTS[1:])
    np.testing.assert_allclose(lejepa.CURVATURE, 1.54604, rtol=1e-5)


@pytest.mark.parametrize("d", [1, 2, 3, 16, 200])
def test_averages_over_directions_are_exact(d, x64):
    for x in (0.0, 1.0, 50.0):
        mean, moments = sphere.averages(jnp.zeros((1, d)).at[0, 0].set(x))
        np.testing.assert_allclose(mean[0], hyp1f1(0.5, d / 2, -x), rtol=1e-9, atol=1e-13)
        first = hyp1f1(1.5, d / 2 + 1, -x) / d
        np.testing.assert_allclose(moments[0, 0], first, rtol=1e-9, atol=1e-13)
        np.testing.assert_allclose(moments.sum(), mean[0], atol=2e-13)


def test_averages_of_different_numbers_are_those_of_many_directions(x64):
    a = np.random.default_rng(0).normal(size=(200_000, 3))
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    x = np.array([0.3, 2.0, 5.0])
    weights = np.exp(-(a**2) @ x)
    mean, moments = sphere.averages(jnp.asarray(x)[None])
    np.testing.assert_allclose(mean[0], weights.mean(), atol=2e-3)
    np.testing.assert_allclose(moments[0], (weights[:, None] * a**2).mean(0), atol=1e-3)


def test_the_flow_is_the_gradient_of_the_loss(x64):
    law = LeJEPA([0.9, 0.3, 0.2, -0.1], [1.0, 0.8, 0.3, 0.7], 3, 0.1, 10)
    A = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)))
    np.testing.assert_allclose(law.rhs(A), -jax.grad(law.objective)(A), rtol=1e-9)


def test_learned_modes_slow_down_the_others(x64):
    for learned, d, ratio in [(1, 2, 0.54), (1, 4, 0.64), (2, 4, 0.40), (9, 10, 0.07)]:
        law = LeJEPA(np.ones(d), np.ones(d), d, 1.0, 1)
        pull = law._pull(jnp.where(jnp.arange(d) < learned, 1.0, 0.0))
        np.testing.assert_allclose(pull[-1] / law._pull(jnp.zeros(d))[-1], ratio, atol=0.005)


def test_modes_rest_where_the_flow_ends_and_rows_are_taken_over_by_agreement(x64):
    gamma, sigma = np.array([0.5, 0.45, 0.1]), np.array([1.0, 0.5, 0.8])
    law = LeJEPA(gamma, sigma, 2, 0.1, 10)
    np.testing.assert_array_equal(law.order, [0, 2, 1])
    np.testing.assert_array_equal(law.final_modes(2), [1, 0])
    rows = law.aligned_start(law.rest()[law.final_modes(2)], law.final_modes(2))
    np.testing.assert_allclose(law.rhs(rows), 0, atol=1e-12)
    assert float(law.rest()[2]) < float(law.rest()[0])

    one = LeJEPA(gamma, sigma, 1, 0.1, 10)
    held = one.aligned_start(one._rest_of(jnp.array([0])), [0])
    for k in (1, 2):
        step = jnp.zeros((1, 3)).at[0, k].set(1e-6)
        rate = 2 * (one.rhs(held + step) - one.rhs(held - step))[0, k] / 2e-6
        np.testing.assert_allclose(one.takeover(0, k), rate, rtol=1e-6)

    held = jnp.zeros((2, 3)).at[0, 0].set(jnp.sqrt(law._rest_of(jnp.array([0]))[0] / sigma[0]))
    rates = []
    for k in (1, 2):
        step = jnp.zeros((2, 3)).at[1, k].set(1e-5)
        rates.append(2 * law.rhs(held + step)[1, k] / 1e-5)
    np.testing.assert_allclose(law.next_growth([0]), max(rates), rtol=1e-5)
    np.testing.assert_allclose(law.next_growth([]), law.growth().max(), rtol=1e-9)


def test_rests_of_one_dimension_are_those_of_the_published_weight(x64):
    rests = [float(LeJEPA([rho], [1.0], 1).rest()[0]) for rho in (0.9, 0.5)]
    np.testing.assert_allclose(rests, [0.962, 0.839], atol=1e-3)


def test_a_mode_grows_if_its_views_agree_enough(x64):
    # ρ > 1 − 2 weight n κ0/(1 − weight) = 0.686
    law = LeJEPA([0.7, 0.67], [1.0, 1.0], 1, 0.1 / 1.0, 0.9138)
    np.testing.assert_array_equal(law.grows(), [True, False])
    assert law.rest()[0] > 0 and law.rest()[1] == 0


def test_derivatives_are_those_of_rests_and_step_times(x64):
    gamma, sigma, h = jnp.array([0.5, 0.1]), jnp.array([1.0, 0.8]), 1e-4

    def values(s):
        law = LeJEPA(gamma, sigma.at[0].set(s), 1, 0.1, 10)
        return law.step_times(jnp.array([1e-3]))[0] + 3 * law.rest()[1]

    slope = jax.jit(jax.grad(values))(1.0)
    np.testing.assert_allclose(slope, (values(1.0 + h) - values(1.0 - h)) / (2 * h), rtol=1e-5)


def test_arguments_are_checked(x64):
    law = LeJEPA([0.5, 0.4], np.eye(2), 1)
    with pytest.raises(ValueError, match="lam0: expected at most d = 1 entries"):
        law.eigenvalues([1.0], [0.1, 0.1])
    with pytest.raises(ValueError, match="lam0: expected variances, none negative"):
        law.eigenvalues([1.0], [-0.1])
    with pytest.raises(ValueError, match="learned: expected fewer than d = 1 indices"):
        law.next_growth([0])
    with pytest.raises(ValueError, match=r"weight: expected a number in \(0, 1\], received 0"):
        LeJEPA([0.5], [1.0], 1, 0)
    with pytest.raises(ValueError, match="sigma: expected positive variances"):
        LeJEPA([0.5, 0.4], [1.0, -0.5], 1)
    np.testing.assert_array_equal(law.eigenvalues([0.0, 5.0], [0.0]), [[0], [0]])
