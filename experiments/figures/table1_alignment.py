"""The empirical NTK of a trained network predicts the subspace that the network has learned.

Claim          The subspace that a network has learned is close to the one that kernel theory
               predicts from its eNTK after training. It is closer than the predictions from the
               eNTK at initialisation and from the pixels, and far closer than chance.
Paper          Simon et al. (2023), Table 1: ResNet-50 on STL-10, 1000 pairs, d = 50: Barlow Twins
               0.615, SimCLR 0.517, VICReg 0.592, random subspaces 0.025
Command        make table1 (PRESET=smoke|laptop|paper, DATA=..., DATA_DIR=...); it reads fig3's runs
Time, 2 cores  smoke 30 s, laptop 70 s, both with fig3's runs finished
Expected       for each method: alignment of the trained eNTK above those of the initial eNTK and of
               the pixel kernel on the same views; p-value against random subspaces below 0.01

The views are new augmentations of training images, and the network is in evaluation mode. Kernel
and embedding are centred at the mean over all views. d is the number of modes that the run learned:
the embedding is projected on its d leading principal directions, and directions that were not
learned are left out of the comparison.
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

KERNELS = {"trained": "trained eNTK", "start": "initial eNTK", "pixels": "pixel kernel"}
"""Labels of the three kernels."""


def run(config: Config, progress: Progress = silent) -> Result:
    """Score the predictions of three kernels against each method's embedding."""
    arrays: dict[str, np.ndarray] = {}
    summaries: dict[str, Any] = {}
    for method in config.methods:
        subject = inspected.subject(config, method, progress)
        progress(f"{find(method).title}, eNTK of {len(subject.x)} views after and before training")
        kernels = {
            "trained": subject.kernel(subject.steps[-1]),
            "start": subject.kernel(0),
            "pixels": subject.pixel_kernel,
        }
        scores = {
            name: entk.score(
                K, subject.embedding, resamples=config.resamples, seed=config.seed
            ).summary()
            for name, K in kernels.items()
        }
        summaries[method] = scores | {"d": subject.d, "views": len(subject.x)}
        arrays[f"{method}_embedding"] = subject.embedding
    return Result(arrays, {"methods": summaries, "config": asdict(config)})


def check(result: Result) -> list[Check]:
    """Check that the trained eNTK predicts better than chance and than both other kernels."""
    checks = []
    for method, summary in result.numbers["methods"].items():
        name, a = find(method).title, {kernel: summary[kernel]["alignment"] for kernel in KERNELS}
        least = min(resnets.ALONE, result.numbers["config"]["d"] - 1)
        checks += [
            Check(f"{name}: modes learned", summary["d"], least, ">=", premise=True),
            Check(
                f"{name}: p-value against random subspaces",
                summary["trained"]["p_value"],
                0.01,
                "<=",
            ),
            Check(
                f"{name}: alignment, trained eNTK / initial eNTK",
                a["trained"] / a["start"],
                ABOVE,
                ">=",
            ),
            Check(
                f"{name}: alignment, trained eNTK / pixel kernel",
                a["trained"] / a["pixels"],
                ABOVE,
                ">=",
            ),
        ]
    return checks


def plot(result: Result) -> Figure:
    """Draw a bar with a 95% interval for each method and kernel, and the random level."""
    methods = result.numbers["methods"]
    config = result.numbers["config"]
    fig = plotting.figure(9, 5)
    ax = fig.subplots()
    colours = dict(zip(KERNELS, (plotting.BLUE, plotting.ORANGE, plotting.GREEN), strict=True))
    for i, summary in enumerate(methods.values()):
        for j, (kernel, label) in enumerate(KERNELS.items()):
            x, score = i + 0.26 * (j - 1), summary[kernel]
            low, high = (np.nan if end is None else end for end in score["interval"])
            off = [[score["alignment"] - low], [high - score["alignment"]]]
            ax.bar(
                x, score["alignment"], 0.24, color=colours[kernel], label=label if i == 0 else None
            )
            ax.errorbar(x, score["alignment"], off, color=plotting.INK, capsize=3, lw=1.2)
            ax.text(
                x,
                max(high, score["alignment"]) + 0.015,
                f"{score['alignment']:.2f}",
                ha="center",
                fontsize=9,
            )
        level = summary["trained"]["random"]
        ax.plot(
            [i - 0.42, i + 0.42],
            [level] * 2,
            color=plotting.INK,
            ls=":",
            label="random" if i == 0 else None,
        )
    ax.set_xticks(
        range(len(methods)),
        [f"{find(name).title}, d = {summary['d']}" for name, summary in methods.items()],
    )
    ax.set(
        ylim=(0, 1.15),
        yticks=np.linspace(0, 1, 6),
        ylabel="alignment of predicted and real subspace",
        xlabel="method, and number d of modes learned",
    )
    ax.set_title("A trained network's kernel predicts what it learned")
    ax.legend(loc="upper right", ncols=4)
    views = next(iter(methods.values()))["views"]
    fig.suptitle(f"{views} views of the training set: {images.title(config['data'])}", fontsize=12)
    return fig
