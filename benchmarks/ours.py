"""This package's side of the solver benchmarks."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.case import Case
from benchmarks.child import Outcome, measure
from stepwise import dynamics
from stepwise.problem import Problem


def problem_of(case: Case, dtype: str = "float32") -> Problem:
    """Return a problem with the spectrum of a case; the solvers use nothing else of it."""
    jax.config.update("jax_enable_x64", dtype == "float64")
    gamma = jnp.asarray(case.gamma, dtype)
    empty = jnp.zeros((2, case.r), dtype)
    return Problem(gamma, empty, empty, 0 * gamma, gamma[-1], center="none", linear=True)


def flow(d: int, n: int, alpha: float, rtol: float, dtype: str, closed: bool = False) -> Outcome:
    """Measure `dynamics.flow` or the closed form, with the copy of the curves to the host."""
    case = Case(d, n, alpha)
    problem, start, times = (
        problem_of(case, dtype),
        jnp.asarray(case.start, dtype),
        jnp.asarray(case.times, dtype),
    )

    def call() -> dict[str, jax.Array]:
        if closed:
            return {"eigenvalues": dynamics.closed_form(problem, start, times).eigenvalues}
        run = dynamics.flow(problem, start, times, rtol=rtol)
        stats = {name: run.stats[name] for name in ("steps", "modes_kept")}
        return {"eigenvalues": run.eigenvalues} | stats

    return measure(call, repeats=12, budget=3.0)


def errors(
    d: int,
    n: int,
    alpha: float,
    rtols: list[float],
    dtype: str,
    target: float,
    truth: list[list[float]],
) -> Outcome:
    """Compute the largest |λ error| of the flow at each tolerance, until one meets the target."""
    case, largest = Case(d, n, alpha), []
    problem, start, times = (
        problem_of(case, dtype),
        jnp.asarray(case.start, dtype),
        jnp.asarray(case.times, dtype),
    )
    for rtol in rtols:
        run = dynamics.flow(problem, start, times, rtol=rtol)
        largest.append(float(np.abs(np.asarray(run.eigenvalues) - np.asarray(truth)).max()))
        if largest[-1] <= target:
            break
    return Outcome(0.0, arrays={"errors": np.asarray(largest)})


def ensemble(solver: str, together: bool, seeds: int, n: int, d: int, r: int) -> Outcome:
    """Measure a jitted solver on the r leading modes from many starts, by vmap or in a loop."""
    case = Case(d, n, 1e-3)
    problem = problem_of(case).truncate(r)
    starts = jnp.asarray(
        np.random.default_rng(0).normal(size=(seeds, d, r)) * case.alpha, jnp.float32
    )
    times = jnp.asarray(case.times, jnp.float32)
    lr, steps = 0.01, 2000

    def one(start: jax.Array) -> jax.Array:
        if solver == "closed_form":
            return dynamics.closed_form(problem, start, times).eigenvalues
        return dynamics.descent(problem, start, lr, steps, record_every=40).eigenvalues

    mapped, single = jax.jit(jax.vmap(one)), jax.jit(one)

    def call() -> dict[str, jax.Array]:
        return {
            "eigenvalues": mapped(starts)
            if together
            else jnp.stack([single(start) for start in starts])
        }

    return measure(call, repeats=5, budget=10.0)
