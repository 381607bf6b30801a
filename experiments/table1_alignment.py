"""What a trained network's empirical NTK predicts of its own embedding: the alignment of two subspaces.

Claim          The subspace that a network has learned is near the one that kernel theory predicts from its eNTK after
               training: nearer than what the eNTK at initialisation or the pixels alone predict, and far from chance.
Paper          Simon et al. 2023, Table 1: ResNet-50 on STL-10, 1000 pairs, d = 50: Barlow Twins 0.615, SimCLR 0.517,
               VICReg 0.592, random subspaces 0.025.
Command        make table1          (PRESET=smoke|laptop|paper, DATA=..., DATA_DIR=...); it reads fig3's runs
Time, 2 cores  see the README's table of figures
Expected       each method's trained eNTK above both nulls on the same views; p-value against chance below 0.01

Views are fresh ones of images of the training set, the network in evaluation mode, kernel and embedding centred at the
mean over all views. d is the number of modes that the run learned: what it did not learn has no place to agree in, so
that the embedding is taken on its leading principal directions.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import jax
import numpy as np
from flax import nnx
from matplotlib.figure import Figure

from experiments import images, resnets
from experiments.contract import Check, Progress, Result, silent
from experiments.resnets import ABOVE, TITLES, digest
from stepwise import entk, models, plotting, runs, spectra, views

__all__ = ["Config", "check", "digest", "plot", "run"]

KERNELS = {"trained": "eNTK, trained", "start": "eNTK, at the start", "pixels": "pixel kernel"}


@dataclass(frozen=True)
class Config(resnets.Config):
    """fig3's networks, and the views that they are looked at with."""

    n_pairs: int = 256
    """Pairs of fresh views."""
    resamples: int = 200
    """Halves of the pairs, for the intervals."""

    @classmethod
    def smoke(cls) -> Self:
        """Seconds, on the smoke preset's runs."""
        return replace(super().smoke(), n_pairs=32, resamples=20)

    @classmethod
    def paper(cls) -> Self:
        """The source's 1000 pairs."""
        return replace(super().paper(), n_pairs=1000)


def run(config: Config, progress: Progress = silent) -> Result:
    """Each method's embedding against what three kernels predict of it, and against the other methods'."""
    arrays: dict[str, np.ndarray] = {}
    found: dict[str, Any] = {}
    embeddings: dict[str, np.ndarray] = {}
    for method in config.methods:
        trained = resnets.trained(config, method, progress)
        pixels = runs.load(config.training(method)).pixels
        x = _views(config, pixels)
        d = max(1, resnets.numbers(trained.trajectory)["crossed"])
        network = _at_rest(trained.encoder)
        z = np.asarray(jax.jit(network[0])(network[1], x), np.float64)
        embeddings[method] = _principal(z, d)
        progress(f"{TITLES[method]}, eNTK of {len(x)} views after training and before")
        start = _at_rest(runs.settled(runs.encoder(config.training(method), x.shape[-1]), pixels))
        flat = np.asarray(x.reshape(len(x), -1), np.float64)
        kernels = {"trained": _entk(network, x), "start": _entk(start, x), "pixels": flat @ flat.T}
        scores = {
            name: entk.score(K, embeddings[method], resamples=config.resamples, seed=config.seed).summary()
            for name, K in kernels.items()
        }
        found[method] = scores | {"d": d, "drift": entk.drift(kernels["start"], kernels["trained"])}
        arrays |= {f"{method}_embedding": z}
        arrays |= {f"{method}_{name}_{kind}": np.asarray(scores[name][kind]) for name in kernels for kind in CURVES}
    between = [[spectra.subspace_alignment(a, b) for b in embeddings.values()] for a in embeddings.values()]
    return Result(arrays | {"between": np.asarray(between)}, {"methods": found, "config": asdict(config)})


CURVES = ("leading", "captured")


def _views(config: Config, pixels: np.ndarray) -> np.ndarray:
    """The same images for all methods, two views of each, X stacked on X'; a key that no training has."""
    some = np.unique(np.linspace(0, len(pixels) - 1, min(config.n_pairs, len(pixels))).astype(int))
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    pair = views.positive_pairs(pixels[some], key, config.training(config.methods[0]).recipe)
    return np.concatenate([np.asarray(view, np.float32) for view in pair])


def _at_rest(encoder: nnx.Module) -> tuple[Any, Any]:
    """(apply, params) in evaluation mode."""
    forward, params, stats = models.stateful(encoder)
    return lambda params, x: forward(params, stats, x, False)[0], params


def _entk(network: tuple[Any, Any], x: np.ndarray) -> np.ndarray:
    return np.asarray(entk.gram(*network, x), np.float64)


def _principal(z: np.ndarray, d: int) -> np.ndarray:
    """The embedding, centred, on its d leading principal directions."""
    z = z - z.mean(axis=0)
    return z @ np.linalg.svd(z, full_matrices=False)[2][:d].T


def check(result: Result) -> list[Check]:
    """That theory's prediction beats chance and both nulls."""
    checks = []
    for method, found in result.numbers["methods"].items():
        name, a = TITLES[method], {kernel: found[kernel]["alignment"] for kernel in KERNELS}
        least = min(resnets.ALONE, result.numbers["config"]["d"] - 1)
        checks += [
            Check(f"{name}: modes learned", found["d"], least, ">=", premise=True),
            Check(f"{name}: p-value against random subspaces", found["trained"]["p_value"], 0.01, "<="),
            Check(f"{name}: alignment, trained eNTK over that at the start", a["trained"] / a["start"], ABOVE, ">="),
            Check(f"{name}: alignment, trained eNTK over the pixel kernel", a["trained"] / a["pixels"], ABOVE, ">="),
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
            ax.bar(at, score["alignment"], 0.24, color=colours[kernel], label=label if i == 0 else None)
            ax.errorbar(at, score["alignment"], off, color=plotting.INK, capsize=3, lw=1.2)
            ax.text(at, max(high, score["alignment"]) + 0.015, f"{score['alignment']:.2f}", ha="center", fontsize=9)
        level = found["trained"]["random"]
        ax.plot([i - 0.42, i + 0.42], [level] * 2, color=plotting.INK, ls=":", label="random" if i == 0 else None)
    ax.set_xticks(range(len(methods)), [f"{TITLES[name]}, d = {found['d']}" for name, found in methods.items()])
    ax.set(
        ylim=(0, 1.05), ylabel="alignment of predicted and real subspace", xlabel="method, and modes that it learned"
    )
    ax.set_title("A trained network's kernel predicts what it learned")
    ax.legend(loc="upper right", ncols=4)
    fig.suptitle(
        f"{len(result.arrays[f'{next(iter(methods))}_embedding'])} views of the training set: "
        f"{images.title(config['data'])}",
        fontsize=12,
    )
    return fig
