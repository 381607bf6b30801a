"""Drawings have readable text, ticks and labels."""

import numpy as np
import pytest
from matplotlib import cbook

from stepwise import plotting
from stepwise.trajectory import Result, Trajectory
from tests.laws.examples import Half


def test_a_users_text_is_not_drawn_as_a_formula():
    assert cbook.is_math_text("a$b$c_x^")
    assert not cbook.is_math_text(plotting.plain("a$b$c_x^"))


def test_a_short_runs_ticks_are_few_and_plain():
    times = np.linspace(0.01, 0.06, 30)
    fig = plotting.figure()
    ax = fig.subplots()
    plotting.loss(ax, (times, np.ones((30, 1)), np.ones(30)))
    fig.canvas.draw()
    low, high = ax.get_xlim()
    shown = [
        label.get_text() for label in ax.get_xticklabels() if low <= label.get_position()[0] <= high
    ]
    assert shown == ["0.01", "0.02", "0.05"]
    assert not any(label.get_text() for label in ax.get_xticklabels(minor=True))
    plotting.plt.close(fig)


def test_axes_are_labelled_with_the_laws_formula_and_observable():
    times, values = np.linspace(0.1, 1, 5), np.full((5, 1), 0.5)
    fig = plotting.figure()
    axes = fig.subplots(1, 3)
    plotting.loss(axes[0], (times, values))
    np.testing.assert_allclose(axes[0].get_lines()[0].get_ydata(), 0.25)
    assert axes[0].get_ylabel() == "loss  ‖C − I‖²"
    plotting.loss(axes[1], (times, values, times), law=Half(np.ones(1)))
    assert axes[1].get_ylabel() == "loss"
    with pytest.raises(ValueError, match="experiment: expected curves with a loss"):
        plotting.loss(axes[1], (times, values), law=Half(np.ones(1)))
    run = Trajectory(times, values, times, Result(0, -1), observable="covariance")
    plotting.eigenvalues(axes[2], run)
    assert axes[2].get_ylabel() == "eigenvalues of covariance"
    plotting.plt.close(fig)
