"""Random small networks of many kinds, and their kernels by plain Jacobians.

`draw(seed)` returns a network. `main` compares many: `python -m tests.entk.random_networks 2000`.
"""

import sys
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

N = 3
"""Number of inputs of each network."""


@dataclass(frozen=True)
class Network:
    """A randomly drawn network.

    Attributes:
        name: names of its layers.
        apply: (params, inputs [k, ...]) -> outputs [k, d].
        params: a tree of arrays, float64, complex128 or whole numbers.
        x: inputs [N, ...].
    """

    name: str
    apply: Any
    params: Any
    x: np.ndarray


@jax.custom_jvp
def smooth(x):
    """Compute tanh, with a custom derivative rule."""
    return jnp.tanh(x)


@smooth.defjvp
def _smooth_jvp(primals, tangents):
    y = jnp.tanh(primals[0])
    return y, (1 - y**2) * tangents[0]


@jax.custom_vjp
def gate(w, x):
    """Compute x tanh(w · x), with a custom backward rule."""
    return x * jnp.tanh(x @ w)[..., None]


def _gate_forward(w, x):
    return gate(w, x), (w, x)


def _gate_backward(saved, g):
    w, x = saved
    _, pull = jax.vjp(lambda w, x: x * jnp.tanh(x @ w)[..., None], w, x)
    return pull(g)


gate.defvjp(_gate_forward, _gate_backward)


@jax.custom_vjp
def choosy(w, x):
    """Compute x tanh(w · x), with a rule that computes only the cotangents of perturbed inputs."""
    return x * jnp.tanh(x @ w)[..., None]


def _choosy_forward(w, x):
    saved = (w.value if x.perturbed or w.perturbed else None, x.value)
    return choosy(w.value, x.value), (saved, w.perturbed or None, x.perturbed or None)


def _choosy_backward(residuals, g):
    (w, x), w_perturbed, x_perturbed = residuals
    if isinstance(g, jax.custom_derivatives.SymbolicZero) or w is None:
        return None, None
    _, pull = jax.vjp(lambda w, x: x * jnp.tanh(x @ w)[..., None], w, x)
    w_bar, x_bar = pull(g)
    return (w_bar if w_perturbed is not None else None), (
        x_bar if x_perturbed is not None else None
    )


choosy.defvjp(_choosy_forward, _choosy_backward, symbolic_zeros=True)


@jax.custom_jvp
def picky(w, x):
    """Compute w ∘ x, with a forward rule that skips zero tangents, and is zero if w has one."""
    return w * x


def _picky_jvp(primals, tangents):
    (w, x), (w_dot, x_dot) = primals, tangents
    if type(w_dot) is jax.custom_derivatives.SymbolicZero:
        return w * x, jnp.zeros_like(w * x)  # as equinox stops gradients of unperturbed loops
    if type(x_dot) is jax.custom_derivatives.SymbolicZero:
        return w * x, w_dot * x
    return w * x, w_dot * x + w * x_dot


picky.defjvp(_picky_jvp, symbolic_zeros=True)


def beside(w, h):
    """Return an array [width] in a shape that broadcasts with h [..., width]."""
    return jnp.expand_dims(w, range(h.ndim - 1))


def draw(seed: int) -> Network:
    """Draw a network, its parameters and its inputs."""
    rng = np.random.default_rng(seed)
    width, names, layers, params = int(rng.integers(2, 5)), [], [], []

    def normal(*shape, scale=1.0):
        return jnp.asarray(scale * rng.normal(size=shape))

    kind = rng.choice(["vector", "sequence", "image", "tokens"])
    if kind == "tokens":
        x = rng.integers(0, 5, (N, 3))
        params.append({"table": normal(5, width)})
        layers.append(lambda p, h: p["table"][h])
    elif kind == "image":
        x = rng.normal(size=(N, 4, 4, 2))
        shape = (int(rng.integers(1, 4)), int(rng.integers(1, 3)), 2, width)
        stride = int(rng.integers(1, 3))
        params.append({"kernel": normal(*shape)})
        layers.append(
            lambda p, h: jax.lax.conv_general_dilated(
                h, p["kernel"], (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            ).reshape(len(h), -1, width)
        )
    else:
        x = rng.normal(size=(N, 2) if kind == "vector" else (N, 3, 2))
        params.append({"w": normal(2, width), "b": normal(width)})
        layers.append(lambda p, h: h @ p["w"] + beside(p["b"], h))
    names.append(str(kind))

    def dense():
        params.append({"w": normal(width, width), "b": normal(width)})
        return lambda p, h: jnp.tanh(h @ p["w"] + beside(p["b"], h))

    def attention():
        params.append({name: normal(width, width) for name in "qkv"})

        def layer(p, h):
            if h.ndim < 3:
                return h @ p["q"] + h @ p["k"] @ p["v"]
            weights = jax.nn.softmax(h @ p["q"] @ (h @ p["k"]).mT)
            return weights @ h @ p["v"]

        return layer

    def scan():
        params.append({"w": normal(width, width, scale=0.5), "u": normal(width)})

        def layer(p, h):
            def cell(carry, _):
                return jnp.tanh(carry @ p["w"] + h * beside(p["u"], h)), None

            return jax.lax.scan(cell, h, None, length=3)[0]

        return layer

    def smooth_layer():
        params.append({"s": normal(width)})
        return lambda p, h: smooth(h * beside(p["s"], h))

    def gate_layer():
        params.append({"w": normal(width)})
        return lambda p, h: gate(p["w"], h)

    def choosy_layer():
        params.append({"w": normal(width)})
        return lambda p, h: choosy(p["w"], h)

    def picky_layer():
        params.append({"w": normal(width)})
        return lambda p, h: picky(beside(p["w"], h), h)

    def spectral():
        params.append({"w": normal(width, width) + 1j * normal(width, width)})
        return lambda p, h: jnp.fft.ifft(jnp.fft.fft(h) @ p["w"]).real

    def tied():
        params.append({"w": normal(width, width)})
        return lambda p, h: jnp.tanh(h @ p["w"]) @ p["w"].T

    def normalise():
        params.append({"g": normal(width), "shift": jnp.arange(2)})  # whole numbers are constants
        return lambda p, h: beside(p["g"], h) * (h - h.mean(-1, keepdims=True)) + p["shift"][0]

    def checkpoint():
        params.append({"w": normal(width, width)})
        return lambda p, h: jax.checkpoint(lambda w, h: jnp.sin(h @ w))(p["w"], h)

    def branch():
        params.append({"w": normal(width, width)})
        return lambda p, h: jax.lax.cond(
            p["w"][0, 0] > 0, lambda h: h @ p["w"], lambda h: h - h @ p["w"], h
        )

    makers = [dense, attention, scan, smooth_layer, gate_layer, choosy_layer, picky_layer]
    makers += [spectral, tied, normalise, checkpoint, branch]
    for index in rng.choice(len(makers), size=int(rng.integers(1, 4))):
        names.append(makers[index].__name__)
        layers.append(makers[index]())
    d = int(rng.integers(1, 4))
    params.append({"head": normal(width, d), "unused": normal(2)})
    layers.append(lambda p, h: h.reshape(len(h), -1, width).mean(1) @ p["head"])

    def apply(params, h):
        for p, layer in zip(params, layers, strict=True):
            h = layer(p, h)
        return h

    return Network(", ".join(names), apply, params, x)


def jacobian(network: Network) -> np.ndarray:
    """Return ∂f/∂θ [N, d, P]; a complex parameter counts as its real and imaginary part."""
    leaves, tree = jax.tree.flatten(network.params)
    moving = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    parts = [(leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,) for leaf in moving]

    def f(parts, x):
        rest = iter(part[0] + 1j * part[1] if len(part) == 2 else part[0] for part in parts)
        filled = [
            next(rest) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf for leaf in leaves
        ]
        return network.apply(jax.tree.unflatten(tree, filled), x[None])[0]

    rows = [jax.jit(jax.jacrev(f))(parts, x) for x in jnp.asarray(network.x)]
    flat = [
        np.concatenate([np.reshape(J, (J.shape[0], -1)) for J in jax.tree.leaves(row)], axis=1)
        for row in rows
    ]
    return np.stack(flat)


def differences(network: Network, *, products: bool = True) -> dict[str, float]:
    """Return the largest relative difference of each function's kernel from that of Jacobians."""
    from stepwise import entk

    J = jacobian(network)
    theta = np.einsum("iap,jbp->iajb", J, J)
    K = np.einsum("iaja->ij", theta) / J.shape[1]
    arguments = network.apply, network.params, network.x
    ways = {"gram": entk.gram(*arguments) - K, "full_kernel": entk.full_kernel(*arguments) - theta}
    if products:
        ways["products"] = entk.products(*arguments)(np.eye(N)) - K
    if J.shape[1] >= 4:
        ways["estimate"] = entk.estimate(*arguments, probes=J.shape[1]).K - K
    size = np.abs(theta).max()
    return {name: float(np.abs(gap).max() / size) for name, gap in ways.items()}


def main() -> None:
    """Compare the number of networks in the first argument, and print those that differ."""
    jax.config.update("jax_enable_x64", True)
    count, bad = int(sys.argv[1]), 0
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    for seed in range(first, first + count):
        network = draw(seed)
        try:
            gaps = differences(network)
        except Exception as error:
            gaps = {f"{type(error).__name__}: {error}"[:300]: np.inf}
        if max(gaps.values()) > 1e-9:
            bad += 1
            print(seed, network.name, gaps, flush=True)
        if seed % 20 == 0:
            jax.clear_caches()
            print(f"{seed - first + 1} of {count}, {bad} differ", end="\r", file=sys.stderr)
    print(f"{count} networks from seed {first} on, {bad} differ")


if __name__ == "__main__":
    main()
