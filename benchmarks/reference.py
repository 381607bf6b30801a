"""Reference of the flow: the full problem by diffrax's Dopri8 in float64, stored in a file."""

from pathlib import Path
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import child
from benchmarks.case import Case
from benchmarks.child import Outcome, measure

FOLDER = Path("results/bench/references")


def eigenvalues(case: Case, rtol: float = 1e-12) -> np.ndarray:
    """Return λ [T, d] of a case, computed once and then read from a file."""
    path = FOLDER / f"d{case.d}_n{case.n}_a{case.alpha:g}_t{case.samples}_rtol{rtol:g}.npy"
    if not path.is_file():
        outcome = child.run("reference:dopri8", case.d, case.n, case.alpha, rtol, limit=1800)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, outcome.arrays["eigenvalues"])
    return np.load(path)


def dopri8(d: int, n: int, alpha: float, rtol: float) -> Outcome:
    """Solve for every mode from time 0, without any code of `stepwise`'s solvers."""
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

    return measure(lambda: {"eigenvalues": solve()}, repeats=1)
