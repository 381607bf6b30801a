"""Dense layers, convolutions and embeddings, recognised among the operations of a jaxpr.

The gradient of output o at sample i in the weights of such a layer is a matrix product A_iᵀ G_io.
A_i [T, c] holds the layer's c inputs at each of T positions (pixels, tokens; T = 1 for a vector),
and G_io [T, p] the cotangents of its p outputs there. The inner product of two gradients is then
Σ (A_i A_jᵀ) ∘ (G_io G_joᵀ), which does not need the gradients themselves. A grouped convolution has
such a product for each of g groups.
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
"""Primitives that only rearrange the entries of an array, and so keep gradients' inner products."""


@dataclass(frozen=True)
class Layer:
    """A meeting with ∂f_o(x_i)/∂v = A_iᵀ G_io, where v are the weights that the operation reads.

    Attributes:
        kind: "dense", "convolution" or "embedding". The A of an embedding is one-hot and is stored
            as its tokens.
        meeting: the meeting in the graph.
        node: its operation.
        leaf: index of the parameter array from which v is computed.
        sizes: (T, g, c, p): positions, groups, and inputs and outputs within a group.
        scale: the factor s in v = s · (entries of the parameter array in another order), if
            `straight`; otherwise 1.
        straight: whether v is such a multiple. Otherwise, a gradient in v must be pulled back to
            the parameter array.
    """

    kind: str
    meeting: Meeting
    node: Node
    leaf: int
    sizes: tuple[int, int, int, int]
    scale: float
    straight: bool

    def activations(self, inputs: list[Any]) -> Any:
        """Return A of one sample [T, g, c].

        For an embedding, return the tokens [T] instead, with -1 for a token outside the table.

        Args:
            inputs: the arrays that the operation reads.
        """
        a = inputs[1 - self.meeting.thetas[0]]
        if self.kind == "dense":
            contract = self._contract(1 - self.meeting.thetas[0])
            free = [i for i in range(a.ndim) if i not in contract]
            return a.transpose(*free, *contract).reshape(self.sizes[0], 1, self.sizes[2])
        if self.kind == "convolution":
            return _extract_patches(a, self.node.eqn.params, self._weights().shape).reshape(
                self.sizes[:3]
            )
        # int32, because the size of the table may exceed the range of the tokens' dtype.
        a, table = a.reshape(self.sizes[0]).astype(jnp.int32), self._weights().shape[0]
        if self.node.eqn.params["mode"] == lax.GatherScatterMode.CLIP:
            a = jnp.clip(a, 0, table - 1)
        return jnp.where((a >= 0) & (a < table), a, -1)

    def cotangents(self, g: Any) -> Any:
        """Return G of one sample and one output [T, g, p].

        Args:
            g: cotangent of the layer's output, in the shape of that output.
        """
        t, groups, _, p = self.sizes
        if self.kind == "dense":
            return (g.reshape(p, t).T if self.meeting.thetas[0] == 0 else g).reshape(t, 1, p)
        if self.kind == "convolution":
            out = self.node.eqn.params["dimension_numbers"].out_spec
            g = g.transpose(out[0], *out[2:], out[1])
        return g.reshape(t, groups, p)

    def gradient(self, product: Any) -> Any:
        """Return ∂f/∂v in the shape of v.

        Args:
            product: A_iᵀ G_io [g, c, p].
        """
        shape = self._weights().shape
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

    def _weights(self) -> Any:
        """Return shape and dtype of v."""
        return self.node.eqn.invars[self.meeting.thetas[0]].aval

    def _contract(self, side: int) -> tuple[int, ...]:
        """Return the axes of a dense layer's operand 0 or 1 that its product sums over."""
        return tuple(self.node.eqn.params["dimension_numbers"][0][side])


def layer(graph: Graph, meeting: Meeting) -> Layer | None:
    """Return the meeting as a layer, or None if it is not a supported layer.

    It is not one if the operation is of another kind, or its weights come from several parameter
    arrays.
    """
    node = graph.nodes[meeting.node]
    if (
        len(meeting.thetas) != 1
        or len(meeting.leaves) != 1
        or len(meeting.floats) != 1
        or node.eqn is None
    ):
        return None
    kind, measure = KINDS.get(node.name, ("", None))
    sizes = None if measure is None else measure(node, meeting.thetas[0])
    if sizes is None:
        return None
    (leaf,) = meeting.leaves
    scale = _find_scale(graph, leaf, node.inputs[meeting.thetas[0]])
    return Layer(
        kind, meeting, node, leaf, sizes, 1.0 if scale is None else scale, scale is not None
    )


def _measure_dense(node: Node, theta: int) -> tuple[int, int, int, int] | None:
    """Return (T, g, c, p) of a product with weights as operand `theta`, or None with batch axes."""
    contract, batch = node.eqn.params["dimension_numbers"]
    if batch[0]:
        return None
    v, a = (node.eqn.invars[i].aval.shape for i in (theta, 1 - theta))
    c = prod(v[i] for i in contract[theta])
    return prod(a) // max(c, 1), 1, c, prod(v) // max(c, 1)


def _measure_convolution(node: Node, theta: int) -> tuple[int, int, int, int] | None:
    """Return (T, g, c, p) of a convolution with weights as filters, or None for any other."""
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


def _measure_embedding(node: Node, theta: int) -> tuple[int, int, int, int] | None:
    """Return (T, 1, 1, p) of a gather of rows of a table [V, p], or None for any other gather.

    `table[tokens]` and `jnp.take(table, tokens, 0)` are traced to such a gather.
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


KINDS = {
    "dot_general": ("dense", _measure_dense),
    "conv_general_dilated": ("convolution", _measure_convolution),
    "gather": ("embedding", _measure_embedding),
}
"""Name of a primitive → kind of layer, and the function that returns its sizes or None."""


def _find_scale(graph: Graph, leaf: int, value: int) -> float | None:
    """Return s if the value is s · (the parameter array's entries in another order), or None."""
    scale, current = 1.0, graph.inputs[leaf]
    for node in graph.chain(value):
        numbers = [_constant_number(graph, atom) for atom in node.inputs]
        if current not in node.inputs:
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
        elif node.name == "div" and node.inputs[0] == current and numbers[1]:
            scale /= numbers[1]
        elif node.name == "neg":
            scale = -scale
        else:
            return None
        current = node.outputs[0]
    return scale if current == value else None


def _constant_number(graph: Graph, atom: Any) -> float | None:
    """Return the number of a constant that has one entry, or None."""
    value = atom.val if isinstance(atom, Literal) else graph.consts.get(atom)
    if value is None or isinstance(value, jax.core.Tracer) or np.size(value) != 1:
        return None
    return float(np.asarray(value).reshape(()))


def _extract_patches(a: Any, params: dict[str, Any], kernel: tuple[int, ...]) -> Any:
    """Return the inputs of each output position of a convolution.

    They are taken by strided slices; `lax.conv_general_dilated_patches` would convolve with an
    identity.

    Args:
        a: input of the convolution, with its batch axis.
        params: parameters of the primitive `conv_general_dilated`.
        kernel: shape of the filters.

    Returns:
        Patches [positions, groups, entries of the filter's window, channels of a group].
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
    return jnp.stack([part.reshape(-1, groups, a.shape[-1] // groups) for part in slices], axis=2)
