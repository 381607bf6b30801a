"""Losses of centred embeddings, for losses that do not centre them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from stepwise.losses._pairs import check_embeddings
from stepwise.types import Numbers


def centred(
    loss: Callable[..., Any],
    *embeddings: Numbers,
    local: Sequence[Numbers] | None = None,
    **options: Any,
) -> Any:
    """Compute a loss of embeddings from each of which the mean over its rows is subtracted.

    The mean of the features is a mode too: its agreement is 1 and, for features that are not
    negative, its variance is far above that of other modes. Barlow Twins, VICReg and CLIP ignore
    it. BYOL, SimSiam and IsoLoss learn it first, as a constant embedding, and under DINO it limits
    the learning rate. `partial(centred, loss)` is the loss without it.

    Args:
        loss: a function of embeddings, such as `losses.byol`.
        embeddings: its arguments, each [n, d].
        local: embeddings of local crops, each [n, d], for a loss that takes them.
        options: other arguments of the loss.

    Returns:
        What the loss returns.

    Raises:
        ValueError: if an embedding is not a matrix, or as the loss does.
    """
    if local is not None:
        options["local"] = [_centre(f"local[{i}]", z) for i, z in enumerate(local)]
    arrays = [_centre(f"embeddings[{i}]", z) for i, z in enumerate(embeddings)]
    return loss(*arrays, **options)


def _centre(name: str, z: Numbers) -> Array:
    z = check_embeddings(name, z)
    return z - jnp.mean(z, axis=0, keepdims=True)
