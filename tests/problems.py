"""Problems with a prescribed spectrum, and independent NumPy versions of the theory's formulas."""

import jax.numpy as jnp
import numpy as np

from stepwise.problem import Problem


def rotation(size, seed=0):
    """Return a random orthogonal matrix."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


def views(gamma, m=None, *, mean=0.0, seed=0):
    """Return two views [n, m] whose Γ (pooled centring) has exactly these non-zero eigenvalues.

    The third value is the directions of the modes [m, r]. Each mode has two pairs,
    ± sqrt(n|γ|/2) v. The views agree if γ > 0 and are opposite if γ < 0.
    """
    gamma = np.asarray(gamma, float)
    m = gamma.size if m is None else m
    V = rotation(m, seed)[:, : gamma.size]
    n = 2 * gamma.size
    half = np.sqrt(n * np.abs(gamma) / 2)[:, None] * V.T
    x = np.concatenate([half, -half])
    return x + mean, np.tile(np.sign(gamma), 2)[:, None] * x + mean, V


def modes(gamma, dtype=float):
    """Return a problem with these modes and V = I, so that inputs are mode coordinates."""
    gamma = np.sort(np.asarray(gamma, float))[::-1]
    x, x2, V = views(gamma)
    features = jnp.asarray(np.concatenate([x, x2]) @ V, dtype)
    g = jnp.asarray(gamma, dtype)
    return Problem(
        g,
        features,
        jnp.eye(g.size, dtype=dtype),
        jnp.zeros_like(g),
        g[-1],
        center="pooled",
        linear=True,
    )


def aligned(gamma, d, scale, seed=0):
    """Return a start U S V_{≤d}ᵀ in mode coordinates, and its singular values.

    The singular values are distinct and near `scale`.
    """
    s = scale * np.linspace(1, 0.6, d)
    return np.pad(rotation(d, seed) * s, ((0, 0), (0, len(gamma) - d))), s


def gaussian(shape, scale, seed=0):
    """Draw a Gaussian array whose entries have standard deviation `scale`."""
    return scale * np.random.default_rng(seed).normal(size=shape)


def cross_moment(x, x2, center="none"):
    """Return Γ, summed pair by pair."""
    x, x2 = (np.asarray(view, float).reshape(len(view), -1) for view in (x, x2))
    mu, mu2 = x.mean(0), x2.mean(0)
    shift, shift2 = {
        "none": (0 * mu, 0 * mu),
        "pooled": ((mu + mu2) / 2,) * 2,
        "per_view": (mu, mu2),
    }[center]
    total = np.zeros((x.shape[1], x.shape[1]))
    for a, b in zip(x - shift, x2 - shift2, strict=True):
        total += np.outer(a, b) + np.outer(b, a)
    return total / (2 * len(x))


def spectrum(gamma, A):
    """Return the eigenvalues of C = A diag(γ) Aᵀ in descending order."""
    return np.linalg.eigvalsh((A * gamma) @ np.swapaxes(A, -1, -2))[..., ::-1]


def projector(columns):
    """Return the orthogonal projector onto the span of the columns."""
    q = np.linalg.qr(np.asarray(columns, float))[0]
    return q @ q.T
