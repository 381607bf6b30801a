"""First and second moments of positive pairs, streamed over batches and devices."""

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

    Γ = (1/2n) Σ_i x_i x'_iᵀ + x'_i x_iᵀ (source, eq. 3) is symmetric and, with m = (x + x')/2 and
    δ = (x − x')/2, equals E[m mᵀ] − E[δ δᵀ]: a negative mode is one in which the augmentation
    varies more than the signal. Σ = (1/2n) Σ_i x_i x_iᵀ + x'_i x'_iᵀ is what one view varies by.

    The fields hold the moments about `shift`, so that a large mean costs no digits.
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
        """Γ and Σ about the pooled mean of the 2n views, about each view's own mean, or about the
        origin.

        Γ_c = Γ − (μ μ'ᵀ + μ' μᵀ)/2 for per-view means μ and μ'; for the pooled mean the same with
        μ̄ = (μ + μ')/2 in place of both.
        """
        _check.require(center in CENTERS, "center", f"one of {CENTERS}", center)
        if center == "none":
            a, b = -self.shift, -self.shift
        elif center == "pooled":
            a = b = (self.mean + self.mean2) / 2
        else:
            a, b = self.mean, self.mean2
        # moments about `shift + a` and `shift + b`; the means themselves are about `shift`
        mu, mu2 = self.mean, self.mean2
        cross = self.gamma - _sym(mu, b) - _sym(a, mu2) + _sym(a, b)
        single = self.sigma - (_sym(mu, a) + _sym(mu2, b)) + (np.outer(a, a) + np.outer(b, b)) / 2
        return cross, single

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets of pairs together."""
        other = other._about(self.shift)
        n = self.n_pairs + other.n_pairs
        p, q = self.n_pairs / n, other.n_pairs / n
        fields = ("mean", "mean2", "gamma", "sigma")
        return replace(
            self, n_pairs=n, **{f: p * getattr(self, f) + q * getattr(other, f) for f in fields}
        )

    def _about(self, shift: Float[np.ndarray, " m"]) -> "Moments":
        step = shift - self.shift
        if not step.any():
            return self
        mu, mu2 = self.mean, self.mean2
        return replace(
            self,
            shift=shift,
            mean=mu - step,
            mean2=mu2 - step,
            gamma=self.gamma - _sym(mu, step) - _sym(step, mu2) + np.outer(step, step),
            sigma=self.sigma - _sym(mu, step) - _sym(mu2, step) + np.outer(step, step),
        )


def of_pairs(x: Numbers, x2: Numbers) -> Moments:
    """The moments of one batch of pairs x, x2 [n, ...] (flattened to [n, m]).

    The products are taken in the inputs' own precision (float32 at least), on all local devices
    when the pairs divide among them, about the batch's pooled mean.

    Raises:
        ValueError: the views differ in shape, hold no pair, or are not finite.
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
        views = (jnp.asarray(x) - offset, jnp.asarray(x2) - offset)
        if len(devices) > 1 and n % len(devices) == 0:
            views = (jax.device_put(views[0], place), jax.device_put(views[1], place))
        parts = _device_products(*views)
    mean, mean2, cross, single = (np.asarray(part, np.float64) / n for part in parts)
    return Moments(n, shift, mean, mean2, (cross + cross.T) / 2, single / 2)


def of_batches(batches: Iterable[tuple[Numbers, Numbers]]) -> Moments:
    """The moments of a stream of batches (x, x2), one batch in memory at a time, whatever their
    sizes.

    Raises:
        ValueError: the stream is empty, or a batch's inputs have another size than the first one's.
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
    """(z1ᵀ z2 + z2ᵀ z1)/(2n) [d, d] of matrices [n, d], as they are (source, eq. 3 and 4)."""
    cross = z1.T @ z2 / len(z1)
    return (cross + cross.T) / 2


def centre(z: Any, how: Center) -> Any:
    """Rows [2n, ...], X stacked on X', less the mean of all, less each view's own, or as they are.

    Raises:
        ValueError: `how` is unknown.
    """
    _check.require(how in CENTERS, "center", f"one of {CENTERS}", repr(how))
    if how == "pooled":
        return z - z.mean(axis=0)
    if how == "per_view":
        n = len(z) // 2
        views = z.reshape(2, n, *z.shape[1:])
        return (views - views.mean(axis=1, keepdims=True)).reshape(z.shape)
    return z


def flat_pair(x: Numbers, x2: Numbers) -> tuple[Array, Array]:
    """Both views as float matrices [n, m] of one dtype, the widest of the two and float32 at least;
    refuses misfits.
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


def _sym(a: Float[np.ndarray, " m"], b: Float[np.ndarray, " m"]) -> Float[np.ndarray, "m m"]:
    outer = np.outer(a, b)
    return (outer + outer.T) / 2
