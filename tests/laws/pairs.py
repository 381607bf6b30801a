"""Pairs of views with prescribed moments, and recorded descent of a loss on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import problems


def pairs(gamma, sigma, n, seed=0):
    """Return two views [n, r] of mean 0 whose pooled moments are diag(gamma) and diag(sigma).

    The views are a + b and a − b, with Gaussian a and b made exactly uncorrelated.
    """
    gamma, sigma = np.asarray(gamma, float), np.asarray(sigma, float)
    r = gamma.size
    draws = np.random.default_rng(seed).normal(size=(n, 2 * r))
    columns = np.sqrt(n) * np.linalg.qr(draws - draws.mean(0))[0]
    a = columns[:, :r] * np.sqrt((sigma + gamma) / 2)
    b = columns[:, r:] * np.sqrt((sigma - gamma) / 2)
    return a + b, a - b


def both_orders(x, x2):
    """Return the views with every pair in both orders [2n, r]."""
    return np.concatenate([x, x2]), np.concatenate([x2, x])


def spectra(seed, r=4):
    """Return random γ and σ [r] whose products and ratios γ/σ are well separated."""
    rng = np.random.default_rng(seed)
    sigma = rng.permutation(1.5 * 0.7 ** np.arange(r)) * rng.uniform(0.9, 1.1, r)
    return sigma * rng.permutation(np.linspace(0.3, 0.8, r)), sigma


def descend(slope, A0, lr, steps, observe):
    """Take `steps` steps A ← A + lr · slope(A); return observe(A) before each, and the last A."""

    def step(A, _):
        return jax.tree.map(lambda a, s: a + lr * s, A, slope(A)), observe(A)

    last, record = jax.jit(lambda A: jax.lax.scan(step, A, None, length=steps))(A0)
    return np.asarray(record), last


def variances(unit):
    """Return a function of A [d, r]: the part Σ_i A_ij² · unit_j of the observable, by mode [r]."""
    return lambda A: jnp.sum(A**2, axis=0) * unit


def rotated_start(law, lam0, seed=0):
    """Return the aligned start of the law [d, r], rotated in the embedding."""
    return problems.rotation(len(lam0), seed) @ np.asarray(law.aligned_start(lam0))


def growth(curve, lr, low=1e-7, high=1e-4):
    """Return the rate d ln λ/dt between two small sizes, of the flow that the descent follows."""
    i, j = np.argmax(curve > low), np.argmax(curve > high)
    # one step multiplies an amplitude by 1 + lr g/2
    return 2 * np.expm1(np.log(curve[j] / curve[i]) / (j - i) / 2) / lr


def crossing(curve, level, lr):
    """Return when a recorded curve first rises through a level, interpolating its logarithm."""
    k = np.argmax(curve >= level)
    assert k > 0
    low, high = np.log(curve[k - 1 : k + 1])
    return lr * (k - 1 + (np.log(level) - low) / (high - low))


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2))]
"""Seeds of random spectra; `make test` runs the first, and `make test-long` the others."""
