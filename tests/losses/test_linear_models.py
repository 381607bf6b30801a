"""Gradients of the losses of a linear model z = W x, against the formulas of its gradient flow."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from stepwise import losses
from stepwise.losses import isotropy

RNG = np.random.default_rng(1)
N, M, D = 60, 6, 3


@pytest.fixture
def data(x64):
    """Return two views with means, whose Γ and Σ do not commute, and weights [d, m]."""
    x = RNG.normal(size=(N, M)) * np.linspace(1, 0.4, M) + 0.2
    x2 = 0.7 * x + 0.3 * RNG.normal(size=(N, M))
    return x, x2, RNG.normal(size=(D, M)) / 2


def moments(x, x2):
    """Return the uncentred Γ and Σ of two views."""
    return (x.T @ x2 + x2.T @ x) / (2 * len(x)), (x.T @ x + x2.T @ x2) / (2 * len(x))


def descent(loss, *weights):
    """Return minus the gradient with respect to every argument."""
    return [-np.asarray(slope) for slope in jax.grad(loss, argnums=range(len(weights)))(*weights)]


@pytest.mark.parametrize(("loss", "factor"), [(losses.byol, 4), (losses.simsiam, 1)])
def test_the_flow_of_a_linear_predictor_is_exact_for_raw_embeddings(loss, factor, data):
    x, x2, W = data
    P, target = RNG.normal(size=(2, D, D)), RNG.normal(size=(D, M))
    P = P[0]

    def objective(W, P):
        p1, p2 = x @ W.T @ P.T, x2 @ W.T @ P.T
        return loss(p1, p2, x @ target.T, x2 @ target.T, normalise=False)

    gamma, sigma = moments(x, x2)
    E = target @ gamma - P @ W @ sigma
    by_W, by_P = descent(objective, W, P)
    np.testing.assert_allclose(by_W, factor * P.T @ E, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(by_P, factor * E @ W.T, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("alpha", "power"), [(1.0, lambda S: S), (0.5, scipy.linalg.sqrtm)])
def test_the_flow_of_isoloss_is_exact(alpha, power, data):
    x, x2, W = data
    gamma, sigma = moments(x, x2)
    (by_W,) = descent(lambda W: losses.isoloss(x @ W.T, x2 @ W.T, alpha=alpha), W)
    expected = W @ gamma - power(W @ sigma @ W.T) @ W @ sigma
    np.testing.assert_allclose(by_W, expected, rtol=1e-9, atol=1e-12)


def test_the_modes_of_isoloss_are_logistic_curves(x64):
    sigma, rho = np.array([1.0, 0.5]), np.array([0.6, 0.8])
    gamma, n = sigma * rho, 40
    parts = np.linalg.qr(RNG.normal(size=(n, 4)))[0] * np.sqrt(n)
    same, other = (
        np.sqrt(sigma * (1 + rho) / 2) * parts[:, :2],
        np.sqrt(sigma * (1 - rho) / 2) * parts[:, 2:],
    )
    slope = jax.grad(lambda W: losses.isoloss((same + other) @ W.T, (same - other) @ W.T))
    first, lr, steps = 1e-4, 0.004, 6000

    def step(W, _):
        W = W - lr * slope(W)
        return W, jnp.sum(W**2, axis=0) * sigma

    start = scipy.linalg.qr(RNG.normal(size=(2, 2)))[0] * np.sqrt(first / sigma)
    s = np.asarray(jax.lax.scan(step, jnp.asarray(start), length=steps)[1])
    times = lr * np.arange(1, steps + 1)
    law = rho / (1 + (rho / first - 1) * np.exp(-2 * gamma * times[:, None]))
    early = 500
    rates = np.log(s[early] / s[0]) / (times[early] - times[0])
    np.testing.assert_allclose(rates, 2 * gamma, rtol=0.01)
    half = [np.interp(rho[j] / 2, s[:, j], times) for j in range(2)]
    np.testing.assert_allclose(half, np.log(rho / first - 1) / (2 * gamma), rtol=0.01)
    np.testing.assert_allclose(s, law, atol=0.01)
    np.testing.assert_allclose(s[-1], rho, rtol=1e-3)


def test_small_weights_grow_under_raw_simclr_by_the_centred_moments(data):
    x, x2, W = data
    W, T = 1e-5 * W, 0.5
    (by_W,) = descent(lambda W: losses.simclr(x @ W.T, x2 @ W.T, temperature=T, normalise=False), W)
    mean = np.concatenate([x, x2]).mean(0)
    gamma, sigma = moments(x - mean, x2 - mean)
    np.testing.assert_allclose(by_W, 4 / T * W @ (gamma + sigma / (2 * N - 1)), rtol=1e-6)


def test_small_towers_grow_under_raw_clip_by_the_centred_cross_moment(data):
    x, _, W1 = data
    y = x[:, :4] ** 2 + x[:, 1:5]
    W1, W2, k = 1e-5 * W1, 1e-5 * RNG.normal(size=(D, 4)), 3.0
    by_W1, by_W2 = descent(
        lambda W1, W2: losses.clip(x @ W1.T, y @ W2.T, scale=k, normalise=False), W1, W2
    )
    G = (x - x.mean(0)).T @ (y - y.mean(0)) / N
    np.testing.assert_allclose(by_W1, k * W2 @ G.T, rtol=1e-5)
    np.testing.assert_allclose(by_W2, k * W1 @ G, rtol=1e-5)


def test_small_weights_grow_under_dino_only_where_the_views_agree_enough(data):
    x, x2, W = data
    W, V, soft, sharp = 1e-6 * W, 1e-6 * RNG.normal(size=(D, M)), 0.1, 0.04
    zero = np.zeros(D)
    (by_W,) = descent(
        lambda W: losses.dino(x @ W.T, x2 @ W.T, x @ V.T, x2 @ V.T, zero),
        W,
    )
    gamma, sigma = moments(x, x2)
    without_mean = np.eye(D) - 1 / D
    expected = without_mean @ (V @ gamma / sharp - W @ sigma / soft) / (D * soft)
    np.testing.assert_allclose(by_W, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_small_weights_grow_under_lejepa_by_variance_and_by_the_means(data):
    x, x2, W = data
    W, weight = 1e-4 * W, 0.1
    loss = partial(losses.lejepa, weight=weight, slices=np.eye(D))
    (by_W,) = descent(lambda W: loss(x @ W.T, x2 @ W.T), W)
    gamma, sigma = moments(x, x2)
    squares = isotropy.WEIGHTS * isotropy.KNOTS**2
    kappa = squares @ (1 - isotropy.GAUSSIAN)
    np.testing.assert_allclose(kappa, 1.54604, rtol=1e-5)
    means = sum(np.outer(view.mean(0), view.mean(0)) for view in (x, x2)) / 2
    growth = weight * N * (kappa * sigma - squares.sum() * means)
    expected = 2 / D * W @ (growth - (1 - weight) * (sigma - gamma) / 2)
    np.testing.assert_allclose(by_W, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def test_the_flow_of_word_embeddings_is_exact(x64):
    W, target = RNG.normal(size=(7, 3)), RNG.normal(size=(7, 7))
    target = target + target.T
    (by_W,) = descent(lambda W: losses.qwem(W, target), W)
    np.testing.assert_allclose(by_W, (target - W @ W.T) @ W / 2, rtol=1e-12)
