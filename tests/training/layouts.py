"""The same program on one device, on eight, or in two processes: `python -m tests.training.layouts
OUT [PORT PROCESS]`.

If OUT already has a run, the program only resumes that run.
"""

import sys
from dataclasses import replace
from pathlib import Path

import jax

if __name__ == "__main__" and len(sys.argv) > 3:
    jax.distributed.initialize(f"127.0.0.1:{sys.argv[2]}", 2, int(sys.argv[3]))

import jax.numpy as jnp
import numpy as np
from flax import nnx

from stepwise import models, training
from stepwise.methods import METHODS
from stepwise.training.step import Step
from tests.training import small

F64 = {"dtype": jnp.float64, "param_dtype": jnp.float64}


def main(out):
    numbers = {
        "devices": np.asarray(jax.device_count()),
        "processes": np.asarray(jax.process_count()),
    }
    resumes = Path(out, "run").exists()
    for name, row in () if resumes else METHODS.items():
        objective = row.objective
        predictor = models.Head(4, [6, 4], rngs=nnx.Rngs(1), **F64) if objective.predictor else None
        step = Step(small.encoder(**F64), small.PIXELS, objective, small.plan(), predictor, None)
        state = step.start()
        loss, stats, slopes = step.gradient(state)
        for kind, tree in (("loss", loss), ("stats", stats), ("gradient", slopes)):
            leaves = jax.tree_util.tree_leaves_with_path(tree)
            numbers |= {
                f"{name} {kind}{jax.tree_util.keystr(path)}": np.asarray(leaf)
                for path, leaf in leaves
            }
    trained = training.train(
        small.encoder(**F64),
        small.PIXELS,
        small.DINO,
        replace(small.plan(steps=6, checkpoint_every=3), recipe=small.LOCAL),
        folder=f"{out}/run",
    )
    numbers |= {f"trained {name}": value for name, value in small.numbers(trained).items()}
    if jax.process_index() == 0:
        np.savez(f"{out}/numbers.npz", **numbers)


if __name__ == "__main__":
    main(sys.argv[1])
