"""How well predicted embeddings agree with real ones: alignment of their subspaces, its null, its
interval.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from stepwise import _check, problem, spectra
from stepwise._moved import Renamed
from stepwise.moments import Center, centre
from stepwise.types import Numbers, Real, Whole

CUTOFF = 1e-6
"""Of the kernel's eigenvalues, relative to the largest: its entries come from sums in the network's
float32.
"""


@dataclass(frozen=True)
class Score:
    """Agreement of a predicted and a real embedding of the same 2n views.

    Attributes:
        alignment: ‖Q_predᵀ Q_real‖_F²/d of the two d-dimensional subspaces (source, Table 1).
        leading: the same for the first k of each, k = 1 ... d: predicted modes from the largest γ
            down, real principal directions from the largest variance down.
        captured_share: share of the first k predicted modes that lies in the whole real subspace,
            k = 1 ... d.
        random: mean alignment of two random subspaces, d over the dimensions that the centring
            leaves.
        p_value: how often a random subspace does as well, of so many drawn and this one.
        interval: 95% by halves of the pairs, all of it anew from the kernel on; NaN where it was
            not asked for.
    """

    alignment: float
    leading: Float[np.ndarray, " d"]
    captured_share: Float[np.ndarray, " d"]
    random: float
    p_value: float
    interval: tuple[float, float]

    captured = Renamed("captured_share")

    def summary(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        curves = {"leading": self.leading.tolist(), "captured": self.captured_share.tolist()}
        numbers = {"alignment": self.alignment, "random": self.random, "p_value": self.p_value}
        return {**numbers, "interval": list(self.interval), **curves}


def score(
    K: Numbers,
    z: Numbers,
    *,
    center: Center = "pooled",
    resamples: Whole = 0,
    draws: Whole = 999,
    seed: Whole = 0,
    cutoff: Real = CUTOFF,
) -> Score:
    """Score what K predicts against real embeddings, both centred in one way.

    The prediction is the problem's leading d modes on the views, φ_j, γ_j from the largest
    (`problem.from_gram`).

    Args:
        K: kernel of the 2n views [2n, 2n], X stacked on X', such as `entk.gram`'s.
        z: real embeddings of the same views [2n, d].
        center: of kernel and embedding alike: at the mean over all views, over each view, or not.
        resamples: random halves of the pairs, for the interval; 0 for none. Alignments of halves
            scatter around their own mean as those of wholes do around theirs, to first order, and
            no pair comes twice, as it would in a bootstrap, to lift the kernel's small modes.
        draws: random subspaces for the p-value.

    Raises:
        ValueError: the shapes do not fit; the kernel has fewer than d positive modes; the embedding
            has not d dimensions (a collapsed one).
    """
    z = np.asarray(_check.real_array("z", z, ndim=2), np.float64)
    K = np.asarray(_check.real_array("K", K, ndim=2))
    rows, d = z.shape
    _check.require(
        K.shape == (rows, rows), "K", f"[{rows}, {rows}], a row and a column for each embedding", K
    )
    left = rows - {"none": 0, "pooled": 1, "per_view": 2}[center]
    _check.require(0 < d <= left, "z", f"1 ... {left} dimensions on {rows} views", z)
    for name, value in (("resamples", resamples), ("draws", draws)):
        _check.whole(name, value, 0)
    enough = resamples == 0 or d <= 2 * (rows // 4) - (rows - left)
    _check.require(
        enough,
        "resamples",
        f"0 with {rows} views, half of which have not {d} dimensions",
        resamples,
    )
    ours, real = _bases(K, z, center, cutoff)
    rng = np.random.default_rng(seed)
    alignment = _aligned(ours, real)
    drawn = np.array([_random(rng, left, d) for _ in range(draws)])
    resampled = []
    for _ in range(resamples):
        pairs = np.sort(rng.permutation(rows // 2)[: rows // 4])
        some = np.concatenate([pairs, pairs + rows // 2])
        resampled.append(_aligned(*_bases(K[np.ix_(some, some)], z[some], center, cutoff)))
    interval = (np.nan, np.nan)
    if resampled:
        low, high = np.quantile(np.asarray(resampled) - np.mean(resampled), [0.025, 0.975])
        interval = (float(max(0.0, alignment + low)), float(min(1.0, alignment + high)))
    overlaps = (ours.T @ real) ** 2
    k = np.arange(1, d + 1)
    return Score(
        alignment,
        np.array([overlaps[:i, :i].sum() / i for i in k]),
        np.cumsum(overlaps.sum(axis=1)) / k,
        spectra.random_alignment(d, left),
        float((1 + np.sum(drawn >= alignment)) / (1 + draws)),
        interval,
    )


def drift(before: Numbers, after: Numbers, *, scaled: bool = False) -> float:
    """‖K' − K‖_F/‖K‖_F: how far a kernel has moved, between two checkpoints of a run.

    Args:
        before, after: K and K', kernels of the same inputs.
        scaled: leave out how much it has grown, min over c of ‖c K' − K‖_F/‖K‖_F: the sine of the
            angle between them.

    Raises:
        ValueError: the kernels differ in shape, or one is zero where there has to be a ratio.
    """
    a, b = (
        np.asarray(_check.real_array(name, K, ndim=2), np.float64)
        for name, K in (("before", before), ("after", after))
    )
    _check.require(a.shape == b.shape, "after", f"shape {list(a.shape)} as before", b)
    sizes = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    _check.require(sizes[0] > 0, "before", "a kernel that is not zero", "zeros")
    if scaled:
        _check.require(sizes[1] > 0, "after", "a kernel that is not zero", "zeros")
        b = b * (np.vdot(a, b) / sizes[1] ** 2)
    return float(np.linalg.norm(b - a)) / sizes[0]


def predict(
    K: Numbers, d: Whole, *, center: Center = "pooled", cutoff: Real = CUTOFF
) -> Float[np.ndarray, "views d"]:
    """What a kernel predicts of d learned dimensions: √(1/γ_j) φ_j on the views, largest γ first.

    The embeddings [2n, d] of the kernel's 2n views at the end of a gradient flow from a small start
    with this kernel held fixed (source, Prop. 5.3), up to a rotation: their C is the identity.

    Args:
        K: kernel of the views [2n, 2n], X stacked on X', such as `gram` returns.
        d: dimensions; no more than there are positive modes.
        center: how the kernel is centred before.
        cutoff: eigenvalues of K below this fraction of the largest are left out.

    Raises:
        ValueError: K is not a kernel matrix of pairs, or has fewer than d positive modes.
    """
    found = problem.from_gram(K, center=center, modes=d, cutoff=cutoff).predict(d)
    return np.asarray(found, np.float64)


def _bases(
    K: np.ndarray, z: np.ndarray, center: Center, cutoff: Real
) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal bases of the predicted and the real subspace, each in its own order."""
    z = centre(z, center)
    real, sizes, _ = np.linalg.svd(z, full_matrices=False)
    rank = int(np.sum(sizes > 1e-6 * sizes[0]))
    _check.require(rank == z.shape[1], "z", f"embeddings of {z.shape[1]} dimensions", f"of {rank}")
    basis, triangle = np.linalg.qr(predict(K, z.shape[1], center=center, cutoff=cutoff))
    return basis * np.sign(np.diag(triangle)), real


def _aligned(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sum((a.T @ b) ** 2) / a.shape[1])


def _random(rng: np.random.Generator, rows: int, d: int) -> float:
    """Alignment of a random subspace with a fixed one."""
    basis = np.linalg.qr(rng.normal(size=(rows, d)))[0]
    return float(np.sum(basis[:d] ** 2) / d)
