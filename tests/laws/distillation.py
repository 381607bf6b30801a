"""Data with prescribed moments, and descent, for the tests of the laws of self-distillation."""

import jax
import jax.numpy as jnp
import numpy as np


def spectrum(seed, r=3):
    """Draw γ and σ [r] with agreements ρ between 0.55 and 0.9."""
    rng = np.random.default_rng(seed)
    sigma = rng.uniform(0.4, 1.2, r)
    return sigma * rng.uniform(0.55, 0.9, r), sigma


def pairs(gamma, sigma, n=40, seed=0):
    """Return two views [2n, r], every pair in both orders, with exactly these moments."""
    r = len(gamma)
    parts = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, 2 * r)))[0] * np.sqrt(n)
    same, other = (
        parts[:, :r] * np.sqrt((sigma + gamma) / 2),
        parts[:, r:] * np.sqrt((sigma - gamma) / 2),
    )
    x, x2 = same + other, same - other
    return np.concatenate([x, x2]), np.concatenate([x2, x])


def descend(step, weights, steps, observe):
    """Apply `step` repeatedly; return the last weights and what `observe` returns [steps, ...]."""

    def advance(weights, _):
        weights = step(weights)
        return weights, observe(weights)

    return jax.lax.scan(advance, weights, length=steps)


def crossings(values, goals, lr):
    """Return the times at which curves [T, d], recorded after each step, rise through the goals."""
    values = np.asarray(values)
    times = []
    for curve, goal in zip(values.T, goals, strict=True):
        i = int(np.argmax(curve >= goal))
        assert curve[i] >= goal and i > 0
        part = (np.log(goal) - np.log(curve[i - 1])) / (np.log(curve[i]) - np.log(curve[i - 1]))
        times.append(lr * (i + part))
    return np.array(times)


def rates(values, lr, low, high):
    """Return d ln λ/dt of curves [T, d] while they rise from low to high."""
    d = np.shape(values)[1]
    span = crossings(values, np.full(d, high), lr) - crossings(values, np.full(d, low), lr)
    return np.log(high / low) / span


def discrete(growth, lr):
    """Return the rate of a variance if a step of descent multiplies w by 1 + lr · growth/2."""
    return 2 * np.log1p(lr * np.asarray(growth) / 2) / lr


def jacobian(flow, weights):
    """Return the Jacobian of a flow of a tree, as a matrix."""
    flat, back = jax.flatten_util.ravel_pytree(weights)
    return np.asarray(
        jax.jacfwd(lambda v: jax.flatten_util.ravel_pytree(flow(back(v)))[0])(jnp.asarray(flat))
    )
