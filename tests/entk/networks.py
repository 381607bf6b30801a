"""Networks for the tests: name → function that returns (apply, params, inputs of 3 samples)."""

import functools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from stepwise import models


class Numbers:
    """A generator that starts at the same seed for each use: networks do not depend on order."""

    def __getattr__(self, name):
        return getattr(np.random.default_rng(0), name)


RNG = Numbers()


def once(make):
    """Cache the network for each precision: drawing a ResNet's weights compiles for ten seconds."""
    networks = {}

    @functools.wraps(make)
    def read():
        key = jax.config.jax_enable_x64
        if key not in networks:
            networks[key] = make()
        return networks[key]

    return read


def cast(tree, dtype=jnp.float64):
    return jax.tree.map(
        lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree
    )


def drawn(shapes):
    """Draw weights of these shapes with NumPy: JAX would compile for ten seconds for a ResNet."""
    scale = lambda a: np.sqrt(2 / np.prod(a.shape[:-1]))  # noqa: E731
    return jax.tree.map(
        lambda a: jnp.asarray(RNG.normal(size=a.shape) * scale(a) + (a.ndim == 1), a.dtype), shapes
    )


def shaken(params, seed=1):
    """Add noise, because a bias of zero or a scale of one could hide a wrong gradient."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: a + 0.2 * rng.normal(size=a.shape).astype(a.dtype), params)


@once
def mlp():
    apply, params = models.functional(models.MLP(6, [8, 7], 3, b_std=0.3, rngs=nnx.Rngs(0)))
    return apply, params, RNG.normal(size=(3, 6))


@once
def resnet18():
    def make():
        backbone = models.ResNet.standard("resnet18", width=2, stem="small", rngs=nnx.Rngs(0))
        return models.Encoder(backbone, models.Head(backbone.features, [4], rngs=nnx.Rngs(1)))

    forward, *shapes = models.stateful(nnx.eval_shape(make))
    params, stats = drawn(shapes)
    # The statistics of a trained network differ from those at its start.
    stats = jax.tree.map(lambda a: jnp.abs(a) + 0.1, stats)
    return lambda p, x: forward(p, stats, x, False)[0], params, RNG.uniform(size=(3, 16, 16, 3))


class Attention(nn.Module):
    """A Linen vision transformer of one block.

    It has patches, a class token, positions, attention, layer norm and a head.
    """

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (4, 4), (4, 4), name="patches")(x)
        x = x.reshape(len(x), -1, 8)
        token = self.param("token", nn.initializers.normal(0.5), (1, 1, 8))
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, 8)), x], axis=1)
        x = x + self.param("positions", nn.initializers.normal(0.5), (1, x.shape[1], 8))
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(y, y)
        y = nn.LayerNorm()(x)
        x = x + nn.Dense(8)(nn.gelu(nn.Dense(12)(y)))
        return nn.Dense(3)(nn.LayerNorm()(x)[:, 0])


@once
def vit():
    net, x = Attention(), RNG.normal(size=(3, 8, 8, 3))
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.asarray(x))["params"]
    return lambda p, x: net.apply({"params": p}, x), drawn(shapes), x


class Depthwise(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Conv(3, 6, (3, 3), strides=2, padding="VALID", rngs=rngs)
        self.depthwise = nnx.Conv(6, 6, (3, 3), feature_group_count=6, kernel_dilation=2, rngs=rngs)
        self.grouped = nnx.Conv(6, 4, (1, 3), feature_group_count=2, rngs=rngs)
        self.norm = nnx.GroupNorm(4, num_groups=2, rngs=rngs)
        self.up = nnx.Conv(4, 4, (3, 3), padding=((1, 1), (1, 0)), input_dilation=(2, 1), rngs=rngs)
        self.out = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        x = nnx.gelu(self.depthwise(nnx.gelu(self.first(x))))
        x = nnx.gelu(self.norm(self.grouped(x)))
        return self.out(nnx.max_pool(self.up(x), (2, 2), (2, 2)).mean((1, 2)))


@once
def depthwise():
    apply, shapes = models.functional(nnx.eval_shape(lambda: Depthwise(nnx.Rngs(0))))
    return apply, drawn(shapes), RNG.normal(size=(3, 11, 10, 3))


@once
def shared():
    """A recurrent network that shares weights between steps and between embedding and read-out."""
    params = {
        "table": RNG.normal(size=(5, 4)),
        "step": RNG.normal(size=(4, 4)) / 2,
        "filter": RNG.normal(size=(3, 4, 4)) / 3,
        "bias": RNG.normal(size=4),
        "unused": np.ones((2, 2)),
        "empty": np.ones((0, 3)),
        "which": np.array([2, 0, 1, 3]),
    }

    def apply(p, tokens):
        x = p["table"][tokens]
        for _ in range(2):
            x = jnp.tanh(
                jax.lax.conv_general_dilated(
                    x, p["filter"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
                )
            )
        for _ in range(3):
            x = jnp.tanh(x @ p["step"] + p["bias"][None, None])
        return x.mean(1)[:, p["which"]] @ p["table"].T

    return apply, jax.tree.map(jnp.asarray, params), RNG.integers(0, 5, (3, 6))


@once
def equinox():
    net = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(3, 4, 3, key=jax.random.key(0)),
            eqx.nn.Lambda(jax.nn.silu),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.LayerNorm(4 * 16),
            eqx.nn.Linear(4 * 16, 3, key=jax.random.key(1)),
        ]
    )
    params, static = eqx.partition(net, eqx.is_inexact_array)
    return (
        lambda p, x: jax.vmap(eqx.combine(p, static))(x),
        shaken(params),
        RNG.normal(size=(3, 3, 6, 6)),
    )


@once
def looped():
    """A network with a scan over layers, transformed weights, and a term without data.

    The weights are normalised, squashed or scaled before use.
    """
    params = {
        "layers": RNG.normal(size=(3, 4, 4)),
        "direction": RNG.normal(size=(4, 4)),
        "length": RNG.normal(size=4),
        "squashed": RNG.normal(size=(4, 4)),
        "scaled": RNG.normal(size=(4, 2)),
        "constant": RNG.normal(size=2),
        "free": RNG.normal(size=(2,)),
    }

    def apply(p, x):
        x = jax.lax.scan(lambda h, W: (jnp.tanh(h @ W), None), x, p["layers"])[0]
        norms = jnp.linalg.norm(p["direction"], axis=0, keepdims=True)
        x = jnp.sin(x @ (p["direction"] / norms * p["length"][None]))
        x = x @ jnp.tanh(p["squashed"])
        return (
            x @ (p["scaled"] * 0.5) / 3
            + jnp.exp(p["constant"])[None]
            + jnp.broadcast_to(p["free"], (len(x), 2))
        )

    return apply, jax.tree.map(jnp.asarray, params), RNG.normal(size=(3, 4))


ALL = {
    "mlp": mlp,
    "resnet18": resnet18,
    "vit": vit,
    "depthwise": depthwise,
    "shared": shared,
    "equinox": equinox,
    "looped": looped,
}
