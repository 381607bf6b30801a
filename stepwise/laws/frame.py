"""The modes of laws whose moments Γ and Σ need no common eigenbasis."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stepwise import _check
from stepwise.laws.base import Law, NotKnownError
from stepwise.laws.pencil import as_moment, times
from stepwise.types import Numbers, Whole


class Frame(NamedTuple):
    """The moments of the modes of a law.

    Attributes:
        basis: the modes as rows [r, r], or None if they are those of the problem.
        gamma: vᵀΓv of each mode v [r].
        sigma: vᵀΣv of each mode v [r].
    """

    basis: Any
    gamma: Any
    sigma: Any


class Framed(Law):
    """Base class of laws of one mode at a time, for moments with or without a common eigenbasis.

    Near zero, W' = W G/2 with a symmetric matrix G(Γ, Σ), the growth operator. If Σ is not
    diagonal, the modes are the eigenvectors v of G, so that growth rates are exact. Curves and
    final values are those of the moments vᵀΓv and vᵀΣv: the entries of Γ and Σ between two modes
    are neglected. The first mode's step is then late or early by the change of its final value,
    and later modes grow at other rates beside a learned mode than alone. `validity.report`
    estimates this error from `rhs`, which is exact in any case.

    A subclass is a frozen dataclass with the fields `gamma` and `sigma`. It defines `_operator`,
    calls `_find_modes` in its `__post_init__`, and takes the moments of its modes from `frame`.
    """

    gamma: Any
    sigma: Any
    frame: Frame

    second_moment = "any; if it is not diagonal, curves neglect its entries between modes"

    def _operator(self, gamma: Array, sigma: Array) -> Array:
        """Return G [r, r] up to a positive factor, for matrices Γ and Σ [r, r]."""
        raise NotImplementedError

    def _find_modes(self, positive: bool = True) -> None:
        """Check the moments, and find the modes.

        Args:
            positive: whether variances must be positive; otherwise they may be 0.

        Raises:
            ValueError: if gamma is not a vector of finite numbers, if sigma has neither the shape
                [r] nor [r, r], or if a mode has a variance that is too small.
        """
        gamma = jnp.asarray(_check.real_array("gamma", self.gamma, ndim=1))
        sigma = as_moment("sigma", self.sigma, gamma)
        object.__setattr__(self, "gamma", gamma)
        object.__setattr__(self, "sigma", sigma)
        frame = Frame(None, gamma, sigma)
        if sigma.ndim == 2:
            operator = self._operator(jnp.diag(gamma), sigma)
            basis = jnp.linalg.eigh((operator + operator.T) / 2)[1][:, ::-1].T
            own = (jnp.einsum("ij,jk,ik->i", basis, M, basis) for M in (jnp.diag(gamma), sigma))
            frame = Frame(basis, *own)
        require_variances("sigma", frame.sigma, positive)
        object.__setattr__(self, "frame", frame)

    @property
    def basis(self) -> Float[Array, "r r"] | None:
        """The eigenvectors of G as rows [r, r], or None if the problem's modes are those."""
        return self.frame.basis

    def unit(self) -> Float[Array, " r"]:
        """Return the observable of a unit row along each mode [r]."""
        return self._scale() * self.frame.sigma

    def measure(self, A: Numbers) -> Float[Array, "d d"]:
        """Return the observable, a multiple of A Σ Aᵀ [d, d], of mode coordinates A [d, r]."""
        A = jnp.asarray(A)
        return self._scale() * self._by_sigma(A) @ A.T

    def _scale(self) -> Any:
        """Return the factor of the observable on A Σ Aᵀ."""
        return 1.0

    def growth_in_turn(self, j: Whole) -> Float[Array, ""]:
        """Return the rate at which mode order[j] grows beside the earlier ones at rest.

        It is the rate that `step_times` assumes: by default the same as alone.
        """
        return self.growth()[self.order[j]]

    def neglected(self, tau: Numbers, d: Whole) -> Float[np.ndarray, " k"]:
        """Return the relative error [k] of step times tau without a common eigenbasis.

        Between the steps of modes j − 1 and j, mode j grows as the exact flow says beside the modes
        that are learned, and not at `growth_in_turn(j)`. The ratio of the two rates moves the step
        by as much, for this part of the wait. If the flow has more variables than the encoder, and
        the law does not say that rate, the error of later modes is infinite.
        """
        tau = np.asarray(tau, np.float64)
        errors = np.zeros(tau.shape)
        if self.basis is None:
            return errors
        for j in range(1, len(tau)):
            if not (np.isfinite(tau[j]) and tau[j] > 0):
                continue
            try:
                growth = self._exact_growth(j, d)
            except NotKnownError:
                errors[j] = np.inf
                continue
            wait = np.clip(1 - tau[j - 1] / tau[j], 0, 1)
            errors[j] = wait * abs(growth / self.growth_in_turn(j) - 1)
        return errors

    def _rest_of(self, modes: Array) -> Array:
        """Return the values [k] at which these modes rest while no other is learned."""
        return self.rest()[modes]

    def _exact_growth(self, j: int, d: Whole) -> float:
        """Return the largest rate of `rhs` in a spare row beside modes order[:j] at rest.

        The row is restricted to the first 32 modes in the order of growth (Rayleigh and Ritz).
        """
        modes, first = self.order[:j], self.order[:32]
        rows = self.aligned_start(self._rest_of(modes), modes)
        spare = self.free_rows(d) - j
        A = jnp.concatenate([rows, jnp.zeros((spare, rows.shape[1]), rows.dtype)])
        every = self.from_modes(jnp.eye(rows.shape[1], dtype=rows.dtype)[first])
        step = 1e-3 * jnp.linalg.norm(rows)

        @jax.jit
        def products(rows: Array) -> Array:
            return jax.lax.map(product, rows)

        def product(row: Array) -> Array:
            # Differences, because an eigendecomposition in `rhs` has no derivative at equal values.
            change = jnp.zeros_like(A).at[j].set(step * row)
            return (self.rhs(A + change) - self.rhs(A - change))[j] / (2 * step)

        operator = every @ products(every).T
        return float(2 * jnp.linalg.eigvalsh((operator + operator.T) / 2)[-1])

    def _by_gamma(self, A: Array) -> Array:
        """Return A Γ of rows A [d, r] in the problem's coordinates."""
        return times(A, self.gamma)

    def _by_sigma(self, A: Array) -> Array:
        """Return A Σ of rows A [d, r] in the problem's coordinates."""
        return times(A, self.sigma)


def diagonal_moment(name: str, value: Numbers, gamma: Array) -> Array:
    """Return the diagonal [r] of a moment that must be diagonal in the modes.

    Args:
        name: name of the moment, for errors.
        value: the diagonal itself [r], or a matrix [r, r] that is diagonal up to rounding. The
            entries of a traced matrix are not checked.
        gamma: one number for each mode [r].

    Raises:
        ValueError: if the shape is neither [r] nor [r, r], the matrix is not diagonal, or a
            diagonal entry is not positive.
    """
    moment = as_moment(name, value, gamma)
    if moment.ndim == 2:
        expected = (
            "a moment that is diagonal in the modes; to neglect its other entries, pass "
            f"jnp.diagonal({name})"
        )
        received = f"a matrix {list(moment.shape)} with other entries"
        _check.require(_check.is_traced(moment), name, expected, received)
        moment = jnp.diagonal(moment)
    require_variances(name, moment, positive=True)
    return moment


def require_variances(name: str, values: Array, positive: bool) -> None:
    """Raise ValueError unless the values are traced, or all positive (or not negative)."""
    if not _check.is_traced(values):
        least = float(jnp.min(values, initial=jnp.inf))
        fits = least > 0 if positive else least >= 0
        expected = "positive variances" if positive else "variances, none negative"
        _check.require(fits, name, expected, f"a smallest value of {least:.4g}")
