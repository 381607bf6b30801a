"""torch.func's empirical NTK by Jacobian contraction, in PyTorch's own environment: nothing of JAX
or `stepwise`.
"""

import numpy as np
import torch  # type: ignore[import-not-found]
from torch.func import functional_call, jacrev, vmap  # type: ignore[import-not-found]

from benchmarks.child import Outcome, measured
from benchmarks.torch_side import encoder


def contracted(start: str, chunk: int) -> Outcome:
    """K, output-traced: each sample's Jacobian once, `chunk` samples at a time, then a product for
    each parameter.
    """
    with np.load(start) as file:
        given = dict(file)
    torch.set_num_threads(int(given["threads"]))
    net = encoder(given).float().eval()
    outputs = len(given["weights/head.layers.0.bias"])
    x = torch.from_numpy(np.ascontiguousarray(given["images"])).permute(0, 3, 1, 2).contiguous()
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
            some = vmap(jacrev(one), (None, 0))(params, x[i : i + chunk])
            for name, each in some.items():
                jacobians[name][i : i + chunk] = each.detach().flatten(2)
        K = torch.zeros((n, n))
        for each in jacobians.values():
            flat = each.flatten(1)
            K += flat @ flat.T
        return {"K": (K / outputs).numpy()}

    return measured(call, repeats=2, budget=60.0)
