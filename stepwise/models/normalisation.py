"""Normalisations as torchvision has them, in any precision."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

GROUPS = 8
"""Channels are normalised in at most so many groups."""


def batch_norm(channels: int, *, param_dtype: Any = jnp.float32, **options: Any) -> nnx.BatchNorm:
    """Batch normalisation with running statistics in `param_dtype` (flax keeps them in float32).

    Flax counts momentum from the other side: 0.9 is torchvision's 0.1. The variance takes two
    passes, because the difference of squares loses a small one.
    """
    norm = nnx.BatchNorm(
        channels, momentum=0.9, use_fast_variance=False, param_dtype=param_dtype, **options
    )
    norm.mean, norm.var = (
        nnx.BatchStat(jnp.zeros(channels, param_dtype)),
        nnx.BatchStat(jnp.ones(channels, param_dtype)),
    )
    return norm


def group_norm(channels: int, **options: Any) -> nnx.GroupNorm:
    """Group normalisation in as many of at most `GROUPS` groups as divide the channels."""
    groups = max(g for g in range(1, min(GROUPS, channels) + 1) if channels % g == 0)
    return nnx.GroupNorm(
        channels, num_groups=groups, epsilon=1e-5, use_fast_variance=False, **options
    )
