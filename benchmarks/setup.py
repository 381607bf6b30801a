"""The problem of 2000 pairs of 96 × 96 crops, top 50 modes, against dense `eigh` and matrix-free
`eigsh`.
"""

from collections.abc import Iterator

import jax
import numpy as np
import scipy.linalg
from scipy.sparse.linalg import LinearOperator, eigsh

from benchmarks import child
from benchmarks.case import crops
from benchmarks.child import Outcome, measured
from benchmarks.report import Row
from stepwise import problem


def rows(quick: bool) -> Iterator[Row]:
    """Full eigh of the smaller side, a Cholesky factor in its place, and eigsh at the residual of
    `from_views`.
    """
    n, size, modes = (200, 24, 5) if quick else (2000, 96, 50)
    case = f"n={n}, m={3 * size**2}, {modes} modes"
    ours = child.run("setup:ours", n, size, modes)
    residual = float(ours.arrays["residual"])
    full, part = (
        child.run("setup:dense", n, size, modes, route, limit=300)
        for route in ("square root", "Cholesky")
    )
    sparse = child.run("setup:sparse", n, size, modes, residual, limit=300)
    again = child.run("setup:ours", n, size, modes)
    ours = min(ours, again, key=lambda outcome: outcome.seconds)
    square = 4 * (3 * size**2) ** 2 / 1e6
    peers = (
        ("scipy eigh of 2n × 2n, full", full, 5),
        ("scipy eigh, top 50 behind a Cholesky factor", part, 0),
        ("scipy eigsh, matrix-free", sparse, 1),
    )
    for peer, outcome, aim in peers:
        note = f"residual {residual:.1e} of γ₁"
        if not outcome.late:
            gap = np.abs(outcome.arrays["gamma"] / ours.arrays["gamma"] - 1).max()
            note += f" (peer {float(outcome.arrays['residual']):.1e}); γ agree to {gap:.0e}"
        note += f"; m × m would be {square:.0f} MB"
        yield Row(
            "setup",
            case,
            peer,
            ours.seconds,
            ours.compile,
            ours.megabytes,
            outcome.seconds,
            outcome.megabytes,
            aim,
            outcome.late,
            note,
        )


def ours(n: int, size: int, modes: int) -> Outcome:
    """`problem.from_views`."""
    x, x2 = crops(n, size)

    def call() -> dict[str, jax.Array]:
        found = problem.from_views(x, x2, modes=modes)
        return {"gamma": found.gamma, "basis": found.basis, "features": found.features}

    outcome = measured(call, repeats=4, budget=20.0)
    return _with_residual(outcome, x, x2)


def dense(n: int, size: int, modes: int, route: str) -> Outcome:
    """Centre, K = X Xᵀ, and the swapped pairs seen through K^{1/2}, or through a Cholesky factor,
    all in float32.
    """
    x, x2 = crops(n, size)

    def call() -> dict[str, np.ndarray]:
        both = np.concatenate([x, x2])
        both -= both.mean(0)
        K = both @ both.T
        top = [2 * n - modes, 2 * n - 1]
        if route == "Cholesky":
            K[np.diag_indices(2 * n)] += 1e-6 * np.trace(K) / (2 * n)
            factor = np.linalg.cholesky(K)
            cross = factor[:n].T @ factor[n:] / n
            _, vectors = scipy.linalg.eigh(
                (cross + cross.T) / 2, subset_by_index=top, overwrite_a=True
            )
            dual = scipy.linalg.solve_triangular(factor, vectors[:, ::-1], lower=True, trans="T")
        else:
            spread, span = scipy.linalg.eigh(K, overwrite_a=True)
            kept = spread > 2 * n * np.finfo(np.float32).eps * spread[-1]
            root = span[:, kept] * np.sqrt(spread[kept])
            cross = root[:n].T @ root[n:] / n
            rank = len(cross)
            _, vectors = scipy.linalg.eigh(
                (cross + cross.T) / 2, subset_by_index=[rank - modes, rank - 1]
            )
            dual = (span[:, kept] / np.sqrt(spread[kept])) @ vectors[:, ::-1]
        basis = both.T @ dual
        features = both @ basis
        gamma = 2 * np.sum(features[:n] * features[n:], axis=0) / (2 * n)
        return {"gamma": gamma, "basis": basis, "features": features}

    return _with_residual(measured(call, repeats=1), x, x2)


def sparse(n: int, size: int, modes: int, residual: float) -> Outcome:
    """`eigsh` on Γ as an operator: four products with the views an application, until the residual
    asked.
    """
    x, x2 = crops(n, size)

    def call() -> dict[str, np.ndarray]:
        mean = (x.mean(0) + x2.mean(0)) / 2
        a, b = x - mean, x2 - mean

        def apply(v: np.ndarray) -> np.ndarray:
            return (a.T @ (b @ v) + b.T @ (a @ v)) / (2 * n)

        operator = LinearOperator((a.shape[1], a.shape[1]), matvec=apply, dtype=np.float32)
        gamma, basis = eigsh(
            operator,
            k=modes,
            which="LA",
            tol=residual,
            v0=np.random.default_rng(0).normal(size=a.shape[1]),
        )
        basis = basis[:, ::-1]
        return {
            "gamma": gamma[::-1],
            "basis": basis,
            "features": np.concatenate([a @ basis, b @ basis]),
        }

    return _with_residual(measured(call, repeats=2, budget=1.0), x, x2)


def _with_residual(outcome: Outcome, x: np.ndarray, x2: np.ndarray) -> Outcome:
    """The largest ‖Γ v − γ v‖/γ_1 of the pairs found, in float64 but for the products with the
    views.
    """
    gamma, V = (outcome.arrays[name].astype(np.float64) for name in ("gamma", "basis"))
    mean = (x.mean(0, dtype=np.float64) + x2.mean(0, dtype=np.float64)) / 2

    def seen(view: np.ndarray) -> np.ndarray:
        return view @ V - mean @ V

    def back(view: np.ndarray, z: np.ndarray) -> np.ndarray:
        return (z.T @ view).T - np.outer(mean, z.sum(0))

    product = (back(x, seen(x2)) + back(x2, seen(x))) / (2 * len(x))
    worst = np.linalg.norm(product - V * gamma, axis=0).max() / gamma[0]
    kept = {"gamma": outcome.arrays["gamma"], "residual": np.asarray(worst)}
    return Outcome(outcome.seconds, outcome.compile, outcome.megabytes, arrays=kept)
