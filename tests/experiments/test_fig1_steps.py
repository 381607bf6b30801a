"""fig1: the linear panels come first, and the checks of the network are added to theirs."""

import dataclasses

import numpy as np
import pytest

from experiments.figures import fig1_steps
from experiments.shared import resnets
from stepwise import plotting
from stepwise.methods import DEFAULT, METHODS
from tests.experiments.figures import failed

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("fig3")]


def test_the_linear_panels_come_first(fig1):
    linear, whole = fig1
    assert "network" not in linear.numbers and "network" in whole.numbers
    assert whole.arrays.keys() > linear.arrays.keys()


def test_the_network_adds_its_checks_to_the_linear_ones(fig1):
    linear, whole = fig1
    assert failed(fig1_steps, whole) == failed(fig1_steps, linear) == set()
    assert len(fig1_steps.check(whole)) == len(fig1_steps.check(linear)) + 4
    together = whole.numbers | {"network": whole.numbers["network"] | {"alone": 0}}
    wrong = dataclasses.replace(whole, numbers=together)
    assert failed(fig1_steps, wrong) == {
        f"{METHODS[DEFAULT].title}: modes learned one at a time (next below 1/10)"
    }


def test_the_figure_has_panels_a_to_d(fig1):
    for part, panels in zip(fig1, ("AB", "ABCD"), strict=True):
        with plotting.style():
            figure = fig1_steps.plot(part)
        titles = [axis.get_title(loc="left") for axis in figure.get_axes()]
        assert [title[0] for title in titles if title[1:3] == "  "] == list(panels)
        plotting.plt.close(figure)


def test_the_network_is_fig3s_on_the_same_images():
    config = dataclasses.replace(fig1_steps.Config.laptop(), data="npz:here", seed=3)
    fig3s = dataclasses.replace(resnets.Config.laptop(), data="npz:here", seed=3)
    assert fig1_steps.training(config).training(DEFAULT) == fig3s.training(DEFAULT)


def test_forecasts_lie_over_the_network(fig1):
    whole = fig1[1]
    paths, steps = whole.arrays["forecasts"], whole.arrays[f"{DEFAULT}_steps"]
    assert paths.ndim == 3 and len(paths) >= 2
    ends = [path[:, np.isfinite(path[0])][:, -1] for path in paths]
    assert all(end[1] == pytest.approx(0.5) for end in ends)
    crossed = whole.numbers["network"]["step_times"][0]
    assert ends[0][0] == pytest.approx(crossed, rel=0.4)
    assert paths[0, 0, 0] == 0 and steps[-1] > crossed
    with plotting.style():
        figure = fig1_steps.plot(whole)
    labels = [
        text.get_text()
        for ax in figure.get_axes()
        if ax.get_legend()
        for text in ax.get_legend().get_texts()
    ]
    assert labels.count("forecast from one network") == 2
    plotting.plt.close(figure)
