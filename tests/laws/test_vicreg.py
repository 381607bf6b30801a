"""The laws of VICReg, official and quadratic, against descent of the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import laws, losses
from stepwise.laws.quadratic_vicreg import QuadraticVICReg
from stepwise.laws.vicreg import VICReg
from tests import problems
from tests.laws import pairs


def quadratic_loss(x, x2, a, b):
    """Return b ‖S − I‖² + a E‖z − z'‖² of the linear model, as a function of A [d, r]."""

    def loss(A):
        z, z2 = x @ A.T, x2 @ A.T
        S = (z.T @ z + z2.T @ z2) / (2 * len(z))
        gap = jnp.mean(jnp.sum((z - z2) ** 2, axis=1))
        return b * jnp.sum((S - jnp.eye(len(S))) ** 2) + a * gap

    return loss


@pytest.mark.parametrize("seed", pairs.SEEDS)
def test_descent_of_the_quadratic_loss_follows_the_law(seed, x64):
    gamma, sigma = pairs.spectra(seed)
    a, b = [(1.0, 2.0), (3.0, 5.0), (0.5, 0.8)][seed]
    loss = quadratic_loss(*pairs.pairs(gamma, sigma, 20, seed), a, b)
    law, lam0 = QuadraticVICReg(gamma, sigma, a, b, d=4), np.array([1e-9, 3e-9, 1e-8, 1e-8])
    np.testing.assert_allclose(law.growth(), 8 * ((b - a) * sigma + a * gamma), rtol=1e-12)
    A = problems.gaussian((4, 4), 0.5)
    np.testing.assert_allclose(law.objective(A), loss(A), rtol=1e-12)
    np.testing.assert_allclose(law.rhs(A), -jax.grad(loss)(A), rtol=1e-9, atol=1e-12)

    lr = 0.02 / float(law.growth().max())
    steps = int(1.3 * law.step_times(lam0).max() / lr) + 500
    A0 = pairs.rotated_start(law, lam0, seed)
    slope = jax.grad(loss)
    record, _ = pairs.descend(lambda A: -slope(A), A0, lr, steps, pairs.variances(law.unit()))
    order = np.asarray(law.order)
    rates = [pairs.growth(record[:, j], lr) for j in order]
    np.testing.assert_allclose(rates, law.growth()[order], rtol=5e-3)
    tau = np.asarray(law.step_times(lam0) * (1 + law.descent_delay(lr, lam0)))
    seen = [pairs.crossing(record[:, j], law.rest()[j] / 2, lr) for j in order]
    np.testing.assert_allclose(seen, tau, rtol=5e-3)
    np.testing.assert_allclose(record[-1], 1 - a / b * (1 - gamma / sigma), rtol=1e-2)
    np.testing.assert_allclose(law.rest(), 1 - a / b * (1 - gamma / sigma), rtol=1e-12)


def test_a_mode_of_small_agreement_does_not_grow_in_the_quadratic_law(x64):
    law = QuadraticVICReg([0.4, 0.6], [1.0, 1.0], 2.0, 1.0)
    np.testing.assert_array_equal(law.grows(), [False, True])
    np.testing.assert_allclose(law.rest(), [0, 0.2], rtol=1e-12)


def official_loss(gamma, sigma, n, seed=0, **weights):
    """Return `losses.vicreg` on symmetrised pairs, and the number of pairs."""
    x, x2 = pairs.both_orders(*pairs.pairs(gamma, sigma, n, seed))
    return lambda A: losses.vicreg(x @ A.T, x2 @ A.T, **weights), len(x)


WEIGHTS = {"invariance": 10.0, "variance": 30.0, "covariance": 2.0, "eps": 3e-4}


@pytest.mark.parametrize("weights", [{}, WEIGHTS])
@pytest.mark.parametrize("scale", [1e-6, 1e-2, 0.9])
def test_loss_and_flow_are_those_of_vicreg(scale, weights, x64):
    gamma, sigma = pairs.spectra(1)
    loss, n = official_loss(gamma, sigma, 12, **weights)
    law, A = VICReg(gamma, sigma, 3, n, **weights), problems.gaussian((3, 4), scale)
    std = np.sqrt(np.sum(A**2 * np.asarray(law.unit()), axis=1))
    assert scale < 0.9 or (std.min() < 1 < std.max())
    np.testing.assert_allclose(law.objective(A), loss(A), rtol=1e-12)
    slope = -jax.grad(loss)(A)
    np.testing.assert_allclose(law.rhs(A), slope, rtol=1e-8, atol=1e-12 * np.abs(slope).max())
    if scale == 1e-6:
        np.testing.assert_allclose(law.growth() / 2 * A, slope, rtol=1e-6)
    np.testing.assert_allclose(law.objective(A[:2]), loss(A * [[1], [1], [0]]), rtol=1e-12)


@pytest.mark.parametrize("seed", pairs.SEEDS)
def test_all_rows_learn_the_first_mode_together(seed, x64):
    rng = np.random.default_rng(seed)
    d, sigma = [3, 5, 4][seed], np.array([1.0, 0.5, 0.3]) * rng.uniform(0.9, 1.1, 3)
    gamma = sigma * np.array([[0.6, 0.5, 0.9][seed], 0.4, 0.3])
    loss, n = official_loss(gamma, sigma, 10, seed)
    law, A0 = VICReg(gamma, sigma, d, n), problems.gaussian((d, 3), 1e-7, seed)
    lam0 = law.generic_start(A0)
    tau = float(law.step_times(lam0)[0])
    lr, steps = tau / 8000, 16_000
    slope = jax.grad(loss)
    record, _ = pairs.descend(lambda A: -slope(A), A0, lr, steps, pairs.variances(law.unit()))
    curve = record[:, 0]
    rate = pairs.growth(curve, lr, 1e-12, 1e-8)
    np.testing.assert_allclose(rate, law.growth()[0], rtol=1e-3)
    delay = float(law.descent_delay(lr, lam0)[0])
    seen = pairs.crossing(curve, float(law.rest()[0]) / 2, lr)
    np.testing.assert_allclose(seen, tau * (1 + delay), rtol=3e-3)
    times = lr * np.arange(steps)
    expected = np.asarray(law.eigenvalues(times, lam0))[:, 0]
    late = expected > 0.2 * float(law.rest()[0])
    # until the second mode grows
    own = late & (record[:, 1:].sum(axis=1) < 1e-3)
    assert own.sum() > 2000
    np.testing.assert_allclose(curve[own], expected[own], rtol=2e-2)


@pytest.mark.parametrize(
    ("ratios", "d"), [([0.5, 0.9], 5), ([0.9, 0.88], 4), ([0.97, 0.97], 2), ([0.95, 0.2], 3)]
)
def test_the_rest_of_equal_rows_and_the_rate_of_the_next_mode(ratios, d, x64):
    sigma = np.array([1.0, 0.6])
    gamma = sigma * np.array(ratios)
    law = VICReg(gamma, sigma, d)
    lr = 2e-5
    side = 1e-9 * np.random.default_rng(0).normal(size=d)
    side -= side.mean()  # equal rows grow more slowly
    A0 = np.stack([np.full(d, 0.7), 0 * side], axis=1)
    _, A = pairs.descend(law.rhs, A0, lr, 60_000, jnp.max)
    np.testing.assert_allclose(np.sum(A[:, 0] ** 2), law.rest()[0], rtol=5e-4)
    push = 25 / np.sqrt(law.rest()[0] / d + 1e-4)
    u2 = float(law.rest()[0]) / d
    if u2 < 0.9998:
        balance = 8 * (d - 1) * u2 + 100 * (1 - ratios[0])
        np.testing.assert_allclose(push, balance, rtol=1e-9)

    # the direction perpendicular to equal rows, or the equal one, whichever grows faster
    record, _ = pairs.descend(law.rhs, A.at[:, 1].set(side), lr, 40_000, pairs.variances(sigma))
    rate = np.log(record[-1, 1] / record[-20_001, 1]) / (20_000 * lr)
    assert record[-1, 1] < 1e-6
    for learned in ([0], A):
        np.testing.assert_allclose(law.next_growth(learned), rate, rtol=2e-3)
    together = 8 * 25 / d * 0.6 * (ratios[1] - ratios[0])
    np.testing.assert_allclose(law.takeover(0, 1), together, rtol=1e-12)
    unlike = together + 16 * sigma[1] * u2
    np.testing.assert_allclose(law.next_growth([0]), unlike, rtol=1e-9)
    np.testing.assert_allclose(law.next_growth([]), law.growth()[0], rtol=1e-12)


def test_equal_rows_keep_growing_together(x64):
    law = VICReg([0.5, 0.54], [1.0, 0.6], 3)
    A = jnp.asarray(law.aligned_start(law.rest()[:1])).at[:, 1].set(1e-8)
    rate = 2 * law.rhs(A)[:, 1] / 1e-8
    np.testing.assert_allclose(rate, np.full(3, law.takeover(0, 1)), rtol=1e-6)


@pytest.mark.parametrize(("ratio", "highest"), [(0.5, 0.5), (0.9, 1.0)])
def test_one_row_grows_additively_after_a_deviation_of_a_hundredth(ratio, highest, x64):
    law = VICReg([1.3 * ratio], [1.3], 1)
    u0 = 1e-9
    stop = np.log(1e-2 / u0) * 1e-2 / (25 * 1.3)
    k = 100 * 1.3 * (1 - ratio)
    times = stop + np.linspace(0.05, 2, 6) / k
    u = np.sqrt(law.eigenvalues(times, [u0**2])[:, 0])
    expected = np.minimum(25 / (100 * (1 - ratio)) * (1 - np.exp(-k * (times - stop))), 1)
    # the pieces leave out the passage through a deviation of 0.01
    np.testing.assert_allclose(u, expected, atol=1.2e-2)
    np.testing.assert_allclose(np.sqrt(law.rest()[0]), highest, rtol=1e-3)
    np.testing.assert_allclose(law.eigenvalues([1e9], [u0**2])[0], law.rest(), rtol=1e-6)
    tau = law.step_times([u0**2], 0.4)
    np.testing.assert_allclose(law.eigenvalues(tau, [u0**2])[0], 0.4 * law.rest(), rtol=1e-6)
    assert law.eigenvalues([1.0], [0.0])[0, 0] == 0


def test_what_is_not_known_and_what_is_wrong():
    law = VICReg(np.ones(3) / 2, np.ones(3), 2)
    for name, arguments in [
        ("eigenvalues", ([1.0], [1e-6, 1e-6])),
        ("step_times", ([1e-6, 1e-6],)),
        ("next_growth", ([0, 1],)),
        ("final_modes", (2,)),
        ("max_stable_lr", ()),
    ]:
        with pytest.raises(laws.NotKnownError, match=r"expected a law with .*VICReg"):
            getattr(law, name)(*arguments)
    with pytest.raises(ValueError, match="invariance: expected a number that is not negative"):
        VICReg(np.ones(3), np.ones(3), 2, invariance=-1.0)
    with pytest.raises(ValueError, match="sigma: expected positive variances"):
        VICReg(np.ones(3), np.eye(3) - 1.1, 2)
    with pytest.raises(ValueError, match="variance: expected a positive number"):
        QuadraticVICReg(np.ones(3), np.ones(3), 1.0, 0.0)
    with pytest.raises(ValueError, match=r"A: expected shape \[2, 3\]"):
        law.generic_start(np.ones((3, 3)))
    with pytest.raises(ValueError, match="eps: expected a number between 0 and 1"):
        VICReg(np.ones(3), np.ones(3), 2, eps=0.0)
