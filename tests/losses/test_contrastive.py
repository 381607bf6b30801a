"""CLIP's learned scale."""

import jax.numpy as jnp
import numpy as np

from stepwise import losses
from tests.losses.references import clip, pair


def test_the_learned_scale_of_clip_begins_as_published_and_ends_at_a_hundred(x64):
    z1, z2 = pair((7, 4))
    first = losses.clip_scale(4)
    value = losses.clip_with_learned_scale(z1, z2, parameters=first)
    np.testing.assert_allclose(value, clip(z1, z2, 1 / 0.07), rtol=1e-6)
    for log_scale, scale in ((9.0, 100.0), (-1.0, 1.0), (2.0, np.exp(2.0))):
        bounded = losses.clip_limit({"log_scale": jnp.asarray(log_scale)})
        value = losses.clip_with_learned_scale(z1, z2, parameters=bounded)
        np.testing.assert_allclose(value, clip(z1, z2, scale), rtol=1e-9, atol=1e-12)
