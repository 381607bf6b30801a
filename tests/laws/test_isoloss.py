"""The law of IsoLoss, against descent of the loss."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import laws, losses
from stepwise.laws.isoloss import IsoLoss
from tests import problems
from tests.laws import distillation

SPECTRA = [distillation.spectrum(seed) for seed in range(3)]


def loss(W, x, x2, alpha):
    return losses.isoloss(x @ W.T, x2 @ W.T, alpha=alpha)


@partial(jax.jit, static_argnames=("alpha", "steps"))
def curves(W, x, x2, sigma, lr, alpha, steps):
    """Run descent; return σ ‖W_j‖² [steps, r] of each mode."""
    slope = jax.grad(loss)
    return distillation.descend(
        lambda W: W - lr * slope(W, x, x2, alpha),
        W,
        steps,
        lambda W: sigma * jnp.sum(W**2, axis=0),
    )[1]


@pytest.mark.parametrize("alpha", [1.0, 0.5, 2.0])
def test_descent_grows_steps_and_rests_as_the_law_says(alpha, x64):
    lr, scale = 0.02, 1e-3
    for seed, (gamma, sigma) in enumerate(SPECTRA):
        law = IsoLoss(gamma, np.diag(sigma), alpha, d=3)
        x, x2 = distillation.pairs(gamma, sigma, seed=seed)
        start = np.zeros((3, 3))
        # distinct sizes, because the gradient of eigh at equal eigenvalues is not needed
        start[:, np.asarray(law.order)] = problems.rotation(3, seed) * scale * [1, 0.8, 0.6]
        lam0 = (scale * np.array([1, 0.8, 0.6])) ** 2 * sigma[law.order]
        values = np.asarray(curves(start, x, x2, sigma, lr, alpha, 3000))[:, law.order]
        growth, rest = np.asarray(law.growth())[law.order], np.asarray(law.rest())[law.order]
        np.testing.assert_allclose(values[-1], rest, rtol=1e-3)
        low, expected = lam0.max(), distillation.discrete(growth, lr)
        fade = 1 if alpha >= 1 else 1 - np.sqrt(30 * low / rest)  # Sᵅ is not small yet
        measured = distillation.rates(values, lr, 2 * low, 20 * low)
        np.testing.assert_allclose(measured, expected * fade, rtol=2e-3 if alpha >= 1 else 1e-2)
        found = distillation.crossings(values, rest / 2, lr)
        times = np.asarray(law.step_times(lam0))
        delay = np.asarray(law.descent_delay(lr, lam0))
        np.testing.assert_allclose(found / times - 1, delay, atol=0.03 * delay.max())
        np.testing.assert_allclose(np.diag(law.eigenvalues(times, lam0)), rest / 2, rtol=1e-10)


@pytest.mark.parametrize("alpha", [1.0, 0.5, 2.0])
def test_its_flow_value_and_potential_are_those_of_the_loss(alpha, x64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 4))
    x2 = 0.7 * x + 0.5 * rng.normal(size=(30, 4))
    gamma, basis = np.linalg.eigh(x.T @ x2 + x2.T @ x)
    sigma = basis.T @ (x.T @ x + x2.T @ x2) @ basis / 60
    law, W = IsoLoss(gamma / 60, sigma, alpha), jnp.asarray(rng.normal(size=(3, 4)))
    x, x2 = x @ basis, x2 @ basis
    np.testing.assert_allclose(law.value(W), loss(W, x, x2, alpha), rtol=1e-12)
    slope = jax.grad(loss)(W, x, x2, alpha)
    np.testing.assert_allclose(law.rhs(W), -slope, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(jax.grad(law.objective)(W), slope, rtol=1e-9, atol=1e-11)
    small = 1e-6 * W
    if alpha >= 1:
        expected = -small * law.gamma
        np.testing.assert_allclose(jax.grad(loss)(small, x, x2, alpha), expected, rtol=1e-9)


@pytest.mark.parametrize("alpha", [1.0, 0.5, 2.0])
def test_takeover_and_stability_are_those_of_the_matrix_flow(alpha, x64):
    gamma, sigma = np.array([0.5, 0.45, -0.1]), np.array([1.0, 0.6, 0.3])
    law = IsoLoss(gamma, sigma, alpha, d=3)
    rho = gamma / sigma
    np.testing.assert_allclose(law.takeover(0, 1), 2 * 0.6 * (rho[1] - rho[0]), rtol=1e-8)
    np.testing.assert_allclose(law.takeover(1, 0), 2 * 1.0 * (rho[0] - rho[1]), rtol=1e-8)
    np.testing.assert_allclose(law.next_growth([0]), 2 * gamma[1], rtol=1e-8)
    # the largest rate is, in turn, that of a pair, of a mode aside, of a mode, and of a spare row
    cases = [(3, gamma), (2, [0.5, 0.45, -0.3]), (1, [0.5, 0.45, 0.1]), (1, [-0.5, -0.2, -0.1])]
    for d, moments in cases:
        sigma = np.array([1.0, 0.6, 3.0 if d == 2 else 0.3])
        law = IsoLoss(moments, sigma, alpha, d=d)
        modes = np.asarray(law.final_modes(d))
        A = np.zeros((d, 3))
        A[np.arange(d), modes] = np.sqrt(np.asarray(law.rest())[modes] / sigma[modes])
        # a row at 0 has no derivative of Sᵅ for alpha < 1
        A[np.arange(d), modes] += np.where(A[np.arange(d), modes] == 0, 1e-9, 0)
        values = np.linalg.eigvals(distillation.jacobian(law.rhs, jnp.asarray(A))).real
        np.testing.assert_allclose(law.max_stable_lr(), -2 / values.min(), rtol=1e-6)


def test_modes_without_a_common_eigenbasis_are_learned_as_deflation_says(x64):
    gamma = np.array([0.6, 0.4, 0.2])
    tilt = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    sigma = np.diag([1.0, 0.7, 0.5]) + 0.02 * tilt
    for alpha in (1.0, 0.5):
        law = IsoLoss(gamma, sigma, alpha, d=2)
        lam0, lr = np.full(2, 1e-8), 0.02
        start = law.aligned_start(lam0)
        values = distillation.descend(
            lambda A, law=law, lr=lr: A + lr * law.rhs(A),
            start,
            2500,
            lambda A, law=law: jnp.linalg.eigvalsh(law.measure(A))[::-1],
        )[1]
        rest = np.asarray(law.rest())[:2]
        found = distillation.crossings(np.asarray(values), rest / 2, lr)
        late = found / (1 + np.asarray(law.descent_delay(lr, lam0)))
        np.testing.assert_allclose(late, law.step_times(lam0), rtol=0.01)


def test_bad_arguments_are_rejected():
    with pytest.raises(ValueError, match="alpha: expected a positive number"):
        IsoLoss([0.5], [1.0], 0.0)
    with pytest.raises(ValueError, match="sigma: expected shape"):
        IsoLoss([0.5], [1.0, 2.0])
    with pytest.raises(laws.NotKnownError, match="moments that commute"):
        IsoLoss([0.5, 0.3], [[1.0, 0.2], [0.2, 0.5]]).max_stable_lr()
