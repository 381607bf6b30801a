"""Gradient flow of the full matrix from any start, by an adaptive solver on the modes that matter
until the last time.
"""

from functools import partial
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from stepwise import _check, laws, trajectory
from stepwise.dynamics import reduction
from stepwise.dynamics.stabilised import RungeKuttaChebyshev
from stepwise.laws import Law, LawOf
from stepwise.problem import Problem
from stepwise.trajectory import Trajectory
from stepwise.types import Numbers, Real, Whole


def flow(
    problem: Problem,
    A0: Numbers,
    times: Numbers,
    *,
    law: LawOf = None,
    rtol: Real = 1e-6,
    atol: Real = 1e-9,
    reduce: bool = True,
    max_steps: Whole = 1_000_000,
) -> Trajectory:
    """Integrate the gradient flow dA/dt = `Law.rhs(A)` of the full matrix from any start A0.

    For Barlow Twins, the default, dA/dt = −4 (C − I) A diag(γ) with C = A diag(γ) Aᵀ (the paper,
    Simon et al. 2023, eq. 5). The solver is Dormand-Prince 5(4) with a PI controller (diffrax).

    If the law contracts to C = I (`Law.contraction`) and no value is traced, the problem is first
    reduced. Modes that cannot move an eigenvalue by more than rtol/10 until the last time are left
    out, and slow modes are compressed. The integration starts when C reaches rtol/10, because every
    mode grows exponentially until then. `stats["error_bound"]` bounds, to first order, the change
    that this causes, in addition to the solver's own error. If the last time is long compared with
    1/γ_1 for the given tolerance, Runge-Kutta-Chebyshev (`stabilised`) replaces Dormand-Prince.

    For any other law the whole flow is integrated, and the error bound is 0.

    Args:
        problem: the problem, of which only the modes are used.
        A0: mode coordinates of the start [d, r].
        times: increasing times [T], learning rate × step.
        law: a function (problem, d) -> Law; Barlow Twins (`laws.DEFAULT`) by default.
        rtol: relative tolerance of one step, on the entries of A.
        atol: absolute tolerance. It is lowered to rtol × the start's root mean square if larger,
            because the plateaus would drift otherwise.
        reduce: whether to reduce the problem. If False, every mode is integrated from time 0.
        max_steps: largest number of solver steps. If it is reached, the `result` of the trajectory
            says so.

    Returns:
        Trajectory. Its snapshot is A at the last time, zero on modes that were left out.

    Raises:
        ValueError: if A0 does not have r columns; if times are negative or do not increase; if a
            tolerance is not positive.

    Can be jitted, vmapped over A0 and differentiated (reverse mode). All modes are then integrated,
    by Dormand-Prince only. To integrate fewer, truncate the problem beforehand
    (`Problem.truncate`).
    """
    gamma, A0, times = trajectory.as_inputs(problem.gamma, A0, times)
    if not _check.is_traced(rtol, atol):
        _check.require(
            rtol > 0 and atol > 0, "rtol, atol", "positive tolerances", f"{rtol}, {atol}"
        )
    _check.whole("max_steps", max_steps)
    resolved = laws.cast(laws.law_of(law, problem, len(A0)), gamma.dtype)
    gamma = gamma if resolved.contraction() is None else jnp.asarray(resolved.unit(), gamma.dtype)
    begin, bound, expansion, long = jnp.zeros((), times.dtype), 0.0, None, False
    small, A, pull = gamma, A0, resolved.contraction()
    cause = f"the solver stopped after max_steps = {max_steps} steps"
    if pull is not None and not _check.is_traced(gamma, A0, times, rtol):
        dtype, until = times.dtype, float(times[-1])
        host = np.asarray(gamma, np.float64), np.asarray(A0, np.float64)
        if np.linalg.eigvalsh((host[1] * host[0]) @ host[1].T)[-1] > 1 and host[0].min() < 0:
            cause += (
                "; a negative mode can diverge in finite time if an eigenvalue of C(0) is above 1"
            )
        if reduce:
            reduced = reduction.reduce(*host, until, 0.05 * rtol, law=resolved)
            skip, skipped = _linear_phase(reduced.gamma, reduced.A0, 0.05 * rtol, pull)
            begin, bound = jnp.asarray(min(skip, until), dtype), reduced.bound + skipped
            small, A, expansion = (
                jnp.asarray(array, dtype)
                for array in (reduced.gamma, reduced.A0, reduced.expansion)
            )
        long = _is_long(np.asarray(small, np.float64), until, float(rtol), pull)
    if pull is None:
        curves, final, stats = _integrate_whole(resolved, A, times, rtol, atol, max_steps)
    else:
        curves, final, stats = _integrate(small, A, times, begin, rtol, atol, max_steps, long, pull)
    return trajectory.assemble(
        times,
        curves[0],
        (final if expansion is None else final @ expansion)[None],
        resolved,
        source="gradient flow",
        cause=cause,
        loss=curves[1],
        stats=stats | {"error_bound": jnp.asarray(bound), "modes_kept": jnp.asarray(small.size)},
    )


def _linear_phase(
    gamma: np.ndarray, A0: np.ndarray, tol: float, pull: float
) -> tuple[float, float]:
    """Return the time until which C stays below `tol`, and the error of a linear solution there.

    In the linear phase each amplitude is off by at most a factor 1 + κγ_1 ∫ ‖C‖ dt ≤ 1 + ‖C(t)‖/2,
    and an eigenvalue by at most twice that relative error.
    """
    weight, rate = np.abs(gamma) * np.sum(A0**2, axis=0), 2 * pull * np.maximum(gamma, 0)
    if weight.sum() >= tol or not rate.max(initial=0) > 0:
        return 0.0, 0.0
    low, high = 0.0, np.log(tol / weight.sum()) / rate[rate > 0].min()
    for _ in range(60):
        middle = (low + high) / 2
        exponent = np.log(np.maximum(weight, 1e-300)) + rate * middle
        low, high = (middle, high) if np.logaddexp.reduce(exponent) < np.log(tol) else (low, middle)
    # With slow modes κγ_1 ∫‖C‖ dt can exceed ‖C(t)‖/2, so the integral is summed over the modes.
    integral = float(
        np.sum(weight * np.where(rate > 0, np.expm1(rate * low) / np.maximum(rate, 1e-300), low))
    )
    change = 2 * pull * float(gamma.max()) * integral
    return (low, change) if change <= tol else (0.0, 0.0)


def _is_long(gamma: np.ndarray, until: float, rtol: float, pull: float) -> bool:
    """Return whether Chebyshev steps are cheaper than Dormand-Prince, in products with A.

    The coefficients are measured.
    """
    stiffness = 2 * pull * float(np.abs(gamma).max(initial=0)) * until
    steps = 12 / rtol ** (1 / 3)
    return bool(steps * (2 + np.sqrt(stiffness / steps)) < 6 * stiffness / 3.3)


@partial(jax.jit, static_argnums=(6, 7, 8))
def _integrate(
    gamma: jax.Array,
    A0: jax.Array,
    times: jax.Array,
    begin: jax.Array,
    rtol: Any,
    atol: Any,
    max_steps: int,
    long: bool,
    pull: float,
) -> tuple[tuple[jax.Array, None], jax.Array, dict[str, jax.Array]]:
    """Integrate dA/dt = κ (1 − C) A diag(γ).

    Returns the eigenvalues of C [T, d], the last state and the solver's statistics.
    """

    def cross(t: Any, A: jax.Array, args: Any) -> jax.Array:
        return (A * gamma[None]) @ A.T

    def field(t: Any, A: jax.Array, args: Any) -> jax.Array:
        AD = A * gamma[None]
        return pull * (AD - (AD @ A.T) @ AD)

    def radius(t: Any, A: jax.Array, args: Any) -> jax.Array:
        # A bound on the decay rates, the negative part of the Jacobian's spectrum: at most
        # 2κ max|γ| ‖A|D|Aᵀ‖ from δC, and κ γ (λ − 1) from (1 − C) δA D where that is positive.
        size = jnp.abs(gamma)
        square = jnp.linalg.matrix_power((A * size[None]) @ A.T, 4)
        norm = jnp.maximum(1, jnp.max(jnp.sum(jnp.abs(square), axis=1)) ** 0.25)
        return (
            2 * pull * norm * size.max()
            + pull * (1 + norm) * jnp.maximum(0, -gamma.min())
            + pull * (norm - 1) * size.max()
        )

    atol, tiny = _absolute(A0, rtol, atol), jnp.finfo(A0.dtype).tiny
    early = times <= begin
    A = A0 * jnp.exp(pull * gamma * begin)[None]
    # A first step over the whole time can overflow, and the controller would never recover from an
    # error of inf/inf.
    size = jnp.max(jnp.abs(gamma), initial=0)
    rate = 2 * pull * size * jnp.maximum(1, jnp.sum(jnp.abs(gamma)[None] * A**2))
    first = jax.lax.stop_gradient(
        jnp.minimum(1 / jnp.maximum(rate, tiny), jnp.maximum(times[-1] - begin, tiny))
    )
    solver = RungeKuttaChebyshev(radius) if long else diffrax.Dopri5()
    span = (begin, jnp.maximum(times[-1], begin))
    C, last, stats = _solve(
        field, cross, solver, span, first, A, jnp.maximum(times, begin), rtol, atol, max_steps
    )
    rows = gamma[None, None]  # [1, 1, r], beside states [T, d, r]
    linear = A0[None] * jnp.exp(pull * rows * jnp.minimum(times, begin)[:, None, None])
    C = jnp.where(early[:, None, None], (linear * rows) @ jnp.swapaxes(linear, 1, 2), C)
    return (trajectory.eigvalsh_descending(C), None), last, stats


@partial(jax.jit, static_argnums=5)
def _integrate_whole(
    law: Law, A0: jax.Array, times: jax.Array, rtol: Any, atol: Any, max_steps: int
) -> tuple[tuple[jax.Array, jax.Array], jax.Array, dict[str, jax.Array]]:
    """Integrate a law's own flow.

    Returns the eigenvalues of the observable [T, d] and the loss [T], the last state, and the
    solver's statistics.
    """

    def field(t: Any, A: jax.Array, args: Any) -> jax.Array:
        return law.rhs(A)

    def observe(t: Any, A: jax.Array, args: Any) -> tuple[jax.Array, jax.Array]:
        return law.measure(A), law.objective(A)

    tiny = jnp.finfo(A0.dtype).tiny
    size, speed = jnp.max(jnp.abs(A0)), jnp.max(jnp.abs(law.rhs(A0)))
    first = jnp.where(speed > 0, 0.1 * size / jnp.maximum(speed, tiny), times[-1])
    first = jax.lax.stop_gradient(jnp.clip(first, tiny, jnp.maximum(times[-1], tiny)))
    span = (jnp.zeros((), times.dtype), times[-1])
    atol = _absolute(A0, rtol, atol)
    (measured, loss), last, stats = _solve(
        field, observe, diffrax.Dopri5(), span, first, A0, times, rtol, atol, max_steps
    )
    return (trajectory.eigvalsh_descending(measured), loss), last, stats


def _absolute(A0: jax.Array, rtol: Any, atol: Any) -> jax.Array:
    """Return the absolute tolerance, at most rtol × the start's root mean square."""
    rms = jnp.sqrt(jnp.mean(A0**2))
    least = jnp.finfo(A0.dtype).tiny
    return jnp.maximum(jnp.minimum(atol, rtol * rms), least).astype(A0.dtype)


def _solve(
    field: Any,
    observe: Any,
    solver: Any,
    span: tuple[jax.Array, jax.Array],
    first: jax.Array,
    A: jax.Array,
    times: jax.Array,
    rtol: Any,
    atol: Any,
    max_steps: int,
) -> tuple[Any, jax.Array, dict[str, jax.Array]]:
    """Return what `observe` returns at the times, the last state, and the numbers of steps."""
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        solver,
        *span,
        first,
        A,
        saveat=diffrax.SaveAt(
            subs=[diffrax.SubSaveAt(ts=times, fn=observe), diffrax.SubSaveAt(t1=True)]
        ),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol, pcoeff=0.3, icoeff=0.4),
        max_steps=max_steps,
        throw=False,
    )
    records, last = solution.ys
    stats = {
        "steps": solution.stats["num_accepted_steps"],
        "rejected": solution.stats["num_rejected_steps"],
    }
    return records, last[0], stats
