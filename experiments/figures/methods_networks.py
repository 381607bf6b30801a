"""Networks of the other methods learn in steps too, the first when its law says.

Claim          From a small start, spectral contrastive learning, BYOL, SimSiam, CLIP (one tower),
               LeJEPA and IsoLoss learn one mode after another, and the first comes when the law of
               the linear model says. The wait is a power of the start where a predictor starts
               small too, and a logarithm elsewhere. DINO's first mode grows if its agreement
               exceeds the ratio of the teacher's to the student's temperature, and not below, and
               shuts out most others. LeJEPA learns in the order of variance, whatever the
               agreement.
Paper          beyond the paper, which names these systems and explains one loss; the laws' sources
               are in the docstrings of `stepwise.laws`
Command        make methods (PRESET=smoke|laptop|paper, DATA=..., DATA_DIR=...)
Time, 2 cores  smoke 90 s, laptop 1,500 training steps of each method and about as many again of
               its variants
Expected       bounds that were set beforehand: first steps within a factor of 1.5 of the law; with
               a quarter of the start, the wait grows as the law says to 25%; the other checks are
               of signs and counts

A network follows a law of the linear model while its features stand still, that is, until its first
step. The laws here are those of the features that each network starts with. Its losses are in the
form of which the law is exact: not normalised, with embeddings that are centred, and with a linear
predictor that starts as a multiple of the identity.
"""

from collections.abc import Generator
from dataclasses import asdict, dataclass, replace
from inspect import signature
from typing import Any, ClassVar

import numpy as np

from experiments.contract import Check, Progress, Result, silent
from experiments.shared import images, network_laws, resnets
from experiments.shared.network_laws import First
from experiments.shared.resnets import digest
from stepwise import plotting, staircase
from stepwise.methods import find
from stepwise.plotting import Figure

__all__ = ["Config", "check", "digest", "plot", "run"]

SECONDS = {"smoke": 90, "laptop": 6000}
"""A guess of what it takes on two cores, for the time left of `make figures`."""

FACTOR, WAIT = 1.5, 0.25
"""Bounds of the checks: factor between the first step and its law, relative error of a wait."""
POWER, LOGARITHM = 0.4, 0.25
"""Exponent of a wait in the start: at least, where a predictor starts small; at most, elsewhere."""
WAITS = (10, 20, 50, 100, 200, 500, 1000, 2000)
"""Ticks of the axis of waits, in steps."""
TEACHER = "teacher_temperature"
"""Argument of a loss whose law has a threshold."""


@dataclass(frozen=True)
class Config(resnets.Config):
    """Training runs of the methods that the paper's figures do not show."""

    in_paper: ClassVar[bool] = False
    snapshots: int = 0
    """Networks stored in training; the figure needs none."""
    starts: tuple[float, ...] = (0.5, 0.25)
    """Smaller starts, as factors on the start of each method; trained until the first mode."""
    temperatures: tuple[float, ...] = (0.5, 0.8, 1.25, 2.0)
    """Teacher's temperatures, in units of the student's times the first mode's agreement."""
    short: int = 400
    """Training steps at each of these temperatures."""
    uneven: str = "simclr_cifar"
    """Recipe of views in which the largest variance has a small agreement."""
    n_pairs: int = 1024
    """Number of images whose features the laws use."""

    @classmethod
    def smoke(cls) -> "Config":
        """Return a configuration that runs in a minute: the two methods with further runs, tiny."""
        base = super().smoke()
        short: dict[str, Any] = {"starts": (0.25,), "temperatures": (0.5, 2.0), "short": 150}
        return replace(base, methods=base.methods[3:6:2], d=4, n_pairs=64, snapshots=0, **short)


def run(config: Config, progress: Progress = silent) -> Generator[Result, None, Result]:
    """Train each method; then smaller starts, other temperatures and other views."""
    result = Result({}, {"methods": {}, "config": asdict(config)})
    for name in config.methods:
        arrays, numbers = _method(config, name, progress)
        every = result.numbers["methods"] | {name: numbers}
        result = Result(result.arrays | arrays, result.numbers | {"methods": every})
        if name != config.methods[-1]:
            yield result
    return result


def _method(
    config: Config, name: str, progress: Progress
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train one method and all variants of its run."""
    row, training = find(name), config.training(name)
    trained = resnets.trained(config, name, progress)
    begin = network_laws.first(training, config.runs_dir, config.n_pairs)
    arrays = resnets.arrays(name, trained.trajectory)
    steps = arrays[f"{name}_steps"]
    arrays |= {f"{name}_law": begin.curves(steps)}
    numbers: dict[str, Any] = staircase.numbers(trained.trajectory) | {
        "first": network_laws.crossing(begin.law, trained.trajectory, begin.level),
        "law": begin.step,
        "observable": begin.law.observable,
        "predictor": row.objective.predictor,
    }
    numbers["waits"] = [
        {"start": 1.0, "observed": numbers["first"], "law": numbers["law"]},
        *(_wait(config, training, factor, progress) for factor in config.starts),
    ]
    if TEACHER in signature(row.objective.loss).parameters:
        numbers["temperatures"] = _temperatures(config, begin, progress)
    if network_laws.grows_without_agreement(training):
        numbers["order"] = _order(config, training, progress)
    return arrays, numbers


def _wait(config: Config, training: Any, factor: float, progress: Progress) -> dict[str, float]:
    """Return when the first mode is learned from a smaller start, and when the law says."""
    changed = network_laws.smaller(training, factor)
    begin = network_laws.first(changed, config.runs_dir, config.n_pairs)
    what = f"start times {factor:g}"
    trained = network_laws.until_first(begin, config.runs_dir, progress, what)
    observed = network_laws.crossing(begin.law, trained.trajectory, begin.level)
    return {"start": factor, "observed": observed, "law": begin.step}


def _temperatures(config: Config, begin: First, progress: Progress) -> list[dict[str, float]]:
    """Return the growth of the first mode at several temperatures of the teacher."""
    student = signature(find(begin.config.method).objective.loss).parameters["student_temperature"]
    threshold = begin.agreement * float(student.default)
    rows = []
    for factor in config.temperatures:
        options = begin.config.loss_options | {TEACHER: factor * threshold}
        changed = replace(begin.config, loss_options=options)
        what = f"{factor:g} of the threshold"
        trained = network_laws.until_step(changed, config.short, config.runs_dir, progress, what)
        steps, values = network_laws.observed(begin.law, trained.trajectory)
        small = values[:, 0] < begin.level / 4
        late = small & (steps >= steps[small].max(initial=0) / 4)
        fits = late.sum() > 2
        slope = np.polyfit(steps[late], np.log(values[late, 0]), 1)[0] if fits else np.nan
        rows.append({"factor": factor, "law": begin.growth(changed), "observed": float(slope)})
    return rows


def _order(config: Config, training: Any, progress: Progress) -> dict[str, float]:
    """Return which direction of the features is learned first where variance and agreement differ.

    It is that of the embedding when the law says that the first mode is learned. The network has
    moved its features little by then. The numbers are squared correlations of the first principal
    scores of the embedding with those of the law's first direction, of the largest variance and of
    the largest γ.
    """
    changed = replace(training, recipe=config.uneven)
    begin = network_laws.first(changed, config.runs_dir, config.n_pairs)
    until, what = int(min(np.ceil(begin.step), changed.steps)), f"views {config.uneven}"
    trained = network_laws.until_step(changed, until, config.runs_dir, progress, what)
    both, z = np.concatenate(begin.pairs), network_laws.embeddings(begin, trained)
    z = z - z.mean(axis=0)
    learned = z @ np.linalg.svd(z, full_matrices=False)[2][0]
    directions = {"law": begin.direction, "variance": begin.widest, "gamma": begin.steadiest}
    correlations = {
        name: network_laws.correlation(learned, both @ direction)
        for name, direction in directions.items()
    }
    return correlations | {"agreement": begin.agreement}


def check(result: Result) -> list[Check]:
    """Check the first steps, the waits, the threshold and the order."""
    checks = []
    for name, numbers in result.numbers["methods"].items():
        title = find(name).title
        diverged = float(numbers["result"].startswith("diverged"))
        off = float(np.exp(abs(np.log(numbers["first"] / numbers["law"]))))
        last = _ratio(numbers["waits"][-1])
        checks += [
            Check(f"{title}: run diverged (1) or not (0)", diverged, 0, "==", premise=True),
            Check(f"{title}: first step over that of the law, factor", off, FACTOR, "<="),
            Check(
                f"{title}: wait of the smallest start over the law's, relative error",
                abs(last / _ratio(numbers["waits"][0]) - 1),
                WAIT,
                "<=",
            ),
        ]
        exponent = _exponent(numbers["waits"])
        checks += [
            Check(f"{title}: exponent of the wait in the start", exponent, POWER, ">=")
            if numbers["predictor"]
            else Check(f"{title}: exponent of the wait in the start", exponent, LOGARITHM, "<=")
        ]
        checks += _threshold(title, numbers) + _by_variance(title, numbers)
    return checks


def _ratio(wait: dict[str, float]) -> float:
    return wait["observed"] / wait["law"]


def _exponent(waits: list[dict[str, float]]) -> float:
    """Return −d ln(wait)/d ln(start) between the largest and the smallest start."""
    first, last = waits[0], waits[-1]
    longer, larger = last["observed"] / first["observed"], first["start"] / last["start"]
    return float(np.log(longer) / np.log(larger))


def _threshold(title: str, numbers: dict[str, Any]) -> list[Check]:
    """Check that the first mode grows below the threshold and not above, and shuts out others."""
    rows = numbers.get("temperatures", [])
    fastest = max((row["observed"] for row in rows), default=1.0)
    checks = [
        Check(
            f"{title}: growth at {row['factor']:g} of the threshold, over the fastest",
            row["observed"] / fastest,
            0.05,
            ">=" if row["factor"] < 1 else "<=",
        )
        for row in rows
    ]
    if rows:
        most, name = (len(numbers["final"]) - 1) / 2, f"{title}: modes learned, of twice as many"
        checks += [Check(name, numbers["crossed"], most, "<=")]
    return checks


def _by_variance(title: str, numbers: dict[str, Any]) -> list[Check]:
    """Check that the largest variance is learned first, not the largest γ."""
    if "order" not in numbers:
        return []
    order = numbers["order"]
    name = f"{title}: first direction, correlation with the largest variance"
    return [Check(name, order["variance"], max(0.5, order["gamma"]), ">=")]


def plot(result: Result) -> Figure:
    """Draw loss, eigenvalues of C and of the covariance of each method; then the variants."""
    a, numbers = result.arrays, result.numbers
    config, methods = numbers["config"], numbers["methods"]
    fig = plotting.figure(max(9, 3.4 * len(methods) + 0.5), 12)
    halves: Any = fig.subfigures(2, 1, height_ratios=[3, 1.25])
    upper, lower = halves
    axes: Any = upper.subplots(3, len(methods), squeeze=False, sharex="col")
    for column, (name, summary) in enumerate(methods.items()):
        _column(axes[:, column], a, name, summary)
    panels: Any = lower.subplots(1, 3)
    _draw_waits(panels[0], methods)
    _draw_temperatures(panels[1], methods)
    _draw_order(panels[2], methods)
    fig.suptitle(
        f"ResNet of {sum(config['blocks'])} blocks, width {config['width']}, small start; "
        f"{config['n_images']} images: {images.title(config['data'])}, d = {config['d']}\n"
        "solid: network, one colour per mode, the first is the darkest; dashed: law of the linear "
        "model on the features at the start",
        fontsize=12,
    )
    return fig


def _column(axes: Any, a: dict[str, np.ndarray], name: str, summary: dict[str, Any]) -> None:
    top, middle, bottom = axes
    steps, shown = a[f"{name}_steps"], a[f"{name}_steps"] > 0
    top.plot(steps[shown], a[f"{name}_loss"][shown], color=plotting.BLUE)
    top.set_ylabel("loss on the probe")
    top.set_title(find(name).title)
    curves = {"C": a[f"{name}_eigenvalues"], "covariance": a[f"{name}_covariance"]}
    for ax, (what, values) in zip((middle, bottom), curves.items(), strict=True):
        for j, colour in enumerate(plotting.mode_colours(values.shape[1])):
            ax.plot(steps[shown], values[shown, j], color=colour)
        ax.set_ylabel(f"eigenvalues of {'C' if what == 'C' else 'the covariance'}")
        if what == summary["observable"]:
            law = a[f"{name}_law"]
            paths = np.stack([np.broadcast_to(steps[shown][:, None], law[shown].shape), law[shown]])
            plotting.dashes(ax, np.moveaxis(paths, 2, 0), "law")
            ax.set_ylim(-0.02 * values.max(), 1.1 * values.max())
    middle.set_title(staircase.describe(summary), fontsize=9)
    bottom.set_title(f"first step {summary['first']:.0f}, law {summary['law']:.0f}", fontsize=9)
    bottom.set(xscale="log", xlabel="training step", xlim=(max(1, steps[-1] / 100), steps[-1]))


def _draw_waits(ax: Any, methods: dict[str, Any]) -> None:
    for name, numbers in methods.items():
        row, waits = find(name), numbers["waits"]
        starts = [wait["start"] for wait in waits]
        style: dict[str, Any] = {"color": row.colour, "marker": row.marker}
        ax.plot(starts, [wait["observed"] for wait in waits], **style, ls="", label=row.title)
        ax.plot(starts, [wait["law"] for wait in waits], **_law_line(row.colour))
    ax.set(xscale="log", yscale="log", xlabel="start, in units of the method's own")
    ax.set_ylabel("steps until the first mode")
    ax.set_xticks(starts, [f"{start:g}" for start in starts])
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** 0.35)  # room for the legend
    ticks = [tick for tick in WAITS if low <= tick <= high]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.legend(loc="upper center", ncols=3)
    ax.set_title("The wait from a smaller start (dashed: law)")


def _draw_temperatures(ax: Any, methods: dict[str, Any]) -> None:
    for name, numbers in methods.items():
        rows, row = numbers.get("temperatures", []), find(name)
        if rows:
            factors = [each["factor"] for each in rows]
            style: dict[str, Any] = {"color": row.colour, "marker": row.marker}
            ax.plot(factors, [each["observed"] for each in rows], **style, ls="", label=row.title)
            law = sorted([(1.0, 0.0), *((each["factor"], each["law"]) for each in rows)])
            ax.plot(*zip(*law, strict=True), **_law_line(row.colour))
    ax.axvline(1, color="0.75", lw=0.8, zorder=0)
    ax.axhline(0, color=plotting.INK, lw=0.8)
    ax.set_xlabel("teacher's temperature / (student's × agreement of the first mode)")
    ax.set_ylabel("growth of the first mode\nin a step, ln λ")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="upper right")
    ax.set_title("A threshold of agreement (dashed: law)")


def _law_line(colour: str) -> dict[str, Any]:
    """Return the style of a law's line."""
    return {"color": colour, "ls": (0, (4, 2)), "lw": 1}


def _draw_order(ax: Any, methods: dict[str, Any]) -> None:
    named = {"variance": "largest variance", "gamma": "largest γ", "law": "law"}
    for name, numbers in methods.items():
        if "order" in numbers:
            values = [numbers["order"][key] for key in named]
            ax.bar(list(named.values()), values, color=find(name).colour, width=0.5)
            agreement = numbers["order"]["agreement"]
            ax.set_title(f"{find(name).title}: what is learned first (agreement {agreement:.2f})")
    ax.set_ylim(0, 1)
    ax.set_ylabel("squared correlation of the first\nlearned direction with that of")
