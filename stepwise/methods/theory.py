"""The law of each method, as a function of a problem, and the loss to which it applies exactly.

A law is exact for one form of a loss, which need not be the official one: `Method.law` and
`Method.law_loss` say which. Where a law has an argument that the data do not determine (the
predictor's start, an offset), the value here is the one that `stepwise predict` uses.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jax import Array

from stepwise import laws, losses
from stepwise.types import Numbers, Whole

TEMPERATURE = 0.1
"""Temperature of SimCLR, the default of `losses.simclr`."""

OFFSET = 3.0
"""Norm of the vector around which embeddings start under SimCLR, as in its row's small start."""

PREDICTOR = 0.2
"""Start of the linear predictor of BYOL and SimSiam. Modes of smaller agreement do not grow."""

SCALE = 1 / 0.07
"""Scale of the products in CLIP, its value at the start of training."""


DECAY = 0.996
"""Decay rate of the target network of BYOL and DINO, as published."""


def simclr(problem: Any, d: Whole) -> laws.Law:
    """Return the law of the official loss from a start around an offset."""
    options = {"offset": OFFSET, "n": problem.n_pairs, "d": int(d)}
    return laws.SimCLR(problem.gamma, problem.sigma, TEMPERATURE, **options)


def vicreg(problem: Any, d: Whole) -> laws.Law:
    """Return the law of the official loss with its default weights."""
    return laws.VICReg(problem.gamma, problem.sigma, int(d), n=problem.n_pairs)


def spectral_contrastive(problem: Any, d: Whole) -> laws.Law:
    """Return the law of `unclipped_spectral_contrastive`."""
    return laws.SpectralContrastive(problem.gamma, problem.sigma, mu=10.0 * d, d=int(d))


def unclipped_spectral_contrastive(z1: Numbers, z2: Numbers) -> Array:
    """Compute `losses.spectral_contrastive` with mu = 10 d, at which it clips no embedding."""
    return losses.spectral_contrastive(z1, z2, mu=10.0 * z1.shape[1])


def byol(problem: Any, d: Whole) -> laws.Law:
    """Return the law of `unnormalised_byol` with a linear predictor, without a target network."""
    return laws.BYOL(problem.gamma, problem.sigma, PREDICTOR)


def byol_of_run(problem: Any, config: Any) -> laws.Law:
    """Return the law of `unnormalised_byol` with the predictor and the target of a run."""

    def law(ema: float | None) -> laws.Law:
        return laws.BYOL(problem.gamma, problem.sigma, config.predictor_start, ema=ema)

    return with_lag(law, config)


def with_lag(law: Callable[[float | None], laws.Law], config: Any) -> laws.Law:
    """Return the law of a run whose target follows with a lag, as its steps see it.

    The law's target follows at the rate μ per time, and grows with the first mode by the factor z
    in each step (`growth_factor`). A step of a run with the decay rate δ and the momentum β agrees
    with it if μ = (1 − δ)(z − β)/(δ lr). Both are found together.

    Args:
        law: a function of μ, or of None for no lag.
        config: a `training.Config`.

    Raises:
        ValueError: if the target never follows, δ = 1.
    """
    decay = DECAY if config.decay is None else config.decay
    if decay == 0:  # the target follows at once
        return law(None)
    if decay == 1:
        raise ValueError("decay: expected less than 1, received 1, a target that never follows")
    z = 1.0
    for _ in range(100):
        settled = law((1 - decay) * (z - config.momentum) / (decay * config.lr))
        before = z
        rate = float(np.max(np.asarray(settled.growth()))) / 2
        z = growth_factor(config.lr, config.momentum, max(rate, 0.0))
        if abs(z - before) < 1e-9:
            break
    return settled


def growth_factor(lr: float, momentum: float, rate: float) -> float:
    """Return the factor z by which descent with momentum β multiplies an amplitude in each step.

    If the amplitude grows at the rate r under the flow, z² − (1 + β + lr r) z + β = 0.
    """
    half = (1 + momentum + lr * rate) / 2
    return float(half + np.sqrt(half**2 - momentum))


def unnormalised_byol(p1: Numbers, p2: Numbers, z1: Numbers, z2: Numbers) -> Array:
    """Compute `losses.byol` without normalisation."""
    return losses.byol(p1, p2, z1, z2, normalise=False)


def simsiam(problem: Any, d: Whole) -> laws.Law:
    """Return the law of `unnormalised_simsiam` with a linear predictor."""
    return laws.BYOL(problem.gamma, problem.sigma, PREDICTOR, factor=1)


def simsiam_of_run(problem: Any, config: Any) -> laws.Law:
    """Return the law of `unnormalised_simsiam` with the predictor of a run."""
    return laws.BYOL(problem.gamma, problem.sigma, config.predictor_start, factor=1)


def unnormalised_simsiam(p1: Numbers, p2: Numbers, z1: Numbers, z2: Numbers) -> Array:
    """Compute `losses.simsiam` without normalisation."""
    return losses.simsiam(p1, p2, z1, z2, normalise=False)


def dino(problem: Any, d: Whole) -> laws.Law:
    """Return the law with d prototypes and the official temperatures, teacher and student alike."""
    return laws.DINO(problem.gamma, problem.sigma, int(d))


def dino_of_run(problem: Any, config: Any) -> laws.Law:
    """Return the law with the temperatures, the prototypes and the teacher of a run."""
    given = config.loss_options
    temperatures = {
        "student": given.get("student_temperature", 0.1),
        "teacher": given.get("teacher_temperature", 0.04),
    }

    def law(ema: float | None) -> laws.Law:
        shape = (problem.gamma, problem.sigma, config.head[-1])
        return laws.DINO(*shape, ema=ema, **temperatures)

    return with_lag(law, config)


def clip_one_tower(problem: Any, d: Whole) -> laws.Law:
    """Return the law of `unnormalised_clip`."""
    return laws.OneTowerCLIP(problem.gamma, problem.sigma, SCALE, d=int(d))


def unnormalised_clip(z1: Numbers, z2: Numbers) -> Array:
    """Compute `losses.clip` without normalisation, with the scale 1/0.07."""
    return losses.clip(z1, z2, scale=SCALE, normalise=False)


def lejepa(problem: Any, d: Whole) -> laws.Law:
    """Return the law of the official loss with its default weight, for one batch of all pairs."""
    return laws.LeJEPA(problem.gamma, problem.sigma, int(d), n=float(problem.n_pairs))


def lejepa_of_run(problem: Any, config: Any) -> laws.Law:
    """Return the law of the official loss with the batch size of a run."""
    n = float(config.batch_size)
    return laws.LeJEPA(problem.gamma, problem.sigma, config.head[-1], n=n)


def isotropic_lejepa(z1: Numbers, z2: Numbers) -> Array:
    """Compute `losses.lejepa` along fixed directions: 512 of them or more, in orthonormal frames.

    Their second moment is exactly isotropic, as the law assumes of many slices. That of 256 random
    directions is not.
    """
    d = z1.shape[1]
    draws = np.random.default_rng(0).normal(size=(math.ceil(512 / d), d, d))
    return losses.lejepa(z1, z2, slices=np.linalg.qr(draws)[0].reshape(-1, d))
