"""Drawings of trajectories: experiment solid, theory dashed, one colour for each mode.

This is the only module that imports matplotlib.
"""

import io
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Figure

from stepwise import _files
from stepwise.compare import Curves, curves, law_of_curves
from stepwise.laws import Law
from stepwise.types import Numbers, Real

INK = "#222222"
STYLE: Any = {
    "font.size": 10.0,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "savefig.dpi": 160,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
}
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
"""Three colours of the Okabe-Ito palette, distinguishable with any colour vision."""
PALETTE = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
"""All seven colours of that palette, for curves of several methods."""


def style() -> AbstractContextManager[None]:
    """Return the house style as a context for drawing and saving: `with plotting.style(): ...`."""
    return matplotlib.rc_context(STYLE)


def figure(width: Real = 10.0, height: Real = 6.0) -> Figure:
    """Create an empty figure, size in inches; `save` closes it."""
    return plt.figure(figsize=(width, height))


def plain(text: str) -> str:
    """Escape dollar signs, so that matplotlib draws a file name as text and not as a formula."""
    return text.replace("$", r"\$")


def mode_colours(d: int) -> np.ndarray:
    """Return a colour for each mode [d, 4], from dark (the first) to light (the last).

    They are colours of viridis, whose order is visible from lightness alone.
    """
    # from 0.12, so that the dark dashes of the theory are visible on the first mode too
    return np.asarray(matplotlib.colormaps["viridis"](np.linspace(0.12, 0.92, max(d, 1))))


def loss(
    ax: Axes,
    experiment: Curves,
    theory: Curves | None = None,
    steps: Numbers | None = None,
    label: str | None = None,
    *,
    law: Law | None = None,
) -> None:
    """Draw the loss against time on a logarithmic axis: experiment solid, theory dashed.

    Args:
        steps: predicted step times, drawn as vertical lines.
        label: label of the loss axis; by default the law's formula.
        law: the law of the curves, which names their loss and computes it if they have none.

    Raises:
        ValueError: if a curve has no loss and its eigenvalues do not determine it.
    """
    t, values = _with_loss("experiment", experiment, law)
    ax.plot(t[t > 0], values[t > 0], color=BLUE, label="experiment")
    if theory is not None:
        t, values = _with_loss("theory", theory, law)
        ax.plot(t[t > 0], values[t > 0], color=ORANGE, ls=(0, (4, 2)), label="theory")
    _step_lines(ax, steps)
    _time_axis(ax, t, beside=theory is not None)
    formula = law_of_curves(1, law=law).formula
    ax.set_ylabel(f"loss  {formula}".rstrip() if label is None else label)
    if theory is not None:
        ax.legend(loc="lower left")


def eigenvalues(
    ax: Axes, experiment: Curves, theory: Curves | None = None, steps: Numbers | None = None
) -> None:
    """Draw eigenvalues against time, one colour for each mode: experiment solid, theory dashed.

    They are those of C, or of the observable of the experiment's trajectory. Predicted step times
    are vertical lines.
    """
    t, values, _, _ = curves("experiment", experiment)
    colours = mode_colours(values.shape[1])
    _step_lines(ax, steps)
    for j, colour in enumerate(colours):
        ax.plot(t[t > 0], values[t > 0, j], color=colour, label="experiment" if j == 0 else None)
    if theory is not None:
        t, values, _, _ = curves("theory", theory)
        for j in range(values.shape[1]):
            style: dict[str, Any] = {"color": INK, "ls": (0, (4, 2)), "lw": 1.0}
            ax.plot(t[t > 0], values[t > 0, j], **style, label="theory" if j == 0 else None)
    _time_axis(ax, t, beside=theory is not None)
    ax.set_ylabel(f"eigenvalues of {getattr(experiment, 'observable', 'C')}")
    if theory is not None:
        ax.legend(loc="center left")


def fans(
    ax: Axes, steps: Numbers, eigenvalues: Numbers, forecasts: Numbers, paths: Numbers
) -> None:
    """Draw eigenvalues against the training step on logarithmic axes, and forecasts as dashed fans.

    A forecast is a dashed curve from the eigenvalue at the step of its snapshot. A bar at `level`
    is its 80% interval, joined to the snapshot by a shaded triangle.

    Args:
        ax: axes.
        steps: training steps [T].
        eigenvalues: of C [T, d].
        forecasts: rows (step, eigenvalue, level, low, high) [k, 5].
        paths: the curve of each forecast, steps and values; NaN after its end [k, 2, P].
    """
    t, values = np.asarray(steps, np.float64), np.asarray(eigenvalues, np.float64)
    for j, colour in enumerate(mode_colours(values.shape[1])):
        shown = (t > 0) & (values[:, j] > 0)
        label = "eigenvalues of C" if j == 0 else None
        ax.plot(t[shown], values[shown, j], color=colour, label=label)
    earliest = t[t > 0].min()
    for i, (begin, value, level, low, high) in enumerate(np.asarray(forecasts, np.float64)):
        start = max(begin, earliest)
        ax.fill([start, low, high], [value, level, level], color=ORANGE, alpha=0.2, lw=0)
        label = "80% interval" if i == 0 else None
        ax.plot([low, high], [level, level], color=ORANGE, lw=2.5, label=label)
        ax.plot(start, value, "o", color=INK, ms=3.5)
    dashes(ax, paths, earliest=earliest)
    ax.set(xscale="log", yscale="log", xlabel="training step", ylabel="eigenvalues of C")
    smallest = values[t > 0]
    ax.set_ylim(max(smallest[smallest > 0].min(), 1e-9), 2)
    ax.legend(loc="lower right")


def dashes(ax: Axes, paths: Numbers, label: str = "forecast", *, earliest: Real = 0.0) -> None:
    """Draw forecasts as dashed curves.

    Args:
        ax: axes.
        paths: abscissae and values of each, NaN after its end [k, 2, P].
        label: of all curves.
        earliest: smallest abscissa, for a logarithmic axis; earlier points are drawn there.
    """
    for i, (x, y) in enumerate(np.asarray(paths, np.float64)):
        shown = np.isfinite(x) & np.isfinite(y)
        style: dict[str, Any] = {"color": INK, "ls": (0, (4, 2)), "lw": 1.0}
        x = np.maximum(x[shown], earliest)
        ax.plot(x, y[shown], **style, label=label if i == 0 else None, zorder=3)


def pictures(
    axes: list[Axes], images: Numbers, titles: list[str], colours: np.ndarray | None = None
) -> None:
    """Draw signed pictures [k, h, w, c], with zero as mid-grey and the largest entry at full range.

    Each has a title and, if `colours` are passed, a frame in its colour.
    """
    images = np.asarray(images)
    for i, (ax, title) in enumerate(zip(axes, titles, strict=True)):
        picture = 0.5 + 0.5 * images[i] / np.abs(images[i]).max()
        ax.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        ax.set_title(title, fontsize=8.5, loc="center", fontweight="normal")
        ax.set(xticks=[], yticks=[])
        for spine in ax.spines.values():
            spine.set_visible(colours is not None)
            if colours is not None:
                spine.set(color=colours[i], linewidth=2.5)


def save(fig: Figure, folder: str | os.PathLike[str], name: str = "figure") -> None:
    """Write folder/name.png and folder/name.pdf atomically, and close the figure."""
    for suffix in ("png", "pdf"):
        dateless = {"CreationDate": None} if suffix == "pdf" else None
        with _files.replacing(Path(folder) / f"{name}.{suffix}") as temporary:
            fig.savefig(temporary, format=suffix, metadata=dateless)
    plt.close(fig)


def vector(fig: Figure) -> bytes:
    """Return the figure as SVG with text as outlines, the same bytes each time, and close it."""
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "stepwise", "svg.fonttype": "path"}):
        fig.savefig(file, format="svg", metadata={"Date": None})
    plt.close(fig)
    return file.getvalue()


def _with_loss(name: str, path: Curves, law: Law | None) -> tuple[np.ndarray, np.ndarray]:
    t, _, values, _ = curves(name, path, law=law)
    if values is None:
        raise ValueError(f"{name}: expected curves with a loss, received none")
    return t, values


def _time_axis(ax: Axes, t: np.ndarray, *, beside: bool) -> None:
    """Set a logarithmic time axis, with room on the first plateau for a legend if there is one."""
    first = t[t > 0][:1] / (3 if beside else 1)
    ax.set(xscale="log", xlabel="time t = learning rate × step")
    if first.size and first[0] < t[-1]:
        ax.set_xlim(first[0], t[-1])
        if t[-1] < 100 * first[0]:
            # matplotlib would label all ticks between powers of ten, and the labels would overlap
            ax.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
            ax.xaxis.set_minor_formatter(ticker.NullFormatter())


def _step_lines(ax: Axes, steps: Numbers | None) -> None:
    steps = [] if steps is None else np.asarray(steps)
    for i, step in enumerate(s for s in steps if np.isfinite(s)):
        ax.axvline(
            step, color="0.75", lw=0.8, zorder=0, label="predicted steps" if i == 0 else None
        )
