"""`stepwise entk`: the empirical NTK of a trained network, and its spectrum."""

import time
from dataclasses import asdict

import numpy as np

from stepwise import plotting, problem, record
from stepwise.cli.commands import Entk
from stepwise.cli.network import open_network

SHOWN = 8


def run(options: Entk) -> int:
    """Print the kernel's leading modes and write its files."""
    began = time.perf_counter()
    network = open_network(options, options.out)
    K = network.kernel()
    p = problem.from_gram(K, center="pooled", cutoff=1e-6)
    gamma = np.asarray(p.gamma)
    arrays = {"K": K, "gamma": gamma, "views": network.x, "embedding": network.z}
    arrays["predicted"] = np.asarray(p.predict(min(network.z.shape[1], int((gamma > 0).sum()))))
    print(
        f"{network.name}: eNTK of {len(network.x)} views, trace {np.trace(K):.6g}, "
        f"{int((gamma > 0).sum())} positive modes"
    )
    print(f"largest γ: {', '.join(f'{value:.4g}' for value in gamma[:SHOWN])}, ...")
    numbers = {
        "network": network.name,
        "views": len(network.x),
        "trace": float(np.trace(K)),
        "gamma": gamma,
    }
    with plotting.style():
        fig = plotting.figure(11, 4.6)
        left, right = fig.subplots(1, 2)
        fig.colorbar(left.imshow(K, cmap="cividis"), ax=left, label="K(x, x'), mean over outputs")
        left.set(
            title="A  Kernel of the views", xlabel="view: first views, then second", ylabel="view"
        )
        positive = gamma > 0
        rank = np.arange(1, gamma.size + 1)[positive]
        right.plot(rank, gamma[positive], "o-", ms=3, color=plotting.BLUE)
        right.set(
            xscale="log",
            yscale="log",
            xlabel="mode, from the largest γ",
            ylabel="eigenvalue γ",
            title="B  Spectrum of the positive modes",
        )
        fig.suptitle(plotting.plain(network.name), fontsize=12)
        config = asdict(options) | {"command": "entk"}
        seconds = time.perf_counter() - began
        written = record.write(
            options.out,
            "eNTK",
            arrays=arrays,
            numbers=numbers,
            config=config,
            seconds=seconds,
            figure=fig,
        )
    print(written)
    return 0
