"""Measurements of curves and embeddings: eigenvalues, step times, subspace alignment and rank.

The same functions apply to theory and to experiments.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stepwise import _check
from stepwise.moments import centre, cross_moment
from stepwise.types import Numbers, Real, Whole


def eigenvalues(z1: Numbers, z2: Numbers, *, center: bool = False) -> Float[Array, " d"]:
    """Return the eigenvalues [d] of C = (z1ᵀ z2 + z2ᵀ z1)/(2n), the largest first.

    C is the cross-view moment of Simon et al. (2023), eq. 4.

    Args:
        z1, z2: embeddings of the two views [n, d]; row i of both is one pair.
        center: subtract the mean of all 2n embeddings first. By default it is not subtracted, which
            suits the embeddings of a centred problem. If the kernel is centred, centre the
            embeddings in the same way.

    Raises:
        ValueError: if the embeddings are not finite matrices of the same shape.
    """
    z1, z2 = _pair(z1, z2)
    if center:
        z1, z2 = jnp.split(centre(jnp.concatenate([z1, z2]), "pooled"), 2)
    return jnp.linalg.eigvalsh(cross_moment(z1, z2))[::-1]


def step_times(times: Numbers, eigenvalues: Numbers, level: Real = 0.5) -> Float[np.ndarray, " d"]:
    """Return the time at which each curve first rises through `level`.

    The time is infinite for a curve that never rises through the level. A curve that starts above
    the level must first fall below it.

    The crossing is interpolated between the two samples around it: linearly in logit λ if both
    samples and `level` lie in (0, 1), which is exact for a logistic curve on any grid, and linearly
    in λ otherwise. Samples that are not finite, such as those of a diverged run, never count as a
    crossing.

    Args:
        times: increasing [T].
        eigenvalues: curves [T, d].
        level: height of the crossing. The default 1/2 is half of a final value of 1.

    Raises:
        ValueError: if the shapes do not match, or `times` does not increase.
    """
    t = np.asarray(_check.real_array("times", times, ndim=1), np.float64)
    curves = np.asarray(eigenvalues, np.float64)
    fits = curves.ndim == 2 and curves.shape[0] == t.size and t.size > 0
    _check.require(fits, "eigenvalues", f"[{t.size}, d], a row for each time", curves)
    _check.require(bool((np.diff(t) > 0).all()), "times", "increasing numbers", t)
    below, above = curves[:-1] < level, curves[1:] >= level
    rises = below & above & np.isfinite(curves[:-1]) & np.isfinite(curves[1:])
    crossing = np.full(curves.shape[1], np.inf)
    for j in np.flatnonzero(rises.any(axis=0)):
        i = int(np.argmax(rises[:, j]))
        ends = np.array([curves[i, j], curves[i + 1, j], level])
        if (ends > 0).all() and (ends < 1).all():
            ends = np.log(ends) - np.log1p(-ends)
        crossing[j] = t[i] + (t[i + 1] - t[i]) * (ends[2] - ends[0]) / (ends[1] - ends[0])
    return crossing


def subspace_alignment(a: Numbers, b: Numbers) -> float:
    """Compute the alignment ‖Q_aᵀ Q_b‖_F² / d of two column spans with orthonormal bases Q.

    The alignment is 1 if the spans are equal and 0 if they are orthogonal.

    Args:
        a, b: matrices [rows, d] whose columns span the subspaces. If their widths differ, d is the
            smaller width.

    Raises:
        ValueError: if the numbers of rows differ, or a matrix lacks full column rank (its span then
            has fewer dimensions than columns, and the score would be arbitrary).
    """
    bases = []
    for name, matrix in (("a", a), ("b", b)):
        matrix = np.asarray(_check.real_array(name, matrix, ndim=2))
        basis, sizes, _ = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
        rank = (
            int(np.sum(sizes > max(matrix.shape) * np.finfo(matrix.dtype).eps * sizes[0]))
            if sizes.size
            else 0
        )
        expected = f"full column rank {matrix.shape[1]}"
        _check.require(
            0 < rank == matrix.shape[1], name, expected, f"rank {rank} of {list(matrix.shape)}"
        )
        bases.append(basis)
    _check.require(len(bases[0]) == len(bases[1]), "b", f"{len(bases[0])} rows as a", b)
    return float(np.sum((bases[0].T @ bases[1]) ** 2) / min(bases[0].shape[1], bases[1].shape[1]))


def random_alignment(d: Whole, rows: Whole) -> float:
    """Return d/rows, the expected alignment of two random d-dimensional subspaces of R^rows."""
    _check.require(1 <= d <= rows, "d", f"a number in 1 ... {rows}, the number of rows", d)
    return d / rows


def rankme(z: Numbers) -> float:
    """Compute RankMe = exp(−Σ p ln p), p_i = σ_i/Σσ + 1e-7, of embeddings z [n, d].

    σ are the singular values of the uncentred embeddings (Garrido et al., *RankMe*, ICML 2023, eq.
    1). RankMe is about 1 for collapsed embeddings and d for white ones.

    Raises:
        ValueError: if z is not a finite matrix, or is all zero.
    """
    z = np.asarray(_check.real_array("z", z, ndim=2), np.float64)
    sizes = np.linalg.svd(z, compute_uv=False)
    _check.require(sizes.sum() > 0, "z", "embeddings that are not all zero", z)
    p = sizes / sizes.sum() + 1e-7
    return float(np.exp(-np.sum(p * np.log(p))))


def covariance_eigenvalues(z: Numbers) -> Float[np.ndarray, " d"]:
    """Return the eigenvalues [d] of the covariance of embeddings z [n, d], the largest first.

    The covariance is (1/n) Σ_i (z_i − z̄)(z_i − z̄)ᵀ.

    Raises:
        ValueError: if z is not a finite matrix.
    """
    z = _matrix(z)
    return np.linalg.eigvalsh(np.cov(z, rowvar=False, bias=True).reshape(z.shape[1], -1))[::-1]


def effective_rank(z: Numbers) -> float:
    """Compute the effective rank exp(−Σ p ln p), p_i = λ_i/Σλ, of embeddings z [n, d].

    λ are the eigenvalues of the covariance, whereas RankMe uses uncentred singular values. The
    effective rank is 1 if all embeddings are equal (Roy & Vetterli 2007).
    """
    p = _shares(z)
    return float(np.exp(-np.sum(p * np.log(p, out=np.zeros_like(p), where=p > 0))))


def participation_ratio(z: Numbers) -> float:
    """Compute the participation ratio 1/Σ p_i², p_i = λ_i/Σλ, of embeddings z [n, d].

    λ are the eigenvalues of the covariance. The ratio is 1 if all embeddings are equal.
    """
    return float(1 / np.sum(_shares(z) ** 2))


def alpha_req(z: Numbers) -> float:
    """Fit the exponent α of λ_i ∝ i^−α to the covariance eigenvalues of embeddings z [n, d].

    α is minus the least-squares slope of ln λ_i against ln i, over the eigenvalues above rounding
    (Agrawal et al., *α-ReQ*, NeurIPS 2022). It is NaN if there are fewer than two.
    """
    values = covariance_eigenvalues(z)
    values = values[values > len(values) * np.finfo(np.float64).eps * max(values[0], 0)]
    if len(values) < 2:
        return float("nan")
    return float(-np.polyfit(np.log(np.arange(1, len(values) + 1)), np.log(values), 1)[0])


def alignment(z1: Numbers, z2: Numbers) -> float:
    """Compute the alignment E ‖u(z) − u(z')‖² over positive pairs, with u(z) = z/‖z‖.

    It is 0 for an embedding that is invariant between views (Wang & Isola 2020).

    Raises:
        ValueError: if z1 and z2 are not finite matrices of the same shape.
    """
    a, b = _unit(z1), _unit(z2)
    _check.require(a.shape == b.shape, "z2", f"shape {list(a.shape)} as z1", b)
    return float(np.mean(np.sum((a - b) ** 2, axis=1)))


def uniformity(z: Numbers) -> float:
    """Compute the uniformity ln E exp(−2 ‖u(z_i) − u(z_j)‖²) over pairs i ≠ j, with u(z) = z/‖z‖.

    It is 0 at collapse and negative for embeddings that are spread out (Wang & Isola 2020).

    Raises:
        ValueError: if z is not a finite matrix of at least two rows.
    """
    u = _unit(z)
    _check.require(len(u) > 1, "z", "at least two rows", u)
    values = np.exp(-2 * np.maximum(2 - 2 * (u @ u.T), 0))
    return float(np.log((values.sum() - np.trace(values)) / (len(u) * (len(u) - 1))))


def collapse_std(z: Numbers) -> float:
    """Compute the mean over dimensions of the standard deviation of z/‖z‖.

    It is 0 at collapse and about 1/√d for isotropic embeddings (Chen & He 2021).
    """
    return float(np.mean(np.std(_unit(z), axis=0)))


def monitors(z1: Numbers, z2: Numbers) -> dict[str, float]:
    """Compute all measures of rank and collapse of the embeddings z1, z2 [n, d] of two views.

    The result holds `rankme`, `effective_rank`, `participation_ratio`, `alpha_req`, `uniformity`
    and `collapse_std` of all 2n embeddings, and `alignment` of the pairs. All values are NaN if an
    embedding is not finite; `rankme` is also NaN if all embeddings are zero.
    """
    both = np.concatenate([np.asarray(z1), np.asarray(z2)])
    finite = bool(np.isfinite(both).all())
    measures = (effective_rank, participation_ratio, alpha_req, uniformity, collapse_std)
    values = {measure.__name__: measure(both) if finite else float("nan") for measure in measures}
    values["rankme"] = rankme(both) if finite and both.any() else float("nan")
    values["alignment"] = alignment(z1, z2) if finite else float("nan")
    return values


def _matrix(z: Numbers) -> np.ndarray:
    z = np.asarray(_check.real_array("z", z, ndim=2), np.float64)
    _check.require(z.size > 0, "z", "at least one embedding", z)
    return z


def _shares(z: Numbers) -> np.ndarray:
    values = np.maximum(covariance_eigenvalues(z), 0)
    total = values.sum()
    return values / total if total > 0 else np.eye(len(values))[0]


def _unit(z: Numbers) -> np.ndarray:
    z = _matrix(z)
    return z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)


def _pair(z1: Numbers, z2: Numbers) -> tuple[Array, Array]:
    z1 = jnp.asarray(_check.real_array("z1", z1, ndim=2))
    z2 = jnp.asarray(_check.real_array("z2", z2, ndim=2))
    _check.require(z1.shape == z2.shape, "z2", f"shape {list(z1.shape)} as z1", z2)
    _check.require(z1.size > 0, "z1", "at least one pair", z1)
    return z1, z2


def steps_alone(
    times: Numbers, eigenvalues: Numbers, *, low: Real = 0.1, learned: Real | None = None
) -> tuple[int, int]:
    """Count the modes that stepped, and those among them that stepped alone.

    A mode stepped if it crossed half of its final value (the mean of its last three samples), and
    that value exceeds `learned`. It stepped alone if the next mode had not begun at that time. The
    next mode has not begun while it is below `low` times its final value, or below
    `low` · 2 · learned if it is never learned. The samples of a diverged run count up to the first
    that is not finite.

    Args:
        times: [T], increasing.
        eigenvalues: [T, d], the largest first.
        low: the fraction below which a mode has not begun.
        learned: the final value above which a mode is learned, in the unit of the eigenvalues, such
            as 1/2 if the final value is 1; by default a twentieth of the largest final value.

    Returns:
        The number of modes that stepped, and the number that stepped alone.

    Raises:
        ValueError: if the shapes do not match, `times` does not increase, or `learned` is not
            positive.
    """
    values, t = np.asarray(eigenvalues, np.float64), np.asarray(times, np.float64)
    _check.require(
        values.ndim == 2 and t.shape == values.shape[:1],
        "eigenvalues",
        "[T, d], a row for each time",
        values,
    )
    _check.require(learned is None or learned > 0, "learned", "a positive number", learned)
    finite = np.isfinite(values).all(axis=1)
    last = len(t) if finite.all() else int(np.argmin(finite))
    if last == 0:
        return 0, 0
    t, values = t[:last], values[:last]
    ends = values[-3:].mean(axis=0)
    if learned is None:
        learned = max(float(ends.max()) / 20, float(np.finfo(np.float64).tiny))
    relative = values / np.where(ends > learned, ends, 2 * learned)
    crossing = step_times(t, relative)
    crossed = np.isfinite(crossing) & (ends > learned)
    following = np.append(relative[:, 1:], np.zeros((last, 1)), axis=1)
    alone = [np.interp(crossing[j], t, following[:, j]) < low for j in np.flatnonzero(crossed)]
    return int(crossed.sum()), int(sum(alone))
