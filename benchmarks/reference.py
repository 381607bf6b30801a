"""The flow's reference: the full problem by diffrax's Dopri8 in float64, computed once and kept."""

from pathlib import Path
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import child
from benchmarks.case import Case
from benchmarks.child import Outcome, measured

FOLDER = Path("results/bench/references")


def eigenvalues(case: Case, rtol: float = 1e-12) -> np.ndarray:
    """λ [T, d] of the case, from the file where it was computed before."""
    path = FOLDER / f"d{case.d}_n{case.n}_a{case.alpha:g}_t{case.samples}_rtol{rtol:g}.npy"
    if not path.is_file():
        found = child.run("reference:dopri8", case.d, case.n, case.alpha, rtol, limit=1800)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, found.arrays["eigenvalues"])
    return np.load(path)


def dopri8(d: int, n: int, alpha: float, rtol: float) -> Outcome:
    """Every mode, from 0, nothing of `stepwise` in it."""
    jax.config.update("jax_enable_x64", True)
    case = Case(d, n, alpha)
    gamma, start, times = (jnp.asarray(array) for array in (case.gamma, case.start, case.times))

    def field(t: Any, A: jax.Array, args: Any) -> jax.Array:
        scaled = 4 * A * gamma
        return scaled - ((A * gamma) @ A.T) @ scaled

    @jax.jit
    def solve() -> jax.Array:
        C = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Dopri8(),
            0.0,
            times[-1],
            None,
            start,
            saveat=diffrax.SaveAt(ts=times, fn=lambda t, A, args: (A * gamma) @ A.T),
            stepsize_controller=diffrax.PIDController(
                rtol=rtol, atol=rtol * alpha, pcoeff=0.3, icoeff=0.4
            ),
            max_steps=10_000_000,
        ).ys
        return jnp.linalg.eigvalsh(C)[:, ::-1]

    return measured(lambda: {"eigenvalues": solve()}, repeats=1)
