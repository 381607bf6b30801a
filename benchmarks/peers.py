"""scipy's side of the flow, written as well as a user would: two GEMMs a right-hand side, nothing
allocated twice.
"""

import numpy as np
from scipy.integrate import solve_ivp

from benchmarks.case import Case
from benchmarks.child import Outcome, measured
from stepwise.laws import BarlowTwins


def scipy_flow(d: int, n: int, alpha: float, method: str, rtol: float) -> Outcome:
    """`solve_ivp` on the full matrix; the tightest-needed atol is tied to the start, or its
    plateaus would drift.
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
        found = solve_ivp(
            field,
            (0, times[-1]),
            start.ravel(),
            method=method,
            rtol=rtol,
            atol=rtol * alpha,
            t_eval=times,
        )
        curves = [np.linalg.eigvalsh((A * gamma) @ A.T)[::-1] for A in found.y.T.reshape(-1, d, r)]
        return {"eigenvalues": np.array(curves), "products": found.nfev}

    return measured(call, repeats=3, budget=1.0)
