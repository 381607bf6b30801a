"""fig3 is a test: three methods learn one mode at a time; fig6 tests their hidden layers."""

import dataclasses
import math

import numpy as np
import pytest

from experiments.figures import fig3_small_start, fig4_standard_start, fig6_hidden
from experiments.shared import resnets
from stepwise import plotting
from stepwise.methods import METHODS
from tests.experiments.figures import failed

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("fig3")]


def _change(result, part, method, **changes):
    """Return the result with some numbers of one method changed."""
    by_method = result.numbers[part]
    changed = by_method | {method: by_method[method] | changes}
    return dataclasses.replace(result, numbers=result.numbers | {part: changed})


def test_every_check_of_the_smoke_run_passes(fig3):
    assert failed(fig3_small_start, fig3[-1]) == set()


def test_each_method_can_be_drawn_before_the_next_begins(fig3):
    assert [list(part.numbers["methods"]) for part in fig3] == [
        list(resnets.Config.smoke().methods[:k]) for k in (1, 2, 3)
    ]


def test_modes_that_step_together_fail_the_check(fig3):
    wrong = _change(fig3[-1], "methods", "simclr", alone=1)
    assert failed(fig3_small_start, wrong) == {
        "SimCLR: modes learned one at a time (next below 1/10)"
    }


def test_a_start_that_is_not_small_fails_the_check(fig3):
    wrong = _change(fig3[-1], "methods", "vicreg", start=[0.1, 0.0, 0.0])
    assert failed(fig3_small_start, wrong) == {"VICReg: largest eigenvalue, start / end"}


def test_neighbours_no_better_than_an_untrained_networks_fail_the_check(fig3):
    wrong = _change(
        fig3[-1], "methods", "simclr", knn={"pixels": 0.2, "untrained": 0.3, "trained": 0.3}
    )
    assert failed(fig3_small_start, wrong) == {
        "SimCLR: nearest-neighbour accuracy, trained / untrained"
    }


def test_hidden_modes_are_compared_with_the_embeddings_steps(fig6):
    assert list(fig6.numbers["hidden"]) == list(resnets.Config.smoke().methods)
    for method, rise in fig6.numbers["hidden"].items():
        assert rise["stage"] == "stage2" and len(rise["step_times"]) == 3
        fig6 = _change(fig6, "hidden", method, compared=2, median_factor=1.2)
    assert failed(fig6_hidden, fig6) == set()
    wrong = _change(fig6, "hidden", "vicreg", median_factor=2.0)
    assert failed(fig6_hidden, wrong) == {"VICReg: hidden and embedding step times, median factor"}


def test_a_hidden_mode_rises_when_it_makes_half_of_its_largest_rise():
    steps = np.arange(1.0, 101)
    shares = np.stack(
        [np.ones(100), np.where(steps < 20, 0.1, 0.5), np.where(steps < 60, 0.2, 0.3)], axis=1
    )
    # the size of the whole representation must not matter
    arrays = {"m_steps": steps, "m_stage1": shares * np.exp(-steps / 30)[:, None]}
    rise = fig6_hidden._rises(arrays, "m", "stage1", {"step_times": [5.0, 20.0, 30.0]})
    assert rise["compared"] == 2
    np.testing.assert_allclose(rise["step_times"], [np.inf, 19.5, 59.5], rtol=1e-6)
    assert math.isclose(rise["median_factor"], (20 / 19.5 * 59.5 / 30) ** 0.5, rel_tol=1e-6)


@pytest.mark.parametrize("name", ["fig3", "fig6"])
def test_the_figure_has_a_labelled_column_for_each_method(name, fig3, fig6):
    figure, result = {"fig3": (fig3_small_start, fig3[-1]), "fig6": (fig6_hidden, fig6)}[name]
    with plotting.style():
        drawn = figure.plot(result)
    axes = drawn.get_axes()
    assert len(axes) % 3 == 0
    titles = [axis.get_title(loc="left") for axis in axes]
    methods = [METHODS[name].title for name in resnets.Config.smoke().methods]
    assert all(any(name in title for title in titles) for name in methods)
    assert axes[0].get_ylabel() and axes[-1].get_xlabel()
    plotting.plt.close(drawn)


def test_a_standard_start_trains_every_method_as_published():
    standard = fig4_standard_start.Config.laptop()
    for method in standard.methods:
        training = standard.training(method)
        assert (training.method, training.start_scale, training.offset) == (method, 1.0, 0.0)
    assert {METHODS[name].title for name in standard.methods} == {
        "Barlow Twins",
        "SimCLR",
        "VICReg",
    }


def test_a_small_start_uses_each_methods_own_scale_and_schedule():
    small = resnets.Config.laptop()
    for method in small.methods:
        row, training = METHODS[method], small.training(method)
        assert training.start_scale == row.start.scale < 0.01
        assert (training.lr, training.steps) == (
            row.schedules["small"].lr,
            row.schedules["small"].steps,
        )
    assert resnets.Config(lr=0.5, steps=7).training(small.methods[0]).lr == 0.5


def test_bad_settings_are_rejected_by_name():
    with pytest.raises(ValueError, match=r"methods: expected some of .* received \('other',\)"):
        fig3_small_start.Config(methods=("other",))
    with pytest.raises(ValueError, match=r"which have a schedule 'standard'"):
        resnets.Config(start="standard", methods=("barlow_twins_unnormalised",))
