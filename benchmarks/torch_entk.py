"""Empirical NTK by Jacobian contraction in torch.func.

This module runs in the environment of PyTorch and must not import JAX or `stepwise`.
"""

import numpy as np
import torch  # type: ignore[import-not-found]
from torch.func import functional_call, jacrev, vmap  # type: ignore[import-not-found]

from benchmarks.child import Outcome, measure
from benchmarks.torch_side import encoder


def contract(start: str, chunk: int) -> Outcome:
    """Measure K, traced over outputs, of the weights and images in the file `start`.

    Jacobians are computed for `chunk` samples at a time, and contracted for one parameter array at
    a time.
    """
    with np.load(start) as file:
        arrays = dict(file)
    torch.set_num_threads(int(arrays["threads"]))
    net = encoder(arrays).float().eval()
    outputs = len(arrays["weights/head.layers.0.bias"])
    x = torch.from_numpy(np.ascontiguousarray(arrays["images"])).permute(0, 3, 1, 2).contiguous()
    params, buffers = dict(net.named_parameters()), dict(net.named_buffers())
    for value in net.modules():
        if hasattr(value, "inplace"):
            value.inplace = False

    def one(params, sample):  # type: ignore[no-untyped-def]
        return functional_call(net, (params, buffers), (sample[None],))[0]

    def call() -> dict[str, np.ndarray]:
        n = len(x)
        jacobians = {name: torch.empty((n, outputs, p.numel())) for name, p in params.items()}
        for i in range(0, n, chunk):
            part = vmap(jacrev(one), (None, 0))(params, x[i : i + chunk])
            for name, each in part.items():
                jacobians[name][i : i + chunk] = each.detach().flatten(2)
        K = torch.zeros((n, n))
        for each in jacobians.values():
            flat = each.flatten(1)
            K += flat @ flat.T
        return {"K": (K / outputs).numpy()}

    return measure(call, repeats=2, budget=60.0)
