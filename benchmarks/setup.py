"""The top 50 modes of 2000 pairs of 96 × 96 crops, compared with `eigh` and `eigsh`."""

from collections.abc import Iterator

import jax
import numpy as np
import scipy.linalg
from scipy.sparse.linalg import LinearOperator, eigsh

from benchmarks import child
from benchmarks.case import crops
from benchmarks.child import Outcome, measure
from benchmarks.report import Row
from stepwise import problem


def rows(quick: bool) -> Iterator[Row]:
    """Measure `from_views` against eigh by two routes, and against eigsh at the same residual."""
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
    """Measure `problem.from_views`."""
    x, x2 = crops(n, size)

    def call() -> dict[str, jax.Array]:
        model = problem.from_views(x, x2, modes=modes)
        return {"gamma": model.gamma, "basis": model.basis, "features": model.features}

    outcome = measure(call, repeats=4, budget=20.0)
    return _with_residual(outcome, x, x2)


def dense(n: int, size: int, modes: int, route: str) -> Outcome:
    """Measure eigh of the 2n × 2n problem in float32.

    The views are centred, and the cross moment is formed in the coordinates of K^{1/2} or of a
    Cholesky factor of K = X Xᵀ.
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
            values, span = scipy.linalg.eigh(K, overwrite_a=True)
            positive = values > 2 * n * np.finfo(np.float32).eps * values[-1]
            root = span[:, positive] * np.sqrt(values[positive])
            cross = root[:n].T @ root[n:] / n
            rank = len(cross)
            _, vectors = scipy.linalg.eigh(
                (cross + cross.T) / 2, subset_by_index=[rank - modes, rank - 1]
            )
            dual = (span[:, positive] / np.sqrt(values[positive])) @ vectors[:, ::-1]
        basis = both.T @ dual
        features = both @ basis
        gamma = 2 * np.sum(features[:n] * features[n:], axis=0) / (2 * n)
        return {"gamma": gamma, "basis": basis, "features": features}

    return _with_residual(measure(call, repeats=1), x, x2)


def sparse(n: int, size: int, modes: int, residual: float) -> Outcome:
    """Measure `eigsh` on Γ as an operator, to a given residual.

    Each application has four products with the views.
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

    return _with_residual(measure(call, repeats=2, budget=1.0), x, x2)


def _with_residual(outcome: Outcome, x: np.ndarray, x2: np.ndarray) -> Outcome:
    """Replace the arrays by γ and the residual, the largest ‖Γ v − γ v‖/γ_1.

    All but the products with the views is computed in float64.
    """
    gamma, V = (outcome.arrays[name].astype(np.float64) for name in ("gamma", "basis"))
    mean = (x.mean(0, dtype=np.float64) + x2.mean(0, dtype=np.float64)) / 2

    def project(view: np.ndarray) -> np.ndarray:
        return view @ V - mean @ V

    def lift(view: np.ndarray, z: np.ndarray) -> np.ndarray:
        return (z.T @ view).T - np.outer(mean, z.sum(0))

    product = (lift(x, project(x2)) + lift(x2, project(x))) / (2 * len(x))
    residual = np.linalg.norm(product - V * gamma, axis=0).max() / gamma[0]
    arrays = {"gamma": outcome.arrays["gamma"], "residual": np.asarray(residual)}
    return Outcome(outcome.seconds, outcome.compile, outcome.megabytes, arrays=arrays)
