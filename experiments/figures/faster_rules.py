"""Faster learning: update rules that do not wait, each with its law, and what their speed costs.

Claim          Gradient descent waits ln(1/λ(0))/(8γ) for each mode. Momentum, Muon, powers of C and
               of Γ, and the relative polar rule wait less, as long as the law of each says. A rule
               that multiplies the gradient from the embedding's side learns the same leading modes
               as gradient descent, up to an angle that grows with the start by one exponent; one
               that multiplies the inputs, and momentum, select less, by the exponents of the
               theorem.
Paper          beyond the paper, which asks whether training can be made faster; the laws are those
               of `stepwise.updates`
Command        make faster (PRESET=smoke|laptop|paper, DATA=..., DATA_DIR=...)
Time, 2 cores  smoke 60 s, laptop 2 min
Expected       step times of ten modes within 2% of the law (relative polar: 3%), exponents of the
               angle within 0.1 of the theorem

The linear model of Barlow Twins is trained on crops of the photographs from random starts. Step
times are those of the leading half of the embedding's dimensions, because the last rows still turn.
In use, gradient descent and momentum take half of gradient descent's limit, Γ^−½ half of its own,
the power of C a twentieth of gradient descent's, Muon 40 steps, and the relative polar rule 0.05:
it needs 30 steps at 0.5 where all γ are alike, but diverged here at 0.2 and more. So did momentum
at half of its own limit. The black line is the least angle of any rule whose steps are made of
gradients alone.
"""

from collections.abc import Generator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from experiments.contract import Check, Progress, Result, silent
from experiments.shared import images, linear_rules
from experiments.shared.linear_rules import RULES
from stepwise import plotting
from stepwise.plotting import Figure
from stepwise.problem import from_views

__all__ = ["Config", "check", "plot", "run"]

SECONDS = {"smoke": 60, "laptop": 120}
"""About what it takes on two cores, for the time left of `make figures`."""


@dataclass(frozen=True)
class Config:
    """Settings of the figure."""

    data: str = "photos"
    """Images: photos, glyphs, cifar10, stl10, folder:PATH, pairs:PATH or npz:PATH."""
    data_dir: str | None = None
    """Folder that contains cifar10 or stl10."""
    side: int = 32
    """Side in pixels to which images are resized before they are cropped to 20 px."""
    n_pairs: int = 500
    modes: int = 10
    """Number of modes whose step times are compared."""
    kept: int = 200
    """Number of modes of the problem; the others have no time to grow."""
    start_scale: float = 1e-7
    """α, standard deviation of W(0)'s entries."""
    starts: int = 3
    trials: int = 8
    """Number of starts over which angles are averaged."""
    seed: int = 0
    x64: bool = True

    def __post_init__(self) -> None:
        """Reject numbers that are not positive before any image is loaded."""
        for name in ("n_pairs", "modes", "kept", "start_scale", "starts", "trials"):
            if not getattr(self, name) > 0:
                expected = f"{name}: expected a positive number"
                raise ValueError(f"{expected}, received {getattr(self, name)!r}")

    @classmethod
    def smoke(cls) -> "Config":
        """Return fewer pairs, modes and starts: a minute."""
        return cls(n_pairs=100, modes=4, kept=60, starts=1, trials=3)

    @classmethod
    def laptop(cls) -> "Config":
        """Return ten modes of the photographs and three starts."""
        return cls()

    @classmethod
    def paper(cls) -> "Config":
        """Return the paper's images."""
        return cls(data="cifar10")


def run(config: Config, progress: Progress = silent) -> Generator[Result, None, Result]:
    """Compare step times with the laws, then angles with the theorem, then speeds."""
    progress("views and the spectrum of Γ")
    problem = from_views(*images.crops(config), center="pooled").truncate(config.kept)
    shared = (config.start_scale, config.starts, config.seed, progress)
    arrays, times = linear_rules.step_times(problem, config.modes, *shared)
    about = {"config": asdict(config), "gamma": np.asarray(problem.gamma)[: config.modes].tolist()}
    result = Result(arrays, {"times": times, **about})
    yield result
    selection = linear_rules.selection(config.trials, config.seed, progress)
    result = Result(result.arrays, result.numbers | {"selection": selection})
    yield result
    fast, speed = linear_rules.speed(
        problem, config.modes, config.start_scale, config.seed, progress
    )
    return Result(result.arrays | fast, result.numbers | {"speed": speed})


def check(result: Result) -> list[Check]:
    """Check step times, exponents, and that every rule learns all modes at its rate for use."""
    checks = []
    for name, numbers in result.numbers["times"].items():
        bound = linear_rules.POLAR if name == "polar" else linear_rules.TIMES
        off = float(np.abs(np.asarray(numbers["ratios"]) - 1).max())
        title = RULES[name].title
        checks.append(Check(f"{title}: step times over the law's, largest error", off, bound, "<="))
    for name, numbers in result.numbers.get("selection", {}).items():
        off, title = abs(numbers["slope"] - numbers["expected"]), RULES[name].title
        bound = linear_rules.EXPONENTS
        checks.append(Check(f"{title}: exponent of the angle, error", off, bound, "<="))
    for name, numbers in result.numbers.get("speed", {}).items():
        learned = float(numbers["steps"] is not None)
        checks.append(Check(f"{RULES[name].title}: all modes learned (1) or not", learned, 1, "=="))
    return checks


def plot(result: Result) -> Figure:
    """Draw step times and their laws, angles by start, and speed against angle."""
    a, numbers = result.arrays, result.numbers
    config = numbers["config"]
    fig = plotting.figure(11, 8.5)
    axes: Any = fig.subplots(2, 2)
    _draw_curves(axes[0, 0], a)
    _draw_ratios(axes[0, 1], numbers["times"])
    _draw_angles(axes[1, 0], numbers.get("selection", {}))
    _draw_speed(axes[1, 1], a, numbers.get("speed", {}))
    fig.suptitle(
        f"Linear Barlow Twins under six update rules; {config['n_pairs']} pairs of "
        f"{images.title(config['data'])}, {config['modes']} modes, "
        f"start scale {config['start_scale']:g}",
        fontsize=12,
    )
    return fig


def _draw_curves(ax: Any, a: dict[str, np.ndarray]) -> None:
    """Draw how many modes are above 1/2 after each step: descent solid, law dashed."""
    for name, row in RULES.items():
        steps = a[f"rule_{name}_steps"]
        for kind, style in (("curves", {"label": row.title}), ("law", {"ls": (0, (4, 2))})):
            count = (a[f"rule_{name}_{kind}"] > 0.5).sum(axis=1)
            shown = steps > 0
            colour = row.colour if kind == "curves" else plotting.INK
            width: Any = 2.2 if kind == "curves" else 0.9
            ax.plot(steps[shown], count[shown], color=colour, lw=width, **style)
    ax.set(xscale="log", xlabel="step (at the small rate of each rule)", ylabel="modes learned")
    ax.legend(loc="upper left", fontsize=8)
    ax.yaxis.get_major_locator().set_params(integer=True)
    ax.set_title("A  Modes learned (dashed: law)")


def _draw_ratios(ax: Any, times: dict[str, Any]) -> None:
    for i, (name, numbers) in enumerate(times.items()):
        ratios = np.asarray(numbers["ratios"])
        modes = np.arange(1, ratios.shape[1] + 1) + 0.1 * (i - len(times) / 2)
        for row in ratios:
            ax.plot(modes, row, linear_rules.MARKERS[i], color=RULES[name].colour, mfc="none", ms=5)
    ax.axhline(1, color=plotting.INK, lw=0.8)
    ax.axhspan(1 - linear_rules.TIMES, 1 + linear_rules.TIMES, color="0.92", zorder=0)
    ax.set(xlabel="mode", ylabel="step time / law")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_title("B  Each law, mode by mode (grey: 2%)")


def _draw_angles(ax: Any, selection: dict[str, Any]) -> None:
    for i, (name, numbers) in enumerate(selection.items()):
        scales, sines = np.asarray(numbers["scales"]), np.asarray(numbers["sines"])
        row = RULES[name]
        label = f"{row.title}: {numbers['slope']:.2f} ({numbers['expected']:.2f})"
        ax.plot(scales, sines, linear_rules.MARKERS[i], color=row.colour, mfc="none", label=label)
        middle = np.exp(np.mean(np.log(scales))), np.exp(np.mean(np.log(sines)))
        ax.plot(scales, middle[1] * (scales / middle[0]) ** numbers["expected"], color=row.colour)
    ax.set(xscale="log", yscale="log", xlabel="start scale")
    ax.set_ylabel("sin θ to the three leading modes")
    if selection:
        ax.legend(loc="lower right", fontsize=7.5, title="exponent (theorem)", title_fontsize=8)
    ax.set_title("C  What a larger start forgets (lines: theorem)")


def _draw_speed(ax: Any, a: dict[str, np.ndarray], speed: dict[str, Any]) -> None:
    for i, (name, numbers) in enumerate(speed.items()):
        if numbers["steps"] is not None:
            style: dict[str, Any] = {
                "color": RULES[name].colour,
                "ms": 9,
                "label": RULES[name].title,
            }
            ax.plot(numbers["steps"], numbers["sine"], linear_rules.MARKERS[i], **style)
    if "krylov" in a:
        bound = a["krylov"]
        shown = bound > 1e-3
        ax.plot(np.flatnonzero(shown), bound[shown], color=plotting.INK, label="least possible")
    ax.set(xscale="log", yscale="log", xlabel="gradients until the last mode is learned")
    ax.set_ylabel("sin θ to the leading modes")
    if speed:
        ax.legend(loc="lower center", fontsize=8)
    ax.set_title("D  Speed against selection, at rates for use")
