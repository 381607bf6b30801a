"""Alignment of the embeddings that a kernel predicts with those of a trained network.

`predict` returns the predicted embeddings; `score` compares their subspace with that of real
embeddings, with a null hypothesis and an interval; `drift` compares two kernels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from stepwise import _check, problem, spectra
from stepwise._moved import Renamed
from stepwise.moments import CENTERS, Center, centre
from stepwise.types import Numbers, Real, Whole

CUTOFF = 1e-6
"""Smallest eigenvalue of a kernel that is used, relative to the largest.

The entries of an eNTK are sums in the network's float32: smaller eigenvalues are rounding errors.
"""


@dataclass(frozen=True)
class Score:
    """Alignment of a predicted and a real embedding of the same 2n views.

    Attributes:
        alignment: ‖Q_predᵀ Q_real‖_F²/d of the two d-dimensional subspaces (Simon et al. (2023),
            Table 1), between 0 and 1.
        leading: the alignment of the first k predicted modes (largest γ first) with the first k
            principal directions of the real embeddings (largest variance first), k = 1 ... d.
        captured_share: fraction of the first k predicted modes that lies in the whole real
            subspace, k = 1 ... d.
        random: mean alignment of two random subspaces: d over the number of dimensions that remain
            after centring.
        p_value: fraction of subspaces with at least this alignment, among the random draws and the
            predicted subspace itself.
        interval: 95% interval of the alignment, from random halves of the pairs; NaN if no
            resamples were requested.
    """

    alignment: float
    leading: Float[np.ndarray, " d"]
    captured_share: Float[np.ndarray, " d"]
    random: float
    p_value: float
    interval: tuple[float, float]

    captured = Renamed("captured_share")

    def summary(self) -> dict[str, Any]:
        """Return all fields as a dict of lists and numbers for JSON."""
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
    """Compare the embeddings that K predicts (`predict`) with real embeddings of the same views.

    Args:
        K: kernel of the 2n views [2n, 2n], X stacked on X', such as `entk.gram` returns.
        z: real embeddings of the same views [2n, d].
        center: how both the kernel and the embeddings are centred: "pooled" at the mean over all
            views, "per_view" at the mean over each view, or "none".
        resamples: number of random halves of the pairs for the interval; 0 for none. To first
            order, alignments of halves scatter around their mean as those of complete samples do.
            A bootstrap would repeat pairs, which raises the kernel's small eigenvalues.
        draws: number of random subspaces for the p-value.
        seed: seed of halves and random subspaces.
        cutoff: eigenvalues of K below this fraction of the largest are left out.

    Raises:
        ValueError: if the shapes do not match, the kernel has fewer than d positive modes, or the
            embeddings have fewer than d dimensions (they are collapsed).
    """
    z = np.asarray(_check.real_array("z", z, ndim=2), np.float64)
    K = np.asarray(_check.real_array("K", K, ndim=2))
    rows, d = z.shape
    _check.require(
        K.shape == (rows, rows), "K", f"[{rows}, {rows}], a row and a column per embedding", K
    )
    _check.require(center in CENTERS, "center", f"one of {CENTERS}", repr(center))
    rank = rows - {"none": 0, "pooled": 1, "per_view": 2}[center]
    _check.require(0 < d <= rank, "z", f"1 ... {rank} dimensions for {rows} views", z)
    for name, value in (("resamples", resamples), ("draws", draws), ("seed", seed)):
        _check.whole(name, value, 0)
    enough = resamples == 0 or d <= 2 * (rows // 4) - (rows - rank)
    _check.require(
        enough,
        "resamples",
        f"0 with {rows} views, because half of them span fewer than {d} dimensions",
        resamples,
    )
    predicted, real = _find_bases(K, z, center, cutoff)
    rng = np.random.default_rng(seed)
    alignment = _align(predicted, real)
    null = np.array([_draw_alignment(rng, rank, d) for _ in range(draws)])
    halves = []
    for _ in range(resamples):
        pairs = np.sort(rng.permutation(rows // 2)[: rows // 4])
        views = np.concatenate([pairs, pairs + rows // 2])
        bases = _find_bases(K[np.ix_(views, views)], z[views], center, cutoff)
        halves.append(_align(*bases))
    interval = (np.nan, np.nan)
    if halves:
        low, high = np.quantile(np.asarray(halves) - np.mean(halves), [0.025, 0.975])
        interval = (float(max(0.0, alignment + low)), float(min(1.0, alignment + high)))
    overlaps = (predicted.T @ real) ** 2
    k = np.arange(1, d + 1)
    return Score(
        alignment,
        np.array([overlaps[:i, :i].sum() / i for i in k]),
        np.cumsum(overlaps.sum(axis=1)) / k,
        spectra.random_alignment(d, rank),
        float((1 + np.sum(null >= alignment)) / (1 + draws)),
        interval,
    )


def drift(before: Numbers, after: Numbers, *, scaled: bool = False) -> float:
    """Return ‖K' − K‖_F/‖K‖_F, the relative change of a kernel between two checkpoints of a run.

    Args:
        before, after: K and K', kernels of the same inputs.
        scaled: whether to ignore the scale of K', and return min over c of ‖c K' − K‖_F/‖K‖_F, the
            sine of the angle between K and K'.

    Raises:
        ValueError: if the kernels differ in shape, K is zero, or K' is zero and `scaled` is set.
    """
    a, b = (
        np.asarray(_check.real_array(name, K, ndim=2), np.float64)
        for name, K in (("before", before), ("after", after))
    )
    _check.require(a.shape == b.shape, "after", f"shape {list(a.shape)} as before", b)
    # in units of their largest entries, because squares of numbers such as 1e200 overflow
    units = float(np.abs(a).max(initial=0)), float(np.abs(b).max(initial=0))
    _check.require(units[0] > 0, "before", "a kernel that is not zero", "zeros")
    a = a / units[0]
    if scaled:
        _check.require(units[1] > 0, "after", "a kernel that is not zero", "zeros")
        b = b / units[1]
        b = b * (np.vdot(a, b) / np.linalg.norm(b) ** 2)
    else:
        b = b / units[0]
    return float(np.linalg.norm(b - a) / np.linalg.norm(a))


def predict(
    K: Numbers, d: Whole, *, center: Center = "pooled", cutoff: Real = CUTOFF
) -> Float[np.ndarray, "views d"]:
    """Return the embeddings √(1/γ_j) φ_j [2n, d] that a kernel predicts, largest γ_j first.

    They are the embeddings of the kernel's 2n views at the end of a gradient flow from a small
    start, if the kernel stays constant (Simon et al. (2023), Prop. 5.3), up to a rotation. Their
    cross-moment C is the identity.

    Args:
        K: kernel of the views [2n, 2n], X stacked on X', such as `gram` returns.
        d: number of dimensions, at most the number of positive modes.
        center: how the kernel is centred first.
        cutoff: eigenvalues of K below this fraction of the largest are left out.

    Raises:
        ValueError: if K is not a kernel matrix of pairs, or has fewer than d positive modes.
    """
    embeddings = problem.from_gram(K, center=center, modes=d, cutoff=cutoff).predict(d)
    return np.asarray(embeddings, np.float64)


def _find_bases(
    K: np.ndarray, z: np.ndarray, center: Center, cutoff: Real
) -> tuple[np.ndarray, np.ndarray]:
    """Return orthonormal bases [2n, d] of the predicted and of the real subspace.

    The columns are in the order of the predicted modes, and of the real principal directions.
    """
    z = centre(z, center)
    real, sizes, _ = np.linalg.svd(z, full_matrices=False)
    rank = int(np.sum(sizes > 1e-6 * sizes[0]))
    _check.require(rank == z.shape[1], "z", f"embeddings of rank {z.shape[1]}", f"rank {rank}")
    basis, triangle = np.linalg.qr(predict(K, z.shape[1], center=center, cutoff=cutoff))
    return basis * np.sign(np.diag(triangle)), real


def _align(a: np.ndarray, b: np.ndarray) -> float:
    """Return the alignment of two subspaces from their orthonormal bases [2n, d]."""
    return float(np.sum((a.T @ b) ** 2) / a.shape[1])


def _draw_alignment(rng: np.random.Generator, rows: int, d: int) -> float:
    """Return the alignment of a random d-dimensional subspace of `rows` dimensions with another."""
    basis = np.linalg.qr(rng.normal(size=(rows, d)))[0]
    return float(np.sum(basis[:d] ** 2) / d)
