"""Kernel matrices by tiles, compared with dense evaluation and `nt.batch`; their leading modes."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
import scipy.linalg
from scipy.sparse.linalg import LinearOperator, eigsh

from benchmarks import child
from benchmarks.case import crops
from benchmarks.child import Outcome, measure
from benchmarks.report import Row
from stepwise import kernels, problem


def rows(quick: bool) -> Iterator[Row]:
    """Measure tiles of an RBF kernel and an NTK, and 50 modes of an RBF kernel of 10,000 views."""
    n, side = (100, 8) if quick else (2000, 20)
    labels = {"dense": "one dense call", "batch": "nt.batch"}
    for name, ways in (("rbf", ["dense"]), ("ntk", ["dense", "batch"])):
        ours = child.run("gram:evaluate", name, "tiles", n, side)
        for way in ways:
            theirs = child.run("gram:evaluate", name, way, n, side)
            corner = ours.arrays["corner"]
            note = (
                f"values agree to "
                f"{np.abs(corner - theirs.arrays['corner']).max() / np.abs(corner).max():.0e}"
            )
            yield Row(
                "kernel",
                f"{name}, 2n={2 * n}, m={3 * side**2}",
                labels[way],
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
    """Measure K of 2n views: by `kernels.gram`, by one call, or by neural-tangents' batches."""
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

    return measure(call, repeats=3, budget=20.0)


def _kernel_matrix(n: int, side: int) -> np.ndarray:
    views = np.concatenate(crops(n, side)).astype(np.float64)
    with jax.enable_x64(True):
        return kernels.gram(kernels.rbf(0.3 * views[0].size ** 0.5), views)


def modes(n: int, side: int, k: int) -> Outcome:
    """Measure `problem.from_gram` with few modes."""
    K = _kernel_matrix(n, side)

    def call() -> dict[str, Any]:
        with jax.enable_x64(True):
            model = problem.from_gram(K, modes=k)
        return {"gamma": model.gamma, "dual": model.basis}

    return _with_residual(measure(call, repeats=2, budget=1.0), K)


def dense_modes(n: int, side: int, k: int) -> Outcome:
    """Measure K = L Lᵀ and the top eigenpairs of Lᵀ P L / 2n by LAPACK; P swaps the views."""
    K = _kernel_matrix(n, side)

    def call() -> dict[str, Any]:
        L = _cholesky(K)
        S = L.T @ _swap_views(L)
        gamma, vectors = scipy.linalg.eigh(
            S, subset_by_index=[2 * n - k, 2 * n - 1], overwrite_a=True
        )
        dual = scipy.linalg.solve_triangular(L, vectors[:, ::-1], lower=True, trans="T")
        return {"gamma": gamma[::-1], "dual": dual}

    return _with_residual(measure(call, repeats=1), K)


def sparse_modes(n: int, side: int, k: int, residual: float) -> Outcome:
    """Measure ARPACK on the same operator without forming its matrix."""
    K = _kernel_matrix(n, side)

    def call() -> dict[str, Any]:
        L = _cholesky(K)
        # BLAS uses Fortran order, in which the lower factor is the transpose of an upper one
        multiply = partial(scipy.linalg.blas.dtrmv, L.T)

        def apply(v: np.ndarray) -> np.ndarray:
            return multiply(_swap_views(multiply(v, trans=1)[:, None])[:, 0])

        operator = LinearOperator(K.shape, matvec=lambda v: apply(v.ravel()), dtype=np.float64)
        start = np.random.default_rng(0).normal(size=2 * n)
        gamma, vectors = eigsh(operator, k=k, which="LA", tol=residual, v0=start)
        dual = scipy.linalg.solve_triangular(L, vectors[:, ::-1], lower=True, trans="T")
        return {"gamma": gamma[::-1], "dual": dual}

    return _with_residual(measure(call, repeats=1), K)


def _cholesky(K: np.ndarray) -> np.ndarray:
    shifted = K.copy()
    shifted[np.diag_indices(len(K))] += 1e-12 * np.trace(K)
    return np.linalg.cholesky(shifted)


def _swap_views(block: np.ndarray) -> np.ndarray:
    """Return P block / 2n, where P swaps the two views of each pair."""
    n = len(block) // 2
    return np.concatenate([block[n:], block[:n]]) / (2 * n)


def _with_residual(outcome: Outcome, K: np.ndarray) -> Outcome:
    """Replace the arrays by γ and the residual, the largest ‖P K u/2n − γ u‖_K / γ_1."""
    gamma, U = outcome.arrays["gamma"], outcome.arrays["dual"]
    off = _swap_views(K @ U) - U * gamma
    residual = np.sqrt(np.maximum(np.sum(off * (K @ off), axis=0), 0)).max() / gamma[0]
    arrays = {"gamma": gamma, "residual": np.asarray(residual)}
    return Outcome(outcome.seconds, outcome.compile, outcome.megabytes, arrays=arrays)
