"""The learning problem: a spectrum γ with mode coordinates, where every law and every solver
works."""

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
"""Inputs a side that meet a kernel at once."""
PROBES = 4
"""Pairs whose features a kernel is asked for when a problem is loaded with it."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class Problem:
    """A joint-embedding problem in its own coordinates, where every law and every solver works.

    The model is f(x) = A φ(x) with φ_j(x) = basis_jᵀ x − offset_j for a linear model and basis_jᵀ
    k(x) − offset_j for a kernel, k(x) = [K(x, X), K(x, X')]. In these coordinates Γ is diag(γ): C =
    A diag(γ) Aᵀ.

    Attributes:
        gamma: [r] all kept modes from the largest down, negative ones included, null directions of
            the data dropped.
        features: φ of the 2n views [2n, r], X stacked on X'.
        basis: V [m, r] for a linear model (orthonormal columns, so that A = W V); dual coefficients
            [2n, r] for a kernel (K-orthonormal: basisᵀ K basis = 1).
        offset: φ's value at the origin, with its sign turned [r]; zero without centring.
        lowest: the smallest eigenvalue of the whole Γ; gradient descent's limit needs it even where
            `modes=k` left it out. Where `modes=k` was found matrix-free it is a Ritz value, which
            only bounds it from above.
        center: how the views were centred.
        kernel: the kernel of `from_kernel` (None otherwise), and `views` the 2n inputs that it
            meets, `tile` at once.
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

    @property
    def sigma(self) -> Float[Array, "r r"]:
        """Second moment of single views in mode coordinates, (1/2n) Σ_i φ φᵀ + φ' φ'ᵀ [r, r].

        Γ is diag(γ) there; Σ is diagonal too where both have one eigenbasis. For a linear model it
        is Vᵀ Σ V (`moments.Moments`).
        """
        return self.features.T @ self.features / self.features.shape[0]

    def max_stable_lr(self, *, law: LawOf = None, d: Whole = 1) -> Float[Array, ""]:
        """Below which rate gradient descent is stable: for Barlow Twins, the default law,
        min(1/(4 γ_1), 1/(2 |γ_min|)) over all modes, also those that `modes=k` left out.

        Args:
            law: a function (problem, d) -> Law.
            d: dimension of the embedding, for a law that asks for it.

        Raises:
            laws.NotKnownError: none is known for this law.
        """
        return laws.law_of(law, self, d).max_stable_lr()

    def optimum(self, d: Whole, *, law: LawOf = None) -> Float[Array, "d r"]:
        """A* [d, r] at the end of training from a small start, up to a rotation of its rows.

        For Barlow Twins, the default law, diag(γ_j^{-1/2}) on the leading d modes: the
        smallest-norm minimiser. In general the modes of `Law.final_modes`, each at its rest.

        Raises:
            ValueError: d is more than the number of modes that grow; so many dimensions cannot be
                learned.
        """
        found = laws.law_of(law, self, d)
        limit = int(np.sum(np.asarray(found.grows())))
        _check.whole("d", d, 1, limit, ", the modes of the problem that grow")
        modes = found.final_modes(d)
        return found.aligned_start(found.rest()[modes], modes)

    def predict(self, d: Whole, *, law: LawOf = None) -> Float[Array, "views d"]:
        """Embeddings of the 2n views at the end of training: columns φ_j/sqrt(γ_j), j ≤ d, up to a
        rotation.

        Small start, gradient flow to convergence; C of these embeddings is the identity (source,
        Prop. 4.2, 5.3). They are `embed(optimum(d), views)`, but with per-view centring, where each
        view here meets its own mean. Under another law the columns have the sizes that it ends at.

        Raises:
            ValueError: d is more than the number of modes that grow.
        """
        return self.features @ self.optimum(d, law=law).T

    def embed(self, A: Numbers, inputs: Numbers) -> Float[Array, "k d"]:
        """f(x) = A φ(x) of any inputs, seen or not.

        Args:
            A: mode coordinates [d, r], such as `optimum(d)` or a trajectory's snapshot.
            inputs: [k, ...] as the views had them; for a problem made from a Gram matrix (or a
                kernel problem that was loaded without its kernel) the rows K(new, views) [k, 2n].

        Raises:
            ValueError: A does not have r columns, or the inputs have another size than the views.
        """
        A = jnp.asarray(_check.real_array("A", A, ndim=2))
        r, size = self.gamma.size, self.basis.shape[0]
        _check.require(A.shape[1] == r, "A", f"{r} columns, one a mode", A)
        if self.kernel is not None and self.views is not None:
            inputs = _check.real_array("inputs", inputs)
            what, one = (
                f"inputs [k, {', '.join(map(str, self.views.shape[1:]))}] as the views",
                self.views.shape[1:],
            )
            _check.require(inputs.ndim > 0 and inputs.shape[1:] == one, "inputs", what, inputs)
            if len(inputs) > self.tile:  # so that rows of kernel values never fill the memory
                parts = range(0, len(inputs), self.tile)
                return jnp.concatenate([self.embed(A, inputs[i : i + self.tile]) for i in parts])
            met = range(0, len(self.views), self.tile)
            rows = jnp.concatenate(
                [self.kernel(inputs, self.views[i : i + self.tile]) for i in met], axis=1
            )
        else:
            rows = _check.real_array("inputs", inputs)
            rows = rows.reshape(rows.shape[0], -1) if rows.ndim > 1 else rows[None]
            what = "numbers an input" if self.linear else "kernel values an input, one a view"
            _check.require(rows.shape[1] == size, "inputs", f"{size} {what}", rows)
        return (jnp.asarray(rows) @ self.basis - self.offset) @ A.T

    def coordinates(self, W: Numbers) -> Float[Array, "d r"]:
        """A = W V of a linear model's weights [d, m]: where a start that was drawn in input space
        begins.
        """
        self._require_linear("coordinates")
        W = jnp.asarray(_check.real_array("W", W, ndim=2))
        _check.require(
            W.shape[1] == self.basis.shape[0],
            "W",
            f"{self.basis.shape[0]} columns as the inputs",
            W,
        )
        return W @ self.basis

    def coordinates_of(self, embeddings: Numbers) -> Float[Array, "d r"]:
        """A [d, r] of a model whose embeddings of the 2n views are these [2n, d]: where a network's
        start begins.

        A = zᵀ basis for a kernel, where f(views) = K basis Aᵀ; for a linear model the least-squares
        solution of z = features Aᵀ. What of z lies outside the kept modes is left out; centre z as
        the problem is.

        Raises:
            ValueError: the embeddings are not [2n, d].
        """
        z = jnp.asarray(_check.real_array("embeddings", embeddings, ndim=2))
        size = self.features.shape[0]
        _check.require(len(z) == size, "embeddings", f"{size} rows, one a view, X stacked on X'", z)
        return jnp.linalg.lstsq(self.features, z)[0].T if self.linear else z.T @ self.basis

    def weights(self, A: Numbers) -> Float[Array, "d m"]:
        """W = A Vᵀ [d, m]: a linear model's weights, pictures that can be looked at."""
        self._require_linear("weights")
        A = jnp.asarray(_check.real_array("A", A, ndim=2))
        _check.require(
            A.shape[1] == self.gamma.size, "A", f"{self.gamma.size} columns, one a mode", A
        )
        return A @ self.basis.T

    def start(self, key: Array, d: Whole, scale: Real) -> Float[Array, "d r"]:
        """Mode coordinates of a Gaussian W(0) whose entries have standard deviation `scale` (α).

        V is orthonormal, so A = W V has the same distribution as its kept columns.
        """
        _check.require(scale > 0, "scale", "a positive number", scale)
        _check.require(d >= 1, "d", "a positive number of dimensions", d)
        return scale * jax.random.normal(key, (int(d), self.gamma.size), self.gamma.dtype)

    truncated = Renamed("truncate")

    def truncate(self, k: Whole, *, law: LawOf = None) -> "Problem":
        """The same problem with its k largest modes only.

        Raises:
            ValueError: k is not in 1 ... r; or modes do not grow in the order of γ under this law,
                so that one that is cut off could matter.
        """
        require_modes(k, self.gamma.size)
        _check.require(
            k == self.gamma.size or laws.law_of(law, self, 1).follows_gamma,
            "law",
            "one whose modes grow in the order of γ, so that the smallest can be cut off",
            "another",
        )
        cut = {
            name: getattr(self, name)[..., :k] for name in ("gamma", "features", "basis", "offset")
        }
        return replace(self, **cut)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to one .npz, without pickle, under a temporary name that is then renamed.

        A kernel function cannot be written: `load` takes it again.
        """
        views = {} if self.views is None else {"views": self.views}
        arrays = {
            name: getattr(self, name) for name in ("gamma", "features", "basis", "offset", "lowest")
        }
        about = {"center": self.center, "linear": self.linear, "tile": int(self.tile)}
        _npz.write(path, "stepwise.Problem", arrays | views, about)

    @classmethod
    def load(cls, path: str | os.PathLike[str], kernel: Kernel | None = None) -> "Problem":
        """Read what `save` wrote. A kernel problem takes its kernel again, or else embeds kernel
        rows.

        The kernel is evaluated on a few of the views against all, to see that it is the one.

        Raises:
            ValueError: the file is not a saved problem (says what it is and what was expected), or
                a kernel is given for one that was saved without views, or another one than it was
                made with.
        """
        names = ("gamma", "features", "basis", "offset", "lowest")
        arrays, about = _npz.read(path, "stepwise.Problem", names)
        views = jnp.asarray(arrays["views"]) if "views" in arrays else None
        _check.require(
            kernel is None or views is not None,
            "kernel",
            "None for a problem without views",
            "a kernel",
        )
        fields: dict[str, Any] = {name: jnp.asarray(arrays[name]) for name in names}
        center, linear = str(about["center"]), bool(about["linear"])
        tile = int(about.get("tile", TILE))  # what was saved earlier has none
        problem = cls(**fields, center=center, linear=linear, kernel=kernel, views=views, tile=tile)
        if kernel is not None and views is not None:
            problem._require_its_kernel(kernel, views)
        return problem

    def _require_its_kernel(self, kernel: Kernel, views: Array) -> None:
        """Refuse a kernel with k(views) basis − offset ≠ features, on pairs from the first to the
        last.

        A difference counts beyond a hundredth of the mode's largest feature and what float32
        rounds: a problem of float64 may be loaded in float32, or its kernel's values have been
        rounded to it and widened. Modes of small γ do not count: an error of K by δ moves features
        by the fraction δ / (2n |γ_j|).
        """
        few = min(self.n_pairs, PROBES, max(2, self.tile // 2))
        pairs = np.linspace(0, self.n_pairs - 1, few).astype(int)
        probes = np.r_[pairs, self.n_pairs + pairs]
        gamma = np.abs(np.asarray(self.gamma))
        counted = np.flatnonzero(gamma >= 1e-2 * gamma.max())
        features, basis = (np.asarray(array)[:, counted] for array in (self.features, self.basis))
        gap, sizes = -np.asarray(self.offset)[counted] - features[probes], 0
        for i in range(0, len(views), self.tile):
            met, part = views[i : i + self.tile], basis[i : i + self.tile]
            values = kernel(views[probes], met)
            _check.require(
                np.shape(values) == (2 * few, len(met)),
                "kernel",
                f"values [{2 * few}, {len(met)}]",
                values,
            )
            values = np.asarray(values, np.float64)
            gap, sizes = gap + values @ part, sizes + np.abs(values) @ np.abs(part)
        if (
            self.center == "per_view"
        ):  # each view met its own mean, of which only the pooled one is kept
            gap = np.concatenate([half - half.mean(axis=0) for half in np.split(gap, 2)])
        largest = np.abs(features).max(axis=0)
        bound = 1e-2 * largest + 8 * np.finfo(np.float32).eps * sizes
        received = (
            f"one that gives features off by up to {(np.abs(gap) / largest).max():.1e} of a mode's "
            f"largest"
        )
        _check.require(
            (np.abs(gap) <= bound).all(),
            "kernel",
            "the one that the problem was made with",
            received,
        )

    def _require_linear(self, what: str) -> None:
        expected = "a linear problem, made by from_views (coordinates_of takes embeddings of any)"
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
    """A problem from what was found in float64, in the dtype asked for."""
    names = ("gamma", "features", "basis", "offset", "lowest")
    arrays = (gamma, features, basis, offset, lowest)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    fields: dict[str, Any] = {
        name: jnp.asarray(array, dtype) for name, array in zip(names, arrays, strict=True)
    }
    return Problem(**fields, center=center, linear=linear)


def first(problem: Problem, modes: Whole) -> Problem:
    """The k leading modes; refuses more than there are."""
    require_modes(modes, problem.gamma.size, ", the rank of the data")
    return problem.truncate(modes)


def require_modes(modes: Any, most: int, why: str = "") -> None:
    """Refuse a number of modes that is not whole, or not in 1 ... most."""
    _check.whole("modes", modes, 1, most, why)
