"""Estimates of the eNTK with a stated error: from probes of the outputs or sketches of layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from stepwise import _check, _terminal, spectra
from stepwise._moved import Renamed
from stepwise.entk.gram import directions
from stepwise.entk.kernel import Kernel, Only
from stepwise.entk.parameters import Apply
from stepwise.entk.score import predict
from stepwise.entk.verify import ROWS, verify, verify_pair
from stepwise.moments import Center
from stepwise.types import Numbers, Whole

BATCHES = 4
"""Number of independent estimates, from whose scatter the error of their mean is computed."""


@dataclass(frozen=True)
class Estimate:
    """An estimate of a kernel, and its error.

    Attributes:
        K: the estimate [n, n'], the mean of the batches.
        batches: independent estimates [b, n, n'], float64, which differ only by their random draws.
        unsampled_share: factor of the mean's variance: 1 − R/O for R orthogonal probes of O outputs
            (with R = O the mean is exact, although the batches differ), and 1 if a layer is
            sketched.
    """

    K: np.ndarray
    batches: Float[np.ndarray, "b n m"]
    unsampled_share: float

    left = Renamed("unsampled_share")

    @property
    def error(self) -> float:
        """Expected relative error ‖K − K_exact‖_F/‖K_exact‖_F, from the scatter of the batches."""
        count, mean = len(self.batches), self.batches.mean(axis=0)
        scatter = np.sum((self.batches - mean) ** 2) / (count - 1)
        size = np.sum(mean**2) - self.unsampled_share * scatter / count
        return float(
            np.sqrt(self.unsampled_share * scatter / count / max(size, np.finfo(float).tiny))
        )

    def subspace_error(self, d: Whole, *, center: Center = "pooled") -> float:
        """Estimate the error of the predicted top-d subspace, for a kernel [2n, 2n] of pairs.

        The error is the expected 1 − alignment of the subspace predicted by K and that predicted by
        the exact kernel. The prediction of each batch is compared with that of the mean of the
        other batches. The error is quadratic in the error of the kernel, so for b batches it is
        smaller than the mean of these differences by the factor unsampled_share · (b − 1)/b². If
        the kernel is too noisy for this expansion, the result is a lower bound.

        Args:
            d: dimension of the subspace.
            center: how kernels are centred, as for `entk.predict`.

        Raises:
            ValueError: as `problem.from_gram`.
        """
        total, count = self.batches.sum(axis=0), len(self.batches)
        differences = []
        for batch in self.batches:
            one, rest = (
                predict(K, d, center=center) for K in (batch, (total - batch) / (count - 1))
            )
            differences.append(1 - spectra.subspace_alignment(one, rest))
        return float(self.unsampled_share * np.mean(differences) * (count - 1) / count**2)


def estimate(
    apply: Apply,
    params: Any,
    x: Numbers,
    x2: Numbers | None = None,
    *,
    probes: Whole | None = None,
    sketch: Whole = 0,
    only: Only = None,
    seed: Whole = 0,
    budget: Whole = 2**31,
    devices: Sequence[Any] | None = None,
    progress: bool | None = None,
) -> Estimate:
    """Estimate the kernel of `gram` from probes of the outputs, sketches of the layers, or both.

    There are four independent batches; their scatter gives the error.

    Probes: K = (1/R) Σ_r ⟨∂(v_r·f)(x)/∂θ, ∂(v_r·f)(x')/∂θ⟩ over R rows of a random orthonormal
    basis of the outputs. It is unbiased, and exact for R = O.

    Sketches: the gradients A_iᵀ G_i of a layer, over all outputs of a batch, are replaced by random
    projections Pᵀ A_iᵀ G_i Q [sketch, sketch] if that is cheaper. The estimate is unbiased.

    Args:
        apply, params, x, x2, only, seed, budget, devices, progress: as for `gram`.
        probes: number of probes R, at least 4; all outputs by default.
        sketch: dimension of the sketches; 0 for none.

    Raises:
        ValueError: if there are fewer than 4 probes, or fewer than 4 outputs without a sketch; and
            as `gram`.
    """
    kernel = Kernel(apply, params, x, x2, only=only, budget=budget, devices=devices)
    count = kernel.outputs if probes is None else probes
    _check.whole("sketch", sketch, 0)
    least = 1 if sketch and probes is None else BATCHES
    _check.whole("probes", count, least, why=", one for each batch")
    V = directions(kernel.outputs, count, seed)
    if sketch and probes is None:  # one pass, with four sketches of each layer
        works = [kernel.work(V, int(sketch), BATCHES, int(seed))]
        weights = np.ones(BATCHES)
    else:
        shares = np.array_split(V * np.sqrt(count), BATCHES)
        weights = np.array([len(v) for v in shares])
        works = [
            kernel.work(v / np.sqrt(len(v)), int(sketch), 1, int(seed), batch=k)
            for k, v in enumerate(shares)
        ]
    kernels: list[np.ndarray] = []
    with _terminal.bar(
        total=sum(len(work.plan.units) for work in works),
        desc="eNTK",
        unit="unit",
        progress=progress,
    ) as bar:
        if sketch or len(works[0].V) > ROWS:
            verify_pair(kernel)
        for work in works:
            total: Any = 0.0
            for term in kernel.terms(work):
                total = total + term
                bar.update()
            if not sketch and work is works[0] and len(work.V) <= ROWS:
                verify(kernel, work.V, total)
            kernels += list(total.reshape(-1, *kernel.shape))
    batches = np.stack([kernel.complete(each) for each in kernels]).astype(np.float64)
    mean = np.einsum("b,bij->ij", weights / weights.sum(), batches).astype(kernel.dtype)
    sketched = any(
        piece.form == "sketched"
        for work in works
        for unit in work.plan.units
        for piece in unit.pieces
    )
    return Estimate(mean, batches, 1.0 if sketched else 1 - count / kernel.outputs)
