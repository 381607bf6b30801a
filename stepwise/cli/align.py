"""`stepwise align`: how well kernels predict the subspace of a network's embedding."""

import time
from dataclasses import asdict
from typing import Any

import numpy as np

from stepwise import _check, entk, plotting, record
from stepwise.cli.commands import Align
from stepwise.cli.network import open_network


def run(options: Align) -> int:
    """Print a line for each kernel and write the files."""
    began = time.perf_counter()
    _check.require(
        options.resamples >= 0, "--resamples", "a whole number from 0", options.resamples
    )
    network = open_network(options, options.out)
    rows, d = network.z.shape
    # the rank of all centred views, or of a random half of them
    most = rows - 1 if options.resamples == 0 else 2 * (rows // 4) - 1
    remedy = "or a larger --n-pairs, or --resamples 0"
    _check.require(d <= most, "--d", f"at most {most} for {rows} views, {remedy}", d)
    scores: dict[str, entk.Score] = {}
    for name, kernel in {"its eNTK": network.kernel, **network.nulls}.items():
        score = scores[name] = entk.score(kernel(), network.z, resamples=options.resamples)
        low, high = score.interval
        interval = f"[{low:.3f}, {high:.3f}]  " if options.resamples else ""
        print(
            f"{name:<20} {score.alignment:.3f}  {interval}p = {score.p_value:.3g}",
            flush=True,
        )
    print(
        f"{'random subspaces':<20} {score.random:.3f}     {len(network.x)} views, d = "
        f"{network.z.shape[1]}, {network.name}"
    )
    numbers = {"network": network.name, "views": len(network.x), "d": network.z.shape[1]}
    numbers |= {"scores": {name: each.summary() for name, each in scores.items()}}
    arrays = {"embedding": network.z, "views": network.x}
    with plotting.style():
        config = asdict(options) | {"command": "align"}
        figure = _bars(scores, network.name)
        seconds = time.perf_counter() - began
        written = record.write(
            options.out,
            "alignment",
            arrays=arrays,
            numbers=numbers,
            config=config,
            seconds=seconds,
            figure=figure,
        )
    print(written)
    return 0


def _bars(scores: dict[str, entk.Score], title: str) -> plotting.Figure:
    fig = plotting.figure(6.4, 4.4)
    ax: Any = fig.subplots()
    for i, (score, colour) in enumerate(
        zip(scores.values(), (plotting.BLUE, plotting.ORANGE, plotting.GREEN), strict=False)
    ):
        low, high = score.interval
        ax.bar(i, score.alignment, 0.6, color=colour)
        if np.isfinite(low):  # NaN without resamples
            extent = [[score.alignment - low], [high - score.alignment]]
            ax.errorbar(i, score.alignment, extent, color=plotting.INK, capsize=4)
    ax.axhline(score.random, color=plotting.INK, ls=":", label="random subspaces")
    ax.set_xticks(range(len(scores)), list(scores))
    ax.set(
        ylim=(0, 1.1),
        ylabel="alignment of the two subspaces (1 = equal)",
        xlabel="kernel that makes the prediction",
    )
    ax.set_title("How well each kernel predicts the embedding")
    ax.legend(loc="upper right")
    fig.suptitle(plotting.plain(title), fontsize=12)
    return fig
