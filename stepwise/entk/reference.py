"""A reference for `entk.gram`: the empirical kernel of the package neural-tangents."""

from typing import Any

import numpy as np

from stepwise import kernels
from stepwise.types import Numbers, Whole


def gram(
    apply: Any, params: Any, x: Numbers, x2: Numbers | None = None, *, block: Whole = 16
) -> np.ndarray:
    """Compute K [n, n'], the mean over outputs, by Jacobian contraction (Novak et al. 2022).

    Each tile of `block` × `block` samples computes the Jacobians of its samples again.

    Args:
        apply: a pure function (params, inputs [k, ...]) -> outputs [k, O].
        params: a tree of floating arrays.
        x, x2: real inputs [n, ...] and [n', ...]; without x2, K is symmetric.
        block: number of samples on a side of a tile.

    Raises:
        ValueError: as `kernels.gram`.
    """
    from stepwise.neural_tangents import nt  # imported here, because it takes seconds

    implementation = nt.NtkImplementation.JACOBIAN_CONTRACTION
    kernel = nt.empirical_ntk_fn(
        apply, trace_axes=(-1,), vmap_axes=0, implementation=implementation
    )
    return kernels.gram(lambda a, b: kernel(a, b, params), x, x2, tile=block)
