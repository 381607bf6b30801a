"""Layers whose parameters' gradient is a product A_iᵀ G_io: dense, convolution, embedding, as they
stand in a jaxpr.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Literal

from stepwise.entk.graph import Graph, Meeting, Node

ISOMETRIC = {
    "reshape",
    "transpose",
    "squeeze",
    "expand_dims",
    "rev",
    "copy",
    "copy_p",
    "sharding_constraint",
}
"""What keeps every number of an array, so that its gradients have the same products."""


@dataclass(frozen=True)
class Layer:
    """A meeting with ∂f_o(x_i)/∂v = A_iᵀ G_io: T positions, c inputs each, p outputs each, in g
    groups.

    Attributes:
        kind: "dense", "convolution" or "embedding", whose A is one-hot and kept as its tokens.
        sizes: (T, g, c, p), c and p within a group.
        scale: v = scale · (the parameter, its numbers in another order), where `straight`.
        straight: whether v is so; otherwise a gradient in v has to be pulled back to the parameter.
    """

    kind: str
    meeting: Meeting
    node: Node
    leaf: int
    sizes: tuple[int, int, int, int]
    scale: float
    straight: bool

    def positions(self, inputs: list[Any]) -> Any:
        """A of one sample [T, g, c]; of an embedding its tokens [T], -1 for one that is not in the
        table.
        """
        a = inputs[1 - self.meeting.thetas[0]]
        if self.kind == "dense":
            contract = self._contract(1 - self.meeting.thetas[0])
            free = [i for i in range(a.ndim) if i not in contract]
            return a.transpose(*free, *contract).reshape(self.sizes[0], 1, self.sizes[2])
        if self.kind == "convolution":
            return _patches(a, self.node.eqn.params, self._kernel().shape).reshape(self.sizes[:3])
        a, table = (
            a.reshape(self.sizes[0]).astype(jnp.int32),
            self._kernel().shape[0],
        )  # 256 is not in uint8
        if self.node.eqn.params["mode"] == lax.GatherScatterMode.CLIP:
            a = jnp.clip(a, 0, table - 1)
        return jnp.where((a >= 0) & (a < table), a, -1)

    def cotangents(self, g: Any) -> Any:
        """G of one sample and one output [T, g, p] from the cotangent of the layer's output."""
        t, groups, _, p = self.sizes
        if self.kind == "dense":
            return (g.reshape(p, t).T if self.meeting.thetas[0] == 0 else g).reshape(t, 1, p)
        if self.kind == "convolution":
            out = self.node.eqn.params["dimension_numbers"].out_spec
            g = g.transpose(out[0], *out[2:], out[1])
        return g.reshape(t, groups, p)

    def gradient(self, product: Any) -> Any:
        """∂f/∂v in v's own shape from A_iᵀ G_io [g, c, p]."""
        shape = self._kernel().shape
        if self.kind == "dense":
            contract = self._contract(self.meeting.thetas[0])
            order = [*contract, *(i for i in range(len(shape)) if i not in contract)]
            return product.reshape([shape[i] for i in order]).transpose(np.argsort(order))
        spec = self.node.eqn.params["dimension_numbers"].rhs_spec
        groups, sides = self.sizes[1], [shape[i] for i in spec[2:]]
        product = product.reshape(groups, *sides, shape[spec[1]], -1)  # [g, k ..., c, o]
        n = len(sides)
        product = product.transpose(0, n + 2, n + 1, *range(1, n + 1)).reshape(
            -1, shape[spec[1]], *sides
        )
        return product.transpose(np.argsort(spec))

    def _kernel(self) -> Any:
        return self.node.eqn.invars[self.meeting.thetas[0]].aval

    def _contract(self, side: int) -> tuple[int, ...]:
        return tuple(self.node.eqn.params["dimension_numbers"][0][side])


def layer(graph: Graph, meeting: Meeting) -> Layer | None:
    """The meeting as a layer, or None where it is none of these: a product of other kinds, or of
    two parameters.
    """
    node = graph.nodes[meeting.at]
    if (
        len(meeting.thetas) != 1
        or len(meeting.leaves) != 1
        or len(meeting.floats) != 1
        or node.eqn is None
    ):
        return None
    found = {"dot_general": _dense, "conv_general_dilated": _convolution, "gather": _embedding}.get(
        node.name
    )
    sizes = None if found is None else found(node, meeting.thetas[0])
    if sizes is None:
        return None
    kind = {"dot_general": "dense", "conv_general_dilated": "convolution", "gather": "embedding"}[
        node.name
    ]
    (leaf,) = meeting.leaves
    scale = _scale(graph, leaf, node.inputs[meeting.thetas[0]])
    return Layer(
        kind, meeting, node, leaf, sizes, 1.0 if scale is None else scale, scale is not None
    )


def _dense(node: Node, theta: int) -> tuple[int, int, int, int] | None:
    contract, batch = node.eqn.params["dimension_numbers"]
    if batch[0]:
        return None
    v, a = (node.eqn.invars[i].aval.shape for i in (theta, 1 - theta))
    c = prod(v[i] for i in contract[theta])
    return prod(a) // max(c, 1), 1, c, prod(v) // max(c, 1)


def _convolution(node: Node, theta: int) -> tuple[int, int, int, int] | None:
    params = node.eqn.params
    if theta != 1 or params["batch_group_count"] != 1:
        return None
    spec, v, out = (
        params["dimension_numbers"],
        node.eqn.invars[1].aval.shape,
        node.eqn.outvars[0].aval.shape,
    )
    groups, t = params["feature_group_count"], prod(out[i] for i in spec.out_spec[2:])
    c = prod(v[i] for i in spec.rhs_spec[1:])
    return t * out[spec.out_spec[0]], groups, c, v[spec.rhs_spec[0]] // groups


def _embedding(node: Node, theta: int) -> tuple[int, int, int, int] | None:
    """Rows of a table [V, p]: the indexing that `table[tokens]` and `jnp.take(table, tokens, 0)`
    make.
    """
    params, (table, tokens) = node.eqn.params, (var.aval for var in node.eqn.invars)
    numbers = params["dimension_numbers"]
    rows = (
        theta == 0
        and len(table.shape) == 2
        and numbers.collapsed_slice_dims == (0,)
        and numbers.start_index_map == (0,)
        and tuple(params["slice_sizes"]) == (1, table.shape[1])
        and tokens.shape[-1] == 1
        and numbers.offset_dims == (len(node.eqn.outvars[0].aval.shape) - 1,)
        and not (numbers.operand_batching_dims or numbers.start_indices_batching_dims)
    )
    return (prod(tokens.shape), 1, 1, table.shape[1]) if rows else None


def _scale(graph: Graph, leaf: int, value: int) -> float | None:
    """s with value = s · (the parameter's numbers in another order), or None."""
    scale, at = 1.0, graph.inputs[leaf]
    for node in graph.chain(value):
        numbers = [_number(graph, atom) for atom in node.inputs]
        if at not in node.inputs:
            return None
        same = prod(node.eqn.invars[0].aval.shape) == prod(node.eqn.outvars[0].aval.shape)
        floats = all(jnp.issubdtype(var.aval.dtype, jnp.floating) for var in node.eqn.outvars)
        if node.name in ISOMETRIC or (
            node.name in ("convert_element_type", "broadcast_in_dim") and same and floats
        ):
            pass
        elif (
            node.name == "mul"
            and len(node.inputs) == 2
            and any(number is not None for number in numbers)
        ):
            scale *= next(number for number in numbers if number is not None)
        elif node.name == "div" and node.inputs[0] == at and numbers[1]:
            scale /= numbers[1]
        elif node.name == "neg":
            scale = -scale
        else:
            return None
        at = node.outputs[0]
    return scale if at == value else None


def _number(graph: Graph, atom: Any) -> float | None:
    """A constant that is one number."""
    value = atom.val if isinstance(atom, Literal) else graph.consts.get(atom)
    if value is None or isinstance(value, jax.core.Tracer) or np.size(value) != 1:
        return None
    return float(np.asarray(value).reshape(()))


def _patches(a: Any, params: dict[str, Any], kernel: tuple[int, ...]) -> Any:
    """What each output position of a convolution sees, [positions, groups, sides of the kernel,
    channels of a group].

    Strided slices, where `lax.conv_general_dilated_patches` would convolve with an identity.
    """
    spec, groups = params["dimension_numbers"], params["feature_group_count"]
    a = a.transpose(spec.lhs_spec[0], *spec.lhs_spec[2:], spec.lhs_spec[1])
    pads = [
        (low, high, dilation - 1)
        for (low, high), dilation in zip(params["padding"], params["lhs_dilation"], strict=True)
    ]
    a = lax.pad(a, jnp.zeros((), a.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
    sides = [kernel[i] for i in spec.rhs_spec[2:]]
    strides, dilation = params["window_strides"], params["rhs_dilation"]
    out = [
        (n - (k - 1) * d - 1) // s + 1
        for n, k, d, s in zip(a.shape[1:-1], sides, dilation, strides, strict=True)
    ]
    slices = []
    for offset in np.ndindex(*sides):
        start = [o * d for o, d in zip(offset, dilation, strict=True)]
        stop = [b + (n - 1) * s + 1 for b, n, s in zip(start, out, strides, strict=True)]
        slices.append(
            lax.slice(a, [0, *start, 0], [a.shape[0], *stop, a.shape[-1]], [1, *strides, 1])
        )
    return jnp.stack([piece.reshape(-1, groups, a.shape[-1] // groups) for piece in slices], axis=2)
