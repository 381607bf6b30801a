"""`entk.gram` agrees with the definition for randomly drawn networks."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwise import entk
from stepwise.entk.kernel import Kernel
from tests.entk.test_gram import close, kernel_by_definition

READ = {
    "plain": lambda W: W,
    "scaled": lambda W: W * 0.5,
    "normalised": lambda W: W / jnp.sqrt(jnp.sum(W**2) + 1),
    "flipped": lambda W: W[::-1],
}
"""Transformations of the weights before use, which keep their shape."""
NUMBERS = np.random.default_rng(0)


@st.composite
def architectures(draw):
    """Draw (layers, parameters, channels, side).

    There are convolutions on images, then dense layers. A layer may be used twice.
    """
    channels = first = draw(st.integers(1, 3))
    side = draw(st.integers(3, 6))
    layers, params = [], []

    def add(kind, shape, **options):
        times = draw(st.integers(1, 2)) if options.pop("repeats", False) else 1
        weights = [
            NUMBERS.normal(size=shape) / np.sqrt(np.prod(shape[:-1])),
            NUMBERS.normal(size=shape[-1]),
        ]
        params.append(weights if draw(st.booleans()) else weights[:1])
        layers.extend(
            [(kind, len(params) - 1, draw(st.sampled_from(sorted(READ))), options)] * times
        )

    for _ in range(draw(st.integers(0, 2))):
        groups = channels if draw(st.booleans()) else 1
        outputs = groups * draw(st.integers(1, 3))
        sides = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
        options = {
            "groups": groups,
            "stride": draw(st.integers(1, 2)),
            "dilation": draw(st.integers(1, 2)),
        }
        add("conv", (*sides, channels // groups, outputs), repeats=outputs == channels, **options)
        channels = outputs
        if draw(st.booleans()):
            params.append([NUMBERS.normal(size=channels) + 1, NUMBERS.normal(size=channels)])
            layers.append(("norm", len(params) - 1, "plain", {}))
    layers.append((draw(st.sampled_from(["pool", "sequence"])), -1, "plain", {}))
    for _ in range(draw(st.integers(1, 2))):
        outputs = draw(st.integers(1, 4))
        add("dense", (channels, outputs), repeats=outputs == channels)
        channels = outputs
    layers.append(("mean", -1, "plain", {}))
    return layers, params, first, side


def network(layers):
    def apply(params, x):
        for kind, index, read, options in layers:
            W, *bias = (params[index][0], *params[index][1:]) if index >= 0 else (None,)
            if kind == "conv":
                x = jax.lax.conv_general_dilated(
                    x,
                    READ[read](W),
                    [options["stride"]] * 2,
                    "SAME",
                    rhs_dilation=[options["dilation"]] * 2,
                    feature_group_count=options["groups"],
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                )
            elif kind == "dense":
                x = x @ READ[read](W)
            elif kind == "norm":
                # the deviation of a single pixel has no derivative at 0
                scale = jnp.sqrt(1 + x.var((1, 2), keepdims=True))
                x = (x - x.mean((1, 2), keepdims=True)) / scale * W[None, None, None]
            elif kind == "pool":
                x = x.mean((1, 2))
            elif kind == "sequence":
                x = x.reshape(len(x), -1, x.shape[-1])
            elif kind == "mean" and x.ndim == 3:
                x = x.mean(1)
            if bias:
                x = x + jnp.expand_dims(bias[0], range(x.ndim - 1))
            if kind != "mean":
                x = jnp.sin(x)
        return x

    return apply


@settings(max_examples=10)
@given(drawn=architectures(), n=st.integers(1, 3), tight=st.booleans())
def test_the_kernel_of_a_drawn_network_agrees_with_the_definition(drawn, n, tight):
    layers, params, channels, side = drawn
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, params)
        x = np.random.default_rng(n).normal(size=(n, side, side, channels))
        budget = 3 * n * 8 * max(leaf.size for leaf in jax.tree.leaves(params)) if tight else 2**31
        K = entk.gram(network(layers), params, x, budget=budget)
        close(K, kernel_by_definition(network(layers), params, x), 1e-10)


def test_the_plan_chooses_the_cheapest_form():
    """Few positions with many channels favour "ghost", many positions with few channels "outer"."""

    def form(side, channels):
        W = jnp.ones((3, 3, channels, channels), jnp.float32)
        apply = network(
            [
                ("conv", 0, "plain", {"groups": 1, "stride": 1, "dilation": 1}),
                ("pool", -1, "plain", {}),
            ]
        )
        kernel = Kernel(apply, [[W]], np.ones((40, side, side, channels), np.float32))
        (unit, *_) = kernel.work(np.eye(channels)[:4]).plan.units
        return [piece.form for piece in unit.pieces]

    assert form(2, 32) == ["ghost"]
    assert form(12, 2) == ["outer"]
