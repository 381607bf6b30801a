"""Kernels of flattened images and of infinitely wide networks.

A kernel is any function k(a [p, ...], b [q, ...]) -> [p, q], symmetric and positive semi-definite.
Those made here are values: two of one kind with the same numbers are equal, so that compiled code
is shared.
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
"""k(a [p, ...], b [q, ...]) -> [p, q]."""


@dataclass(frozen=True)
class Linear:
    """k(a, b) = a·b: the linear model. See `linear`."""

    def __call__(self, a: Numbers, b: Numbers) -> Float[Array, "p q"]:
        """Values [p, q]."""
        return _products(*_flat(a, b))


@dataclass(frozen=True)
class RBF:
    """k(a, b) = exp(−‖a − b‖² / (2 length²)). See `rbf`."""

    length: float

    def __call__(self, a: Numbers, b: Numbers) -> Float[Array, "p q"]:
        """Values [p, q]."""
        a, b = _flat(a, b)
        # ‖a‖² + ‖b‖² − 2 a·b loses digits to the mean that the inputs share
        shift = jnp.mean(b, axis=0)
        a, b = a - shift, b - shift
        squares = jnp.sum(a**2, axis=1)[:, None] + jnp.sum(b**2, axis=1)
        return jnp.exp(-jnp.maximum(squares - 2 * _products(a, b), 0) / (2 * self.length**2))


@dataclass(frozen=True)
class Polynomial:
    """k(a, b) = (scale a·b + offset)^degree. See `polynomial`."""

    degree: int
    scale: float
    offset: float

    def __call__(self, a: Numbers, b: Numbers) -> Float[Array, "p q"]:
        """Values [p, q]."""
        return (self.scale * _products(*_flat(a, b)) + self.offset) ** self.degree


@dataclass(frozen=True)
class InfiniteWidth:
    """The NTK or NNGP of a stack of stax layers. See `infinite_width`."""

    kernel_fn: Callable[..., Any] = field(repr=False)
    get: Literal["ntk", "nngp"]

    def __call__(self, a: Numbers, b: Numbers) -> Float[Array, "p q"]:
        """Values [p, q]."""
        a, b = jnp.asarray(_check.real_array("a", a)), jnp.asarray(_check.real_array("b", b))
        _check.require(
            a.shape[1:] == b.shape[1:], "b", f"inputs of shape {list(a.shape[1:])} as a", b
        )
        try:
            with jax.default_matmul_precision("highest"):
                values = self.kernel_fn(a, b, self.get)
        except (ValueError, TypeError, LookupError, AssertionError, ZeroDivisionError) as error:
            # layers do not look at the rank or size of what they get, and fail each in its own way
            expected = (
                "a shape that the layers take, such as [n, h, w, c] for a convolution of images"
            )
            received = (
                f"{a.dtype} {list(a.shape)}, which fails with {type(error).__name__}: "
                f"{str(error)[:200]}"
            )
            raise ValueError(f"inputs: expected {expected}, received {received}") from error
        expected = (
            "layers that end in one value an input (stax.Flatten() or a pooling before the "
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
    """k(a, b) = a·b of the flattened inputs: the kernel of the linear model f(x) = W x."""
    return Linear()


def rbf(length: Real) -> RBF:
    """k(a, b) = exp(−‖a − b‖² / (2 length²)) of the flattened inputs.

    ‖a − b‖² comes from products of inputs less their mean m: its rounding is ε (‖a − m‖² + ‖b −
    m‖²), so that in float32 the values hold for a length above about 1e-2 of the inputs' spread;
    below, ask for float64.

    Raises:
        ValueError: length is not positive.
    """
    _check.require(length > 0, "length", "a positive number", length)
    return RBF(float(length))


def polynomial(degree: Whole, *, scale: Real = 1.0, offset: Real = 1.0) -> Polynomial:
    """k(a, b) = (scale a·b + offset)^degree of the flattened inputs.

    Raises:
        ValueError: degree is not a positive whole number, scale not positive, or offset negative
            (the kernel would not be positive semi-definite).
    """
    _check.whole("degree", degree)
    _check.require(scale > 0, "scale", "a positive number", scale)
    _check.require(offset >= 0, "offset", "zero or a positive number", offset)
    return Polynomial(int(degree), float(scale), float(offset))


def infinite_width(layers: list, get: Literal["ntk", "nngp"] = "ntk") -> InfiniteWidth:
    """The kernel of an infinitely wide network: its NTK (all weights train) or NNGP (only the
    read-out trains).

    Args:
        layers: of `neural_tangents.stax` (import it from `stepwise.neural_tangents`: `nt.stax`),
            from the input to the read-out, such as [stax.Dense(512), stax.Relu(), stax.Dense(1)];
            widths do not enter. Images [n, h, w, c] go into convolutions as they are, and into
            dense layers behind stax.Flatten().
        get: "ntk" or "nngp".

    A network in NTK parametrisation of width N, trained on Barlow Twins from a start near zero,
    follows this kernel's `Problem` with an error of order N^{-1/2} (Jacot et al. 2018; Fleissner et
    al., arXiv 2411.11176). A network is not centred, so compare with a problem of center="none".

    Raises:
        ValueError: there are no layers, one of them is not a stax layer, or `get` is unknown; the
            kernel, where it is called: its inputs have a shape that the layers do not take.
    """
    # a second to import, which the other kernels do not need
    from stepwise.neural_tangents import nt

    _check.require(get in ("ntk", "nngp"), "get", "'ntk' or 'nngp'", get)
    triples = bool(layers) and all(isinstance(layer, tuple) and len(layer) == 3 for layer in layers)
    _check.require(
        triples, "layers", "a list of stax layers (init, apply, kernel)", repr(layers)[:200]
    )
    return InfiniteWidth(jax.jit(nt.stax.serial(*layers)[2], static_argnums=2), get)


def _flat(a: Numbers, b: Numbers) -> tuple[Array, Array]:
    a, b = jnp.asarray(_check.real_array("a", a)), jnp.asarray(_check.real_array("b", b))
    _check.require(a.ndim > 1, "a", "inputs [p, ...] of at least two axes", a)
    _check.require(a.shape[1:] == b.shape[1:], "b", f"inputs of shape {list(a.shape[1:])} as a", b)
    return a.reshape(len(a), -1), b.reshape(len(b), -1)


def _products(a: Array, b: Array) -> Float[Array, "p q"]:
    return jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
