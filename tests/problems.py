"""Problems of prescribed spectrum, and the formulas of the theory written out a second time, in
plain NumPy.
"""

import jax.numpy as jnp
import numpy as np

from stepwise.problem import Problem


def rotation(size, seed=0):
    """A random orthogonal matrix."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


def views(gamma, m=None, *, mean=0.0, seed=0):
    """Two views [n, m] whose Γ (pooled centring) has just these non-zero eigenvalues, and the
    modes' directions [m, r].

    Each mode has two pairs, ± sqrt(n|γ|/2) v: the views agree where γ > 0 and are opposite where γ
    < 0.
    """
    gamma = np.asarray(gamma, float)
    m = gamma.size if m is None else m
    V = rotation(m, seed)[:, : gamma.size]
    n = 2 * gamma.size
    half = np.sqrt(n * np.abs(gamma) / 2)[:, None] * V.T
    x = np.concatenate([half, -half])
    return x + mean, np.tile(np.sign(gamma), 2)[:, None] * x + mean, V


def modes(gamma, dtype=float):
    """The problem in its own coordinates: V = I, and views that have these modes."""
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
    """A start U S V_{≤d}ᵀ in mode coordinates with distinct singular values near `scale`, and
    those.
    """
    s = scale * np.linspace(1, 0.6, d)
    return np.pad(rotation(d, seed) * s, ((0, 0), (0, len(gamma) - d))), s


def gaussian(shape, scale, seed=0):
    """Entries of standard deviation `scale`."""
    return scale * np.random.default_rng(seed).normal(size=shape)


def cross_moment(x, x2, center="none"):
    """Γ, one pair after the other."""
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
    """Eigenvalues of C = A diag(γ) Aᵀ, from the largest down."""
    return np.linalg.eigvalsh((A * gamma) @ np.swapaxes(A, -1, -2))[..., ::-1]


def projector(columns):
    """Onto the span of the columns."""
    q = np.linalg.qr(np.asarray(columns, float))[0]
    return q @ q.T
