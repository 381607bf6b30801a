"""methods is a test: laws of other losses are laid over networks, and wrong ones fail."""

import dataclasses

import numpy as np
import pytest

from experiments.contract import Result, finished
from experiments.figures import methods_networks
from experiments.shared import network_laws, resnets
from stepwise import laws, plotting
from stepwise.methods import METHODS, theory
from stepwise.training import runs
from tests.conftest import optimised
from tests.experiments.figures import failed

pytestmark = pytest.mark.xdist_group("methods_figure")

CONFIG = methods_networks.Config.smoke()
STEPS = np.geomspace(1, 400, 40)


def good():
    """Return a result in which every claim holds."""
    arrays, numbers = {}, {}
    for name in ("simsiam", "dino", "lejepa"):
        curves = 1 / (1 + np.exp(10 - STEPS[:, None] / [10, 20, 40, 80]))
        parts = ("eigenvalues", "covariance", "law")
        arrays |= {f"{name}_{part}": curves for part in parts}
        arrays |= {f"{name}_steps": STEPS, f"{name}_loss": 4 - curves.sum(axis=1)}
        power = METHODS[name].objective.predictor
        waits = [
            {"start": start, "observed": 110 * wait, "law": 100 * wait}
            for start, wait in ((1.0, 1.0), (0.25, 3.9 if power else 1.2))
        ]
        numbers[name] = {
            "result": "finished",
            "first": 110.0,
            "law": 100.0,
            "observable": "covariance",
            "predictor": power,
            "waits": waits,
            "final": [1.0, 0.1, 0.0, 0.0],
            "crossed": 1,
            "alone": 1,
        }
    rows = [(0.5, 1.0, 0.9), (2.0, -0.5, -0.6)]
    numbers["dino"]["temperatures"] = [
        {"factor": factor, "law": law, "observed": observed} for factor, law, observed in rows
    ]
    numbers["lejepa"]["order"] = {"law": 0.9, "variance": 0.9, "gamma": 0.2, "agreement": 0.2}
    return Result(arrays, {"methods": numbers, "config": dataclasses.asdict(CONFIG)})


def changed(name, **changes):
    result = good()
    by_method = result.numbers["methods"]
    by_method[name] |= changes
    return result


def test_true_claims_pass_and_every_panel_is_labelled():
    assert failed(methods_networks, good()) == set()
    with plotting.style():
        drawn = methods_networks.plot(good())
    axes = drawn.get_axes()
    titles = [axis.get_title(loc="left") for axis in axes]
    assert len(axes) == 3 * 3 + 3 and all(axis.get_ylabel() for axis in axes)
    assert {"SimSiam", "DINO", "LeJEPA"} <= set(titles) and all(titles)
    plotting.plt.close(drawn)


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("lejepa", {"first": 200.0}, {"LeJEPA: first step over that of the law, factor"}),
        (
            "simsiam",
            {
                "waits": [
                    {"start": 1.0, "observed": 110.0, "law": 100.0},
                    {"start": 0.25, "observed": 130.0, "law": 390.0},
                ]
            },
            {
                "SimSiam: wait of the smallest start over the law's, relative error",
                "SimSiam: exponent of the wait in the start",
            },
        ),
        (
            "dino",
            {
                "temperatures": [
                    {"factor": 0.5, "law": 1.0, "observed": 1.0},
                    {"factor": 2.0, "law": -1.0, "observed": 0.2},
                ]
            },
            {"DINO: growth at 2 of the threshold, over the fastest"},
        ),
        ("dino", {"crossed": 3}, {"DINO: modes learned, of twice as many"}),
        (
            "lejepa",
            {"order": {"law": 0.3, "variance": 0.3, "gamma": 0.9, "agreement": 0.2}},
            {"LeJEPA: first direction, correlation with the largest variance"},
        ),
    ],
)
def test_a_claim_that_does_not_hold_fails_its_check(name, changes, expected):
    assert failed(methods_networks, changed(name, **changes)) == expected


def test_every_other_method_with_a_small_start_is_trained_by_default():
    laptop = methods_networks.Config.laptop()
    others = {name for name, row in METHODS.items() if row.schedules and not row.in_paper}
    assert set(laptop.methods) == others and len(others) >= 5
    assert not others & set(resnets.Config.laptop().methods)
    for name in laptop.methods:
        training, row = laptop.training(name), METHODS[name]
        assert {key: getattr(training, key) for key in row.small} == dict(row.small)


def test_a_step_takes_the_time_of_the_recursion():
    """While an amplitude grows at the rate r, descent with momentum multiplies it by one factor."""
    assert np.isclose(network_laws.time_of_step(0.01, 0.9, 1e-6), 0.01 / 0.1, rtol=1e-4)
    r, amplitude, velocity, before = 3.0, 1e-6, 0.0, 0.0
    for _ in range(300):
        before = amplitude
        velocity = 0.9 * velocity + r * amplitude
        amplitude += 0.01 * velocity
    measured = np.log(amplitude / before) / r
    assert np.isclose(network_laws.time_of_step(0.01, 0.9, 2 * r), measured, rtol=1e-6)


@pytest.mark.slow
def test_the_smoke_run_lays_each_law_over_its_network(tmp_path):
    with optimised():
        config = dataclasses.replace(CONFIG, runs_dir=str(tmp_path))
        parts = []
        result = finished(methods_networks.run(config), parts.append)
    assert list(result.numbers["methods"]) == list(config.methods) and len(parts) == 1
    factors = []
    for name, numbers in result.numbers["methods"].items():
        assert np.isfinite(numbers["law"]) and len(numbers["waits"]) == 2
        assert ("temperatures" in numbers, "order" in numbers) == (name == "dino", name == "lejepa")
        factors.append(numbers["first"] / numbers["law"])
    assert 0.5 < np.median(factors) < 2
    dino = result.numbers["methods"]["dino"]["temperatures"]
    assert dino[0]["observed"] > 0 > dino[1]["observed"]


@pytest.mark.parametrize(("decay", "momentum", "lr"), [(0.9, 0.9, 0.02), (0.99, 0.5, 0.1)])
def test_the_lag_of_a_target_is_that_of_its_steps(decay, momentum, lr, x64):
    """An amplitude and its target grow by one factor in each step of momentum and of averaging."""
    gamma, sigma, teacher, student, K = 0.9, 1.0, 0.06, 0.1, 70
    drive, pull = gamma / (K * student * teacher), sigma / (K * student**2)

    def law(ema):
        return laws.DINO(np.array([gamma]), np.array([sigma]), K, student, teacher, ema)

    config = runs.Config(method="dino", decay=decay, momentum=momentum, lr=lr)
    rate = float(theory.with_lag(law, config).growth()[0])
    w, before, v = 1e-9, 1e-9, 1e-9
    for _ in range(2000):
        w, before = w + momentum * (w - before) + lr * (drive * v - pull * w), w
        v, former = decay * v + (1 - decay) * w, v
    measured = 2 * np.log(v / former)
    assert np.isclose(network_laws.time_of_step(lr, momentum, rate) * rate, measured, rtol=1e-6)
    assert rate > 1.01 * float(law((1 - decay) * (1 - momentum) / lr).growth()[0])
