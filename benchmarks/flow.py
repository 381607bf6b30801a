"""The flow of the full matrix against scipy's `solve_ivp`, at one measured error; and the closed form against it."""

from collections.abc import Iterator

import numpy as np

from benchmarks import child, reference
from benchmarks.case import Case
from benchmarks.child import Outcome
from benchmarks.report import Row, seconds

TARGET = 1e-3
"""Both sides take the fastest tolerance whose largest |λ error| over all times and modes is at most this."""
OURS = [1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6]
PEERS = {"RK45": [1e-4, 1e-5, 1e-6], "DOP853": [1e-5, 1e-6, 1e-7], "LSODA": [1e-5, 1e-6]}
MEMORY = 2e9
"""LSODA's Jacobian is dense, (r d)² doubles: it is not started where that is more than this."""


def rows(quick: bool) -> Iterator[Row]:
    """One row a case."""
    for case in cases(quick):
        limit = 10.0 if quick else 60.0
        truth = reference.eigenvalues(case)
        (rtol, error, ours) = _ours(case, truth)
        method, peer = _peer(case, truth, limit)
        again = child.run(
            "ours:flow", case.d, case.r, case.alpha, rtol, "float32"
        )  # as far from scipy's run after as before
        ours = min(ours, again, key=lambda outcome: outcome.seconds)
        kept = int(ours.arrays["modes_kept"])
        note = f"rtol {rtol:g}, error {error:.1e}, {int(ours.arrays['steps'])} steps, {kept} of {case.r} modes kept"
        yield Row(
            "flow", str(case), method, ours.seconds, ours.compile, ours.megabytes, peer.seconds, peer.megabytes,
            20 if case.d == 10 else 100 if case.d == 50 else 0, peer.late, note,
        )  # fmt: skip


def closed_form_rows(quick: bool) -> Iterator[Row]:
    """The law against the solver, where the law holds."""
    case = Case(5, 100, 1e-6) if quick else Case(10, 1000, 1e-6)
    truth = reference.eigenvalues(case)
    rtol, error, ours = _ours(case, truth)
    law = child.run("ours:flow", case.d, case.r, case.alpha, 0.0, True)
    off = np.abs(law.arrays["eigenvalues"] - truth).max()
    note = f"largest error {off:.1e} (flow: {error:.1e})"
    yield Row("closed form", str(case), f"dynamics.flow, rtol {rtol:g}", law.seconds, law.compile, law.megabytes,
              ours.seconds, ours.megabytes, 0, note=note)  # fmt: skip


def cases(quick: bool) -> list[Case]:
    """What is measured."""
    if quick:
        return [Case(3, 60, 1e-3)]
    return [Case(d, r, alpha) for d in (10, 50) for r in (1000, 4000) for alpha in (1e-1, 1e-3, 1e-6)]


def _error(outcome: Outcome, truth: np.ndarray) -> float:
    found = outcome.arrays["eigenvalues"]
    return float(np.abs(found - truth).max()) if found.shape == truth.shape else float("inf")


def _ours(case: Case, truth: np.ndarray) -> tuple[float, float, Outcome]:
    """The loosest tolerance that meets the target, which is the fastest."""
    tried = child.run("ours:curves", case.d, case.r, case.alpha, OURS).arrays["eigenvalues"]
    for rtol, curves in zip(OURS, tried, strict=True):
        error = float(np.abs(curves - truth).max())
        if error <= TARGET:
            return rtol, error, child.run("ours:flow", case.d, case.r, case.alpha, rtol)
    raise RuntimeError(f"flow, {case}: no tolerance meets the target; the last error is {error:.1e}")


def _peer(case: Case, truth: np.ndarray, limit: float) -> tuple[str, Outcome]:
    """The fastest of scipy's methods, each at its loosest tolerance that meets the target, or a limit not met."""
    best, name = Outcome(limit, late=True), f"solve_ivp, none within {seconds(limit)}"
    for method, tolerances in PEERS.items():
        if method == "LSODA" and 8 * (case.d * case.r) ** 2 > MEMORY:
            continue
        for rtol in tolerances:
            outcome = child.run("peers:scipy_flow", case.d, case.r, case.alpha, method, rtol, limit=best.seconds + 3)
            if outcome.late:
                break
            error = _error(outcome, truth)
            if error <= TARGET:
                if outcome.seconds < best.seconds or best.late:
                    best, name = outcome, f"solve_ivp {method}, rtol {rtol:g}, error {error:.1e}"
                break
    return name, best
