"""Random keys whose numbers do not depend on the settings of the process."""

from typing import Any

import jax
import jax.numpy as jnp

GENERATOR = "threefry2x32"
"""JAX's default. Its numbers are the same on every device and for every batch size, unlike those
of "rbg", which `JAX_DEFAULT_PRNG_IMPL` may select.
"""


def key(seed: Any) -> jax.Array:
    """Return the key of a seed, whatever the default generator of the process is."""
    return jax.random.key(seed, impl=GENERATOR)


def threefry(key: jax.Array) -> jax.Array:
    """Return the key itself, or one that is derived from a key of another generator.

    Raises:
        ValueError: if this is no key.
    """
    if not hasattr(key, "dtype"):
        raise ValueError(f"key: expected a random key such as jax.random.key(0), received {key!r}")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):  # as `jax.random.PRNGKey` returns
        key = jax.random.wrap_key_data(key, impl=GENERATOR if key.shape == (2,) else "rbg")
    if str(jax.random.key_impl(key)) == GENERATOR:
        return key
    words = jax.random.key_data(key).reshape(-1)
    derived = jax.random.wrap_key_data(words[:2], impl=GENERATOR)
    for i in range(2, words.size):
        derived = jax.random.fold_in(derived, words[i])
    return derived
