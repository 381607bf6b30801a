"""`stepwise forecast`: the forecasts of a run's saved networks, against what then happened."""

import time
from dataclasses import asdict
from typing import Any

import numpy as np

from stepwise import _check, _terminal, plotting, record, staircase
from stepwise.cli.commands import Forecast
from stepwise.cli.data import say_if_fewer
from stepwise.cli.network import configuration, open_finished
from stepwise.forecast import history, saved, scores
from stepwise.training import runs


def run(options: Forecast) -> int:
    """Print a line for each saved network, and write the files."""
    began = time.perf_counter()
    _check.whole("--n-pairs", options.n_pairs, 2)
    record.require_writable("--out", options.out)
    folder = options.run_dir.resolve()
    config = configuration(options, folder)
    kept = runs.snapshot_steps(config)
    expected = "a run with saved networks; train it with --snapshots 29"
    _check.require(len(kept) > 0, "--run-dir", expected, "one without")
    saved.require_supported(config)
    trained = open_finished(config, folder)
    images = runs.load(config)
    say_if_fewer(len(images), options.n_pairs)
    network = saved.Network(config, images, folder, options.n_pairs)
    with _terminal.bar(total=len(kept), unit="network") as bar:
        entries = history.run_forecasts(network, trained.trajectory, lambda _: bar.update(1))
    for entry in entries:
        print(_line(entry))
    numbers = scores.summarise(entries)
    print(_score(numbers))
    with plotting.style():
        figure = plotting.figure(8.5, 5.4)
        curves = staircase.curves(trained.trajectory)
        plotting.fans(
            figure.subplots(), curves["steps"], curves["eigenvalues"], *history.drawn(entries)
        )
        written = record.write(
            options.out,
            "forecast",
            arrays={"steps": curves["steps"], "eigenvalues": curves["eigenvalues"]},
            numbers=numbers,
            config=asdict(options) | {"command": "forecast"},
            seconds=time.perf_counter() - began,
            figure=figure,
        )
    print(written)
    return 0


def _line(entry: history.Entry) -> str:
    """Say a forecast and what happened in one line."""
    came = f"came at {entry.actual:,.0f}" if np.isfinite(entry.actual) else "none came"
    return f"step {entry.step:>6,}: {entry.forecast}; {came}"


def _score(numbers: dict[str, Any]) -> str:
    """Say how good the forecasts were."""
    if not numbers["counted"]:
        return "no step came at least five steps after a saved network, so there is no score"

    def text(name: str, form: str) -> str:
        value = numbers[name]
        return "not finite" if value is None else format(value, form)

    return (
        f"{numbers['counted']} forecasts: remaining time within a median factor of "
        f"{text('median_factor', '.2f')} (extrapolation of the curve: "
        f"{text('extrapolation_median_factor', '.2f')}); the step itself within "
        f"{text('median_relative_error', '.0%')}; the 80% intervals hold "
        f"{text('coverage', '.0%')} of the steps"
    )
