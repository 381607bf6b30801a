"""Normalisation layers with torchvision's conventions, in any precision."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

GROUPS = 8
"""Largest number of groups of channels in group normalisation."""


def batch_norm(channels: int, *, param_dtype: Any = jnp.float32, **options: Any) -> nnx.BatchNorm:
    """Return batch normalisation with running statistics in `param_dtype`.

    Flax itself stores running statistics in float32. Its momentum is the weight of the old value,
    so that 0.9 is torchvision's 0.1. The variance is computed in two passes, because the difference
    E x² − (E x)² loses a small variance to rounding.
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
    """Return group normalisation with the largest number of groups, up to `GROUPS`, that divides
    the number of channels.
    """
    groups = max(g for g in range(1, min(GROUPS, channels) + 1) if channels % g == 0)
    return nnx.GroupNorm(
        channels, num_groups=groups, epsilon=1e-5, use_fast_variance=False, **options
    )
