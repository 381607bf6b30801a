"""The losses of Barlow Twins in limits that are known, and the growth of a mode under VICReg."""

import jax
import numpy as np
import pytest
import scipy.optimize

from stepwise import losses, spectra
from tests.losses.references import pair


def test_the_loss_of_the_theory_is_the_distance_of_the_eigenvalues_from_one(x64):
    z1, z2 = pair((30, 4))
    values = spectra.eigenvalues(z1, z2, center=True)
    np.testing.assert_allclose(
        losses.barlow_twins_unnormalised(z1, z2), np.sum((values - 1) ** 2), rtol=1e-12
    )
    means = [z - z.mean(0) for z in (z1, z2)]
    each = losses.barlow_twins_unnormalised(z1, z2, center="per_view")
    np.testing.assert_allclose(
        each, losses.barlow_twins_unnormalised(*means, center="none"), rtol=1e-12
    )


def test_eps_leaves_a_tiny_embedding_unnormalised(x64):
    z1, z2 = pair((20, 3), 1e-6)
    bare = losses.barlow_twins_unnormalised(
        z1 / np.sqrt(1e-5), z2 / np.sqrt(1e-5), center="per_view", off_diagonal=0.0051
    )
    np.testing.assert_allclose(losses.barlow_twins(z1, z2), bare, rtol=1e-6)


def test_a_vicreg_mode_grows_beside_a_learned_one_if_the_views_agree_enough(x64):
    # one mode on all outputs at its fixed point; the second is small, in an orthogonal output
    # direction
    d, n, sigma, rho = 10, 600, np.array([2.0, 0.7]), np.array([0.95, 0.8])
    parts = np.linalg.qr(np.random.default_rng(0).normal(size=(n, 4)))[0]
    parts = np.linalg.qr(parts - parts.mean(0))[0] * np.sqrt(n - 1)
    same, other = (
        np.sqrt(sigma * (1 + rho) / 2) * parts[:, :2],
        np.sqrt(sigma * (1 - rho) / 2) * parts[:, 2:],
    )
    slope = jax.grad(lambda W: losses.vicreg((same + other) @ W.T, (same - other) @ W.T))

    def learned(variance):
        return np.outer(np.ones(d), [np.sqrt(variance / sigma[0]), 0])

    variance = scipy.optimize.brentq(lambda v: float(np.sum(slope(learned(v))[:, 0])), 0.05, 0.99)
    direction = np.zeros(d)
    direction[:2] = 0.5**0.5, -(0.5**0.5)
    tiny = 1e-5 * np.outer(direction, [0, 1])
    rate = -float(direction @ np.asarray(slope(learned(variance) + tiny))[:, 1]) / 1e-5
    expected = sigma[1] * (8 * variance * d - 100 * (rho[0] - rho[1])) / d
    assert rate == pytest.approx(expected, rel=3 / n)  # n against n - 1 in means and variances
