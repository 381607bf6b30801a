"""`stepwise predict`: from images alone, before any training, which modes will be learned, when,
and how surely.
"""

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from stepwise import _check, dynamics, kernels, laws, plotting, problem, record, validity, views
from stepwise.cli.images import Source
from stepwise.laws import LawOf
from stepwise.moments import Center
from stepwise.problem import Problem

SHOWN = 8


@dataclass(frozen=True)
class Predict(Source):
    """Say what Barlow Twins will learn of your images, in which order, and when: before any
    training.

    Of a linear model, or of an infinitely wide network, from a small start: its modes, the step at
    which each is learned, and how far the closed form is to be trusted.
    """

    n_pairs: int = 500
    """Images, two views of each."""
    recipe: str = "crop20"
    """Of the views: a name in `views.RECIPES`."""
    model: Literal["linear", "infinite_width"] = "linear"
    """infinite_width: the NTK of a ReLU network with one hidden layer."""
    center: Center = "pooled"
    """Views are centred at the mean of all, at each view's own, or not."""
    d: int = 10
    """Dimensions of the embedding."""
    start_scale: float = 1e-6
    """Standard deviation of the starting weights, in mode coordinates."""
    lr: float | None = None
    """Learning rate of the descent to be predicted; by default a hundredth of the largest stable
    one.
    """
    seed: int = 0
    """Of the choice of images and of their views."""
    out: Path = Path("results/predict")
    """Folder of summary.json, arrays.npz, config.json and the figure; the next call writes over
    them.
    """

    def run(self) -> int:
        """Print the report and write its files."""
        began = time.perf_counter()
        record.require_writable("--out", self.out)
        for name, least in (("n_pairs", 2), ("d", 1)):
            _check.require(
                getattr(self, name) >= least,
                name,
                f"a whole number from {least}",
                getattr(self, name),
            )
        _check.require(
            self.recipe in views.RECIPES,
            "recipe",
            f"one of {sorted(views.RECIPES)}",
            repr(self.recipe),
        )
        images = self.load(self.n_pairs, self.seed)
        pair = views.positive_pairs(images.pixels, jax.random.key(self.seed + 1), self.recipe)
        with jax.enable_x64(True):
            x, x2 = (np.asarray(view, np.float64) for view in pair)
            p = self._problem(x, x2)
            lr = (
                self.lr
                if self.lr is not None
                else 0.01 * float(p.max_stable_lr(law=self._law(), d=self.d))
            )
            report = validity.report(
                p, self.d, law=self._law(), start_scale=self.start_scale, lr=lr
            )
            arrays, numbers = self._curves(p, report, lr)
        print(
            f"{images.source}: {len(x)} pairs ({self.recipe}), {x[0].size} numbers a view; "
            f"{self.model} model"
        )
        gamma = np.asarray(p.gamma)
        print(
            f"{int((gamma > 0).sum())} of {gamma.size} modes can be learned; γ = "
            f"{_row(gamma[:SHOWN])}, ..."
        )
        print(report)
        if report.stable:
            steps = [
                f"{math.ceil(time / lr):,}"
                for time in report.step_times[:SHOWN]
                if np.isfinite(time)
            ]
            print(f"in steps of gradient descent with lr = {lr:.4g}: {'; '.join(steps)}, ...")
        with plotting.style():
            figure = _figure(
                arrays,
                f"{images.source}: {len(x)} pairs, {self.model.replace('_', ' ')} model, d = "
                f"{self.d}",
            )
            seconds = time.perf_counter() - began
            config = asdict(self) | {"command": "predict"}
            written = record.write(
                self.out,
                "prediction",
                arrays=arrays,
                numbers=numbers,
                config=config,
                seconds=seconds,
                figure=figure,
            )
        print(written)
        return 0

    def _law(self) -> LawOf:
        """The law of the loss whose course is predicted."""
        return None

    def _problem(self, x: np.ndarray, x2: np.ndarray) -> Problem:
        if self.model == "linear":
            return problem.from_views(x, x2, center=self.center)
        from stepwise.neural_tangents import nt

        stax = nt.stax
        network = kernels.infinite_width(
            [stax.Flatten(), stax.Dense(1), stax.Relu(), stax.Dense(1)], get="ntk"
        )
        return problem.from_kernel(network, x - 0.5, x2 - 0.5, center=self.center)

    def _curves(
        self, p: Problem, report: validity.Report, lr: float
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The closed form of a typical start up to half as long again as the last step, and all
        numbers.
        """
        learned = report.step_times[np.isfinite(report.step_times)]
        _check.require(
            learned.size > 0,
            self.data,
            "images with at least one positive mode",
            "none: nothing is learned",
        )
        times = np.geomspace(learned.min() / 5, 1.5 * learned.max(), 400)
        k = min(self.d, p.gamma.size)
        mean, _ = (np.asarray(part)[:k] for part in laws.expected_start(self.d))
        A0 = np.zeros((self.d, p.gamma.size))
        first = np.asarray(laws.law_of(self._law(), p, self.d).order)[:k]
        A0[np.arange(k), first] = self.start_scale * np.exp(mean / 2)
        curve = dynamics.closed_form(p, A0, times, law=self._law())
        arrays = {
            "gamma": np.asarray(p.gamma),
            "times": times,
            "steps": times / lr,
            "eigenvalues": np.asarray(curve.eigenvalues),
            "loss": np.asarray(curve.loss),
            "step_times": report.step_times,
        }
        return arrays, {
            "validity": report.summary(),
            "lr": lr,
            "n_pairs": p.n_pairs,
            "rank": int(p.gamma.size),
        }


def _row(values: np.ndarray) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _figure(a: dict[str, np.ndarray], title: str) -> plotting.Figure:
    """The loss, the eigenvalues of C, and the spectrum that they follow from."""
    fig = plotting.figure(13, 4.4)
    axes: Any = fig.subplots(1, 3)
    curve = (a["times"], a["eigenvalues"], a["loss"])
    plotting.loss(axes[0], curve, steps=a["step_times"])
    axes[0].set_title("A  The loss that is to be expected")
    plotting.eigenvalues(axes[1], curve, steps=a["step_times"])
    axes[1].set_title("B  One eigenvalue after another")
    rank = np.arange(1, a["gamma"].size + 1)
    positive = a["gamma"] > 0
    d = a["eigenvalues"].shape[1]
    axes[2].plot(rank[positive], a["gamma"][positive], color="0.75", label="positive modes")
    for j, colour in enumerate(plotting.mode_colours(d)[: int(positive.sum())]):
        axes[2].plot(
            rank[j], a["gamma"][j], "o", color=colour, label=f"the first {d}" if j == 0 else None
        )
    axes[2].set(xscale="log", yscale="log", xlabel="mode", ylabel="γ")
    axes[2].set_title("C  The spectrum of Γ")
    axes[2].legend(loc="lower left")
    fig.suptitle(plotting.plain(title), fontsize=12)
    return fig
