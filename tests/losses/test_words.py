"""The loss of word embeddings against a NumPy loop."""

import jax.numpy as jnp
import numpy as np

from stepwise import losses
from tests.losses.references import RNG


def test_the_loss_of_words_is_the_distance_from_its_target(x64):
    W, M = RNG.normal(size=(6, 2)), RNG.normal(size=(6, 6))
    M = M + M.T
    total = sum((M[i, j] - W[i] @ W[j]) ** 2 for i in range(6) for j in range(6)) / 8
    np.testing.assert_allclose(losses.qwem(W, M), total, rtol=1e-12)
    np.testing.assert_allclose(losses.qwem(0 * W, M), np.sum(M**2) / 8, rtol=1e-12)
    half = losses.qwem(jnp.asarray(W, jnp.float16), jnp.asarray(M, jnp.bfloat16))
    assert half.dtype == jnp.float32
