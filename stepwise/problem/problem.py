"""The learning problem: a spectrum γ and the mode coordinates used by every law and solver."""

import os
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stepwise import _check, _npz, laws
from stepwise._moved import Renamed
from stepwise.kernels import Kernel
from stepwise.laws import LawOf
from stepwise.moments import Center
from stepwise.types import Numbers, Real, Whole

TILE = 1024
"""The default number of inputs per side for which a kernel is evaluated at once."""
FORMS = {
    "gamma": _npz.Form(("r",)),
    "features": _npz.Form(("2n", "r")),
    "basis": _npz.Form(("m", "r")),
    "offset": _npz.Form(("r",)),
    "lowest": _npz.Form(()),
    "views": _npz.Form(None),
}
"""The required form of each array of a saved problem."""
PROBES = 4
"""The number of pairs whose features are recomputed to check a kernel when a problem is loaded."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class Problem:
    """A joint-embedding problem in mode coordinates, in which Γ is diagonal.

    The model is f(x) = A φ(x), with φ_j(x) = basis_jᵀ x − offset_j for a linear model and
    φ_j(x) = basis_jᵀ k(x) − offset_j for a kernel, where k(x) = [K(x, X), K(x, X')]. In these
    coordinates Γ is diag(γ), and C = A diag(γ) Aᵀ.

    Attributes:
        gamma: eigenvalues γ of the modes [r] in descending order, including negative ones. Null
            directions of the data are dropped.
        features: φ of the 2n views [2n, r], X stacked on X'.
        basis: V [m, r] for a linear model, with orthonormal columns, so that A = W V. Dual
            coefficients [2n, r] for a kernel, K-orthonormal: basisᵀ K basis = 1.
        offset: minus the value of φ at the origin [r]; zero without centring.
        lowest: the smallest eigenvalue of the whole Γ, which limits the learning rate of gradient
            descent even if `modes=k` left it out. If the modes were computed matrix-free, it is a
            Ritz value, which bounds the smallest eigenvalue only from above.
        center: how the views were centred.
        linear: whether the model is linear in the inputs; False for a kernel.
        kernel: the kernel of `from_kernel`, None otherwise.
        views: the 2n inputs that the kernel is evaluated against, None without a kernel.
        tile: the number of inputs per side for which the kernel is evaluated at once.
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
    tile: Whole = field(default=TILE, metadata={"static": True})

    def __repr__(self) -> str:
        """Describe the problem in one line: its kind, and its numbers of pairs and modes."""
        kind = "linear" if self.linear else "kernel"
        if _check.is_traced(self):
            return f"Problem({kind}, {self.gamma.size} modes, traced)"
        top = float(self.gamma[0])
        modes = f"{self.gamma.size} modes, {self.n_positive} positive, γ_1 = {top:.4g}"
        return f"Problem({kind}, {self.n_pairs} pairs, {modes})"

    @property
    def n_pairs(self) -> int:
        """The number n of positive pairs."""
        return int(self.features.shape[0]) // 2

    @property
    def n_positive(self) -> int:
        """The number of modes with γ > 0, which is the largest number of dimensions learned."""
        return int(np.sum(np.asarray(self.gamma) > 0))

    @property
    def sigma(self) -> Float[Array, "r r"]:
        """The second moment of single views in mode coordinates, (1/2n) Σ_i φ φᵀ + φ' φ'ᵀ [r, r].

        It is diagonal if Σ and Γ share an eigenbasis. For a linear model it is Vᵀ Σ V
        (`moments.Moments`).
        """
        return self.features.T @ self.features / self.features.shape[0]

    def max_stable_lr(self, *, law: LawOf = None, d: Whole = 1) -> Float[Array, ""]:
        """Return the learning rate below which gradient descent is stable.

        For Barlow Twins, the default law, it is min(1/(4 γ_1), 1/(2 |γ_min|)) over all modes,
        including those that `modes=k` left out.

        Args:
            law: a function (problem, d) -> Law, or another value that `laws.law_of` accepts.
            d: dimension of the embedding, for a law that depends on it.

        Raises:
            laws.NotKnownError: if no limit is known for this law.
        """
        return laws.law_of(law, self, d).max_stable_lr()

    def optimum(self, d: Whole, *, law: LawOf = None) -> Float[Array, "d r"]:
        """Return the mode coordinates A* [d, r] at the end of training from a small start.

        A* is unique up to a rotation of its rows. For Barlow Twins, the default law, it is
        diag(γ_j^{-1/2}) on the leading d modes, which is the minimiser of smallest norm. In general
        it holds the modes of `Law.final_modes`, each at its final value (`Law.rest`).

        Raises:
            ValueError: if d is more than the number of modes that grow, which is the largest number
                of dimensions that can be learned.
        """
        resolved = laws.law_of(law, self, d)
        limit = int(np.sum(np.asarray(resolved.grows())))
        _check.whole("d", d, 1, limit, ", the number of modes that grow")
        modes = resolved.final_modes(d)
        return resolved.aligned_start(resolved.rest()[modes], modes)

    def predict(self, d: Whole, *, law: LawOf = None) -> Float[Array, "views d"]:
        """Return the embeddings of the 2n views at the end of training from a small start [2n, d].

        Under gradient flow, the columns converge to φ_j/sqrt(γ_j), j ≤ d, up to a rotation, and C
        of these embeddings is the identity (the paper, Simon et al. 2023, Prop. 4.2, 5.3). Under
        another law the columns have that law's final sizes. The result equals
        `embed(optimum(d), views)`, except with per-view centring: here each view is centred at its
        own mean.

        Raises:
            ValueError: if d is more than the number of modes that grow.
        """
        return self.features @ self.optimum(d, law=law).T

    def embed(self, A: Numbers, inputs: Numbers) -> Float[Array, "k d"]:
        """Return the embeddings f(x) = A φ(x) of any inputs [k, d].

        Args:
            A: mode coordinates [d, r], such as `optimum(d)` or a trajectory's snapshot.
            inputs: inputs [k, ...] in the shape of the views. For a problem built from a Gram
                matrix, or a kernel problem loaded without its kernel, the rows K(new, views)
                [k, 2n].

        Raises:
            ValueError: if A does not have r columns, or the inputs do not have the shape of the
                views.
        """
        A = jnp.asarray(_check.real_array("A", A, ndim=2))
        r, size = self.gamma.size, self.basis.shape[0]
        _check.require(A.shape[1] == r, "A", f"{r} columns, one for each mode", A)
        if self.kernel is not None and self.views is not None:
            inputs = _check.real_array("inputs", inputs)
            shape = self.views.shape[1:]
            what = f"shape [k, {', '.join(map(str, shape))}] as the views"
            _check.require(inputs.ndim > 0 and inputs.shape[1:] == shape, "inputs", what, inputs)
            if len(inputs) > self.tile:  # bounds the memory of the rows of kernel values
                parts = range(0, len(inputs), self.tile)
                return jnp.concatenate([self.embed(A, inputs[i : i + self.tile]) for i in parts])
            tiles = range(0, len(self.views), self.tile)
            rows = jnp.concatenate(
                [self.kernel(inputs, self.views[i : i + self.tile]) for i in tiles], axis=1
            )
        else:
            rows = _check.real_array("inputs", inputs)
            rows = rows.reshape(rows.shape[0], -1) if rows.ndim > 1 else rows[None]
            what = "numbers" if self.linear else "kernel values, one for each view,"
            _check.require(rows.shape[1] == size, "inputs", f"{size} {what} per input", rows)
        return (jnp.asarray(rows) @ self.basis - self.offset[None]) @ A.T

    def coordinates(self, W: Numbers) -> Float[Array, "d r"]:
        """Return the mode coordinates A = W V of a linear model's weights W [d, m].

        Use it to start a solver from weights drawn in input space.

        Raises:
            ValueError: if the problem is that of a kernel, or W does not have m columns.
        """
        self._require_linear("coordinates")
        W = jnp.asarray(_check.real_array("W", W, ndim=2))
        _check.require(
            W.shape[1] == self.basis.shape[0],
            "W",
            f"{self.basis.shape[0]} columns, one for each entry of an input",
            W,
        )
        return W @ self.basis

    def coordinates_of(self, embeddings: Numbers) -> Float[Array, "d r"]:
        """Return the mode coordinates A [d, r] of a model with these embeddings z [2n, d].

        Use it to start a solver from the initial outputs of a network on the 2n views. For a
        kernel, A = zᵀ basis, because f(views) = K basis Aᵀ. For a linear model, A is the
        least-squares solution of z = features Aᵀ. The part of z outside the problem's modes is left
        out. Centre z in the same way as the problem.

        Raises:
            ValueError: if the embeddings are not [2n, d].
        """
        z = jnp.asarray(_check.real_array("embeddings", embeddings, ndim=2))
        size = self.features.shape[0]
        expected = f"{size} rows, one for each view, X stacked on X'"
        _check.require(len(z) == size, "embeddings", expected, z)
        return jnp.linalg.lstsq(self.features, z)[0].T if self.linear else z.T @ self.basis

    def weights(self, A: Numbers) -> Float[Array, "d m"]:
        """Return a linear model's weights W = A Vᵀ [d, m], which have the shape of inputs.

        Raises:
            ValueError: if the problem is that of a kernel, or A does not have r columns.
        """
        self._require_linear("weights")
        A = jnp.asarray(_check.real_array("A", A, ndim=2))
        _check.require(
            A.shape[1] == self.gamma.size, "A", f"{self.gamma.size} columns, one for each mode", A
        )
        return A @ self.basis.T

    def start(self, key: Array, d: Whole, scale: Real) -> Float[Array, "d r"]:
        """Draw mode coordinates A(0) [d, r] of a Gaussian W(0).

        The entries of W(0) have standard deviation `scale` (α). The columns of V are orthonormal,
        so the entries of A = W V have the same distribution.
        """
        _check.require(scale > 0, "scale", "a positive number", scale)
        _check.require(d >= 1, "d", "a positive number of dimensions", d)
        return scale * jax.random.normal(key, (int(d), self.gamma.size), self.gamma.dtype)

    truncated = Renamed("truncate")

    def truncate(self, k: Whole, *, law: LawOf = None) -> "Problem":
        """Return the same problem with its k largest modes only.

        Raises:
            ValueError: if k is not in 1 ... r; if modes do not grow in the order of γ under this
                law, because the modes left out could then matter.
        """
        require_modes(k, self.gamma.size)
        _check.require(
            k == self.gamma.size or laws.law_of(law, self, 1).follows_gamma,
            "law",
            "a law whose modes grow in the order of γ, so that the smallest can be left out",
            "a law with another order",
        )
        cut = {
            name: getattr(self, name)[..., :k] for name in ("gamma", "features", "basis", "offset")
        }
        return replace(self, **cut)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the problem to one .npz file, without pickle.

        The file is written under a temporary name and then renamed. A kernel function cannot be
        saved; pass it to `load` again.
        """
        views = {} if self.views is None else {"views": self.views}
        arrays = {
            name: getattr(self, name) for name in ("gamma", "features", "basis", "offset", "lowest")
        }
        metadata = {"center": self.center, "linear": self.linear, "tile": int(self.tile)}
        _npz.write(path, "stepwise.Problem", arrays | views, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str], kernel: Kernel | None = None) -> "Problem":
        """Load a problem from the file that `save` wrote.

        Pass the kernel of a kernel problem again. Without it, `embed` accepts rows of kernel values
        only. To check that it is the same kernel, it is evaluated for a few of the views against
        all of them.

        Raises:
            ValueError: if the file is not a saved problem; if a kernel is passed for a problem that
                was saved without views; if the kernel is not the one that the problem was built
                with.
        """
        names = ("gamma", "features", "basis", "offset", "lowest")
        keys = ("center", "linear")
        arrays, metadata = _npz.read(path, "stepwise.Problem", names, FORMS, keys)
        views = jnp.asarray(arrays["views"]) if "views" in arrays else None
        _check.require(
            kernel is None or views is not None,
            "kernel",
            "None for a problem saved without views",
            "a kernel",
        )
        fields: dict[str, Any] = {name: jnp.asarray(arrays[name]) for name in names}
        center, linear = str(metadata["center"]), bool(metadata["linear"])
        tile = int(metadata.get("tile", TILE))  # files of earlier versions do not have it
        problem = cls(**fields, center=center, linear=linear, kernel=kernel, views=views, tile=tile)
        if kernel is not None and views is not None:
            problem._require_same_kernel(kernel, views)
        return problem

    def _require_same_kernel(self, kernel: Kernel, views: Array) -> None:
        """Raise unless k(views) basis − offset = features, on a few pairs spread over all.

        Differences are allowed up to a hundredth of the mode's largest feature plus the rounding
        of float32, because a float64 problem may be loaded in float32, and the kernel's values may
        have been rounded to float32 and widened. Modes of small γ are not compared, because an
        error of K by δ changes features by the fraction δ / (2n |γ_j|).
        """
        count = min(self.n_pairs, PROBES, max(2, self.tile // 2))
        pairs = np.linspace(0, self.n_pairs - 1, count).astype(int)
        probes = np.r_[pairs, self.n_pairs + pairs]
        gamma = np.abs(np.asarray(self.gamma))
        modes = np.flatnonzero(gamma >= 1e-2 * gamma.max())
        features, basis = (np.asarray(array)[:, modes] for array in (self.features, self.basis))
        gap, sizes = -np.asarray(self.offset)[modes] - features[probes], 0
        for i in range(0, len(views), self.tile):
            inputs, part = views[i : i + self.tile], basis[i : i + self.tile]
            values = kernel(views[probes], inputs)
            _check.require(
                np.shape(values) == (2 * count, len(inputs)),
                "kernel",
                f"values [{2 * count}, {len(inputs)}]",
                values,
            )
            values = np.asarray(values, np.float64)
            gap, sizes = gap + values @ part, sizes + np.abs(values) @ np.abs(part)
        if self.center == "per_view":
            # The features were centred at each view's own mean, but the offset is the pooled mean.
            gap = np.concatenate([half - half.mean(axis=0) for half in np.split(gap, 2)])
        largest = np.abs(features).max(axis=0)
        bound = 1e-2 * largest + 8 * np.finfo(np.float32).eps * sizes
        received = (
            f"one whose features differ by up to {(np.abs(gap) / largest).max():.1e} of a mode's "
            f"largest feature"
        )
        _check.require(
            (np.abs(gap) <= bound).all(),
            "kernel",
            "the kernel that the problem was built with",
            received,
        )

    def _require_linear(self, what: str) -> None:
        expected = "a linear problem, built by from_views (coordinates_of accepts any problem)"
        _check.require(self.linear, what, expected, "a kernel problem")


def assemble(
    gamma: np.ndarray,
    features: np.ndarray,
    basis: np.ndarray,
    offset: np.ndarray,
    lowest: Any,
    dtype: np.dtype,
    center: Center,
    *,
    linear: bool,
) -> Problem:
    """Build a problem of the given dtype from arrays computed in float64."""
    names = ("gamma", "features", "basis", "offset", "lowest")
    arrays = (gamma, features, basis, offset, lowest)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    fields: dict[str, Any] = {
        name: jnp.asarray(array, dtype) for name, array in zip(names, arrays, strict=True)
    }
    return Problem(**fields, center=center, linear=linear)


def first(problem: Problem, modes: Whole) -> Problem:
    """Return the problem with its k leading modes, or raise ValueError if it has fewer."""
    require_modes(modes, problem.gamma.size, ", the rank of the data")
    return problem.truncate(modes)


def require_modes(modes: Any, most: int, why: str = "") -> None:
    """Raise unless the number of modes is a whole number in 1 ... most."""
    _check.whole("modes", modes, 1, most, why)
