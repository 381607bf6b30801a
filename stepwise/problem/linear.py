"""The problem of a linear model: Γ of two views, diagonalised on its smaller side."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stepwise import _check, eigen, moments
from stepwise.moments import CENTERS, Center, centre
from stepwise.problem.problem import Problem, assemble, first, require_modes
from stepwise.problem.spectrum import EPS, above_cutoff, dual_modes
from stepwise.types import Numbers, Whole


def from_views(
    x: Numbers, x2: Numbers, *, center: Center = "pooled", modes: Whole | None = None
) -> Problem:
    """Build the problem of a linear model on n positive pairs.

    Γ = (1/2n) Σ_i x_i x'_iᵀ + x'_i x_iᵀ = V diag(γ) Vᵀ on the span of the centred views (the paper,
    Simon et al. 2023, eq. 3). The smaller side is diagonalised: m × m if m ≤ 2n, else 2n × 2n. In
    the second case no m × m matrix is formed. The decomposition runs in float64 on the host,
    whatever the dtype of the inputs. The results have the inputs' dtype.

    Args:
        x, x2: the two views [n, ...], flattened to [n, m]. Row i of x2 is the positive partner of
            row i of x.
        center: subtract the mean of all 2n views ("pooled"), each view's own mean ("per_view"), or
            nothing ("none"). With "per_view", new inputs are centred at the pooled mean.
        modes: keep only the k largest modes. If k is small compared with both sides, they are
            computed without forming a matrix.

    Returns:
        The problem, with all modes on the span of the views or with the k largest.

    Raises:
        ValueError: if the views differ in shape, are not finite, or are all the same after
            centring; if `center` is unknown; if `modes` is not in 1 ... rank.
    """
    _check.require(center in CENTERS, "center", f"one of {CENTERS}", center)
    x, x2 = moments.flat_pair(x, x2)
    n, m = x.shape
    mean, mean2 = (np.asarray(view).mean(0, dtype=np.float64) for view in (x, x2))
    pooled = (mean + mean2) / 2
    shifts = {"pooled": (pooled, pooled), "per_view": (mean, mean2), "none": (0 * mean, 0 * mean2)}[
        center
    ]
    if modes is not None:
        require_modes(modes, min(2 * n, m))
        if 10 * (modes + 8) <= min(2 * n, m):
            problem = _solve_matrix_free(x, x2, shifts, center, modes)
            if problem is not None:
                return problem
    both = centre(np.concatenate([np.asarray(view, np.float64) for view in (x, x2)]), center)
    if m <= 2 * n:
        gamma, basis = _primal(both)
    else:
        gamma, dual = dual_modes(both @ both.T, 2 * n * EPS)
        basis = both.T @ dual
    offset = pooled @ basis if center != "none" else np.zeros(gamma.size)
    whole = assemble(gamma, both @ basis, basis, offset, gamma[-1], x.dtype, center, linear=True)
    return whole if modes is None else first(whole, modes)


def _primal(both: Float[np.ndarray, "views m"]) -> tuple[np.ndarray, np.ndarray]:
    """Return γ and V from the m × m side, on the span of the views."""
    two_n, n = len(both), len(both) // 2
    spread, span = eigen.eigh_descending(both.T @ both / two_n)
    span = span[:, above_cutoff(spread, max(both.shape) * EPS)]
    cross = (both[:n] @ span).T @ (both[n:] @ span) / n
    gamma, rotation = eigen.eigh_descending((cross + cross.T) / 2)
    return gamma, span @ rotation


def _solve_matrix_free(
    x: Numbers, x2: Numbers, shifts: tuple[np.ndarray, np.ndarray], center: Center, modes: Whole
) -> Problem | None:
    """Return the problem of the largest modes, using only products with the views.

    Returns None if the iteration does not converge, or if the modes are not all positive.
    """
    dtype = jax.dtypes.canonicalize_dtype(x.dtype)
    views = [
        jnp.asarray(view) - jnp.asarray(shift, dtype)[None]
        for view, shift in zip((x, x2), shifts, strict=True)
    ]
    try:
        pairs = eigen.top(_cross_moment, tuple(views), x.shape[1], int(modes), dtype=dtype)
    except eigen.NotConvergedError:  # a nearly flat spectrum
        return None
    if float(pairs.values[-1]) <= 10 * float(jnp.max(pairs.residuals)):
        return None
    basis = pairs.vectors
    features = jnp.concatenate([view @ basis for view in views])
    mean = jnp.asarray((shifts[0] + shifts[1]) / 2, dtype) @ basis
    return Problem(pairs.values, features, basis, mean, pairs.lowest, center=center, linear=True)


def _cross_moment(views: tuple[Array, Array], block: Float[Array, "m b"]) -> Float[Array, "m b"]:
    x, x2 = views
    return (_apply_pair(x2, x, block) + _apply_pair(x, x2, block)) / (2 * x.shape[0])


def _apply_pair(x: Array, x2: Array, block: Float[Array, "m b"]) -> Float[Array, "m b"]:
    """Return x2ᵀ (x block), computed by rows.

    Without the barriers, XLA's CPU code folds the transposes and takes twice the time.
    """
    keep = jax.lax.optimization_barrier
    rows = keep(keep(x @ block).T)
    return keep(rows @ x2).T
