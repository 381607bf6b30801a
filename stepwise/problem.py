"""The learning problem: a spectrum γ with mode coordinates, from views, from a kernel or from a Gram matrix."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from stepwise import _check, _npz, eigen, laws, moments
from stepwise.moments import CENTERS, Center
from stepwise.types import Numbers, Real, Whole

EPS = float(np.finfo(np.float64).eps)

Kernel = Callable[[Numbers, Numbers], Numbers]
"""kernel(a [p, ...], b [q, ...]) -> [p, q]."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class Problem:
    """A joint-embedding problem in its own coordinates, where every law and every solver works.

    The model is f(x) = A φ(x) with φ_j(x) = basis_jᵀ x − offset_j for a linear model and basis_jᵀ k(x) − offset_j
    for a kernel, k(x) = [K(x, X), K(x, X')]. In these coordinates Γ is diag(γ): C = A diag(γ) Aᵀ.

    Attributes:
        gamma: [r] all kept modes from the largest down, negative ones included, null directions of the data dropped.
        features: φ of the 2n views [2n, r], X stacked on X'.
        basis: V [m, r] for a linear model (orthonormal columns, so that A = W V); dual coefficients [2n, r] for
            a kernel (K-orthonormal: basisᵀ K basis = 1).
        offset: φ's value at the origin, with its sign turned [r]; zero without centring.
        lowest: the smallest eigenvalue of the whole Γ; gradient descent's limit needs it even where `modes=k`
            left it out. Where `modes=k` was found matrix-free it is a Ritz value, which only bounds it from above.
        center: how the views were centred.
        kernel: the kernel of `from_kernel` (None otherwise), and `views` the 2n inputs that it meets.
    """

    gamma: Numbers
    features: Numbers
    basis: Numbers
    offset: Numbers
    lowest: Numbers
    center: str = field(metadata={"static": True})
    linear: bool = field(metadata={"static": True})
    kernel: Kernel | None = field(default=None, metadata={"static": True})
    views: Numbers | None = None

    def __repr__(self) -> str:
        """In one line: what kind, how many pairs and modes."""
        kind = "linear" if self.linear else "kernel"
        if _check.is_traced(self):
            return f"Problem({kind}, {self.gamma.size} modes, traced)"
        top = float(self.gamma[0])
        modes = f"{self.gamma.size} modes, {self.n_positive} positive, γ_1 = {top:.4g}"
        return f"Problem({kind}, {self.n_pairs} pairs, {modes})"

    @property
    def n_pairs(self) -> int:
        """n, the number of positive pairs."""
        return int(self.features.shape[0]) // 2

    @property
    def n_positive(self) -> int:
        """How many modes have γ > 0: the most dimensions that can be learned."""
        return int(np.sum(np.asarray(self.gamma) > 0))

    def max_stable_lr(self) -> Float[Array, ""]:
        """min(1/(4 γ_1), 1/(2 |γ_min|)) over all modes, also those that `modes=k` left out."""
        return laws.BarlowTwins(jnp.append(self.gamma, jnp.asarray(self.lowest, self.gamma.dtype))).max_stable_lr()

    def optimum(self, d: Whole) -> Float[Array, "d r"]:
        """A* = diag(γ_j^{-1/2}) on the leading d modes: the smallest-norm minimiser, up to a rotation of its rows.

        Raises:
            ValueError: d is more than the number of positive modes; so many dimensions cannot be learned.
        """
        limit = self.n_positive
        _check.require(1 <= d <= limit, "d", f"a number in 1 ... {limit}, the positive modes of the problem", d)
        return jnp.eye(d, self.gamma.size, dtype=self.gamma.dtype) / jnp.sqrt(self.gamma[:d, None])

    def predict(self, d: Whole) -> Float[Array, "views d"]:
        """Embeddings of the 2n views at the end of training: columns φ_j/sqrt(γ_j), j ≤ d, up to a rotation.

        Small start, gradient flow to convergence; C of these embeddings is the identity (source, Prop. 4.2, 5.3). They
        are `embed(optimum(d), views)`, but with per-view centring, where each view here meets its own mean.

        Raises:
            ValueError: d is more than the number of positive modes.
        """
        return self.features @ self.optimum(d).T

    def embed(self, A: Numbers, inputs: Numbers) -> Float[Array, "k d"]:
        """f(x) = A φ(x) of any inputs, seen or not.

        Args:
            A: mode coordinates [d, r], such as `optimum(d)` or a trajectory's snapshot.
            inputs: [k, ...] as the views had them; for a problem made from a Gram matrix (or a kernel problem
                that was loaded without its kernel) the rows K(new, views) [k, 2n].

        Raises:
            ValueError: A does not have r columns, or the inputs have another size than the views.
        """
        A = jnp.asarray(_check.real_array("A", A, ndim=2))
        r, size = self.gamma.size, self.basis.shape[0]
        _check.require(A.shape[1] == r, "A", f"{r} columns, one a mode", A)
        if self.kernel is not None:
            rows = self.kernel(_check.real_array("inputs", inputs), self.views)
        else:
            rows = _check.real_array("inputs", inputs)
            rows = rows.reshape(rows.shape[0], -1) if rows.ndim > 1 else rows[None]
            what = "numbers an input" if self.linear else "kernel values an input, one a view"
            _check.require(rows.shape[1] == size, "inputs", f"{size} {what}", rows)
        return (jnp.asarray(rows) @ self.basis - self.offset) @ A.T

    def coordinates(self, W: Numbers) -> Float[Array, "d r"]:
        """A = W V of a linear model's weights [d, m]: where a start that was drawn in input space begins."""
        self._require_linear("coordinates")
        W = jnp.asarray(_check.real_array("W", W, ndim=2))
        _check.require(W.shape[1] == self.basis.shape[0], "W", f"{self.basis.shape[0]} columns as the inputs", W)
        return W @ self.basis

    def weights(self, A: Numbers) -> Float[Array, "d m"]:
        """W = A Vᵀ [d, m]: a linear model's weights, pictures that can be looked at."""
        self._require_linear("weights")
        A = jnp.asarray(_check.real_array("A", A, ndim=2))
        _check.require(A.shape[1] == self.gamma.size, "A", f"{self.gamma.size} columns, one a mode", A)
        return A @ self.basis.T

    def start(self, key: Array, d: Whole, scale: Real) -> Float[Array, "d r"]:
        """Mode coordinates of a Gaussian W(0) whose entries have standard deviation `scale` (α).

        V is orthonormal, so A = W V has the same distribution as its kept columns.
        """
        _check.require(scale > 0, "scale", "a positive number", scale)
        _check.require(d >= 1, "d", "a positive number of dimensions", d)
        return scale * jax.random.normal(key, (int(d), self.gamma.size), self.gamma.dtype)

    def truncated(self, k: Whole) -> "Problem":
        """The same problem with its k largest modes only."""
        _check.require(1 <= k <= self.gamma.size, "modes", f"a number in 1 ... {self.gamma.size}", k)
        cut = {name: getattr(self, name)[..., :k] for name in ("gamma", "features", "basis", "offset")}
        return replace(self, **cut)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to one .npz, without pickle, under a temporary name that is then renamed.

        A kernel function cannot be written: `load` takes it again.
        """
        views = {} if self.views is None else {"views": self.views}
        arrays = {name: getattr(self, name) for name in ("gamma", "features", "basis", "offset", "lowest")}
        _npz.write(path, "stepwise.Problem", arrays | views, {"center": self.center, "linear": self.linear})

    @classmethod
    def load(cls, path: str | os.PathLike[str], kernel: Kernel | None = None) -> "Problem":
        """Read what `save` wrote. A kernel problem takes its kernel again, or else embeds kernel rows.

        Raises:
            ValueError: the file is not a saved problem (says what it is and what was expected), or a kernel is given
                for one that was saved without views.
        """
        names = ("gamma", "features", "basis", "offset", "lowest")
        arrays, about = _npz.read(path, "stepwise.Problem", names)
        views = arrays.pop("views", None)
        _check.require(kernel is None or views is not None, "kernel", "None for a problem without views", "a kernel")
        fields = {name: jnp.asarray(arrays[name]) for name in names}
        center, linear = str(about["center"]), bool(about["linear"])
        return cls(**fields, center=center, linear=linear, kernel=kernel, views=views)

    def _require_linear(self, what: str) -> None:
        _check.require(self.linear, what, "a linear problem, made by from_views", "a kernel problem")


def from_views(x: Numbers, x2: Numbers, *, center: Center = "pooled", modes: Whole | None = None) -> Problem:
    """The linear model's problem on n positive pairs.

    Γ = (1/2n) Σ_i x_i x'_iᵀ + x'_i x_iᵀ = V diag(γ) Vᵀ on the span of the centred views (source, eq. 3). The smaller
    side is the one that is diagonalised: m × m if m ≤ 2n, else 2n × 2n, and then nothing of m × m is ever made. The
    decomposition runs in float64 on the host, whatever the inputs; results have the inputs' dtype.

    Args:
        x, x2: the two views [n, ...], flattened to [n, m]; row i of one belongs to row i of the other.
        center: subtract the mean of all 2n views ("pooled"), each view's own mean ("per_view"; new inputs then
            meet the pooled one), or nothing ("none").
        modes: keep only the k largest; found without a matrix when k is small against both sides.

    Raises:
        ValueError: the views differ in shape, are not finite, or are all the same after centring; `center` is
            unknown; `modes` is not in 1 ... rank.
    """
    _check.require(center in CENTERS, "center", f"one of {CENTERS}", center)
    x, x2 = moments.flat_pair(x, x2)
    n, m = x.shape
    mean, mean2 = (np.asarray(view).mean(0, dtype=np.float64) for view in (x, x2))
    pooled = (mean + mean2) / 2
    shifts = {"pooled": (pooled, pooled), "per_view": (mean, mean2), "none": (0 * mean, 0 * mean2)}[center]
    if modes is not None:
        _check.require(1 <= modes <= min(2 * n, m), "modes", f"a number in 1 ... {min(2 * n, m)}", modes)
        if 10 * (modes + 8) <= min(2 * n, m):
            found = _matrix_free(x, x2, shifts, center, modes)
            if found is not None:
                return found
    both = np.concatenate([np.asarray(view, np.float64) - shift for view, shift in zip((x, x2), shifts, strict=True)])
    if m <= 2 * n:
        gamma, basis = _primal(both)
    else:
        gamma, dual = _dual(both @ both.T, 2 * n * EPS)
        basis = both.T @ dual
    offset = pooled @ basis if center != "none" else np.zeros(gamma.size)
    whole = _problem(gamma, both @ basis, basis, offset, x.dtype, center, linear=True)
    return whole if modes is None else _first(whole, modes)


def from_kernel(
    kernel_fn: Kernel, x: Numbers, x2: Numbers, *, center: Center = "none", modes: Whole | None = None
) -> Problem:
    """The kernelised problem on n positive pairs: K of the 2n views, then `from_gram`.

    Args:
        kernel_fn: kernel_fn(a [p, ...], b [q, ...]) -> [p, q], positive semi-definite.
        x, x2: the two views [n, ...], in the shape that the kernel wants.
        center, modes: as for `from_gram`.

    Raises:
        ValueError: as `from_gram`; or the views differ in shape.
    """
    x, x2 = _check.real_array("x", x), _check.real_array("x2", x2)
    _check.require(x2.shape == x.shape, "x2", f"shape {list(x.shape)} as x", x2)
    views = jnp.concatenate([jnp.asarray(x), jnp.asarray(x2)])
    K = kernel_fn(views, views)
    _check.require(np.shape(K) == (len(views), len(views)), "kernel_fn", f"values [{len(views)}, {len(views)}]", K)
    problem = from_gram(K, center=center, modes=modes)
    return replace(problem, kernel=kernel_fn, views=views)


def from_gram(
    K: Numbers, *, center: Center = "none", modes: Whole | None = None, cutoff: Real | None = None
) -> Problem:
    """The problem of a kernel matrix: K_Γ = (1/2n) K^{1/2} P K^{1/2} = B diag(γ) Bᵀ, where P swaps the views.

    Its non-zero spectrum is Γ's in feature space (source, section 5). Modes are φ_j(x) = B_jᵀ K^{-1/2} k(x); of K's
    eigenvalues those above cutoff · the largest are kept; how many, γ's size says.

    Args:
        K: [2n, 2n], views stacked X then X'.
        center: centre the features at their mean over all 2n views ("pooled"), over each view ("per_view"), or
            not ("none").
        modes: keep only the k largest.
        cutoff: relative to K's largest eigenvalue; 2n · eps of K's dtype by default. A kernel that was computed in
            float32 and then widened wants 2n · 1.2e-7.

    Raises:
        ValueError: K is not square with an even side, not finite, not symmetric, or not positive semi-definite, each
            beyond the cutoff; `modes` is more than the rank.
    """
    _check.require(center in CENTERS, "center", f"one of {CENTERS}", center)
    K = _check.real_array("K", K, ndim=2)
    square = K.shape[0] == K.shape[1] and K.shape[0] % 2 == 0 and K.shape[0] > 0
    _check.require(square, "K", "a square matrix [2n, 2n], X stacked on X'", K)
    dtype, k64 = K.dtype, np.asarray(K, np.float64)
    eps = max(float(jnp.finfo(dtype).eps), float(np.finfo(np.float64).eps))
    skew, scale = np.abs(k64 - k64.T).max(), np.abs(k64).max()
    relative = len(k64) * eps if cutoff is None else float(cutoff)
    tolerance = max(64 * np.sqrt(len(k64)) * eps, relative) * scale
    _check.require(
        bool(skew <= tolerance), "K", f"a symmetric matrix (to {tolerance:.1e})", f"|K - Kᵀ| up to {skew:.1e}"
    )
    n = len(k64) // 2
    projector = _projector(n, center)
    centred = projector @ ((k64 + k64.T) / 2) @ projector if center != "none" else (k64 + k64.T) / 2
    gamma, dual = _dual(centred, relative)
    features, basis = centred @ dual, projector @ dual
    offset = k64.mean(1) @ basis if center != "none" else np.zeros(gamma.size)
    whole = _problem(gamma, features, basis, offset, dtype, center, linear=False)
    return whole if modes is None else _first(whole, modes)


def _problem(
    gamma: np.ndarray,
    features: np.ndarray,
    basis: np.ndarray,
    offset: np.ndarray,
    dtype: np.dtype,
    center: Center,
    *,
    linear: bool,
) -> Problem:
    names = ("gamma", "features", "basis", "offset", "lowest")
    arrays = (gamma, features, basis, offset, gamma[-1])
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    fields: dict[str, Any] = {name: jnp.asarray(array, dtype) for name, array in zip(names, arrays, strict=True)}
    return Problem(**fields, center=center, linear=linear)


def _first(problem: Problem, modes: Whole) -> Problem:
    rank = problem.gamma.size
    _check.require(1 <= modes <= rank, "modes", f"a number in 1 ... {rank}, the rank of the data", modes)
    return problem.truncated(modes)


def _primal(both: Float[np.ndarray, "views m"]) -> tuple[np.ndarray, np.ndarray]:
    """γ and V from the m × m side, on the span of the views."""
    two_n, n = len(both), len(both) // 2
    spread, span = eigen.descending(both.T @ both / two_n)
    span = span[:, _kept(spread, max(both.shape) * EPS)]
    cross = (both[:n] @ span).T @ (both[n:] @ span) / n
    gamma, rotation = eigen.descending((cross + cross.T) / 2)
    return gamma, span @ rotation


def _dual(K: Float[np.ndarray, "views views"], cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """γ and K-orthonormal dual coefficients U from the 2n × 2n side: K_Γ on the range of K."""
    n = len(K) // 2
    spread, span = eigen.descending(K)
    kept = _kept(spread, cutoff)
    root = span[:, kept] * np.sqrt(spread[kept])
    cross = root[:n].T @ root[n:] / n
    gamma, rotation = eigen.descending((cross + cross.T) / 2)
    return gamma, (span[:, kept] / np.sqrt(spread[kept])) @ rotation


def _kept(spread: Float[np.ndarray, " k"], cutoff: float) -> Bool[np.ndarray, " k"]:
    """Which directions hold more than rounding; refuses a matrix that is not positive semi-definite, or is zero."""
    cut = cutoff * spread[0]
    found = f"eigenvalues from {spread[-1]:.3e} to {spread[0]:.3e}"
    _check.require(spread[0] > 0, "views", "centred views, or a kernel of them, that differ from one another", found)
    _check.require(spread[-1] >= -10 * cut, "K", f"a positive semi-definite kernel (to {10 * cut:.1e}, cutoff)", found)
    return spread > cut


def _projector(n: int, center: Center) -> Float[np.ndarray, "views views"]:
    eye = np.eye(2 * n)
    if center == "pooled":
        return eye - 1 / (2 * n)
    return eye - np.kron(np.eye(2), np.full((n, n), 1 / n)) if center == "per_view" else eye


def _matrix_free(
    x: Numbers, x2: Numbers, shifts: tuple[np.ndarray, np.ndarray], center: Center, modes: Whole
) -> Problem | None:
    """The top modes by products with the views alone; None where they are not all positive, or not found."""
    dtype = jax.dtypes.canonicalize_dtype(x.dtype)
    views = [jnp.asarray(view) - jnp.asarray(shift, dtype) for view, shift in zip((x, x2), shifts, strict=True)]
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
    """x2ᵀ (x block), by rows; without the barriers XLA's CPU code folds the transposes and takes twice the time."""
    keep = jax.lax.optimization_barrier
    rows = keep(keep(x @ block).T)
    return keep(rows @ x2).T
