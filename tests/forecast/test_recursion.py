"""The recursion of rows that are not learned: known limits, and independent simulations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import losses
from stepwise.forecast import recursion
from stepwise.forecast.recursion import TAKEOFF, Descent, Moments
from stepwise.laws.heavy_ball import HeavyBallLaw

pytestmark = pytest.mark.usefixtures("x64")

GAMMA = np.array([0.8, 0.5, 0.2])


def moments(gamma, sigma=None, *, cross=0.0, single=0.0):
    gamma = np.diag(gamma)
    sigma = gamma if sigma is None else np.diag(sigma)
    return Moments(gamma, gamma, sigma, cross, single)


def descent(lr=0.01, momentum=0.9, batch=np.inf, sensitivity=0.0):
    rates = np.full(recursion.HORIZON, lr)
    return Descent(rates, momentum, batch, sensitivity)


def test_the_batch_loss_is_the_mean_loss_of_gaussian_batches():
    rng = np.random.default_rng(0)
    sigma, n = np.array([1.0, 0.9, 0.6]), 32
    rows = 0.6 * rng.normal(size=(2, 3))
    common = rng.normal(size=(20_000, n, 3)) * np.sqrt(GAMMA)
    noise = rng.normal(size=(2, 20_000, n, 3)) * np.sqrt(sigma - GAMMA)
    a, b = ((common + part) @ rows.T for part in noise)
    mean = float(jnp.mean(jax.vmap(losses.barlow_twins_unnormalised)(a, b)))
    formula = float(recursion.batch_loss(rows, moments(GAMMA, sigma), float(n)))
    full = float(recursion.batch_loss(rows, moments(GAMMA, sigma), np.inf))
    assert formula == pytest.approx(mean, rel=0.01)
    assert abs(mean - formula) < 0.15 * abs(mean - full)


@pytest.mark.parametrize("learned", [(0.0, 0.0), (2.0, 3.5)])
def test_the_growth_operator_is_the_flow_of_small_rows(learned):
    rng = np.random.default_rng(1)
    part = moments(GAMMA, [1.0, 0.9, 0.6], cross=learned[0], single=learned[1])
    rows = 1e-5 * rng.normal(size=(2, 3))
    flow = -np.asarray(jax.grad(recursion.batch_loss)(rows, part, 20.0))
    np.testing.assert_allclose(
        flow, 4 * rows @ np.asarray(recursion.growth_operator(part, 20.0)), rtol=1e-6
    )


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_full_batches_take_off_when_the_law_of_the_heavy_ball_says(momentum):
    lr, lam0 = 0.01, 1e-6
    law = HeavyBallLaw(jnp.asarray(GAMMA), None, lr, momentum)
    expected = float(law.step_times(jnp.asarray([lam0]), level=TAKEOFF)[0]) / lr
    rows = np.array([[np.sqrt(lam0 / GAMMA[0]), 0, 0]])
    taken = recursion.takeoff(rows, 0 * rows, moments(GAMMA), descent(lr, momentum))
    assert float(taken.steps) == np.ceil(expected)


def test_features_of_two_linear_layers_strengthen_their_mode():
    """A row w on a hidden unit s x, trained together from w much smaller than s."""
    lr, momentum, gamma, kappa = 0.002, 0.9, 0.5, 30.0
    s0 = 1 / np.sqrt(kappa)  # the flow of s is that of u = s/s0 at κ = 1/s0²
    w, s, v, v2, steps = 1e-4, s0, 0.0, 0.0, 0
    while gamma * (w * s) ** 2 < TAKEOFF:
        slope = -4 * (1 - gamma * (w * s) ** 2) * gamma * w * s
        v, v2 = momentum * v + slope * s, momentum * v2 + slope * w
        w, s, steps = w - lr * v, s - lr * v2, steps + 1
    part = moments([gamma * s0**2])
    rows = np.array([[1e-4]])
    strong = recursion.takeoff(rows, 0 * rows, part, descent(lr, momentum, sensitivity=kappa))
    weak = recursion.takeoff(rows, 0 * rows, part, descent(lr, momentum))
    assert float(strong.steps) == steps < 0.8 * float(weak.steps)
    np.testing.assert_allclose(float(strong.strength[0]), s / s0, rtol=1e-6)


def test_a_growth_factor_solves_its_equation():
    z = float(recursion.factor(0.03, 0.9))
    assert z**2 - (1.9 + 0.03) * z + 0.9 == pytest.approx(0, abs=1e-12)
    assert float(recursion.factor(0.03, 0.0)) == pytest.approx(1.03)


def test_a_mode_that_does_not_grow_never_takes_off():
    rows = np.array([[1e-3]])
    taken = recursion.takeoff(rows, 0 * rows, moments([-0.2], [1.0]), descent())
    assert np.isinf(float(taken.steps))
