"""Kernels of flattened images and of infinitely wide networks.

A kernel is any function k(a [p, ...], b [q, ...]) -> [p, q] that is symmetric and positive
semi-definite. The kernels of this module are hashable values: two kernels of the same kind with the
same parameters are equal and share compiled code.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stepwise import _check
from stepwise.types import Numbers, Real, Whole

Kernel: TypeAlias = Callable[[Numbers, Numbers], Any]
"""A kernel function k(a [p, ...], b [q, ...]) -> [p, q]."""


@dataclass(frozen=True)
class Linear:
    """The kernel k(a, b) = a·b of the linear model. See `linear`."""

    def __call__(self, a: Numbers, b: Numbers) -> Float[Array, "p q"]:
        """Return the kernel values [p, q] of inputs a [p, ...] and b [q, ...]."""
        return _products(*_flat(a, b))


@dataclass(frozen=True)
class RBF:
    """The Gaussian kernel k(a, b) = exp(−‖a − b‖² / (2 length²)). See `rbf`."""

    length: float

    def __call__(self, a: Numbers, b: Numbers) -> Float[Array, "p q"]:
        """Return the kernel values [p, q] of inputs a [p, ...] and b [q, ...]."""
        a, b = _flat(a, b)
        # ‖a‖² + ‖b‖² − 2 a·b loses digits if the inputs share a large mean.
        shift = jnp.mean(b, axis=0, keepdims=True)
        a, b = a - shift, b - shift
        squares = jnp.sum(a**2, axis=1)[:, None] + jnp.sum(b**2, axis=1)[None]
        return jnp.exp(-jnp.maximum(squares - 2 * _products(a, b), 0) / (2 * self.length**2))


@dataclass(frozen=True)
class Polynomial:
    """The polynomial kernel k(a, b) = (scale a·b + offset)^degree. See `polynomial`."""

    degree: int
    scale: float
    offset: float

    def __call__(self, a: Numbers, b: Numbers) -> Float[Array, "p q"]:
        """Return the kernel values [p, q] of inputs a [p, ...] and b [q, ...]."""
        return (self.scale * _products(*_flat(a, b)) + self.offset) ** self.degree


@dataclass(frozen=True)
class InfiniteWidth:
    """The NTK or NNGP of a stack of stax layers. See `infinite_width`."""

    kernel_fn: Callable[..., Any] = field(repr=False)
    get: Literal["ntk", "nngp"]

    def __call__(self, a: Numbers, b: Numbers) -> Float[Array, "p q"]:
        """Return the kernel values [p, q] of inputs a [p, ...] and b [q, ...]."""
        a, b = jnp.asarray(_check.real_array("a", a)), jnp.asarray(_check.real_array("b", b))
        _check.require(
            a.shape[1:] == b.shape[1:], "b", f"inputs of shape {list(a.shape[1:])} as a", b
        )
        try:
            with jax.default_matmul_precision("highest"):
                values = self.kernel_fn(a, b, self.get)
        except (ValueError, TypeError, LookupError, AssertionError, ZeroDivisionError) as error:
            # stax layers do not check the shape of their inputs; each raises a different error.
            expected = (
                "a shape that the layers accept, such as [n, h, w, c] for a convolution of images"
            )
            received = (
                f"{a.dtype} {list(a.shape)}, which fails with {type(error).__name__}: "
                f"{str(error)[:200]}"
            )
            raise ValueError(f"inputs: expected {expected}, received {received}") from error
        expected = (
            "layers that end in one value per input (stax.Flatten() or a pooling before the "
            "read-out)"
        )
        _check.require(
            values.shape == (len(a), len(b)),
            "layers",
            expected,
            f"kernel values {list(values.shape)}",
        )
        return values


def linear() -> Linear:
    """Return k(a, b) = a·b of the flattened inputs, the kernel of the linear model f(x) = W x."""
    return Linear()


def rbf(length: Real) -> RBF:
    """Return the Gaussian kernel k(a, b) = exp(−‖a − b‖² / (2 length²)) of the flattened inputs.

    ‖a − b‖² is computed from products of the inputs less their mean m, with a rounding error of
    ε (‖a − m‖² + ‖b − m‖²). In float32 the values are accurate if the length is above about 1e-2 of
    the inputs' spread. Use float64 for a shorter length.

    Raises:
        ValueError: if length is not positive.
    """
    _check.require(length > 0, "length", "a positive number", length)
    return RBF(float(length))


def polynomial(degree: Whole, *, scale: Real = 1.0, offset: Real = 1.0) -> Polynomial:
    """Return the polynomial kernel k(a, b) = (scale a·b + offset)^degree of the flattened inputs.

    Raises:
        ValueError: if degree is not a positive whole number, scale is not positive, or offset is
            negative (the kernel would not be positive semi-definite).
    """
    _check.whole("degree", degree)
    _check.require(scale > 0, "scale", "a positive number", scale)
    _check.require(offset >= 0, "offset", "zero or a positive number", offset)
    return Polynomial(int(degree), float(scale), float(offset))


def infinite_width(layers: list, get: Literal["ntk", "nngp"] = "ntk") -> InfiniteWidth:
    """Return the kernel of an infinitely wide network.

    The NTK is the kernel of a network whose weights all train, the NNGP that of a network whose
    read-out alone trains.

    A network in NTK parametrisation of width N, trained on Barlow Twins from a start near zero,
    follows this kernel's `Problem` with an error of order N^{-1/2} (Jacot et al. 2018; Fleissner et
    al., arXiv 2411.11176). A network is not centred: compare it with a problem of center="none".

    Args:
        layers: layers of `neural_tangents.stax` (import it from `stepwise.neural_tangents`:
            `nt.stax`), from the input to the read-out, such as
            [stax.Dense(512), stax.Relu(), stax.Dense(1)]. Widths do not affect the kernel.
            Convolutions accept images [n, h, w, c]; before dense layers, add stax.Flatten().
        get: "ntk" or "nngp".

    Raises:
        ValueError: if there are no layers, one of them is not a stax layer, or `get` is unknown.
            The returned kernel raises it if the layers do not accept the shape of its inputs.
    """
    # Imported here because the import lasts a second and the other kernels do not use it.
    from stepwise.neural_tangents import nt

    _check.require(get in ("ntk", "nngp"), "get", "'ntk' or 'nngp'", get)
    triples = bool(layers) and all(isinstance(layer, tuple) and len(layer) == 3 for layer in layers)
    _check.require(
        triples, "layers", "a list of stax layers (init, apply, kernel)", repr(layers)[:200]
    )
    return InfiniteWidth(jax.jit(nt.stax.serial(*layers)[2], static_argnums=2), get)


def _flat(a: Numbers, b: Numbers) -> tuple[Array, Array]:
    """Return the inputs as matrices [p, features] and [q, features], and check their shapes."""
    a, b = jnp.asarray(_check.real_array("a", a)), jnp.asarray(_check.real_array("b", b))
    _check.require(a.ndim > 1, "a", "inputs [p, ...] of at least two axes", a)
    _check.require(a.shape[1:] == b.shape[1:], "b", f"inputs of shape {list(a.shape[1:])} as a", b)
    return a.reshape(len(a), -1), b.reshape(len(b), -1)


def _products(a: Array, b: Array) -> Float[Array, "p q"]:
    """Return the inner products a bᵀ at full precision."""
    return jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
