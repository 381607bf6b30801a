"""SciPy's side of the flow, as a careful user would write it.

A right-hand side has two matrix products, and its buffers are allocated once.
"""

import numpy as np
from scipy.integrate import solve_ivp

from benchmarks.case import Case
from benchmarks.child import Outcome, measure
from stepwise.laws import BarlowTwins


def scipy_flow(d: int, n: int, alpha: float, method: str, rtol: float) -> Outcome:
    """Measure `solve_ivp` on the full matrix.

    atol is proportional to the scale of the start, because plateaus drift with a larger one.
    """
    case = Case(d, n, alpha)
    gamma, start, times = case.gamma, case.start, case.times
    r, pull = gamma.size, BarlowTwins.PULL
    slope, scaled, one = np.empty((d, r)), np.empty((d, r)), np.eye(d)

    def field(t: float, y: np.ndarray) -> np.ndarray:
        A = y.reshape(d, r)
        np.multiply(A, pull * gamma, out=scaled)
        np.matmul(one - (scaled @ A.T) / pull, scaled, out=slope)
        return slope.ravel().copy()

    def call() -> dict[str, np.ndarray]:
        solution = solve_ivp(
            field,
            (0, times[-1]),
            start.ravel(),
            method=method,
            rtol=rtol,
            atol=rtol * alpha,
            t_eval=times,
        )
        states = solution.y.T.reshape(-1, d, r)
        curves = [np.linalg.eigvalsh((A * gamma) @ A.T)[::-1] for A in states]
        return {"eigenvalues": np.array(curves), "products": solution.nfev}

    return measure(call, repeats=3, budget=1.0)
