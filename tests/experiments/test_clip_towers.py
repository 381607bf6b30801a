"""clip is a test: linear towers follow the law of CLIP, and a wrong law fails its checks."""

import dataclasses

import numpy as np
import pytest

from experiments.contract import finished
from experiments.figures import clip_towers
from experiments.shared import tower_networks
from stepwise import laws, plotting
from tests.experiments.figures import failed

pytestmark = pytest.mark.xdist_group("clip_figure")

CONFIG = clip_towers.Config.smoke()


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    config = dataclasses.replace(CONFIG, runs_dir=str(tmp_path_factory.mktemp("runs")))
    collected = []
    return [*collected, finished(clip_towers.run(config), collected.append), *collected]


@pytest.fixture(scope="module")
def smoke(parts):
    return parts[0]


def test_gaussian_pairs_follow_the_law():
    """Inputs are of the kind that the law describes."""
    rng = np.random.default_rng(0)
    shared, noise = rng.normal(size=(1500, 3)), rng.normal(size=(1500, 6))
    x1 = shared * [1.0, 0.8, 0.6] + 0.5 * noise[:, :3]
    x2 = shared * [0.9, 0.7, 0.6] + 0.5 * noise[:, 3:]
    x1, x2 = x1 - x1.mean(axis=0), x2 - x2.mean(axis=0)
    U, g, Vt = np.linalg.svd(x1.T @ x2 / len(x1))
    given = clip_towers.Pairs(x1, x2, U, Vt.T, g, ())
    config = dataclasses.replace(CONFIG, d=3, steps=480, lr=0.05)
    W1, W2 = 1e-2 * rng.normal(size=(2, 3, 3))
    curves, loss, _ = clip_towers.descend(given, W1, W2, config)
    law = given.law(3)
    theory = law.eigenvalues(0.05 * np.arange(481), law.generic_start((W1 @ U + W2 @ Vt.T) / 2))
    assert loss[0] == pytest.approx(np.log(1500), abs=1e-3) and loss[-1] < loss[0]
    assert np.abs(curves[:, 0] - theory[:, 0]).max() < 0.08


def test_the_smoke_run_is_drawn_with_every_panel_labelled(smoke):
    assert smoke.numbers["retrieval"]["accuracy"] > 5 * smoke.numbers["retrieval"]["chance"]
    assert abs(smoke.numbers["waits"][0]["half"][0] - 1) < 0.05
    with plotting.style():
        drawn = clip_towers.plot(smoke)
    axes = drawn.get_axes()
    assert len(axes) == 3 + clip_towers.SHOWN + 3 + 1  # no mode of the tiny networks is learned
    assert all(axis.get_xlabel() for axis in axes if axis.axison)
    plotting.plt.close(drawn)


def test_steps_at_other_times_than_the_laws_fail_the_checks(smoke):
    names = [check.name for check in clip_towers.check(smoke)]
    exact = {"half": [1.0, 1.0, 1.1], "take_off": [1.0, 1.0, 1.01]}
    good = dataclasses.replace(smoke, numbers=smoke.numbers | {"waits": [exact]})
    assert failed(clip_towers, good) <= set(names[2:])
    for name, check in (("half", 0), ("take_off", 1)):
        wrong = exact | {name: [1.0, 1.06, 1.0]}
        bad = dataclasses.replace(smoke, numbers=smoke.numbers | {"waits": [wrong]})
        assert any(each.startswith(names[check][:8]) for each in failed(clip_towers, bad))


def test_the_law_is_that_of_the_singular_pairs():
    given = clip_towers.pairs(CONFIG)
    law = given.law(4)
    assert isinstance(law, laws.CLIP)
    np.testing.assert_allclose(
        law.sigma1[0],
        given.U[:, 0] @ given.x1.T @ given.x1 @ given.U[:, 0] / len(given.x1),
        rtol=1e-5,
    )
    assert abs(given.x1.mean(axis=0)).max() < 1e-9 and given.vocabulary[0] in ("letter", "with")


def test_images_without_captions_are_refused_by_name():
    with pytest.raises(
        ValueError, match=r"data: expected images with captions .* received 'photos'"
    ):
        clip_towers.pairs(dataclasses.replace(CONFIG, data="photos"))


def networks(**changes):
    """Return numbers of networks in which every claim holds, with some changed."""
    good = {
        "alone": 6,
        "first": {"network": 90.0, "law": 100.0},
        "retrieved": {"probe": 0.1, "test": 0.05},
        "chance": {"probe": 0.004, "test": 0.004},
    }
    return good | changes


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"alone": 4}, "networks: modes learned one at a time"),
        ({"first": {"network": 60.0, "law": 100.0}}, "networks: first step over that of the law"),
        ({"retrieved": {"probe": 0.03, "test": 0.05}}, "networks: retrieval over chance"),
        ({"retrieved": {"probe": 0.1, "test": 0.03}}, "networks: retrieval of unseen characters"),
    ],
)
def test_networks_that_do_not_learn_as_claimed_fail_their_check(changes, expected):
    checks = tower_networks.check(networks(**changes), d=16)
    wrong = [check.name for check in checks if not check.passed]
    assert wrong == [] if expected is None else len(wrong) == 1 and wrong[0].startswith(expected)


def test_the_linear_part_can_be_drawn_before_the_networks_are_trained(parts):
    assert len(parts) == 2 and "networks" not in parts[1].numbers
    assert len(clip_towers.check(parts[1])) == 3 and len(clip_towers.check(parts[0])) == 7
    with plotting.style():
        drawn = clip_towers.plot(parts[1])
    assert len(drawn.get_axes()) == 3 + clip_towers.SHOWN
    plotting.plt.close(drawn)
