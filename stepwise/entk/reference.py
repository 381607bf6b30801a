"""neural-tangents' kernel of a function, behind the same call: the reference, a block of samples at
a time.
"""

from typing import Any

import numpy as np

from stepwise import kernels
from stepwise.types import Numbers, Whole


def gram(
    apply: Any, params: Any, x: Numbers, x2: Numbers | None = None, *, block: Whole = 16
) -> np.ndarray:
    """K [n, n'] by Jacobian contraction (Novak et al. 2022), tile by tile of `block` samples a
    side.

    Every tile takes the Jacobians of its samples anew. Outputs are [k, O]; inputs are real numbers.

    Raises:
        ValueError: as `kernels.gram`.
    """
    from stepwise.neural_tangents import nt  # takes seconds to import

    how = nt.NtkImplementation.JACOBIAN_CONTRACTION
    kernel = nt.empirical_ntk_fn(apply, trace_axes=(-1,), vmap_axes=0, implementation=how)
    return kernels.gram(lambda a, b: kernel(a, b, params), x, x2, tile=block)
