"""A small run whose state has every part that a checkpoint must hold: `python -m
tests.training.small FOLDER [PAUSE]`.
"""

import sys
import time
from functools import partial

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from stepwise import losses, models, training, views
from stepwise.methods import Objective
from stepwise.training.log import RunLog
from stepwise.training.plan import Plan
from stepwise.training.step import Step

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
LOCAL = views.MultiCrop(
    views.View(views.Crop(8)), views.View(views.Crop(8), flip=0.5), views.View(views.Crop(4)), 3
)
"""Two global views and three local crops of these images."""
DINO = Objective(
    partial(losses.dino_with_running_center, warmup_steps=4, teacher_temperature=0.07),
    decay=0.9,
    state=losses.dino_center,
)
"""An objective with a target network and a state, which takes local crops."""


def encoder(**options):
    """Build an encoder of one residual block, with batch normalisation in backbone and head."""
    rngs = nnx.Rngs(0)
    backbone = models.ResNet((1,), width=4, stem="small", rngs=rngs, **options)
    return models.Encoder(
        backbone, models.Head(backbone.features, [6, 4], rngs=rngs, **_select_dtypes(options))
    )


def _select_dtypes(options):
    return {name: value for name, value in options.items() if name.endswith("dtype")}


def plan(**options):
    """Return a plan: Adam on a schedule, 120 steps of 8 pairs, a checkpoint every 10 steps."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.01, 10, 120)
    recipe = views.Recipe(*[views.View(views.Crop(6), flip=0.5)] * 2)
    settings = {"probe": 16, "records": 30, "checkpoint_every": 10, "dispatch": 4} | options
    steps, lr = settings.pop("steps", 120), settings.pop("lr", schedule)
    return Plan(steps, 8, lr, optax.adam, recipe, **settings)


def run(folder, **options):
    """Train BYOL, which has a predictor and a slow target."""
    predictor = models.Head(4, [6, 4], rngs=nnx.Rngs(1))
    return training.train(
        encoder(),
        PIXELS,
        Objective(losses.byol, True, 0.9),
        plan(**options),
        predictor=predictor,
        folder=folder,
    )


def numbers(trained):
    """Return all numbers of a run by name: its trajectory and its parameters."""
    trajectory = trained.trajectory
    arrays = {
        name: np.asarray(getattr(trajectory, name)) for name in ("times", "eigenvalues", "loss")
    }
    arrays |= {name: np.asarray(value) for name, value in trajectory.stats.items()}
    _, *state = models.stateful(trained.encoder)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return arrays | {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def interrupt(train, monkeypatch, *, after):
    """Call a function that trains, and interrupt it before more than `after` steps are done."""
    advance, calls = Step.advance, []

    def interrupted(program, state, count):
        calls.append(count)
        if sum(calls) > after:
            raise KeyboardInterrupt
        return advance(program, state, count)

    with monkeypatch.context() as patch:
        patch.setattr(Step, "advance", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train()


if __name__ == "__main__":
    pause = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
    add = RunLog.add

    def slowly(log, measured):
        time.sleep(pause)
        add(log, measured)

    RunLog.add = slowly
    done = run(sys.argv[1])
    print("finished" if done.finished else "unfinished", len(done.trajectory.times))
    np.savez(f"{sys.argv[1]}/numbers.npz", **numbers(done))
