"""The empirical NTK changes in training, towards a kernel that predicts the learned embedding.

Claim          The kernel changes while its network learns, towards one that predicts the embedding.
               It predicts the largest modes best, its prediction improves with training, and a
               method's own kernel predicts its embedding better than another method's kernel does.
               Different methods learn similar subspaces.
Paper          beyond the paper, which has one number per method (Table 1) and asks what else the
               kernel predicts
Command        make fig8 (PRESET=smoke|laptop|paper, DATA=..., DATA_DIR=...); it reads fig3's runs
Time, 2 cores  smoke 30 s, laptop 9 min, both with fig3's runs finished
Expected       for each method: alignment of the trained kernel above that of the initial one; first
               half of the modes predicted at least as well as all of them; relative change of the
               kernel's direction above 0.1; own kernel better than the other methods' kernels;
               embeddings of two methods more similar than chance

All panels use the final embedding, on as many principal directions as the run learned modes.
"""

from dataclasses import asdict
from typing import Any

import numpy as np

from experiments.contract import Check, Progress, Result, silent
from experiments.shared import images, inspected, resnets
from experiments.shared.inspected import Config
from experiments.shared.resnets import ABOVE, digest
from stepwise import entk, plotting, spectra
from stepwise.methods import find
from stepwise.plotting import Figure

__all__ = ["Config", "check", "digest", "plot", "run"]

SECONDS = {"smoke": 30, "laptop": 530}
"""About what it takes on two cores, for the time left of `make figures`."""

MOVED = 0.1
"""Smallest relative change of a kernel's direction that counts as a change."""


def run(config: Config, progress: Progress = silent) -> Result:
    """Score kernels of several steps, and kernels of all methods, against the final embeddings."""
    arrays: dict[str, np.ndarray] = {}
    summaries: dict[str, Any] = {}
    subjects, last = {}, {}
    for method in config.methods:
        subject = subjects[method] = inspected.subject(config, method, progress)
        scores, drifts, turns = [], [], []
        start = subject.kernel(0)
        steps = _choose_steps(subject.steps, config.kernels)
        for step in steps:
            progress(f"{find(method).title}, eNTK of {len(subject.x)} views after {step} steps")
            K = subject.kernel(step)
            scores.append(entk.score(K, subject.embedding, draws=99, seed=config.seed))
            drifts.append(entk.drift(start, K))
            turns.append(entk.drift(start, K, scaled=True))
        last[method] = K
        arrays |= {
            f"{method}_steps": np.asarray(steps),
            f"{method}_alignment": np.asarray([score.alignment for score in scores]),
            f"{method}_leading": scores[-1].leading,
            f"{method}_captured": scores[-1].captured_share,
            f"{method}_drift": np.asarray(drifts),
            f"{method}_turned": np.asarray(turns),
        }
        summaries[method] = {
            "d": subject.d,
            "views": len(subject.x),
            "step_times": subject.numbers["step_times"],
            "half": float(scores[-1].captured_share[max(1, subject.d // 2) - 1]),
        }
    embeddings = {method: subject.embedding for method, subject in subjects.items()}
    kernels = last | {"pixels": subjects[config.methods[0]].pixel_kernel}
    progress("score of every kernel against every embedding")
    arrays["between"] = np.array(
        [
            [spectra.subspace_alignment(a, b) for b in embeddings.values()]
            for a in embeddings.values()
        ]
    )
    arrays["predicted"] = np.array(
        [
            [entk.score(K, z, draws=1).alignment for z in embeddings.values()]
            for K in kernels.values()
        ]
    )
    return Result(arrays, {"methods": summaries, "config": asdict(config)})


def _choose_steps(steps: list[int], count: int) -> list[int]:
    """Return the first step and `count` later ones, evenly spaced in the list up to its end."""
    later = np.asarray(steps[1:])
    return [
        steps[0],
        *later[np.unique(np.linspace(0, len(later) - 1, count).round().astype(int))].tolist(),
    ]


def check(result: Result) -> list[Check]:
    """Check that each kernel changes, improves, predicts large modes best, and is its method's."""
    checks, a = [], result.arrays
    methods = list(result.numbers["methods"])
    for i, (method, summary) in enumerate(result.numbers["methods"].items()):
        name, alignment, rows = find(method).title, a[f"{method}_alignment"], summary["views"]
        least = min(resnets.ALONE, result.numbers["config"]["d"] - 1)
        other_kernels = np.delete(a["predicted"][: len(methods), i], i)
        between = np.delete(a["between"][i], i)
        checks += [
            Check(f"{name}: modes learned", summary["d"], least, ">=", premise=True),
            Check(
                f"{name}: relative change of the kernel's direction",
                a[f"{method}_turned"][-1],
                MOVED,
                ">=",
            ),
            Check(
                f"{name}: alignment, final kernel / initial kernel",
                alignment[-1] / alignment[0],
                ABOVE,
                ">=",
            ),
            Check(
                f"{name}: alignment, first half of the modes / all modes",
                summary["half"] / alignment[-1],
                1,
                ">=",
            ),
        ]
        if len(methods) > 1:
            near = between.min() / spectra.random_alignment(summary["d"], rows - 1)
            checks += [
                Check(
                    f"{name}: alignment, own kernel / best other method's kernel",
                    alignment[-1] / other_kernels.max(),
                    ABOVE,
                    ">=",
                ),
                Check(
                    f"{name}: alignment with the least similar embedding / chance",
                    near,
                    ABOVE,
                    ">=",
                ),
            ]
    return checks


def plot(result: Result) -> Figure:
    """Draw alignment by mode and by step, the change of the kernel, and two matrices of methods."""
    a, methods, config = result.arrays, result.numbers["methods"], result.numbers["config"]
    styles = {name: (find(name).colour, find(name).marker) for name in methods}
    colours, markers = ({name: style[i] for name, style in styles.items()} for i in (0, 1))
    fig = plotting.figure(13, 8.6)
    halves: Any = fig.subfigures(2, 1, height_ratios=[1.15, 1])
    top = halves[0].subplots(1, 3)
    for method, summary in methods.items():
        style: Any = {"color": colours[method], "marker": markers[method], "ms": 5}
        k, steps = np.arange(1, summary["d"] + 1), a[f"{method}_steps"]
        shown = np.where(steps > 0, steps, steps[1] / 2.5)
        top[0].plot(k, a[f"{method}_captured"], **style)
        top[0].plot(k, a[f"{method}_leading"], color=colours[method], ls=(0, (4, 2)))
        top[1].plot(shown, a[f"{method}_alignment"], **style, label=find(method).title)
        top[2].plot(shown[1:], a[f"{method}_turned"][1:], **style)
        top[2].plot(shown[1:], a[f"{method}_drift"][1:], color=colours[method], ls=(0, (4, 2)))
    rows = next(iter(methods.values()))["views"]
    most = max(summary["d"] for summary in methods.values())
    top[0].plot(
        [1, most], [1 / (rows - 1), most / (rows - 1)], color=plotting.INK, ls=":", label="random"
    )
    top[0].plot([], [], color=plotting.INK, label="k predicted modes, whole embedding")
    top[0].plot([], [], color=plotting.INK, ls=(0, (4, 2)), label="its k largest directions")
    top[0].set(
        xlabel="number k of modes, from the largest",
        ylabel="alignment",
        ylim=(0, 1.3),
        yticks=np.linspace(0, 1, 6),
    )
    top[0].set_title("A  Large modes are predicted a little better")
    top[1].set(
        xscale="log", ylim=(0, 1.02), xlabel="step of the kernel (leftmost: 0)", ylabel="alignment"
    )
    top[1].set_title("B  Later kernels predict it better")
    top[2].set(
        xscale="log",
        yscale="log",
        xlabel="step",
        ylabel="relative distance from the initial kernel",
    )
    top[2].set_title("C  The kernel changes throughout training")
    top[2].plot([], [], color=plotting.INK, label="direction only")
    top[2].plot([], [], color=plotting.INK, ls=(0, (4, 2)), label="direction and size")
    for ax, place in zip(top, ("upper left", "lower right", "upper left"), strict=True):
        ax.legend(loc=place)
    left, right = halves[1].subplots(1, 2)
    names = [f"{find(method).title}\nd = {summary['d']}" for method, summary in methods.items()]
    _matrix(left, a["between"], names, names, "D  Alignment of two methods' embeddings")
    kernels = [f"{find(method).title}'s eNTK" for method in methods] + ["pixel kernel"]
    _matrix(right, a["predicted"], kernels, names, "E  Alignment of predicted and real embedding")
    left.set(xlabel="embedding of", ylabel="embedding of")
    right.set(xlabel="embedding of", ylabel="predicted by")
    fig.suptitle(f"{rows} views of the training set: {images.title(config['data'])}", fontsize=12)
    return fig


def _matrix(ax: Any, values: np.ndarray, rows: list[str], columns: list[str], title: str) -> None:
    ax.imshow(values, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        ax.text(
            j,
            i,
            f"{value:.2f}",
            ha="center",
            va="center",
            color="black" if value > 0.5 else "white",
            fontsize=11,
        )
    ax.set_yticks(range(len(rows)), rows)
    ax.set_xticks(range(len(columns)), columns)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.set_title(title)
