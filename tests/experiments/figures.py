"""What the test of every figure asks of it."""

from stepwise import plotting


def failed(figure, result):
    """Names of the checks that a result does not pass."""
    return {check.name for check in figure.check(result) if not check.passed}


def labelled_panels(figure, result):
    """How many panels are drawn; each must name its axes and have a title."""
    with plotting.style():
        drawn = figure.plot(result)
    axes = drawn.get_axes()
    plotting.plt.close(drawn)
    assert all(
        axis.get_xlabel() and axis.get_ylabel() and axis.get_title(loc="left") for axis in axes
    )
    return len(axes)
