"""First and second moments of positive pairs, accumulated over batches and devices."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float

from stepwise import _check
from stepwise._moved import Renamed
from stepwise.types import Array, Numbers

Center = Literal["pooled", "per_view", "none"]
CENTERS: tuple[Center, ...] = ("pooled", "per_view", "none")


@dataclass(frozen=True)
class Moments:
    """Means and uncentred second moments of n positive pairs, in float64 on the host.

    The cross-view moment is Γ = (1/2n) Σ_i x_i x'_iᵀ + x'_i x_iᵀ (Simon et al. 2023, eq. 3). With
    m = (x + x')/2 and δ = (x − x')/2 it equals E[m mᵀ] − E[δ δᵀ], so the augmentation varies more
    than the signal in a mode of negative γ. The moment of single views is
    Σ = (1/2n) Σ_i x_i x_iᵀ + x'_i x'_iᵀ.

    All moments are about `shift`, so that a large mean costs no digits.

    Attributes:
        n_pairs: number of pairs n.
        shift: origin of the moments [m].
        mean, mean2: means of the two views, relative to `shift` [m].
        gamma: Γ about `shift` [m, m].
        sigma: Σ about `shift` [m, m].
    """

    n_pairs: int
    shift: Float[np.ndarray, " m"]
    mean: Float[np.ndarray, " m"]
    mean2: Float[np.ndarray, " m"]
    gamma: Float[np.ndarray, "m m"]
    sigma: Float[np.ndarray, "m m"]

    centred = Renamed("centre")
    merged = Renamed("merge")

    def centre(
        self, center: Center = "pooled"
    ) -> tuple[Float[np.ndarray, "m m"], Float[np.ndarray, "m m"]]:
        """Return Γ and Σ about the mean of all 2n views, each view's own mean, or the origin.

        For the means μ and μ' of the two views, Γ_c = Γ − (μ μ'ᵀ + μ' μᵀ)/2. For the pooled mean,
        μ̄ = (μ + μ')/2 replaces both.

        Args:
            center: "pooled", "per_view" or "none", in the order above.

        Raises:
            ValueError: if `center` is unknown.
        """
        _check.require(center in CENTERS, "center", f"one of {CENTERS}", center)
        if center == "none":
            a, b = -self.shift, -self.shift
        elif center == "pooled":
            a = b = (self.mean + self.mean2) / 2
        else:
            a, b = self.mean, self.mean2
        # moments about `shift + a` and `shift + b`, because the means are relative to `shift`
        mu, mu2 = self.mean, self.mean2
        cross = (
            self.gamma - _symmetric_outer(mu, b) - _symmetric_outer(a, mu2) + _symmetric_outer(a, b)
        )
        single = (
            self.sigma
            - (_symmetric_outer(mu, a) + _symmetric_outer(mu2, b))
            + (np.outer(a, a) + np.outer(b, b)) / 2
        )
        return cross, single

    def merge(self, other: "Moments") -> "Moments":
        """Return the moments of the union of both sets of pairs."""
        other = other._move_to(self.shift)
        n = self.n_pairs + other.n_pairs
        p, q = self.n_pairs / n, other.n_pairs / n
        fields = ("mean", "mean2", "gamma", "sigma")
        return replace(
            self, n_pairs=n, **{f: p * getattr(self, f) + q * getattr(other, f) for f in fields}
        )

    def _move_to(self, shift: Float[np.ndarray, " m"]) -> "Moments":
        step = shift - self.shift
        if not step.any():
            return self
        mu, mu2 = self.mean, self.mean2
        return replace(
            self,
            shift=shift,
            mean=mu - step,
            mean2=mu2 - step,
            gamma=self.gamma
            - _symmetric_outer(mu, step)
            - _symmetric_outer(step, mu2)
            + np.outer(step, step),
            sigma=self.sigma
            - _symmetric_outer(mu, step)
            - _symmetric_outer(mu2, step)
            + np.outer(step, step),
        )


def of_pairs(x: Numbers, x2: Numbers) -> Moments:
    """Compute the moments of one batch of pairs x, x2 [n, ...], flattened to [n, m].

    Products are about the batch's pooled mean and in the precision of the inputs, or in float32 for
    lower precisions. They use all local devices if n is a multiple of their number; float64 NumPy
    arrays stay on the host.

    Raises:
        ValueError: if the views differ in shape, hold no pair, or are not finite.
    """
    x, x2 = flat_pair(x, x2)
    n = x.shape[0]
    shift = (np.asarray(x, np.float64).mean(0) + np.asarray(x2, np.float64).mean(0)) / 2
    if isinstance(x, np.ndarray) and x.dtype == np.float64:
        parts = _products(x - shift, x2 - shift)
    else:
        devices = jax.local_devices()
        place = NamedSharding(Mesh(np.array(devices), ("pairs",)), PartitionSpec("pairs"))
        offset = jnp.asarray(shift, x.dtype)
        shift = np.asarray(offset, np.float64)
        views = (jnp.asarray(x) - offset[None], jnp.asarray(x2) - offset[None])
        if len(devices) > 1 and n % len(devices) == 0:
            views = (jax.device_put(views[0], place), jax.device_put(views[1], place))
        parts = _device_products(*views)
    mean, mean2, cross, single = (np.asarray(part, np.float64) / n for part in parts)
    return Moments(n, shift, mean, mean2, (cross + cross.T) / 2, single / 2)


def of_batches(batches: Iterable[tuple[Numbers, Numbers]]) -> Moments:
    """Compute the moments of a stream of batches (x, x2) of any sizes.

    Only one batch is in memory at a time.

    Raises:
        ValueError: if the stream is empty, or the inputs of a batch differ in size from those of
            the first batch.
    """
    total: Moments | None = None
    for x, x2 in batches:
        part = of_pairs(x, x2)
        if total is not None:
            m = total.shift.size
            _check.require(
                part.shift.size == m,
                "batches",
                f"inputs of size {m} as in the first batch",
                part.shift,
            )
        total = part if total is None else total.merge(part)
    if total is None:
        raise ValueError("batches: expected at least one batch of pairs, received none")
    return total


def cross_moment(z1: Any, z2: Any) -> Any:
    """Compute (z1ᵀ z2 + z2ᵀ z1)/(2n) [d, d] of two matrices [n, d], without centring.

    Simon et al. (2023), eq. 3 and 4.
    """
    cross = z1.T @ z2 / len(z1)
    return (cross + cross.T) / 2


def centre(z: Any, how: Center) -> Any:
    """Subtract a mean from the rows [2n, ...] of both views, X stacked above X'.

    Args:
        z: the rows.
        how: subtract the mean of all rows ("pooled"), each view's own mean ("per_view"), or no mean
            ("none").

    Raises:
        ValueError: if `how` is unknown.
    """
    _check.require(how in CENTERS, "center", f"one of {CENTERS}", repr(how))
    if how == "pooled":
        return z - z.mean(axis=0, keepdims=True)
    if how == "per_view":
        n = len(z) // 2
        views = z.reshape(2, n, *z.shape[1:])
        return (views - views.mean(axis=1, keepdims=True)).reshape(z.shape)
    return z


def flat_pair(x: Numbers, x2: Numbers) -> tuple[Array, Array]:
    """Return both views as float matrices [n, m] of the same dtype.

    The dtype is the wider of the two, and at least float32.

    Raises:
        ValueError: if the views differ in shape, are empty, or are not finite real numbers.
    """
    x, x2 = _check.real_array("x", x), _check.real_array("x2", x2)
    _check.require(x.ndim >= 1 and x.size > 0, "x", "at least one view with at least one number", x)
    _check.require(x2.shape == x.shape, "x2", f"shape {list(x.shape)} as x", x2)
    dtype = np.promote_types(np.promote_types(x.dtype, x2.dtype), np.float32)
    n = x.shape[0]
    return x.reshape(n, -1).astype(dtype), x2.reshape(n, -1).astype(dtype)


def _products(x: Array, x2: Array) -> tuple[Array, Array, Array, Array]:
    return x.sum(0), x2.sum(0), x.T @ x2, x.T @ x + x2.T @ x2


_device_products = jax.jit(_products)


def _symmetric_outer(
    a: Float[np.ndarray, " m"], b: Float[np.ndarray, " m"]
) -> Float[np.ndarray, "m m"]:
    outer = np.outer(a, b)
    return (outer + outer.T) / 2
