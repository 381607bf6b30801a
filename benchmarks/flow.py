"""The flow against SciPy's `solve_ivp` at the same measured error, and against the closed form."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks import child, reference
from benchmarks.case import Case
from benchmarks.child import Outcome
from benchmarks.report import Row, seconds

TARGET = 1e-3
"""Largest |λ error| over all times and modes; each side uses the loosest tolerance below it."""
OURS = [1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 3e-7, 1e-7]
PEERS = {"RK45": [1e-4, 1e-5, 1e-6], "DOP853": [1e-5, 1e-6, 1e-7], "LSODA": [1e-5, 1e-6]}
QUICK = ({"float64": [1e-5, 1e-7]}, {"RK45": [1e-5, 1e-7]})
"""Tolerances of a quick run, ours and theirs."""
MEMORY = 2e9
"""Size in bytes of LSODA's dense Jacobian, (r d)² doubles, above which LSODA is left out."""


def rows(quick: bool) -> Iterator[Row]:
    """Measure each case against the fastest method of SciPy."""
    for case in cases(quick):
        truth = reference.eigenvalues(case)
        settings, error, ours = _ours(case, truth, quick)
        method, peer = _peer(case, truth, quick)
        # measured again after SciPy, so that a busy moment of the machine affects both sides
        again = _flow(case, settings)
        ours = min(ours, again, key=lambda outcome: outcome.seconds)
        modes = int(ours.arrays["modes_kept"])
        steps = int(ours.arrays["steps"])
        note = (
            f"{settings[1]}, rtol {settings[0]:g}, error {error:.1e}, {steps} steps, {modes} of "
            f"{case.r} modes kept"
        )
        yield Row(
            "flow",
            str(case),
            method,
            ours.seconds,
            ours.compile,
            ours.megabytes,
            peer.seconds,
            peer.megabytes,
            {10: 20, 50: 100}.get(case.d, 0),
            peer.late,
            note,
        )


def closed_form_rows(quick: bool) -> Iterator[Row]:
    """Measure the closed form against the flow in a case in which the closed form holds."""
    case = Case(3, 30, 1e-3) if quick else Case(10, 500, 1e-6)
    truth = reference.eigenvalues(case)
    settings, error, ours = _ours(case, truth, quick)
    law = _flow(case, settings, closed=True)
    off = np.abs(law.arrays["eigenvalues"] - truth).max()
    note = f"largest error {off:.1e} (flow: {error:.1e})"
    yield Row(
        "closed form",
        str(case),
        f"dynamics.flow, rtol {settings[0]:g}",
        law.seconds,
        law.compile,
        law.megabytes,
        ours.seconds,
        ours.megabytes,
        0,
        note=note,
    )


def cases(quick: bool) -> list[Case]:
    """Return the cases to measure."""
    if quick:
        return [Case(3, 30, 1e-3)]
    return [
        Case(d, n, alpha) for d in (10, 50) for n in (500, 2000) for alpha in (1e-1, 1e-3, 1e-6)
    ]


def _error(outcome: Outcome, truth: np.ndarray) -> float:
    curves = outcome.arrays["eigenvalues"]
    return float(np.abs(curves - truth).max()) if curves.shape == truth.shape else float("inf")


def _ours(case: Case, truth: np.ndarray, quick: bool) -> tuple[list[Any], float, Outcome]:
    """Measure both precisions at their loosest tolerance that meets the target.

    Returns [tolerance, dtype], the error, and the outcome of the faster one.
    """
    candidates, least = [], float("inf")
    grid = QUICK[0] if quick else {"float32": OURS, "float64": OURS}
    for dtype, tolerances in grid.items():
        outcome = child.run(
            "ours:errors", case.d, case.n, case.alpha, tolerances, dtype, TARGET, truth.tolist()
        )
        errors = outcome.arrays["errors"]
        least = min(least, errors.min())
        if errors[-1] <= TARGET:
            settings = [tolerances[len(errors) - 1], dtype]
            candidates.append((settings, float(errors[-1]), _flow(case, settings)))
    if not candidates:
        raise RuntimeError(
            f"flow, {case}: expected an error of at most {TARGET:g} at one of the tolerances, "
            f"received {least:.1e} at best"
        )
    return min(candidates, key=lambda candidate: candidate[2].seconds)


def _flow(case: Case, settings: list[Any], closed: bool = False) -> Outcome:
    return child.run("ours:flow", case.d, case.n, case.alpha, *settings, closed)


def _peer(case: Case, truth: np.ndarray, quick: bool) -> tuple[str, Outcome]:
    """Measure SciPy's methods at their loosest tolerance that meets the target.

    Returns the name and outcome of the fastest one, or an outcome at the time limit if none ended
    within it.
    """
    limit = 10.0 if quick else 45.0
    best, name = Outcome(limit, late=True), f"solve_ivp, none within {seconds(limit)}"
    for method, tolerances in (QUICK[1] if quick else PEERS).items():
        if method == "LSODA" and 8 * (case.d * case.r) ** 2 > MEMORY:
            continue
        for rtol in tolerances:
            outcome = child.run(
                "peers:scipy_flow", case.d, case.n, case.alpha, method, rtol, limit=best.seconds + 3
            )
            if outcome.late and best.late:
                return name, best  # the other methods would be late too: the problem is stiff
            if outcome.late:
                break
            error = _error(outcome, truth)
            if error <= TARGET:
                if outcome.seconds < best.seconds or best.late:
                    best, name = outcome, f"solve_ivp {method}, rtol {rtol:g}, error {error:.1e}"
                break
    return name, best
