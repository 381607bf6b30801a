"""The pencil family: losses −2 tr W A Wᵀ + ‖W B Wᵀ‖² of two moments A and B of the data."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stepwise import _check
from stepwise.laws import numeric
from stepwise.laws.base import Law, NotKnownError
from stepwise.types import Numbers, Real


class Moments(NamedTuple):
    """The moments of a pencil in mode coordinates, and the factor κ of its loss.

    A and B are vectors [r] if both are diagonal, and symmetric matrices [r, r] otherwise.
    """

    A: Any
    B: Any
    factor: Any = 1.0


class Deflation(NamedTuple):
    """The modes of moments that have no common eigenbasis, found one after another.

    Attributes:
        basis: the eigenvectors of A as rows [r, r], in descending order.
        unit: uᵀBu of each row u [r].
        rates: eigenvalue of mode j while i modes are learned [k + 1, r]; entries with j < i are 0.
        rest: final value of each mode [r]; for a mode beyond the k-th, without deflation.
    """

    basis: Any
    unit: Any
    rates: Any
    rest: Any


class Pencil(Law):
    """Base class of the laws of L = κ [−2 tr W A Wᵀ + ‖W B Wᵀ‖_F²], up to a constant.

    The flow is W' = 4κ (W A − W B Wᵀ W B). If A and B have a common eigenbasis, with eigenvalues α
    and β, then q = β s² of each mode is a logistic curve with the rate 8κα and the rest α/β:

        q' = 8κ q (α − β q).

    A mode with a larger rest than a learned one, but a smaller rate, is learned later and then
    replaces it (`takeover`).

    If A and B do not commute, the modes are found one after another (`deflate`): mode 1 is the
    leading eigenvector u of A and rests at r = uᵀAu/uᵀBu; mode 2 is that of the deflated operator
    A − r B v vᵀ B, v = u/√(uᵀBu); and so on. The growth rate of a mode changes when an earlier one
    is learned. What this leaves out is that learned rows then rotate towards the generalised
    eigenvectors of A and B, which is slow. On 500 pairs of crops of the photographs, where Γ and Σ
    have no common basis, the step times of modes 2 to 4 were within 1% of descent's
    (`SpectralContrastive`, d = 4). `rhs` and `objective` are exact in any case.

    A subclass is a frozen dataclass with a field `d` (the dimension of the embedding, or None),
    which defines `moments` and calls `_deflate` at the end of its `__post_init__`.
    """

    observable = "covariance"
    curves = "closed form"
    second_moment = "any; modes one after another (deflation) if it is not diagonal"

    def moments(self) -> Moments:
        """Return A, B and κ."""
        raise NotImplementedError

    def _deflate(self) -> None:
        """Find the modes, if A and B are matrices."""
        A, B, _ = self.moments()
        k = min(self._dimension(), jnp.shape(A)[0])
        modes = deflate(A, B, k) if jnp.ndim(A) == 2 else None
        object.__setattr__(self, "deflation", modes)

    def _dimension(self) -> int:
        d = getattr(self, "d", None)
        return jnp.shape(self.moments().A)[0] if d is None else int(d)

    def _values(self) -> tuple[Array, Array]:
        """Return α and β of each mode [r]."""
        modes: Deflation | None = getattr(self, "deflation", None)
        A, B, _ = self.moments()
        return (A, B) if modes is None else (modes.rates[0], modes.unit)

    @property
    def basis(self) -> Float[Array, "r r"] | None:
        """The eigenvectors of A as rows [r, r], or None if the problem's modes are those."""
        modes: Deflation | None = getattr(self, "deflation", None)
        return None if modes is None else modes.basis

    def unit(self) -> Float[Array, " r"]:
        """Return β, the value of the observable W B Wᵀ for a unit row along each mode [r]."""
        return self._values()[1]

    def growth(self) -> Float[Array, " r"]:
        """Return the growth rates 8κα [r]."""
        return 8 * self.moments().factor * self._values()[0]

    def rest(self) -> Float[Array, " r"]:
        """Return the final values α/β [r], 0 for a mode that does not grow."""
        modes: Deflation | None = getattr(self, "deflation", None)
        if modes is not None:
            return modes.rest
        alpha, beta = self._values()
        return jnp.where(alpha > 0, alpha / jnp.where(beta == 0, 1, beta), 0)

    def objective(self, A: Numbers) -> Float[Array, ""]:
        """Return κ [−2 tr W A Wᵀ + ‖W B Wᵀ‖²] of mode coordinates W = A [d, r]."""
        drive, _, factor = self.moments()
        A = jnp.asarray(A)
        return factor * (jnp.sum(self.measure(A) ** 2) - 2 * jnp.sum(times(A, drive) * A))

    def measure(self, A: Numbers) -> Float[Array, "d d"]:
        """Return the observable W B Wᵀ [d, d] of mode coordinates W = A [d, r]."""
        A = jnp.asarray(A)
        return times(A, self.moments().B) @ A.T

    def rhs(self, A: Numbers) -> Float[Array, "d r"]:
        """Return the exact flow 4κ (W A − W B Wᵀ W B) of W = A [d, r]."""
        drive, curb, factor = self.moments()
        A = jnp.asarray(A)
        curbed = times(A, curb)
        return 4 * factor * (times(A, drive) - (curbed @ A.T) @ curbed)

    def eigenvalues(self, times: Numbers, lam0: Numbers) -> Float[Array, "T d"]:
        """Return the logistic curves r / (1 + (r/q(0) − 1) e^{−E}), E = ∫ 8κα dt."""
        times, lam0, modes = self.check_arguments(times, lam0)
        rest = self.rest()[modes]
        if getattr(self, "deflation", None) is not None:
            exponents = self._exponents(times, lam0)
        else:
            exponents = times[:, None] * self.growth()[modes][None]
        grows = rest > 0
        curve = numeric.logistic(
            exponents, 1.0, jnp.where(grows, lam0 / jnp.where(grows, rest, 1), 0)
        )
        alpha, beta = (part[modes] for part in self._values())
        decay = jnp.exp(jnp.minimum(exponents, 0))
        # q' = 8κ q (α − β q) for α ≤ 0, where E ≤ 0; the ratio is 8κt for α = 0
        span = jnp.where(
            alpha == 0,
            8 * self.moments().factor * times[:, None],
            jnp.expm1(jnp.minimum(exponents, 0)) / jnp.where(alpha == 0, 1, alpha)[None],
        )
        falling = lam0[None] * decay / (1 + lam0[None] * beta[None] * span)
        return jnp.where(grows[None], rest[None] * curve, falling)

    def step_times(self, lam0: Numbers, level: Real = 0.5) -> Float[Array, " d"]:
        """Return when each mode rises through level · rest [d], or infinity if it never does."""
        _check.require(0 < level < 1, "level", "a number between 0 and 1", level)
        _, lam0, modes = self.check_arguments(jnp.zeros(1), lam0)
        if getattr(self, "deflation", None) is not None:
            return self._crossings(lam0, level)[0]
        needed, crosses = self._needed(lam0, modes, level)
        rate = self.growth()[modes]
        return jnp.where(crosses, needed / jnp.where(crosses, rate, 1), jnp.inf)

    def _needed(self, lam0: Array, modes: Array, level: Real) -> tuple[Array, Array]:
        """Return the exponent at which each mode crosses the level, and whether it can."""
        rest = self.rest()[modes]
        crosses = (rest > 0) & (lam0 > 0) & (lam0 <= level * rest)
        ratio = jnp.where(crosses, lam0 / jnp.where(rest > 0, rest, 1), level / 2)
        return jnp.log1p(-ratio) - jnp.log(ratio) + jnp.log(level / (1 - level)), crosses

    def _crossings(self, lam0: Array, level: Real) -> tuple[Array, Array]:
        """Return when each mode crosses the level, and when it counts as learned, in order [d].

        Before mode i is learned, mode j > i grows at `rates[i, j]`; mode i counts as learned at
        half of its rest.
        """
        modes = self.deflation  # type: ignore[attr-defined]
        k = modes.rates.shape[0] - 1
        d = lam0.shape[0]
        rates = 8 * self.moments().factor * modes.rates
        needed, crosses = self._needed(lam0, jnp.arange(d), level)
        half, _ = self._needed(lam0, jnp.arange(d), 0.5)
        exponents = jnp.zeros(d)
        now, crossed, learned = jnp.zeros(()), [], []
        for j in range(d):
            rate = rates[min(j, k), j]
            ahead = jnp.where(rate > 0, rate, 1)
            fits = crosses[j] & (rate > 0)
            crossed.append(jnp.where(fits, now + (needed[j] - exponents[j]) / ahead, jnp.inf))
            end = jnp.where(fits, now + jnp.maximum(half[j] - exponents[j], 0) / ahead, now)
            exponents = exponents + rates[min(j, k), :d] * (end - now)
            now = end
            learned.append(now)
        return jnp.stack(crossed), jnp.stack(learned)

    def _exponents(self, times: Array, lam0: Array) -> Float[Array, "T d"]:
        """Return E = ∫ 8κα dt [T, d] of each mode, whose rate changes as others are learned."""
        modes = self.deflation  # type: ignore[attr-defined]
        k, d = modes.rates.shape[0] - 1, lam0.shape[0]
        learned = self._crossings(lam0, 0.5)[1]
        rates = 8 * self.moments().factor * modes.rates
        columns = []
        for j in range(d):
            total, begin = jnp.zeros_like(times), jnp.zeros(())
            for i in range(j + 1):
                last = i == j
                span = times - begin if last else jnp.minimum(times, learned[i]) - begin
                total = total + rates[min(i, k), j] * jnp.maximum(span, 0)
                begin = learned[i]
            columns.append(total)
        return jnp.stack(columns, axis=1)

    def descent_delay(self, lr: Numbers, lam0: Numbers, level: Real = 0.5) -> Float[Array, " d"]:
        """Return the fraction (lr g/4) (1 − 3 I/E) by which descent crosses the level late.

        It is that of `BarlowTwins.descent_delay`, because the flow s' = (g/2)(1 − q/r) s is the
        same, with g = 8κα and I = ln((1 − q(0)/r)/(1 − level)).
        """
        lr = jnp.asarray(_check.real_array("lr", lr, ndim=0))
        _check.require(0 < level < 1, "level", "a number between 0 and 1", level)
        _, lam0, modes = self.check_arguments(jnp.zeros(1), lam0)
        needed, crosses = self._needed(lam0, modes, level)
        rest = self.rest()[modes]
        ratio = jnp.where(crosses, lam0 / jnp.where(rest > 0, rest, 1), level / 2)
        caught_up = 3 * (jnp.log1p(-ratio) - jnp.log(1 - level)) / needed
        return jnp.where(crosses, lr * self.growth()[modes] / 4 * (1 - caught_up), 0)

    def max_stable_lr(self) -> Float[Array, ""]:
        """Return 2 over the largest curvature where d modes rest.

        The curvatures are κ times 8α_j and 4(r_j β_k + r_k β_j) of learned modes j ≠ k,
        4β_k (r_j − r_k) of an unlearned mode k, and 4|α_k| of a decaying mode if a row is spare.

        Raises:
            NotKnownError: if A and B do not commute.
        """
        if getattr(self, "deflation", None) is not None:
            raise NotKnownError(self._lacks("max_stable_lr", "moments that commute"))
        alpha, beta = self._values()
        raw = alpha / jnp.where(beta == 0, 1, beta)
        d = min(self._dimension(), alpha.shape[0])
        final = self.final_modes(d)
        learned = jnp.zeros(alpha.shape[0], bool).at[final].set(self.rest()[final] > 0)
        pairs = 4 * (raw[:, None] * beta[None] + raw[None] * beta[:, None])
        both = learned[:, None] & learned[None] & ~jnp.eye(len(alpha), dtype=bool)
        aside = 4 * beta[None] * (raw[:, None] - raw[None])
        mixed = learned[:, None] & ~learned[None]
        spare = jnp.sum(learned) < self._dimension()
        curvatures = jnp.array([
            jnp.max(jnp.where(learned, 8 * alpha, 0)),
            jnp.max(jnp.where(both, pairs, 0)),
            jnp.max(jnp.where(mixed, aside, 0)),
            jnp.where(spare, jnp.max(jnp.where(alpha < 0, -4 * alpha, 0)), 0),
        ])  # fmt: skip
        return 2 / (self.moments().factor * jnp.max(curvatures))


def as_moment(name: str, value: Numbers, gamma: Array) -> Array:
    """Return a moment as a vector [r] if it is diagonal in the modes, else as a matrix [r, r].

    A matrix counts as diagonal if no other entry exceeds √(σ_ii σ_jj) times 10⁴ roundings. The
    entries of a traced matrix are unknown, so it stays a matrix.

    Raises:
        ValueError: if the shape is neither [r] nor [r, r].
    """
    array = jnp.asarray(_check.real_array(name, value, ndim=(1, 2)))
    r = gamma.shape[0]
    fits = array.shape in ((r,), (r, r))
    _check.require(fits, name, f"shape [{r}] or [{r}, {r}], as gamma has {r} modes", array)
    if array.ndim == 1 or _check.is_traced(array):
        return array
    matrix = np.asarray(array, np.float64)
    scale = np.sqrt(np.abs(np.diag(matrix)))
    beside = np.abs(matrix - np.diag(np.diag(matrix)))
    rounding = 1e4 * float(jnp.finfo(array.dtype).eps)
    common = bool((beside <= rounding * np.outer(scale, scale)).all())
    return jnp.diagonal(array) if common else array


def deflate(A: Array, B: Array, k: int) -> Deflation:
    """Find the first k modes of the pencil (A, B), and how fast the others grow beside them.

    D_0 = A. While i modes are learned, the others grow at the eigenvalues of D_i, and mode i + 1 is
    its leading eigenvector u. It rests at r = uᵀD_i u/uᵀBu, and D_{i+1} = D_i − r B v vᵀ B with
    v = u/√(uᵀBu).

    Args:
        A, B: symmetric matrices [r, r].
        k: number of modes to learn.
    """
    values, vectors = jnp.linalg.eigh(A)
    values, basis = values[::-1], vectors[:, ::-1].T
    unit = jnp.einsum("ij,jk,ik->i", basis, B, basis)
    safe = jnp.where(unit == 0, 1, unit)
    rest = jnp.where(values > 0, values / safe, 0)
    rates, operator, first, u = [values], A, values[0], basis[0]
    for i in range(k):
        norm = u @ B @ u
        end = jnp.where(first > 0, first / jnp.where(norm == 0, 1, norm), 0)
        rest = rest.at[i].set(end)
        v = (B @ u) / jnp.sqrt(jnp.where(norm == 0, 1, norm))
        operator = operator - end * jnp.outer(v, v)
        left, vectors = jnp.linalg.eigh(operator)
        left = left[::-1]
        rates.append(jnp.concatenate([jnp.zeros(i + 1), left[: len(values) - i - 1]]))
        first, u = left[0], vectors[:, -1]
    return Deflation(basis, unit, jnp.stack(rates), rest)


def times(rows: Array, moment: Array) -> Array:
    """Return rows [d, r] times a moment, which is a matrix or the diagonal of one."""
    return rows * moment[None] if moment.ndim == 1 else rows @ moment
