"""faster is a test: rules follow their laws, select by the theorem, and obey the bound."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.contract import finished
from experiments.figures import faster_rules
from experiments.shared import linear_rules
from tests.experiments.figures import failed, labelled_panels

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("faster")]

CONFIG = faster_rules.Config(n_pairs=60, modes=2, kept=24, starts=1, trials=2)


@pytest.fixture(scope="module")
def parts():
    with jax.enable_x64(True):
        collected = []
        last = finished(faster_rules.run(CONFIG), collected.append)
        return [*collected, last]


def test_rules_follow_their_laws_and_select_by_the_theorem(parts):
    assert failed(faster_rules, parts[-1]) == set()
    assert [len(faster_rules.check(part)) for part in parts] == [6, 12, 18]
    assert labelled_panels(faster_rules, parts[-1]) == 4


@pytest.mark.parametrize("name", linear_rules.RULES)
def test_a_law_or_an_exponent_that_is_wrong_fails_its_check(name, parts):
    result = parts[-1]
    times, selection = (
        {key: dict(value) for key, value in result.numbers[part].items()}
        for part in ("times", "selection")
    )
    times[name]["ratios"] = (1.05 * np.asarray(times[name]["ratios"])).tolist()
    selection[name]["slope"] += 0.2
    speed = result.numbers["speed"] | {name: result.numbers["speed"][name] | {"steps": None}}
    changed = result.numbers | {"times": times, "selection": selection, "speed": speed}
    wrong = failed(faster_rules, dataclasses.replace(result, numbers=changed))
    title = linear_rules.RULES[name].title
    assert wrong == {
        f"{title}: step times over the law's, largest error",
        f"{title}: exponent of the angle, error",
        f"{title}: all modes learned (1) or not",
    }


def test_no_polynomial_of_the_moment_beats_the_bound():
    gamma = np.concatenate([[1.0, 0.95, 0.9], np.linspace(0.8, 0.0, 60)])
    W0 = np.random.default_rng(0).normal(size=(3, gamma.size))
    bound = linear_rules.krylov_bound(gamma, W0, 12)
    assert (np.diff(bound) <= 1e-12).all() and bound[-1] > 0
    powers = [float(linear_rules.angle(W0 * gamma**n, 3)) for n in range(13)]
    assert bound[0] == pytest.approx(powers[0], rel=1e-9)
    assert (bound[1:] < powers[1:]).all()
    # Chebyshev's polynomial on [0, 0.8] comes near it
    x = 2 * gamma / 0.8 - 1
    cheb = float(linear_rules.angle(W0 * np.polynomial.chebyshev.Chebyshev.basis(12)(x), 3))
    assert bound[-1] <= cheb < 0.01 * powers[-1]
