"""How a network's kernel comes to predict what the network learns.

Claim          The kernel moves while its network learns, and towards the one that predicts the
               embedding: the largest modes are predicted best, the prediction grows better with
               training, and a method's embedding is predicted by its own kernel better than by
               another method's. Different methods learn similar subspaces.
Paper          beyond the source, which has one number a method (Table 1) and asks what else the
               kernel says
Command        make fig8 (PRESET=smoke|laptop|paper, DATA=..., DATA_DIR=...); it reads fig3's runs
Time, 2 cores  see the README's table of figures
Expected       for each method: the trained kernel's alignment above that at the start, the first
               half of its modes at least as near as all, a kernel that moved by more than a tenth
               of itself in direction, and the own kernel the best of the methods' for its
               embedding; embeddings of two methods nearer than chance

The embedding is the final one throughout, on as many principal directions as the run learned modes.
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


def run(config: Config, progress: Progress = silent) -> Result:
    """Kernels at every snapshot against the final embedding, and the last ones against the others'
    embeddings.
    """
    arrays: dict[str, np.ndarray] = {}
    found: dict[str, Any] = {}
    subjects, last = {}, {}
    for method in config.methods:
        of = subjects[method] = inspected.subject(config, method, progress)
        along, moved, turned = [], [], []
        start = of.kernel(0)
        steps = _some(of.steps, config.kernels)
        for step in steps:
            progress(f"{find(method).title}, eNTK of {len(of.x)} views after {step} steps")
            K = of.kernel(step)
            along.append(entk.score(K, of.embedding, draws=99, seed=config.seed))
            moved.append(entk.drift(start, K))
            turned.append(entk.drift(start, K, scaled=True))
        last[method] = K
        arrays |= {
            f"{method}_steps": np.asarray(steps),
            f"{method}_alignment": np.asarray([each.alignment for each in along]),
            f"{method}_leading": along[-1].leading,
            f"{method}_captured": along[-1].captured_share,
            f"{method}_drift": np.asarray(moved),
            f"{method}_turned": np.asarray(turned),
        }
        found[method] = {
            "d": of.d,
            "views": len(of.x),
            "step_times": of.numbers["step_times"],
            "half": float(along[-1].captured_share[max(1, of.d // 2) - 1]),
        }
    embeddings = {method: of.embedding for method, of in subjects.items()}
    kernels = last | {"pixels": subjects[config.methods[0]].pixel_kernel}
    progress("every kernel against every embedding")
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
    return Result(arrays, {"methods": found, "config": asdict(config)})


def _some(steps: list[int], count: int) -> list[int]:
    """The start, and so many of the later steps, evenly along their list to the last."""
    later = np.asarray(steps[1:])
    return [
        steps[0],
        *later[np.unique(np.linspace(0, len(later) - 1, count).round().astype(int))].tolist(),
    ]


def check(result: Result) -> list[Check]:
    """That the kernel moves, towards the one that predicts, in its large modes first, and is the
    method's own.
    """
    checks, a = [], result.arrays
    methods = list(result.numbers["methods"])
    for i, (method, found) in enumerate(result.numbers["methods"].items()):
        name, along, rows = find(method).title, a[f"{method}_alignment"], found["views"]
        least = min(resnets.ALONE, result.numbers["config"]["d"] - 1)
        others = np.delete(a["predicted"][: len(methods), i], i)
        between = np.delete(a["between"][i], i)
        checks += [
            Check(f"{name}: modes learned", found["d"], least, ">=", premise=True),
            Check(
                f"{name}: the kernel's turn, from start to end",
                a[f"{method}_turned"][-1],
                MOVED,
                ">=",
            ),
            Check(
                f"{name}: alignment, last kernel over the first", along[-1] / along[0], ABOVE, ">="
            ),
            Check(
                f"{name}: captured, first half of the modes over all",
                found["half"] / along[-1],
                1,
                ">=",
            ),
        ]
        if len(methods) > 1:
            near = between.min() / spectra.random_alignment(found["d"], rows - 1)
            checks += [
                Check(
                    f"{name}: own kernel over the best of the others",
                    along[-1] / others.max(),
                    ABOVE,
                    ">=",
                ),
                Check(f"{name}: the least like embedding, over chance", near, ABOVE, ">="),
            ]
    return checks


def plot(result: Result) -> Figure:
    """Alignment along k and along training, the kernel's drift; embeddings and predictions between
    the methods.
    """
    a, methods, config = result.arrays, result.numbers["methods"], result.numbers["config"]
    styles = {name: (find(name).colour, find(name).marker) for name in methods}
    colours, markers = ({name: style[i] for name, style in styles.items()} for i in (0, 1))
    fig = plotting.figure(13, 8.6)
    halves: Any = fig.subfigures(2, 1, height_ratios=[1.15, 1])
    top = halves[0].subplots(1, 3)
    for method, found in methods.items():
        style: Any = {"color": colours[method], "marker": markers[method], "ms": 5}
        k, steps = np.arange(1, found["d"] + 1), a[f"{method}_steps"]
        shown = np.where(steps > 0, steps, steps[1] / 2.5)
        top[0].plot(k, a[f"{method}_captured"], **style)
        top[0].plot(k, a[f"{method}_leading"], color=colours[method], ls=(0, (4, 2)))
        top[1].plot(shown, a[f"{method}_alignment"], **style, label=find(method).title)
        top[2].plot(shown[1:], a[f"{method}_turned"][1:], **style)
        top[2].plot(shown[1:], a[f"{method}_drift"][1:], color=colours[method], ls=(0, (4, 2)))
    rows = next(iter(methods.values()))["views"]
    most = max(found["d"] for found in methods.values())
    top[0].plot(
        [1, most], [1 / (rows - 1), most / (rows - 1)], color=plotting.INK, ls=":", label="random"
    )
    top[0].plot([], [], color=plotting.INK, label="k predicted modes in the whole embedding")
    top[0].plot([], [], color=plotting.INK, ls=(0, (4, 2)), label="in its k largest directions")
    top[0].set(
        xlabel="modes k, from the largest",
        ylabel="alignment",
        ylim=(0, 1.3),
        yticks=np.linspace(0, 1, 6),
    )
    top[0].set_title("A  Large modes are predicted a little better")
    top[1].set(
        xscale="log", ylim=(0, 1.02), xlabel="step of the kernel (leftmost: 0)", ylabel="alignment"
    )
    top[1].set_title("B  A step's kernel, the final embedding")
    top[2].set(
        xscale="log",
        yscale="log",
        xlabel="step",
        ylabel="distance from the first kernel, over its size",
    )
    top[2].set_title("C  The kernel moves all along")
    top[2].plot([], [], color=plotting.INK, label="direction alone")
    top[2].plot([], [], color=plotting.INK, ls=(0, (4, 2)), label="with its size")
    for ax, place in zip(top, ("upper left", "lower right", "upper left"), strict=True):
        ax.legend(loc=place)
    left, right = halves[1].subplots(1, 2)
    names = [f"{find(method).title}\nd = {found['d']}" for method, found in methods.items()]
    _matrix(left, a["between"], names, names, "D  Embeddings of two methods: alignment")
    kernels = [f"{find(method).title}'s eNTK" for method in methods] + ["pixel kernel"]
    _matrix(right, a["predicted"], kernels, names, "E  Whose kernel predicts whose embedding")
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
