"""`stepwise predict`: from images alone, which modes will be learned, when, and with what error."""

import importlib
import math
import textwrap
import time
from dataclasses import asdict
from typing import Any

import jax
import numpy as np

from stepwise import (
    _check,
    _random,
    dynamics,
    kernels,
    laws,
    methods,
    plotting,
    problem,
    record,
    validity,
    views,
)
from stepwise.cli.commands import Predict
from stepwise.cli.data import load
from stepwise.problem import Problem

SHOWN = 8


def run(options: Predict) -> int:
    """Print the report and write its files."""
    began = time.perf_counter()
    method = methods.find(options.method)
    build_law = method.require_law()
    record.require_writable("--out", options.out)
    if options.model == "infinite_width":
        # raises now, rather than after the images are loaded, if the package is not installed
        importlib.import_module("stepwise.neural_tangents")
    _check.whole("n_pairs", options.n_pairs, 2)
    _check.whole("d", options.d, 1, 2 * options.n_pairs, ", the number of views")
    _check.whole("seed", options.seed, 0, 2**31 - 1)
    _check.require(
        options.recipe in views.RECIPES,
        "recipe",
        f"one of {', '.join(views.RECIPES)}",
        repr(options.recipe),
    )
    images = load(options, options.n_pairs, options.seed)
    pair = views.positive_pairs(images.pixels, _random.key(options.seed + 1), options.recipe)
    with jax.enable_x64(True):
        x, x2 = (np.asarray(view, np.float64) for view in pair)
        p = _problem(options, x, x2)
        law = methods.run_with(options.method, lambda: laws.law_of(build_law, p, options.d))
        lr = options.lr if options.lr is not None else _learning_rate(law)
        start = {"start_scale": options.start_scale, "lr": lr}
        report = methods.run_with(
            options.method, lambda: validity.report(p, options.d, law=law, **start)
        )
        arrays, numbers = methods.run_with(
            options.method, lambda: _curves(options, p, law, report, lr)
        )
    print(
        f"{images.source}: {len(x)} pairs ({options.recipe}), {x[0].size} numbers in each view; "
        f"{options.model} model, {method.title}"
    )
    rates = arrays["growth"]
    print(
        f"{int((rates > 0).sum())} of {rates.size} modes can be learned; γ = "
        f"{_row(arrays['gamma'][:SHOWN])}, ..."
    )
    print(report)
    if lr is None:
        print(f"no stable learning rate is known for {method.title}; pass --lr to see steps")
    elif report.stable is not False:
        times = [time for time in report.step_times[:SHOWN] if np.isfinite(time)]
        steps = "; ".join(f"{math.ceil(time / lr):,}" for time in times if time < 1e300 * lr)
        print(f"learned at these steps of gradient descent with lr = {lr:.4g}: {steps}, ...")
    title = f"{images.source}: {len(x)} pairs, {options.model.replace('_', ' ')} model, "
    with plotting.style(), jax.enable_x64(True):
        figure = _figure(arrays, law, f"{title}{method.title}, d = {options.d}")
        seconds = time.perf_counter() - began
        config = asdict(options) | {"command": "predict", "method": method.name}
        written = record.write(
            options.out,
            "prediction",
            arrays=arrays,
            numbers=numbers,
            config=config,
            seconds=seconds,
            figure=figure,
        )
    print(written)
    return 0


def _learning_rate(law: laws.Law) -> float | None:
    """Return a hundredth of the largest stable learning rate, or None if that is not known."""
    try:
        return 0.01 * float(law.max_stable_lr())
    except laws.NotKnownError:
        return None


def _problem(options: Predict, x: np.ndarray, x2: np.ndarray) -> Problem:
    if options.model == "linear":
        return problem.from_views(x, x2, center=options.center)
    from stepwise.neural_tangents import nt

    stax = nt.stax
    network = kernels.infinite_width(
        [stax.Flatten(), stax.Dense(1), stax.Relu(), stax.Dense(1)], get="ntk"
    )
    return problem.from_kernel(network, x - 0.5, x2 - 0.5, center=options.center)


def _curves(
    options: Predict, p: Problem, law: laws.Law, report: validity.Report, lr: float | None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the numbers of the closed form from a typical start.

    The times run to 1.5 times the last step time.
    """
    learned = report.step_times[np.isfinite(report.step_times)]
    fits = report.n_positive == 0 or learned.size > 0
    expected = "a start large enough for floating point, such as 1e-6"
    _check.require(fits, "start_scale", expected, options.start_scale)
    _check.require(
        learned.size > 0,
        options.data,
        "images with at least one mode that grows",
        "images with none; use more images",
    )
    times = np.geomspace(learned.min() / 5, 1.5 * learned.max(), 400)
    lam0 = options.start_scale**2 * np.exp(np.asarray(law.expected_start(options.d)[0]))
    rows = np.asarray(law.aligned_start(lam0))
    A0 = np.pad(rows, ((0, options.d - len(rows)), (0, 0)))
    curve = dynamics.closed_form(p, A0, times, law=law)
    arrays = {
        "gamma": np.asarray(p.gamma),
        "growth": np.asarray(law.growth()),
        "times": times,
        "steps": np.full_like(times, np.nan) if lr is None else times / lr,
        "eigenvalues": np.asarray(curve.eigenvalues),
        "loss": np.asarray(curve.loss),
        "step_times": report.step_times,
    }
    return arrays, {
        "validity": report.summary(),
        "lr": lr,
        "n_pairs": p.n_pairs,
        "rank": int(p.gamma.size),
    }


def _row(values: np.ndarray) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _figure(a: dict[str, np.ndarray], law: laws.Law, title: str) -> plotting.Figure:
    """Draw the loss, the eigenvalues, and the growth rates of the modes."""
    fig = plotting.figure(13, 4.4)
    axes: Any = fig.subplots(1, 3)
    d = a["eigenvalues"].shape[1]
    known = law.known_modes(d)
    curve = (a["times"], a["eigenvalues"][:, :known], a["loss"])
    plotting.loss(axes[0], curve, steps=a["step_times"], law=law)
    axes[0].set_title("A  Expected loss")
    axes[0].set_ylabel(textwrap.fill(axes[0].get_ylabel(), 36))
    plotting.eigenvalues(axes[1], curve, steps=a["step_times"])
    axes[1].set_title(f"B  Expected eigenvalue{'s' if known > 1 else ' of mode 1'}")
    axes[1].set_ylabel(f"eigenvalues of {law.observable}")
    rates = np.sort(a["growth"][a["growth"] > 0])[::-1]
    rank = np.arange(1, rates.size + 1)
    axes[2].plot(rank, rates, color="0.75", label="all modes that grow")
    for j, colour in enumerate(plotting.mode_colours(d)[: rates.size]):
        label = f"the first {d} modes" if j == 0 else None
        axes[2].plot(rank[j], rates[j], "o", color=colour, label=label)
    axes[2].set(xscale="log", yscale="log", xlabel="mode, from the fastest")
    axes[2].set_ylabel("growth rate d ln λ/dt, per unit of time t")
    axes[2].set_title("C  Growth rate of each mode")
    axes[2].legend(loc="lower left")
    fig.suptitle(plotting.plain(title), fontsize=12)
    return fig
