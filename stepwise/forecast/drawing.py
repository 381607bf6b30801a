"""The drawing of a monitored run: eigenvalues, the forecast of the next mode, and the loss."""

from typing import Any

import numpy as np

from stepwise import _check, plotting
from stepwise.forecast.answer import Forecast
from stepwise.forecast.samples import Samples


def draw(samples: Samples, forecast: Forecast | None) -> plotting.Figure:
    """Draw the eigenvalues against the training step, and the loss above if there is one.

    Both axes of the eigenvalues are logarithmic; values of 0 or less are not drawn. A vertical line
    is the step at which the next mode is expected, with a dashed curve from now, and a band
    is the 80% interval.

    Raises:
        ValueError: if there are fewer than two finite samples after step 0.
    """
    steps, values, losses = samples.curves()
    after = int((steps > 0).sum())
    _check.require(after > 1, "figure", "two finite samples after step 0", f"{after}")
    shown = np.isfinite(losses)
    with_loss = int((steps[shown] > 0).sum()) > 1
    with plotting.style():
        fig = plotting.figure(8.0, 6.0 if with_loss else 4.0)
        axes: Any = fig.subplots(2 if with_loss else 1, 1, squeeze=False)[:, 0]
        if with_loss:
            curves = (steps[shown], values[shown], losses[shown])
            plotting.loss(axes[0], curves, label="loss")
            axes[0].set_xlabel("")
        below = axes[-1]
        plotting.eigenvalues(below, (steps, values))
        below.set_xlabel("training step")
        below.axhline(samples.level, color="0.6", lw=0.8, zorder=0)
        positive = values[values > 0]
        if positive.size:
            bottom = max(positive.min() / 2, 1e-9 * positive.max())
            below.set(yscale="log", ylim=(bottom, 2 * max(positive.max(), samples.level)))
        right = steps[-1]
        if forecast is not None and forecast.coming:
            right = max(right, forecast.step)
            below.axvline(forecast.step, color=plotting.ORANGE, label="next mode")
            if np.isfinite(forecast.high):
                right = max(right, forecast.high)
                band = {"color": plotting.ORANGE, "alpha": 0.2, "label": "its 80% interval"}
                below.axvspan(forecast.low, forecast.high, **band)
            if forecast.path is not None:
                plotting.dashes(below, forecast.path[None])
            below.legend(loc="lower right")
        for ax in axes:
            ax.set_xlim(steps[steps > 0][0], right)
    return fig
