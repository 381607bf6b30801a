"""The pencil family and the spectral contrastive law, against their flow and against the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import dynamics, laws, losses, problem, spectra
from stepwise.laws import numeric
from stepwise.laws.spectral_contrastive import SpectralContrastive
from tests import problems
from tests.laws.pairs import SEEDS

GAMMA, SIGMA = np.array([1.0, 0.5, 0.2, -0.1, 0.0]), np.array([1.3, 0.55, 0.5, 0.4, 0.3])


def pairs(seed, r=5, n=600):
    """Return views without a mean [n, r] whose Γ and Σ are diagonal, and their γ and σ."""
    rng = np.random.default_rng(seed)
    sigma = np.sort(rng.uniform(0.5, 2, r))[::-1]
    gamma = sigma * np.sort(rng.uniform(0.3, 0.95, r))[::-1]
    design = np.linalg.qr(rng.normal(size=(n // 2, 2 * r)))[0] * np.sqrt(n / 2)
    common = design[:, :r] * np.sqrt((sigma + gamma) / 2)
    apart = design[:, r:] * np.sqrt((sigma - gamma) / 2)
    x, x2 = common + apart, common - apart
    return np.concatenate([x, -x2]), np.concatenate([x2, -x]), gamma, sigma


def test_its_curves_are_those_of_its_flow(x64):
    law = SpectralContrastive(GAMMA, SIGMA, 2.0)
    times, lam0 = np.linspace(0, 60, 9), np.full(5, 1e-6)
    exact = numeric.integrate(law, jnp.asarray(times), jnp.asarray(lam0))
    np.testing.assert_allclose(law.eigenvalues(times, lam0), exact, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(law.growth(), 4 * GAMMA)
    np.testing.assert_allclose(law.rest(), [1 / 1.3, 0.5 / 0.55, 0.4, 0, 0])


def test_step_times_are_where_the_curves_cross(x64):
    law, lam0 = SpectralContrastive(GAMMA, SIGMA, 2.0), np.full(4, 1e-6)
    for level in (0.2, 0.5, 0.9):
        tau = law.step_times(lam0, level)
        at = np.diagonal(law.eigenvalues(tau[:3], lam0[:3]))
        np.testing.assert_allclose(at, level * law.rest()[:3], rtol=1e-10)
        assert np.isinf(tau[3])


@pytest.mark.parametrize("seed", SEEDS)
def test_it_is_the_law_of_the_loss(seed, x64):
    """Descent of the official loss with mu above every ‖z‖², from an aligned start."""
    x, x2, gamma, _ = pairs(seed)
    p = problem.from_views(x, x2, center="none")
    np.testing.assert_allclose(p.gamma, gamma, rtol=1e-9)
    mu, d = 500.0, 3

    def law(p, d):
        return SpectralContrastive(p.gamma, p.sigma, mu, d)

    resolved = laws.law_of(law, p, d)
    assert resolved.basis is None
    A0 = np.asarray(resolved.aligned_start(np.full(d, 1e-4)))
    lr = 0.02 * float(resolved.max_stable_lr())
    steps = int(1.3 * float(resolved.step_times(np.full(d, 1e-4))[-1]) / lr)
    run = dynamics.descent(
        p, A0, lr, steps, law=law, loss=lambda a, b: losses.spectral_contrastive(a, b, mu=mu)
    )
    theory = dynamics.closed_form(p, A0, run.times, law=law)
    late, due = (spectra.step_times(each.times, each.eigenvalues, 0.15) for each in (run, theory))
    np.testing.assert_allclose(late, due, rtol=0.02)
    # at n = 600 pairs the loss itself moves the rest by about 2ρ²/n
    np.testing.assert_allclose(run.eigenvalues[-1], theory.eigenvalues[-1], rtol=0.01)


def test_growth_and_rest_of_moments_without_a_common_basis(x64):
    """The first rate is that of the leading eigenvector; the flow confirms three step times."""
    rng = np.random.default_rng(3)
    gamma = np.array([1.0, 0.6, 0.3, 0.1])
    noise = rng.normal(size=(4, 4))
    sigma = np.diag([1.2, 0.9, 0.5, 0.3]) + 0.03 * (noise + noise.T)
    law = SpectralContrastive(gamma, sigma, 1.0, 3)
    np.testing.assert_allclose(law.growth(), 8 * gamma, rtol=1e-9)
    np.testing.assert_allclose(law.rest()[0], gamma[0] / sigma[0, 0], rtol=1e-9)
    lam0 = np.full(3, 1e-6)
    start = law.aligned_start(lam0)
    times = np.linspace(0, 1.4 * float(law.step_times(lam0)[-1]), 500)

    @jax.jit
    def flow(A):
        def step(_, A):
            return A + 1e-3 * law.rhs(A)

        stride = round(float(times[1]) / 1e-3)
        return jax.lax.scan(
            lambda A, _: (jax.lax.fori_loop(0, stride, step, A), law.measure(A)), A, times
        )[1]

    stride = round(float(times[1]) / 1e-3) * 1e-3 * np.arange(len(times))
    exact = np.linalg.eigvalsh(flow(start))[:, ::-1]
    for j, end in enumerate(np.asarray(law.rest())[:3]):
        crossing = np.interp(0.5, exact[:, j] / end, stride)
        np.testing.assert_allclose(crossing, law.step_times(lam0)[j], rtol=0.03)


@pytest.mark.parametrize("seed", SEEDS)
def test_its_stable_rate_is_the_limit_of_descent(seed, x64):
    _, _, gamma, sigma = pairs(seed)
    gamma = np.append(gamma, -0.3)
    law = SpectralContrastive(gamma, np.append(sigma, 0.5), 1.0, 2)
    rest = law.aligned_start(law.rest()[:2])
    rng = np.random.default_rng(seed)

    def last(factor):
        lr = factor * law.max_stable_lr()
        A = rest + 1e-3 * rng.normal(size=rest.shape)
        return jax.lax.fori_loop(0, 3000, lambda _, A: A + lr * law.rhs(A), A)

    final = np.linalg.eigvalsh(law.measure(last(0.98)))
    best = np.sort(np.asarray(law.rest()[law.final_modes(2)]))
    np.testing.assert_allclose(final, best, rtol=0.02)
    ends = np.linalg.eigvalsh(law.measure(last(1.05)))
    assert not np.allclose(ends, best, rtol=1e-3)


def test_a_mode_of_larger_rest_replaces_a_learned_one(x64):
    law = SpectralContrastive(GAMMA[:2], SIGMA[:2])
    rate = law.takeover(0, 1)
    np.testing.assert_allclose(rate, 8 * SIGMA[1] * (0.5 / 0.55 - 1 / 1.3), rtol=1e-9)
    assert list(law.final_modes(1)) == [1] and list(law.order) == [0, 1]


def test_a_moment_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"sigma: expected shape \[5\] or \[5, 5\]"):
        SpectralContrastive(GAMMA, SIGMA[:3])
    with pytest.raises(ValueError, match="mu: expected a positive number, received 0"):
        SpectralContrastive(GAMMA, SIGMA, 0)


def test_the_law_of_a_problem_without_a_common_basis_finds_its_modes(x64):
    x = problems.gaussian((60, 6), 1.0)
    p = problem.from_views(x, x + problems.gaussian((60, 6), 0.7, seed=1), center="none")
    law = laws.law_of(SpectralContrastive, p, 3)
    basis = np.asarray(law.basis)
    np.testing.assert_allclose(basis @ basis.T, np.eye(6), atol=1e-10)
    A0 = problems.gaussian((3, 6), 1e-4)
    theory = dynamics.closed_form(p, A0, [0.0, 20.0], law=SpectralContrastive)
    start = np.linalg.eigvalsh(A0 @ np.asarray(p.sigma) @ A0.T)
    assert 0.1 < theory.eigenvalues[0].sum() / start.sum() < 10
    assert float(theory.eigenvalues[-1].min()) > 0.1
