"""The modes that a training run learned: how many, how many of them one at a time, and when."""

from dataclasses import replace
from typing import Any

import numpy as np

from stepwise import spectra
from stepwise.dynamics import Trajectory

LEARNED = 0.05
"""A mode counts as learned if its final value is above this share of the first mode's."""


def curves(run: Trajectory) -> dict[str, np.ndarray]:
    """Return the arrays of a network's training [T, ...], without samples that are not finite.

    They are times (learning rate × step), steps, loss, train_loss, eigenvalues (of C), covariance
    (eigenvalues of the embedding's covariance), rankme, and the covariance eigenvalues of every
    hidden representation under its name.
    """
    arrays = {
        "times": run.times,
        "steps": run.stats["step"],
        "loss": run.loss,
        "train_loss": run.stats["train_loss"],
        "eigenvalues": run.eigenvalues,
        "covariance": run.covariance_eigenvalues,
        "rankme": run.stats["rankme"],
    }
    arrays |= {
        name.replace("stages/", ""): values
        for name, values in run.stats.items()
        if name.startswith("stages/")
    }
    finite = _finite(run)
    return {name: np.asarray(values)[finite] for name, values in arrays.items()}


def relative(run: Trajectory) -> Trajectory:
    """Return a run with the eigenvalues of C in units of the embedding's total variance.

    A loss that normalises embeddings ignores their scale, which then grows as training goes on and
    has no part in what is learned. Eigenvalues that are measured in its unit show the modes alone.
    A mode that starts above half of its final share counts only if it falls below that first.
    """
    total = np.asarray(run.covariance_eigenvalues, np.float64).sum(axis=1, keepdims=True)
    share = np.asarray(run.eigenvalues, np.float64) / np.maximum(total, np.finfo(float).tiny)
    return replace(run, eigenvalues=share, observable="C / total variance")


def numbers(run: Trajectory) -> dict[str, Any]:
    """Count the modes that a finished training run learned, by the eigenvalues of C.

    Returns:
        A dict that JSON can hold:

        - crossed: the number of modes learned.
        - alone: how many of them were learned one at a time: when the mode is learned, the next
          one is still below a tenth of its final value (`spectra.steps_alone`).
        - step_times: the training step at which each eigenvalue crosses half of its final value;
          infinite if the mode was not learned.
        - final: the final values, means of the last three samples.
        - growing: whether an eigenvalue of a learned mode rose by more than a fifth over the last
          two samples, so that the run ended too early.
        - start: the first values.
        - rankme: the RankMe of the last embedding.
        - result: `finished`, or that the run diverged, with step and cause.
    """
    finite, good = _finite(run), not str(run.result).startswith("diverged")
    values, steps = (
        np.asarray(run.eigenvalues, np.float64)[finite],
        np.asarray(run.stats["step"], np.float64)[finite],
    )
    final = values[-3:].mean(axis=0)
    # the smallest number, so that no mode of a collapsed run counts
    least = max(LEARNED * final[0], float(np.finfo(float).tiny))
    crossed, alone = spectra.steps_alone(steps, values, learned=least)
    times = np.asarray(spectra.step_times(steps, values / np.maximum(final, least)))
    return {
        "crossed": crossed if good else 0,
        "alone": alone if good else 0,
        "step_times": (times if good else np.full_like(final, np.inf)).tolist(),
        "final": final.tolist(),
        "growing": bool(good and len(values) > 2 and _growing(values, least)),
        "start": values[0].tolist(),
        "rankme": float(np.asarray(run.stats["rankme"])[finite][-1]),
        # `stopped` means that no law determines the final loss, not that training was interrupted
        "result": "finished" if run.result.name == "stopped" else str(run.result),
    }


def _growing(values: np.ndarray, least: float) -> bool:
    """Return whether an eigenvalue above `least` rose by over a fifth in the last two samples."""
    return bool(((values[-1] > least) & (values[-1] > 1.2 * values[-3])).any())


def _finite(run: Trajectory) -> np.ndarray:
    """Return which samples are finite; the first one always is."""
    return np.isfinite(np.asarray(run.loss)) & np.isfinite(np.asarray(run.eigenvalues)).all(axis=1)


def describe(summary: dict[str, Any]) -> str:
    """Say in words how many modes a run learned, from its `numbers`."""
    learned, alone = summary["crossed"], summary["alone"]
    if learned == 0:
        return "no modes learned"
    if learned == 1:
        return "1 mode learned"
    share = {learned: "all one at a time", 1: "1 on its own", 0: "none on its own"}
    return f"{learned} modes learned, {share.get(alone, f'{alone} one at a time')}"
