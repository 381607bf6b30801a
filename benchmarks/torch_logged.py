"""PyTorch's side of a monitored run: the same network, steps and samples as `monitor.train`.

This module runs in the environment of PyTorch and must not import JAX or `stepwise`.
"""

import time
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found]

from benchmarks.child import Outcome
from benchmarks.torch_monitor import log_arrays, sample, sensitivity
from benchmarks.torch_side import barlow_twins_unnormalised, make_step


def train(start: str, folder: str, steps: int, every: int, double: bool, threads: int) -> Outcome:
    """Train from the weights in the file `start`, and log a sample every `every` steps.

    Returns:
        The best time of `every` steps; and the sensitivity of the backbone at the step and along
        the direction that the file holds.
    """
    torch.set_num_threads(threads)
    with np.load(start) as file:
        arrays = dict(file)
    dtype = torch.float64 if double else torch.float32
    take, net = make_step(start, None, dtype, False)
    view1, view2 = (torch.from_numpy(view.copy()).permute(0, 3, 1, 2) for view in arrays["held"])
    trunk, last, best, strength = net.backbone, net.head.layers[0], np.inf, np.nan
    for step in range(0, steps + 1, every):
        # running statistics do not matter, because the network stays in training mode
        parts: dict[str, Any] = sample(trunk, last, barlow_twins_unnormalised, view1, view2)
        log_arrays(folder, step, **parts)
        if step == int(arrays["at"]):
            strength = sensitivity(trunk, view1, view2, arrays["direction"], arrays["rows"])
        begun = time.perf_counter()
        if step < steps:
            for _ in range(every):
                take()
            best = min(best, time.perf_counter() - begun)
    numbers = {"sensitivity": strength, "version": torch.__version__}
    return Outcome(best, arrays={name: np.asarray(value) for name, value in numbers.items()})
