"""A snapshot of a network says when its next mode is learned.

Claim          Between two steps a network moves like a linear model of its features. Descent of its
               head from a snapshot therefore forecasts the next step of a ResNet in the middle of
               its training, better than the curve's own extrapolation does.
Paper          beyond the paper, which explains steps after they happened
Command        make forecast (PRESET=smoke|laptop|paper, DATA=..., DATA_DIR=...); it uses fig3's run
               of Barlow Twins
Time, 2 cores  besides training, about four minutes of processor time for each run of the laptop
               preset
Expected       over the kept snapshots of each run: remaining time within a median factor of 1.35 in
               the median run, and below the extrapolation's factor in every run; the step itself
               within 10%; 65% to 95% of the 80% intervals hold it; the predicted direction
               correlates more with the learned mode than the features' largest direction does
"""

from collections.abc import Generator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from experiments.contract import Check, Progress, Result, silent
from experiments.shared import images, resnets
from experiments.shared.resnets import ABOVE, digest
from stepwise import methods, plotting, staircase
from stepwise.forecast import history, scores
from stepwise.plotting import Figure
from stepwise.training import runs

__all__ = ["Config", "check", "digest", "plot", "run"]

SECONDS = {"smoke": 60, "laptop": 700}
"""A guess of what it takes on two cores, for the time left of `make figures`."""

FACTOR, ERROR, COVERAGE, WIDTH = 1.35, 0.1, (0.65, 0.95), 3.0
"""Bounds of the checks: factor of the remaining time, error of the step, coverage, and width."""


@dataclass(frozen=True)
class Config(resnets.Config):
    """Training runs from a small start, and the pairs of their forecasts."""

    methods: tuple[str, ...] = (methods.DEFAULT,)
    seeds: tuple[int, ...] = (0, 1)
    """One run for each seed."""
    n_pairs: int = 1024
    """Number of images whose features a forecast uses."""

    @classmethod
    def smoke(cls) -> "Config":
        """Return a configuration that runs in a minute: one run of a tiny network."""
        return replace(super().smoke(), seeds=(0,), snapshots=14, n_pairs=64)


def run(config: Config, progress: Progress = silent) -> Generator[Result, None, Result]:
    """Train a run for each seed, and forecast from its snapshots; yield after each."""
    arrays: dict[str, np.ndarray] = {}
    summaries: dict[str, Any] = {}
    for i, seed in enumerate(config.seeds):
        own = replace(config, seed=seed)
        trained = resnets.trained(own, config.methods[0], progress)
        training = own.training(config.methods[0])
        pictures = runs.load(training)
        folder = runs.folder(training, pictures, config.runs_dir)
        network = history.Network(training, pictures, folder, config.n_pairs)
        entries = history.run_forecasts(
            network, trained.trajectory, lambda step: progress(f"forecast from step {step}")
        )
        curves = staircase.curves(trained.trajectory)
        name = f"seed_{seed}"
        arrays |= {
            f"{name}_steps": curves["steps"],
            f"{name}_eigenvalues": curves["eigenvalues"],
            f"{name}_fans": history.rows(entries),
        }
        summaries |= {name: scores.summarise(entries)}
        result = Result(arrays, {"runs": summaries, "config": asdict(config)})
        if i + 1 < len(config.seeds):
            yield result
    return result


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
    return [*checks, Check(f"direction, squared correlation / null, {median}", direction, 1, ">=")]


def plot(result: Result) -> Figure:
    """Draw fans over the eigenvalues, forecasts against what came, intervals and directions."""
    a, numbers = result.arrays, result.numbers
    config, summaries = numbers["config"], numbers["runs"]
    fig = plotting.figure(12.5, 9)
    axes: Any = fig.subplots(2, 2)
    first = next(iter(summaries))
    fans = a[f"{first}_fans"]
    plotting.fans(axes[0, 0], a[f"{first}_steps"], a[f"{first}_eigenvalues"], fans)
    axes[0, 0].set_title("A  Forecasts from single snapshots")
    counted = [
        entry
        for summary in summaries.values()
        for entry in summary["forecasts"]
        if entry["actual"] is not None and entry["actual"] - entry["step"] >= scores.LEAST
    ]
    _against(axes[0, 1], counted)
    factors = [f"{s['median_factor'] or np.nan:.2f}" for s in summaries.values()]
    lines = [f"{s['extrapolation_median_factor'] or np.nan:.2f}" for s in summaries.values()]
    axes[0, 1].set_title(f"B  Median factor {', '.join(factors)}; extrapolation {', '.join(lines)}")
    _intervals(axes[1, 0], counted)
    held = [f"{summary['coverage'] or 0:.0%}" for summary in summaries.values()]
    axes[1, 0].set_title(f"C  80% intervals hold {', '.join(held)} of the steps")
    _directions(axes[1, 1], counted)
    axes[1, 1].set_title("D  Direction of the next mode")
    fig.suptitle(
        f"{methods.find(config['methods'][0]).title}, ResNet of {sum(config['blocks'])} blocks, "
        f"{len(summaries)} runs\n{config['n_images']} images: {images.title(config['data'])}, "
        f"d = {config['d']}",
        fontsize=12,
    )
    return fig


def _m(values: np.ndarray) -> float:
    return float(np.median(values))


def _remaining(entries: list[dict[str, Any]], name: str) -> np.ndarray:
    """Return steps from the snapshot to a forecast or event, NaN if it is missing or not later."""
    gaps = [np.nan if e[name] is None else e[name] - e["step"] for e in entries]
    return np.array([gap if gap > 0 else np.nan for gap in gaps], float)


def _against(ax: Any, entries: list[dict[str, Any]]) -> None:
    """Draw forecast remaining steps against the steps that it took."""
    actual = _remaining(entries, "actual")
    for name, label, options in (
        ("extrapolated", "extrapolation of the curve", {"color": "0.65", "marker": "x"}),
        ("predicted", "forecast", {"color": plotting.BLUE, "marker": "o"}),
    ):
        ax.plot(actual, _remaining(entries, name), ls="", ms=5, label=label, **options)
    ends = np.array([actual.min(), actual.max()]) * [0.8, 1.25] if len(entries) else np.ones(2)
    ax.plot(ends, ends, color=plotting.INK, lw=1)
    ax.fill_between(ends, ends / 1.5, ends * 1.5, color="0.9", label="within a factor of 1.5")
    ax.set(xscale="log", yscale="log", xlabel="steps until the mode came")
    ax.set_ylabel("steps until then, as forecast")
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
