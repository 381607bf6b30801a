"""The linear model's problem: Γ of two views, diagonalised on its smaller side."""

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
    """The linear model's problem on n positive pairs.

    Γ = (1/2n) Σ_i x_i x'_iᵀ + x'_i x_iᵀ = V diag(γ) Vᵀ on the span of the centred views (source,
    eq. 3). The smaller side is the one that is diagonalised: m × m if m ≤ 2n, else 2n × 2n, and
    then nothing of m × m is ever made. The decomposition runs in float64 on the host, whatever the
    inputs; results have the inputs' dtype.

    Args:
        x, x2: the two views [n, ...], flattened to [n, m]; row i of one belongs to row i of the
            other.
        center: subtract the mean of all 2n views ("pooled"), each view's own mean ("per_view"; new
            inputs then meet the pooled one), or nothing ("none").
        modes: keep only the k largest; found without a matrix when k is small against both sides.

    Raises:
        ValueError: the views differ in shape, are not finite, or are all the same after centring;
            `center` is unknown; `modes` is not in 1 ... rank.
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
            found = _matrix_free(x, x2, shifts, center, modes)
            if found is not None:
                return found
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
    """γ and V from the m × m side, on the span of the views."""
    two_n, n = len(both), len(both) // 2
    spread, span = eigen.eigh_descending(both.T @ both / two_n)
    span = span[:, above_cutoff(spread, max(both.shape) * EPS)]
    cross = (both[:n] @ span).T @ (both[n:] @ span) / n
    gamma, rotation = eigen.eigh_descending((cross + cross.T) / 2)
    return gamma, span @ rotation


def _matrix_free(
    x: Numbers, x2: Numbers, shifts: tuple[np.ndarray, np.ndarray], center: Center, modes: Whole
) -> Problem | None:
    """The top modes by products with the views alone; None where they are not all positive, or not
    found.
    """
    dtype = jax.dtypes.canonicalize_dtype(x.dtype)
    views = [
        jnp.asarray(view) - jnp.asarray(shift, dtype)
        for view, shift in zip((x, x2), shifts, strict=True)
    ]
    try:
        found = eigen.top(_cross_moment, tuple(views), x.shape[1], int(modes), dtype=dtype)
    except eigen.NotConvergedError:  # a nearly flat spectrum
        return None
    if float(found.values[-1]) <= 10 * float(jnp.max(found.residuals)):
        return None
    basis = found.vectors
    features = jnp.concatenate([view @ basis for view in views])
    mean = jnp.asarray((shifts[0] + shifts[1]) / 2, dtype) @ basis
    return Problem(found.values, features, basis, mean, found.lowest, center=center, linear=True)


def _cross_moment(views: tuple[Array, Array], block: Float[Array, "m b"]) -> Float[Array, "m b"]:
    x, x2 = views
    return (_there_and_back(x2, x, block) + _there_and_back(x, x2, block)) / (2 * x.shape[0])


def _there_and_back(x: Array, x2: Array, block: Float[Array, "m b"]) -> Float[Array, "m b"]:
    """x2ᵀ (x block), by rows; without the barriers XLA's CPU code folds the transposes and takes
    twice the time.
    """
    keep = jax.lax.optimization_barrier
    rows = keep(keep(x @ block).T)
    return keep(rows @ x2).T
