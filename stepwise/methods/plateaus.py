"""Levels at which the losses of the table are flat, besides that of total collapse.

Each function takes the number of pairs n of the loss, the dimension d of the embedding, and the
eigenvalues of the uncentred C of the two views [d], or None, and returns levels.
"""

import math
from typing import Any

import numpy as np

from stepwise.methods.row import Level

WAIT = (
    "wait for the next mode, or raise the learning rate within the stable range; other changes are "
    "needed only if the next eigenvalue of C no longer grows."
)
SMALLEST = 0.02
"""Eigenvalue of C from which a mode has a level of its own."""
COLLAPSE = "total collapse"
"""Name of the level of total collapse."""


def whitening(n: int, d: int, eigenvalues: Any) -> list[Level]:
    """Return d − k after k = 1 ... d learned modes, of ‖C − I‖² with k eigenvalues at 1."""
    plateaus = [
        Level(
            f"{k} of {d} modes learned",
            float(d - k),
            f"{k} of {d} modes are learned, a plateau between two steps",
            WAIT,
            k,
        )
        for k in range(1, d)
    ]
    done = "the embedding is white, and every dimension is learned"
    advice = "nothing needs to change; a larger d would learn more modes."
    return [*plateaus, Level("all modes learned", 0.0, done, advice, d)]


def averaged(n: int, d: int, eigenvalues: Any) -> list[Level]:
    """Return ln(2n − 1), the level at total collapse of code that averages over all 2n anchors."""
    return [
        Level(
            "collapse, of the mean over 2n anchors",
            math.log(2 * n - 1),
            "the embedding is collapsed, if your code averages over all 2n anchors instead of "
            "adding the means of the two views",
            "check that the views differ between images, and wait for the first mode; raise the "
            "learning rate if no eigenvalue of C grows.",
        )
    ]


def factorisation(n: int, d: int, eigenvalues: Any) -> list[Level]:
    """Return 0 of a zero embedding, and −Σ_{j ≤ k} ρ_j² after k modes, whose λ_j rest at ρ_j².

    A constant embedding is the mode with agreement ρ = 1.
    """
    zero = Level(
        "zero embedding",
        0.0,
        "the embedding is zero, before the first mode",
        "wait for the first mode; a start that is too small delays it.",
    )
    if eigenvalues is None:
        return [zero]
    values = np.asarray(eigenvalues, np.float64)
    values = np.sort(values[values > SMALLEST])[::-1]
    return [
        zero,
        *(
            Level(
                f"{k} modes learned",
                -float(values[:k].sum()),
                f"{k} of {d} modes rest at their squared agreements, a plateau between two steps",
                WAIT,
            )
            for k in range(1, len(values) + 1)
        ),
    ]


def assignments(n: int, d: int, eigenvalues: Any) -> list[Level]:
    """Return ln K of uniform assignments to K = d prototypes, and 0 of one-hot ones."""
    return [
        Level(
            COLLAPSE,
            math.log(d),
            "assignments are uniform, each prototype as likely as the others for every image",
            "a mode grows only if the agreement of the views exceeds the ratio of the teacher's to "
            "the student's temperature: lower the teacher's temperature, or use weaker views.",
            0,
        ),
        Level(
            "one-hot assignments",
            0.0,
            "student and teacher put each image on one prototype, with no uncertainty",
            "count the prototypes in use: if it is one for all images, strengthen the centring (a "
            "faster running centre) or raise the teacher's temperature.",
        ),
    ]
