"""What a training run's curves say: how many modes it learned, how many of them alone, and when."""

from typing import Any

import numpy as np

from stepwise import spectra
from stepwise.dynamics import Trajectory

LEARNED = 0.05
"""A mode counts as learned where its final value is above this share of the first one's, as in
`spectra`.
"""


def curves(run: Trajectory) -> dict[str, np.ndarray]:
    """The arrays of a network's training [T, ...], of a run that diverged those that are finite.

    times (learning rate × step), steps, loss and train_loss, eigenvalues of C, covariance
    (eigenvalues of the embedding's), rankme, and of every hidden representation its covariance
    eigenvalues.
    """
    kept = {
        "times": run.times,
        "steps": run.stats["step"],
        "loss": run.loss,
        "train_loss": run.stats["train_loss"],
        "eigenvalues": run.eigenvalues,
        "covariance": run.covariance_eigenvalues,
        "rankme": run.stats["rankme"],
    }
    kept |= {
        name.replace("stages/", ""): values
        for name, values in run.stats.items()
        if name.startswith("stages/")
    }
    finite = _finite(run)
    return {name: np.asarray(values)[finite] for name, values in kept.items()}


def numbers(run: Trajectory) -> dict[str, Any]:
    """Modes learned, and learned alone, by the eigenvalues of C; their steps, final values and the
    run's end.

    A mode's step is where it crosses half of its final value (the mean of the last three samples),
    in steps of the optimiser; infinite where it was not learned. It is alone where the next one is
    then below a tenth (`spectra.steps_alone`). `growing` says whether an eigenvalue that counts
    rose by more than a fifth over the last two samples: the run then ended on the way up.
    """
    kept, good = _finite(run), not str(run.result).startswith("diverged")
    values, steps = (
        np.asarray(run.eigenvalues, np.float64)[kept],
        np.asarray(run.stats["step"], np.float64)[kept],
    )
    final = values[-3:].mean(axis=0)
    least = max(
        LEARNED * final[0], float(np.finfo(float).tiny)
    )  # of a collapsed run nothing counts
    crossed, alone = spectra.steps_alone(steps, values, learned=least)
    times = np.asarray(spectra.step_times(steps, values / np.maximum(final, least)))
    return {
        "crossed": crossed if good else 0,
        "alone": alone if good else 0,
        "step_times": (times if good else np.full_like(final, np.inf)).tolist(),
        "final": final.tolist(),
        "growing": bool(good and len(values) > 2 and _growing(values, least)),
        "start": values[0].tolist(),
        "rankme": float(np.asarray(run.stats["rankme"])[kept][-1]),
        "result": str(run.result),
    }


def _growing(values: np.ndarray, least: float) -> bool:
    """Whether an eigenvalue that counts rose by more than a fifth over the last two samples."""
    return bool(((values[-1] > least) & (values[-1] > 1.2 * values[-3])).any())


def _finite(run: Trajectory) -> np.ndarray:
    """Which samples are finite; the first always is."""
    return np.isfinite(np.asarray(run.loss)) & np.isfinite(np.asarray(run.eigenvalues)).all(axis=1)


def describe(found: dict[str, Any]) -> str:
    """How many modes were learned, of a run's `numbers`, in words."""
    return (
        f"{found['crossed']} mode{'' if found['crossed'] == 1 else 's'} learned, {found['alone']} "
        f"of them alone"
    )
