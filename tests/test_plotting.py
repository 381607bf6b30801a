"""What is drawn can be read."""

import numpy as np
from matplotlib import cbook

from stepwise import plotting


def test_text_of_a_user_is_no_formula():
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
