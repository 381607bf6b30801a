"""forecast is a test: forecasts of a small network are scored, and bad ones fail their checks."""

import dataclasses

import numpy as np
import pytest

from experiments.contract import Result, finished
from experiments.figures import forecast_steps
from stepwise.forecast import scores
from stepwise.forecast.answer import Forecast
from stepwise.forecast.history import Entry
from stepwise.methods import DEFAULT
from tests.conftest import optimised
from tests.experiments.figures import failed, labelled_panels

pytestmark = pytest.mark.xdist_group("forecast_figure")

CONFIG = dataclasses.asdict(forecast_steps.Config.smoke())


def scored(factor=1.1, line=1.6, width=1.5, direction=0.6, count=20):
    """Return the scores of forecasts with these factors, half too early and half too late."""
    entries = []
    for i in range(count):
        now, actual, sign = 50 * i, 50 * i + 100.0, (-1) ** i
        guess, other = (now + 100 * value**sign for value in (factor, line))
        wide = width if i % 5 else 1.001
        low, high = now + (guess - now) / wide, now + (guess - now) * wide
        said = Forecast(1, 0.01, 0.1, guess, low, high, np.ones(2), np.ones(2))
        entries.append(Entry(now, said, actual, other, direction, 0.3))
    return scores.summarise(entries)


def result(*summaries, correlated=True):
    arrays = {}
    for i in range(len(summaries)):
        steps = np.geomspace(1, 1000, 30)
        curve = 1 / (1 + np.exp(10 - steps[:, None] / [10, 40]))
        arrays |= {f"seed_{i}_steps": steps, f"seed_{i}_eigenvalues": curve}
        arrays[f"seed_{i}_fans"] = np.array([[10, 1e-4, 0.5, 70, 130], [50, 1e-3, 0.5, 300, 420]])
        paths = [[[10, 90, np.nan], [1e-4, 0.5, np.nan]], [[50, 350, 380], [1e-3, 0.5, 0.9]]]
        arrays[f"seed_{i}_paths"] = np.array(paths)
        arrays[f"seed_{i}_growth"] = np.zeros((0, 2))
    runs = {f"seed_{i}": summary for i, summary in enumerate(summaries)}
    growth = np.array([[1.0, 1.1], [3.0, 2.5], [0.1, 0.4]])
    for name in ("simclr", "vicreg"):
        arrays |= {f"{name}_{part}": arrays[f"seed_0_{part}"] for part in ("steps", "eigenvalues")}
        arrays |= {f"{name}_{part}": arrays[f"seed_0_{part}"] for part in ("fans", "paths")}
        arrays[f"{name}_growth"] = growth if correlated else -growth * [1, -1]
    others = {name: scores.growth(arrays[f"{name}_growth"]) for name in ("simclr", "vicreg")}
    return Result(arrays, {"runs": runs, "others": others, "config": CONFIG})


def test_good_forecasts_pass_and_are_drawn():
    good = result(scored(), scored(1.2))
    assert failed(forecast_steps, good) == set()
    assert labelled_panels(forecast_steps, good) == 6


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"factor": 1.4, "width": 1.6}, "factor of the remaining time"),
        ({"line": 1.05}, "extrapolation / forecast"),
        ({"width": 1.01}, "coverage"),
        ({"width": 2.0}, "(high − now)/(low − now)"),
        ({"direction": 0.2}, "direction"),
        ({"count": 4}, "forecasts that count"),
    ],
)
def test_each_check_can_fail(changes, name):
    assert any(name in each for each in failed(forecast_steps, result(scored(**changes))))


def test_each_set_of_images_has_its_runs_and_names_without_its_path():
    config = forecast_steps.Config(more=("cifar10", "folder:/some/pets"), data_dir="sets")
    jobs = {
        name: (each.data, each.data_dir, each.seed)
        for name, each, _ in forecast_steps.list_runs(config)
    }
    assert jobs["seed_1"] == ("photos", None, 1) and jobs["simclr"] == ("photos", None, 0)
    assert jobs["cifar10_seed_0"] == ("cifar10", "sets", 0)
    assert jobs["pets_seed_1"] == ("folder:/some/pets", None, 1)
    assert len(jobs) == 8


def test_growth_that_is_wrong_fails():
    wrong = failed(forecast_steps, result(scored(), correlated=False))
    assert len(wrong) == 2 and all("growth" in name for name in wrong)


def test_no_forecast_at_all_fails_without_an_error():
    nothing = result(scores.summarise([]))
    assert len(failed(forecast_steps, nothing)) >= 6
    assert labelled_panels(forecast_steps, nothing) == 6


@pytest.mark.long  # make figures PRESET=smoke runs the same
@optimised()
def test_a_tiny_network_is_forecast(tmp_path):
    small = dataclasses.replace(
        forecast_steps.Config.smoke(),
        snapshots=6,
        methods=(DEFAULT, "simclr"),
        runs_dir=str(tmp_path / "runs"),
    )
    computed = finished(forecast_steps.run(small), lambda part: None)
    summary = computed.numbers["runs"]["seed_0"]
    assert summary["counted"] >= 3 and summary["median_factor"] < 1.6
    assert labelled_panels(forecast_steps, computed) == 6
