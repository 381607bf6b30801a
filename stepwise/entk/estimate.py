"""Cheaper kernels with a stated error: probes of the outputs, and sketches of every layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from stepwise import _bars, _check, spectra
from stepwise._moved import Renamed
from stepwise.entk.gram import directions
from stepwise.entk.kernel import Apply, Kernel, Only
from stepwise.entk.score import predict
from stepwise.moments import Center
from stepwise.types import Numbers, Whole

BATCHES = 4
"""Independent estimates whose scatter is the error of their mean."""


@dataclass(frozen=True)
class Estimate:
    """A kernel that was estimated, and how far off it is.

    Attributes:
        K: the estimate [n, n'], the mean of the batches.
        batches: estimates that differ by chance alone [b, n, n'], float64.
        unsampled_share: share of the variance that remains, 1 − R/O for R of O orthogonal probes
            without a sketch: with all of them the mean is exact, however the batches scatter.
    """

    K: np.ndarray
    batches: Float[np.ndarray, "b n m"]
    unsampled_share: float

    left = Renamed("unsampled_share")

    @property
    def error(self) -> float:
        """Expected ‖K − exact‖_F/‖exact‖_F, from the scatter of the batches around their mean."""
        count, mean = len(self.batches), self.batches.mean(axis=0)
        scatter = np.sum((self.batches - mean) ** 2) / (count - 1)
        size = np.sum(mean**2) - self.unsampled_share * scatter / count
        return float(
            np.sqrt(self.unsampled_share * scatter / count / max(size, np.finfo(float).tiny))
        )

    def subspace_error(self, d: Whole, *, center: Center = "pooled") -> float:
        """Expected 1 − alignment of the predicted top-d subspace with the exact kernel's, of K [2n,
        2n] of pairs.

        Each batch's prediction is compared with that of the mean of the others. The error is
        quadratic in the kernel's, so that with b batches the mean of all is nearer by the factor
        left · (b − 1)/b² than such a pair is to each other; where the kernel is too noisy for that,
        it is a bound from below.

        Raises:
            ValueError: as `problem.from_gram`.
        """
        total, count = self.batches.sum(axis=0), len(self.batches)
        apart = []
        for batch in self.batches:
            ours, others = (
                predict(K, d, center=center) for K in (batch, (total - batch) / (count - 1))
            )
            apart.append(1 - spectra.subspace_alignment(ours, others))
        return float(self.unsampled_share * np.mean(apart) * (count - 1) / count**2)


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
    """The kernel of `gram` from probes of the outputs, sketches of the layers, or both, in four
    independent batches.

    Probes: K = (1/R) Σ_r ⟨∂(v_r·f)(x)/∂θ, ∂(v_r·f)(x')/∂θ⟩ over R rows of a random orthonormal
    basis of the outputs, without bias, exact at R = O. Sketches: of each layer A_iᵀ G_i, over all
    outputs of a batch, a random projection Pᵀ A_iᵀ G_i Q to `sketch` dimensions each takes its
    place where that is cheaper; without bias.

    Args:
        probes: R, at least 4; all outputs by default.
        sketch: dimensions; 0 for none.
        apply, params, x, x2, only, seed, budget, devices, progress: as for `gram`.

    Raises:
        ValueError: fewer than 4 probes or than 4 outputs without a sketch; otherwise as `gram`.
    """
    kernel = Kernel(apply, params, x, x2, only=only, budget=budget, devices=devices)
    count = kernel.outputs if probes is None else probes
    _check.whole("sketch", sketch, 0)
    least = 1 if sketch and probes is None else BATCHES
    _check.whole("probes", count, least, why=", one for each batch")
    V = directions(kernel.outputs, count, seed)
    if sketch and probes is None:  # one pass, in which every layer has four sketches
        works = [kernel.work(V, int(sketch), BATCHES, int(seed))]
        weights = np.ones(BATCHES)
    else:
        some = np.array_split(V * np.sqrt(count), BATCHES)
        weights = np.array([len(v) for v in some])
        works = [
            kernel.work(v / np.sqrt(len(v)), int(sketch), 1, int(seed), batch=k)
            for k, v in enumerate(some)
        ]
    found = []
    with _bars.bar(
        total=sum(len(work.plan.units) for work in works),
        desc="eNTK",
        unit="unit",
        progress=progress,
    ) as bar:
        for work in works:
            total: Any = 0.0
            for term in kernel.terms(work):
                total = total + term
                bar.update()
            found += list(total.reshape(-1, *kernel.shape))
    batches = np.stack([kernel.whole(each) for each in found]).astype(np.float64)
    mean = np.einsum("b,bij->ij", weights / weights.sum(), batches).astype(kernel.dtype)
    sketched = any(
        piece.form == "sketched"
        for work in works
        for unit in work.plan.units
        for piece in unit.pieces
    )
    return Estimate(mean, batches, 1.0 if sketched else 1 - count / kernel.outputs)
