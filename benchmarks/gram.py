"""Kernel matrices tile by tile against one dense evaluation and `nt.batch`; their top modes against
eigh and eigsh.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
import scipy.linalg
from scipy.sparse.linalg import LinearOperator, eigsh

from benchmarks import child
from benchmarks.case import crops
from benchmarks.child import Outcome, measured
from benchmarks.report import Row
from stepwise import kernels, problem


def rows(quick: bool) -> Iterator[Row]:
    """Tiles of an RBF and of a network's kernel, then 50 modes of an RBF kernel of 2n = 10,000
    views.
    """
    n, side = (100, 8) if quick else (2000, 20)
    ways = {"dense": "one dense call", "batch": "nt.batch"}
    for name, others in (("rbf", ["dense"]), ("ntk", ["dense", "batch"])):
        ours = child.run("gram:evaluate", name, "tiles", n, side)
        for way in others:
            theirs = child.run("gram:evaluate", name, way, n, side)
            corner = ours.arrays["corner"]
            note = (
                f"values agree to "
                f"{np.abs(corner - theirs.arrays['corner']).max() / np.abs(corner).max():.0e}"
            )
            yield Row(
                "kernel",
                f"{name}, 2n={2 * n}, m={3 * side**2}",
                ways[way],
                ours.seconds,
                ours.compile,
                ours.megabytes,
                theirs.seconds,
                theirs.megabytes,
                0,
                theirs.late,
                note,
            )
    n, modes = (200, 5) if quick else (5000, 50)
    ours = child.run("gram:modes", n, side, modes)
    residual = float(ours.arrays["residual"])
    peers = {
        "scipy eigh": child.run("gram:dense_modes", n, side, modes, limit=900),
        "scipy eigsh": child.run("gram:sparse_modes", n, side, modes, residual, limit=900),
    }
    for label, outcome in peers.items():
        note = f"residual {residual:.1e} of γ₁"
        if not outcome.late:
            gap = np.abs(outcome.arrays["gamma"] / ours.arrays["gamma"] - 1).max()
            note += f" (peer {float(outcome.arrays['residual']):.1e}); γ agree to {gap:.0e}"
        yield Row(
            "kernel modes",
            f"rbf, 2n={2 * n}, {modes} modes",
            f"{label} (Cholesky of K)",
            ours.seconds,
            ours.compile,
            ours.megabytes,
            outcome.seconds,
            outcome.megabytes,
            5 if label == "scipy eigh" else 1,
            outcome.late,
            note,
        )


def evaluate(name: str, way: str, n: int, side: int) -> Outcome:
    """K of 2n views: by `kernels.gram`, by one call, or by neural-tangents' batches."""
    views = np.concatenate(crops(n, side))
    kernel: Any = kernels.rbf(0.3 * views[0].size ** 0.5)
    if name == "ntk":
        from stepwise.neural_tangents import nt

        dense = [nt.stax.Dense(1), nt.stax.Relu()]
        kernel = kernels.infinite_width([*dense, *dense, nt.stax.Dense(1)])

    def call() -> dict[str, Any]:
        if way == "tiles":
            K = kernels.gram(kernel, views)
        elif way == "batch":
            batched = nt.batch(kernel.kernel_fn, batch_size=len(views) // 4, store_on_device=False)
            K = np.asarray(batched(views, views, "ntk"))
        else:
            K = np.asarray(kernel(views, views))
        return {"corner": K[:50, -50:].copy()}

    return measured(call, repeats=3, budget=20.0)


def _kernel_matrix(n: int, side: int) -> np.ndarray:
    views = np.concatenate(crops(n, side)).astype(np.float64)
    with jax.enable_x64(True):
        return kernels.gram(kernels.rbf(0.3 * views[0].size ** 0.5), views)


def modes(n: int, side: int, k: int) -> Outcome:
    """`from_gram` with few modes."""
    K = _kernel_matrix(n, side)

    def call() -> dict[str, Any]:
        with jax.enable_x64(True):
            found = problem.from_gram(K, modes=k)
        return {"gamma": found.gamma, "dual": found.basis}

    return _with_residual(measured(call, repeats=2, budget=1.0), K)


def dense_modes(n: int, side: int, k: int) -> Outcome:
    """K = L Lᵀ, then the top of Lᵀ P L / 2n by LAPACK."""
    K = _kernel_matrix(n, side)

    def call() -> dict[str, Any]:
        L = _cholesky(K)
        S = L.T @ _swapped(L)
        gamma, vectors = scipy.linalg.eigh(
            S, subset_by_index=[2 * n - k, 2 * n - 1], overwrite_a=True
        )
        dual = scipy.linalg.solve_triangular(L, vectors[:, ::-1], lower=True, trans="T")
        return {"gamma": gamma[::-1], "dual": dual}

    return _with_residual(measured(call, repeats=1), K)


def sparse_modes(n: int, side: int, k: int, residual: float) -> Outcome:
    """The same operator, never formed, by ARPACK."""
    K = _kernel_matrix(n, side)

    def call() -> dict[str, Any]:
        L = _cholesky(K)
        multiply = partial(
            scipy.linalg.blas.dtrmv, L.T
        )  # Fortran order: the lower factor is an upper one transposed

        def apply(v: np.ndarray) -> np.ndarray:
            return multiply(_swapped(multiply(v, trans=1)[:, None])[:, 0])

        operator = LinearOperator(K.shape, matvec=lambda v: apply(v.ravel()), dtype=np.float64)
        start = np.random.default_rng(0).normal(size=2 * n)
        gamma, vectors = eigsh(operator, k=k, which="LA", tol=residual, v0=start)
        dual = scipy.linalg.solve_triangular(L, vectors[:, ::-1], lower=True, trans="T")
        return {"gamma": gamma[::-1], "dual": dual}

    return _with_residual(measured(call, repeats=1), K)


def _cholesky(K: np.ndarray) -> np.ndarray:
    shifted = K.copy()
    shifted[np.diag_indices(len(K))] += 1e-12 * np.trace(K)
    return np.linalg.cholesky(shifted)


def _swapped(block: np.ndarray) -> np.ndarray:
    n = len(block) // 2
    return np.concatenate([block[n:], block[:n]]) / (2 * n)


def _with_residual(outcome: Outcome, K: np.ndarray) -> Outcome:
    """The largest ‖P K u/2n − γ u‖ in K's norm, over γ_1, and γ."""
    gamma, U = outcome.arrays["gamma"], outcome.arrays["dual"]
    off = _swapped(K @ U) - U * gamma
    worst = np.sqrt(np.maximum(np.sum(off * (K @ off), axis=0), 0)).max() / gamma[0]
    kept = {"gamma": gamma, "residual": np.asarray(worst)}
    return Outcome(outcome.seconds, outcome.compile, outcome.megabytes, arrays=kept)
