"""What a trained network's empirical NTK predicts of its own embedding.

Claim          The subspace that a network has learned is near the one that kernel theory predicts
               from its eNTK after training: nearer than what the eNTK at initialisation or the
               pixels alone predict, and far from chance.
Paper          Simon et al. 2023, Table 1: ResNet-50 on STL-10, 1000 pairs, d = 50: Barlow Twins
               0.615, SimCLR 0.517, VICReg 0.592, random subspaces 0.025.
Command        make table1 (PRESET=smoke|laptop|paper, DATA=..., DATA_DIR=...); it reads fig3's runs
Time, 2 cores  see the README's table of figures
Expected       each method's trained eNTK above both nulls on the same views; p-value against chance
               below 0.01

Views are fresh ones of images of the training set, the network in evaluation mode, kernel and
embedding centred at the mean over all views. d is the number of modes that the run learned: what it
did not learn has no place to agree in, so that the embedding is taken on its leading principal
directions.
"""

from dataclasses import asdict
from typing import Any

import numpy as np

from experiments.contract import Check, Progress, Result, silent
from experiments.shared import images, inspected, resnets
from experiments.shared.inspected import Config
from experiments.shared.resnets import ABOVE, digest
from stepwise import entk, plotting
from stepwise.methods import find
from stepwise.plotting import Figure

__all__ = ["Config", "check", "digest", "plot", "run"]

SECONDS = {"smoke": 30, "laptop": 70}
"""About what it takes on two cores, for the time left of `make figures`."""

KERNELS = {"trained": "eNTK, trained", "start": "eNTK, at the start", "pixels": "pixel kernel"}


def run(config: Config, progress: Progress = silent) -> Result:
    """Each method's embedding against what three kernels predict of it."""
    arrays: dict[str, np.ndarray] = {}
    found: dict[str, Any] = {}
    for method in config.methods:
        of = inspected.subject(config, method, progress)
        progress(f"{find(method).title}, eNTK of {len(of.x)} views after training and before")
        kernels = {
            "trained": of.kernel(of.steps[-1]),
            "start": of.kernel(0),
            "pixels": of.pixel_kernel,
        }
        scores = {
            name: entk.score(
                K, of.embedding, resamples=config.resamples, seed=config.seed
            ).summary()
            for name, K in kernels.items()
        }
        found[method] = scores | {"d": of.d, "views": len(of.x)}
        arrays[f"{method}_embedding"] = of.embedding
    return Result(arrays, {"methods": found, "config": asdict(config)})


def check(result: Result) -> list[Check]:
    """That theory's prediction beats chance and both nulls."""
    checks = []
    for method, found in result.numbers["methods"].items():
        name, a = find(method).title, {kernel: found[kernel]["alignment"] for kernel in KERNELS}
        least = min(resnets.ALONE, result.numbers["config"]["d"] - 1)
        checks += [
            Check(f"{name}: modes learned", found["d"], least, ">=", premise=True),
            Check(
                f"{name}: p-value against random subspaces", found["trained"]["p_value"], 0.01, "<="
            ),
            Check(
                f"{name}: alignment, trained eNTK over that at the start",
                a["trained"] / a["start"],
                ABOVE,
                ">=",
            ),
            Check(
                f"{name}: alignment, trained eNTK over the pixel kernel",
                a["trained"] / a["pixels"],
                ABOVE,
                ">=",
            ),
        ]
    return checks


def plot(result: Result) -> Figure:
    """A bar a kernel for each method with its 95% interval, and the level of random subspaces."""
    methods = result.numbers["methods"]
    config = result.numbers["config"]
    fig = plotting.figure(9, 5)
    ax = fig.subplots()
    colours = dict(zip(KERNELS, (plotting.BLUE, plotting.ORANGE, plotting.GREEN), strict=True))
    for i, found in enumerate(methods.values()):
        for j, (kernel, label) in enumerate(KERNELS.items()):
            at, score = i + 0.26 * (j - 1), found[kernel]
            low, high = (np.nan if end is None else end for end in score["interval"])
            off = [[score["alignment"] - low], [high - score["alignment"]]]
            ax.bar(
                at, score["alignment"], 0.24, color=colours[kernel], label=label if i == 0 else None
            )
            ax.errorbar(at, score["alignment"], off, color=plotting.INK, capsize=3, lw=1.2)
            ax.text(
                at,
                max(high, score["alignment"]) + 0.015,
                f"{score['alignment']:.2f}",
                ha="center",
                fontsize=9,
            )
        level = found["trained"]["random"]
        ax.plot(
            [i - 0.42, i + 0.42],
            [level] * 2,
            color=plotting.INK,
            ls=":",
            label="random" if i == 0 else None,
        )
    ax.set_xticks(
        range(len(methods)),
        [f"{find(name).title}, d = {found['d']}" for name, found in methods.items()],
    )
    ax.set(
        ylim=(0, 1.15),
        yticks=np.linspace(0, 1, 6),
        ylabel="alignment of predicted and real subspace",
        xlabel="method, and modes that it learned",
    )
    ax.set_title("A trained network's kernel predicts what it learned")
    ax.legend(loc="upper right", ncols=4)
    views = next(iter(methods.values()))["views"]
    fig.suptitle(f"{views} views of the training set: {images.title(config['data'])}", fontsize=12)
    return fig
