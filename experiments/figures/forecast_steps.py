"""A snapshot of a network says when its next mode is learned.

Claim          Between two steps a network moves like a linear model of its features. Descent of its
               head from a snapshot therefore forecasts the next step of a ResNet in the middle of
               its training, better than the curve's own extrapolation does. Under SimCLR and VICReg
               it forecasts the growth of the next eigenvalue, but not the value at which it rests.
Paper          beyond the paper, which explains steps after they happened
Command        make forecast (PRESET=smoke|laptop|paper, DATA=..., DATA_DIR=...,
               SET=more=cifar10,folder:PATH for further images); it uses fig3's three runs
Time, 2 cores  besides training, about five minutes of processor time for each run of the laptop
               preset
Expected       over the kept snapshots of each run: remaining time within a median factor of 1.35 in
               the median run, and below the extrapolation's factor in every run; the step itself
               within 10%; 65% to 95% of the 80% intervals hold it; the predicted direction
               correlates more with the learned mode than the features' largest direction does
"""

from collections.abc import Generator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.contract import Check, Progress, Result, silent
from experiments.shared import images, resnets
from experiments.shared.resnets import ABOVE, digest
from stepwise import methods, plotting, staircase
from stepwise.forecast import history, saved, scores
from stepwise.plotting import Figure
from stepwise.training import runs

__all__ = ["Config", "check", "digest", "plot", "run"]

SECONDS = {"smoke": 60, "laptop": 700}
"""A guess of what it takes on two cores, for the time left of `make figures`."""

MARKERS = ["o", "s", "^", "D", "v", "P"]
FACTOR, ERROR, COVERAGE, WIDTH = 1.35, 0.1, (0.65, 0.95), 3.0
"""Bounds of the checks: factor of the remaining time, error of the step, coverage, and width."""
CORRELATION = 0.5
"""Least correlation of forecast and real growth of the next eigenvalue under other losses."""


@dataclass(frozen=True)
class Config(resnets.Config):
    """Training runs from a small start, and the pairs of their forecasts."""

    seeds: tuple[int, ...] = (0, 1)
    """One run for each seed; methods other than the default, in panels E and F, have the first."""
    more: tuple[str, ...] = ()
    """Further images, on which the default method is trained with each seed."""
    snapshots_of_others: int = 29
    """Number of networks stored in training with a method other than the default."""
    n_pairs: int = 1024
    """Number of images whose features a forecast uses."""

    @classmethod
    def smoke(cls) -> "Config":
        """Return a configuration that runs in a minute: two methods, one run each, tiny images."""
        base = replace(super().smoke(), seeds=(0,), snapshots=14, n_pairs=64)
        return replace(base, methods=base.methods[:2], snapshots_of_others=8)


def run(config: Config, progress: Progress = silent) -> Generator[Result, None, Result]:
    """Train each run, and forecast from its snapshots; yield after each."""
    jobs = list_runs(config)
    arrays: dict[str, np.ndarray] = {}
    groups: dict[str, dict[str, Any]] = {"runs": {}, "others": {}}
    for i, (name, each, method) in enumerate(jobs):
        trained = resnets.trained(each, method, progress)
        network = _network(each, method)
        entries = history.run_forecasts(
            network, trained.trajectory, lambda step: progress(f"forecast from step {step}")
        )
        curves = staircase.curves(trained.trajectory)
        fans, paths = history.drawn(entries)
        growth = history.growth(entries, trained.trajectory)
        arrays |= {
            f"{name}_steps": curves["steps"],
            f"{name}_eigenvalues": curves["eigenvalues"],
            f"{name}_fans": fans,
            f"{name}_paths": paths,
            f"{name}_growth": growth,
        }
        group = groups["runs" if method == methods.DEFAULT else "others"]
        group[name] = scores.summarise(entries) | scores.growth(growth)
        result = Result(arrays, groups | {"config": asdict(config)})
        if i + 1 < len(jobs):
            yield result
    return result


def list_runs(config: Config) -> list[tuple[str, Config, str]]:
    """Return the name, the settings and the method of each run."""
    theory, named = methods.DEFAULT, ("cifar10", "stl10")  # the sets that lie in data_dir
    jobs = []
    for data in (config.data, *config.more):
        prefix = "" if data == config.data else f"{Path(data).name}_"
        folder = config.data_dir if data in named else None
        jobs += [
            (f"{prefix}seed_{seed}", replace(config, data=data, data_dir=folder, seed=seed), theory)
            for seed in config.seeds
        ]
    first = replace(jobs[0][1], snapshots=config.snapshots_of_others)
    return jobs + [(name, first, name) for name in config.methods if name != theory]


def _network(config: Config, method: str) -> saved.Network:
    training = config.training(method)
    pictures = runs.load(training)
    folder = runs.folder(training, pictures, config.runs_dir)
    return saved.Network(training, pictures, folder, config.n_pairs)


def check(result: Result) -> list[Check]:
    """Check the scores of every run."""
    summaries = result.numbers["runs"]

    def values(name: str) -> np.ndarray:
        parts = [summary[name] for summary in summaries.values()]
        return np.array([np.nan if value is None else value for value in parts], float)

    median = "median of the runs"
    checks = [
        Check("forecasts that count, fewest of a run", values("counted").min(), 5, ">=", True),
        Check(f"factor of the remaining time, {median}", _m(values("median_factor")), FACTOR, "<="),
        Check(
            f"relative error of the step, {median}",
            _m(values("median_relative_error")),
            ERROR,
            "<=",
        ),
        Check(f"coverage of 80% intervals, {median}", _m(values("coverage")), COVERAGE[0], ">="),
        Check(f"coverage of 80% intervals, {median} ", _m(values("coverage")), COVERAGE[1], "<="),
        Check(f"(high − now)/(low − now), {median}", _m(values("width")), WIDTH, "<="),
        Check("share of forecasts that none is coming", values("refusals").max(), 0.25, "<="),
    ]
    for name, summary in summaries.items():
        title = name.replace("_", " ")
        line = summary["extrapolation_median_factor"] or np.inf
        ratio = line / (summary["median_factor"] or np.inf)
        checks += [Check(f"{title}: factor of extrapolation / forecast", ratio, ABOVE, ">=")]
    direction = _m(values("direction") / values("direction_null"))
    checks += [Check(f"direction, squared correlation / null, {median}", direction, 1, ">=")]
    return checks + [
        Check(
            f"{methods.find(name).title}: correlation of growth, forecast and real",
            np.nan if summary["growth_correlation"] is None else summary["growth_correlation"],
            CORRELATION,
            ">=",
        )
        for name, summary in result.numbers["others"].items()
    ]


def plot(result: Result) -> Figure:
    """Draw fans over the eigenvalues, forecasts against what came, intervals and directions."""
    a, numbers = result.arrays, result.numbers
    config, summaries = numbers["config"], numbers["runs"]
    others = numbers["others"]
    fig = plotting.figure(12.5, 13 if others else 9)
    axes: Any = fig.subplots(3 if others else 2, 2)
    _fans(axes[0, 0], a, next(iter(summaries)))
    axes[0, 0].set_title("A  Forecasts from single snapshots")
    counted = {name: _counted(summary) for name, summary in summaries.items()}
    _against(axes[0, 1], counted)
    factors = [f"{s['median_factor'] or np.nan:.2f}" for s in summaries.values()]
    lines = [f"{s['extrapolation_median_factor'] or np.nan:.2f}" for s in summaries.values()]
    axes[0, 1].set_title(f"B  Median factor {', '.join(factors)}\nextrapolation {', '.join(lines)}")
    together = [entry for entries in counted.values() for entry in entries]
    _intervals(axes[1, 0], together)
    held = [f"{summary['coverage'] or 0:.0%}" for summary in summaries.values()]
    axes[1, 0].set_title(f"C  80% intervals hold {', '.join(held)} of the steps")
    _directions(axes[1, 1], together)
    axes[1, 1].set_title("D  Direction of the next mode")
    if others:
        first = next(iter(others))
        _fans(axes[2, 0], a, first)
        axes[2, 0].set_title(f"E  {methods.find(first).title}: the head alone, on present features")
        _growth(axes[2, 1], {name: a[f"{name}_growth"] for name in others})
        said = [f"{summary['growth_correlation'] or np.nan:.2f}" for summary in others.values()]
        axes[2, 1].set_title(f"F  Growth over the next 30% of steps: correlation {', '.join(said)}")
    count = f"{len(summaries)} run{'s' if len(summaries) > 1 else ''}"
    fig.suptitle(
        f"{methods.find(methods.DEFAULT).title}, ResNet of {sum(config['blocks'])} blocks, "
        f"{count}\n{config['n_images']} images: {images.title(config['data'])}, "
        f"d = {config['d']}",
        fontsize=12,
    )
    return fig


def _fans(ax: Any, arrays: Any, name: str) -> None:
    parts = ("steps", "eigenvalues", "fans", "paths")
    plotting.fans(ax, *(arrays[f"{name}_{part}"] for part in parts))


def _counted(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the forecasts of a run that count."""
    return [
        entry
        for entry in summary["forecasts"]
        if entry["actual"] is not None and entry["actual"] - entry["step"] >= scores.LEAST
    ]


def _m(values: np.ndarray) -> float:
    return float(np.median(values))


def _remaining(entries: list[dict[str, Any]], name: str) -> np.ndarray:
    """Return steps from the snapshot to a forecast or event, NaN if it is missing or not later."""
    gaps = [np.nan if e[name] is None else e[name] - e["step"] for e in entries]
    return np.array([gap if gap > 0 else np.nan for gap in gaps], float)


def _against(ax: Any, counted: dict[str, list[dict[str, Any]]]) -> None:
    """Draw forecast remaining steps against the steps that it took, a marker for each run."""
    waits = [_remaining(each, "actual") for each in counted.values()]
    actual = np.concatenate([np.zeros(0), *waits])
    for (name, entries), marker in zip(counted.items(), MARKERS * len(counted), strict=False):
        when = _remaining(entries, "actual")
        grey = {"color": "0.65", "marker": marker, "mfc": "none"}
        ax.plot(when, _remaining(entries, "extrapolated"), ls="", ms=5, **grey)
        style = {"color": plotting.BLUE, "marker": marker}
        label = name.replace("_", " ")
        ax.plot(when, _remaining(entries, "predicted"), ls="", ms=5, label=label, **style)
    ax.plot([], [], "o", color="0.65", mfc="none", label="extrapolation of the curve")
    ends = np.array([actual.min(), actual.max()]) * [0.8, 1.25] if actual.size else np.ones(2)
    ax.plot(ends, ends, color=plotting.INK, lw=1)
    ax.fill_between(ends, ends / 1.5, ends * 1.5, color="0.9", label="within a factor of 1.5")
    ax.set(xscale="log", yscale="log", xlabel="steps until the mode came")
    ax.set_ylabel("steps until then, as forecast")
    ax.legend(loc="upper left")


def _growth(ax: Any, growth: dict[str, np.ndarray]) -> None:
    """Draw the forecast change of ln λ against the one that came."""
    for name, pairs in growth.items():
        row = methods.find(name)
        style = {"color": row.colour, "marker": row.marker, "ls": "", "ms": 5}
        ax.plot(pairs[:, 1], pairs[:, 0], label=row.title, **style)
    everything = np.concatenate([np.zeros((1, 2)), *growth.values()])
    ends = [everything.min(), everything.max()]
    ax.plot(ends, ends, color=plotting.INK, lw=1)
    ax.set(xlabel="change of ln λ of the next mode", ylabel="change, as forecast")
    ax.legend(loc="upper left")


def _intervals(ax: Any, entries: list[dict[str, Any]]) -> None:
    """Draw each interval relative to the time that it took, in the order of that time."""
    order = np.argsort(_remaining(entries, "actual"))
    chosen = [entries[i] for i in order]
    actual = _remaining(chosen, "actual")
    low, high = _remaining(chosen, "low") / actual, _remaining(chosen, "high") / actual
    for i, (begin, end) in enumerate(zip(low, high, strict=True)):
        held = begin <= 1 <= end
        ax.plot([i, i], [begin, end], color=plotting.BLUE if held else plotting.ORANGE, lw=2.5)
    ax.axhline(1, color=plotting.INK, lw=1)
    ax.set(yscale="log", xlabel="forecasts, the shortest wait first")
    ax.set_ylabel("80% interval / steps that it took")


def _directions(ax: Any, entries: list[dict[str, Any]]) -> None:
    """Draw the squared correlation of the predicted direction against that of the null."""
    pairs = [(e["null"], e["direction"]) for e in entries if e["direction"] is not None]
    if pairs:
        ax.plot(*np.array(pairs).T, "o", color=plotting.BLUE, ms=5)
    ax.plot([0, 1], [0, 1], color=plotting.INK, lw=1)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="largest direction of the features' covariance")
    ax.set_ylabel("predicted direction (squared correlation)")
