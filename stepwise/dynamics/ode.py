"""Gradient flow of the full matrix from any start, by an adaptive solver on as few modes as the
time asked needs.
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
    """Gradient flow of the full matrix from any start A0: dA/dt = `Law.rhs` at A.

    For Barlow Twins, the default, −4 (C − I) A diag(γ) with C = A diag(γ) Aᵀ (source, eq. 5).

    Dormand-Prince 5(4) with a PI controller (diffrax). Where the law contracts to C = I
    (`Law.contraction`) and the values are known (not under a trace), it first leaves out modes that
    cannot move an eigenvalue by more than rtol/10 until the last time, compresses the slow ones,
    and starts where C is no longer below rtol/10, since until then every mode grows exponentially;
    `stats["error_bound"]` says what this can have changed, to first order, beside the solver's own
    error. Where the time is long against 1/γ_1 for the tolerance asked, Runge-Kutta-Chebyshev
    (`stabilised`) takes Dormand-Prince's place. The flow of a law of another form is integrated
    whole, with an error bound of 0 beside the solver's own.

    Args:
        problem: its modes are all that matters.
        A0: mode coordinates of the start [d, r].
        times: increasing [T], learning rate × step.
        law: a function (problem, d) -> Law; `laws.DEFAULT`, Barlow Twins, without one.
        rtol: relative tolerance of one step, on the entries of A.
        atol: absolute one; never above rtol × the start's root mean square, or the plateaus would
            drift.
        reduce: False integrates every mode from 0, as for a law that is not of that form.
        max_steps: the solver gives up after so many; the result then says so.

    Returns:
        Trajectory; the snapshot is A at the last time, zero on modes that were left out.

    Raises:
        ValueError: A0 does not have r columns; times do not increase from 0 on; a tolerance is not
            positive.

    Can be jitted, vmapped over A0 and differentiated (reverse mode); then all modes are kept and
    Dormand-Prince takes every step. To keep few modes there too, cut the problem beforehand
    (`Problem.truncated`).
    """
    gamma, A0, times = trajectory.as_inputs(problem.gamma, A0, times)
    if not _check.is_traced(rtol, atol):
        _check.require(
            rtol > 0 and atol > 0, "rtol, atol", "positive tolerances", f"{rtol}, {atol}"
        )
    _check.whole("max_steps", max_steps)
    found = laws.cast(laws.law_of(law, problem, len(A0)), gamma.dtype)
    gamma = gamma if found.contraction() is None else jnp.asarray(found.unit(), gamma.dtype)
    begin, bound, back, long = jnp.zeros((), times.dtype), 0.0, None, False
    small, A, pull = gamma, A0, found.contraction()
    cause = f"the solver gave up (max_steps = {max_steps})"
    if pull is not None and not _check.is_traced(gamma, A0, times, rtol):
        dtype, until = times.dtype, float(times[-1])
        host = np.asarray(gamma, np.float64), np.asarray(A0, np.float64)
        if np.linalg.eigvalsh((host[1] * host[0]) @ host[1].T)[-1] > 1 and host[0].min() < 0:
            cause += (
                ": with an eigenvalue of C(0) above 1 a negative mode can blow up in finite time"
            )
        if reduce:
            reduced = reduction.reduce(*host, until, 0.05 * rtol, law=found)
            skip, skipped = _linear_phase(reduced.gamma, reduced.A0, 0.05 * rtol, pull)
            begin, bound = jnp.asarray(min(skip, until), dtype), reduced.bound + skipped
            small, A, back = (
                jnp.asarray(array, dtype)
                for array in (reduced.gamma, reduced.A0, reduced.expansion)
            )
        long = _is_long(np.asarray(small, np.float64), until, float(rtol), pull)
    if pull is None:
        curves, final, stats = _integrate_whole(found, A, times, rtol, atol, max_steps)
    else:
        curves, final, stats = _integrate(small, A, times, begin, rtol, atol, max_steps, long, pull)
    return trajectory.assemble(
        times,
        curves[0],
        (final if back is None else final @ back)[None],
        found,
        source="gradient flow",
        cause=cause,
        loss=curves[1],
        stats=stats | {"error_bound": jnp.asarray(bound), "modes_kept": jnp.asarray(small.size)},
    )


def _linear_phase(
    gamma: np.ndarray, A0: np.ndarray, tol: float, pull: float
) -> tuple[float, float]:
    """Until when C stays below `tol`, and what treating that phase as linear can change.

    There each amplitude is off by a factor 1 + κγ_1 ∫ ‖C‖ dt ≤ 1 + ‖C(t)‖/2 at most, an eigenvalue
    by twice that.
    """
    weight, rate = np.abs(gamma) * np.sum(A0**2, axis=0), 2 * pull * np.maximum(gamma, 0)
    if weight.sum() >= tol or not rate.max(initial=0) > 0:
        return 0.0, 0.0
    low, high = 0.0, np.log(tol / weight.sum()) / rate[rate > 0].min()
    for _ in range(60):
        middle = (low + high) / 2
        exponent = np.log(np.maximum(weight, 1e-300)) + rate * middle
        low, high = (middle, high) if np.logaddexp.reduce(exponent) < np.log(tol) else (low, middle)
    # ∫‖C‖ over slow modes outlasts e^{2κγ_1 t}; the factor is bounded by the longest of them
    integral = float(
        np.sum(weight * np.where(rate > 0, np.expm1(rate * low) / np.maximum(rate, 1e-300), low))
    )
    change = 2 * pull * float(gamma.max()) * integral
    return (low, change) if change <= tol else (0.0, 0.0)


def _is_long(gamma: np.ndarray, until: float, rtol: float, pull: float) -> bool:
    """Whether Chebyshev steps are the cheaper way: products with A that either solver would take,
    as measured.
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
    """Eigenvalues of C [T, d], the last state and the solver's statistics for dA/dt = κ (1 − C) A
    diag(γ).
    """

    def cross(t: Any, A: jax.Array, args: Any) -> jax.Array:
        return (A * gamma) @ A.T

    def field(t: Any, A: jax.Array, args: Any) -> jax.Array:
        AD = A * gamma
        return pull * (AD - (AD @ A.T) @ AD)

    def radius(t: Any, A: jax.Array, args: Any) -> jax.Array:
        # the Jacobian: 2κ max|γ| ‖A|D|Aᵀ‖ at most from δC, and κ γ (λ − 1) from C's own curvature
        # where that is convex.
        size = jnp.abs(gamma)
        square = jnp.linalg.matrix_power((A * size) @ A.T, 4)
        norm = jnp.maximum(1, jnp.max(jnp.sum(jnp.abs(square), axis=1)) ** 0.25)
        return (
            2 * pull * norm * size.max()
            + pull * (1 + norm) * jnp.maximum(0, -gamma.min())
            + pull * (norm - 1) * size.max()
        )

    atol, tiny = _absolute(A0, rtol, atol), jnp.finfo(A0.dtype).tiny
    early = times <= begin
    A = A0 * jnp.exp(pull * gamma * begin)
    # a first try of the whole time can overflow, and an error of inf/inf would hold the controller
    # there for good
    size = jnp.max(jnp.abs(gamma), initial=0)
    rate = 2 * pull * size * jnp.maximum(1, jnp.sum(jnp.abs(gamma) * A**2))
    first = jax.lax.stop_gradient(
        jnp.minimum(1 / jnp.maximum(rate, tiny), jnp.maximum(times[-1] - begin, tiny))
    )
    solver = RungeKuttaChebyshev(radius) if long else diffrax.Dopri5()
    span = (begin, jnp.maximum(times[-1], begin))
    C, last, stats = _solved(
        field, cross, solver, span, first, A, jnp.maximum(times, begin), rtol, atol, max_steps
    )
    linear = A0[None] * jnp.exp(pull * gamma * jnp.minimum(times, begin)[:, None, None])
    C = jnp.where(early[:, None, None], (linear * gamma) @ jnp.swapaxes(linear, 1, 2), C)
    return (trajectory.eigvalsh_descending(C), None), last, stats


@partial(jax.jit, static_argnums=5)
def _integrate_whole(
    law: Law, A0: jax.Array, times: jax.Array, rtol: Any, atol: Any, max_steps: int
) -> tuple[tuple[jax.Array, jax.Array], jax.Array, dict[str, jax.Array]]:
    """Eigenvalues [T, d] of the observable and the loss [T], the last state, the solver's
    statistics.
    """

    def field(t: Any, A: jax.Array, args: Any) -> jax.Array:
        return law.rhs(A)

    def read(t: Any, A: jax.Array, args: Any) -> tuple[jax.Array, jax.Array]:
        return law.measure(A), law.objective(A)

    tiny = jnp.finfo(A0.dtype).tiny
    size, speed = jnp.max(jnp.abs(A0)), jnp.max(jnp.abs(law.rhs(A0)))
    first = jnp.where(speed > 0, 0.1 * size / jnp.maximum(speed, tiny), times[-1])
    first = jax.lax.stop_gradient(jnp.clip(first, tiny, jnp.maximum(times[-1], tiny)))
    span = (jnp.zeros((), times.dtype), times[-1])
    atol = _absolute(A0, rtol, atol)
    (measured, loss), last, stats = _solved(
        field, read, diffrax.Dopri5(), span, first, A0, times, rtol, atol, max_steps
    )
    return (trajectory.eigvalsh_descending(measured), loss), last, stats


def _absolute(A0: jax.Array, rtol: Any, atol: Any) -> jax.Array:
    """The absolute tolerance, never above rtol × the start's root mean square."""
    rms = jnp.sqrt(jnp.mean(A0**2))
    least = jnp.finfo(A0.dtype).tiny
    return jnp.maximum(jnp.minimum(atol, rtol * rms), least).astype(A0.dtype)


def _solved(
    field: Any,
    read: Any,
    solver: Any,
    span: tuple[jax.Array, jax.Array],
    first: jax.Array,
    A: jax.Array,
    times: jax.Array,
    rtol: Any,
    atol: Any,
    max_steps: int,
) -> tuple[Any, jax.Array, dict[str, jax.Array]]:
    """What `read` gives at the times, the last state, and how many steps it took."""
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        solver,
        *span,
        first,
        A,
        saveat=diffrax.SaveAt(
            subs=[diffrax.SubSaveAt(ts=times, fn=read), diffrax.SubSaveAt(t1=True)]
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
