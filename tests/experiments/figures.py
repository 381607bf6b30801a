"""Helpers for the tests of all figures."""

from stepwise import plotting


def failed(figure, result):
    """Return the names of the checks that fail on a result."""
    return {check.name for check in figure.check(result) if not check.passed}


def labelled_panels(figure, result):
    """Return the number of panels of a figure; each must have a title and labelled axes."""
    with plotting.style():
        drawn = figure.plot(result)
    axes = drawn.get_axes()
    plotting.plt.close(drawn)
    assert all(
        axis.get_xlabel() and axis.get_ylabel() and axis.get_title(loc="left") for axis in axes
    )
    return len(axes)
