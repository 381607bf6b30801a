"""The operations of a function in which its parameters and its inputs come together.

A function f(θ, x) is traced to a jaxpr, and the jaxpr is flattened to a list of nodes. A node that
has both an input computed from the parameters alone and an input that depends on x is a *meeting*.
For f(W, x) = tanh(x · 2W), the product 2W depends on the parameters alone, the matrix product is
the only meeting, and tanh has no parameters.

By the chain rule ∂f/∂θ is a sum over the meetings. Each term needs only the inputs of its meeting
and the cotangents ∂f/∂(outputs of the meeting), which one backward pass yields for all meetings.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

INLINED = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"}
"""Primitives that call an inner jaxpr whose equations become nodes of the graph.

Every other primitive with an inner jaxpr, such as a loop or a call with its own derivative rule
(custom_jvp_call), is one node.
"""


@dataclass(frozen=True, eq=False)
class Node:
    """One operation of the graph.

    A value of the graph is represented by an integer, its number. A literal of the jaxpr stays a
    `Literal`.

    Attributes:
        eqn: the equation of the jaxpr, or None for the identity node of a function whose output
            depends on the parameters alone.
        inputs: the values that the operation reads, each a number or a Literal.
        outputs: the numbers of the values that it computes.
    """

    eqn: Any
    inputs: tuple[Any, ...]
    outputs: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name of the primitive, or "output" for the identity node."""
        return "output" if self.eqn is None else self.eqn.primitive.name

    def __call__(self, values: Sequence[Any]) -> list[Any]:
        """Apply the operation to arrays, one for each input, and return its outputs."""
        if self.eqn is None:
            return list(values)
        bound = self.eqn.primitive.get_bind_params(self.eqn.params)
        # JAX before 0.10 returns a pair of functions and parameters.
        functions, params = bound if isinstance(bound, tuple) else ((), bound)
        outputs = self.eqn.primitive.bind(*functions, *values, **params)
        return list(outputs) if self.eqn.primitive.multiple_results else [outputs]


@dataclass(frozen=True)
class Meeting:
    """A node that has an input depending on x and an input computed from the parameters alone.

    Attributes:
        number: index of the meeting in `Graph.meetings`.
        node: index of the node in `Graph.nodes`.
        thetas: positions of the node's inputs that are computed from the parameters alone.
        leaves: indices of the parameter arrays from which these inputs are computed.
        floats: positions of the node's outputs that are floating or complex, so have a derivative.
    """

    number: int
    node: int
    thetas: tuple[int, ...]
    leaves: frozenset[int]
    floats: tuple[int, ...]


class Graph:
    """A pure function of parameters and one sample, as a list of nodes.

    Attributes:
        shape: shape and dtype of the function's output at one sample.
        nodes: the operations that the output depends on, in the order of computation.
        consts: value → array, for the constants of the jaxpr.
        sizes: number of entries of each parameter array.
        real: for each parameter array, whether it is floating; the rest are constants.
        inputs: the values of the parameter arrays, then that of the sample.
        out: the value of the output.
        meetings: the nodes in which parameters and data come together.
        sources: value → indices of the parameter arrays from which it is computed, for each value
            that is computed from the parameters alone.
        moving_values: values that depend both on the data and on a parameter.
        producers: value → index of the node that computes it.
    """

    def __init__(self, apply: Callable[[Any, Any], Any], params: Any, sample: Any) -> None:
        """Trace apply(params, x) at one sample [1, ...].

        Args:
            apply: a pure function (params, x [1, ...]) -> one array of outputs.
            params: a tree of arrays, or of their shapes and dtypes.
            sample: one input [1, ...], or its shape and dtype.
        """
        closed, shape = jax.make_jaxpr(apply, return_shape=True)(params, sample)
        self.shape = shape
        self.nodes: list[Node] = []
        self.consts: dict[int, Any] = {}
        self._count = 0
        leaves = jax.tree.leaves(params)
        self.sizes = [int(np.prod(np.shape(leaf))) for leaf in leaves]
        self.real = [bool(jnp.issubdtype(leaf.dtype, jnp.floating)) for leaf in leaves]
        self.inputs = tuple(self._add_value() for _ in range(len(leaves) + 1))
        (self.out,) = self._inline(closed, self.inputs)
        self.nodes = self._select_needed()
        self._find_meetings()

    def _add_value(self) -> int:
        """Return the number of a new value."""
        self._count += 1
        return self._count

    def _inline(self, closed: ClosedJaxpr, inputs: Sequence[Any]) -> list[Any]:
        """Append the equations of a jaxpr to the nodes, and return the values of its outputs."""
        number: dict[Any, Any] = dict(zip(closed.jaxpr.invars, inputs, strict=True))
        for var, value in zip(closed.jaxpr.constvars, closed.consts, strict=True):
            number[var] = self._add_value()
            self.consts[number[var]] = value
        read = lambda atom: atom if isinstance(atom, Literal) else number[atom]  # noqa: E731
        for eqn in closed.jaxpr.eqns:
            arguments = [read(atom) for atom in eqn.invars]
            inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
            if eqn.primitive.name in INLINED and inner is not None:
                inner = inner if hasattr(inner, "consts") else ClosedJaxpr(inner, ())
                outputs = self._inline(inner, arguments)
            else:
                outputs = [self._add_value() for _ in eqn.outvars]
                self.nodes.append(Node(eqn, tuple(arguments), tuple(outputs)))
            number |= dict(zip(eqn.outvars, outputs, strict=True))
        return [read(atom) for atom in closed.jaxpr.outvars]

    def _select_needed(self) -> list[Node]:
        """Return the nodes that the output depends on.

        An operation whose result is unused may have a derivative that is not finite.
        """
        return self._trace_back({self.out}, len(self.nodes))

    def _trace_back(self, values: set[Any], stop: int) -> list[Node]:
        """Return those of the first `stop` nodes that the values depend on, in order."""
        needed, nodes = set(values), []
        for node in reversed(self.nodes[:stop]):
            if not needed.isdisjoint(node.outputs):
                nodes.append(node)
                needed |= {atom for atom in node.inputs if isinstance(atom, int)}
        return nodes[::-1]

    def _find_meetings(self) -> None:
        """Classify all values, and list the meetings.

        A value depends on the data, or is computed from parameters alone (`sources`), or is a
        constant.
        """
        *leaves, x = self.inputs
        data = {x}
        self.sources = {leaf: frozenset([i]) for i, leaf in enumerate(leaves) if self.real[i]}
        self.meetings: list[Meeting] = []
        self.moving_values: set[int] = set()
        self.producers: dict[int, int] = {}
        for index, node in enumerate(self.nodes):
            self.producers |= dict.fromkeys(node.outputs, index)
            inputs = [atom if isinstance(atom, int) else 0 for atom in node.inputs]
            thetas = tuple(i for i, value in enumerate(inputs) if value in self.sources)
            arrays = frozenset[int]().union(*(self.sources[inputs[i]] for i in thetas))
            if data.isdisjoint(inputs):
                self.sources |= dict.fromkeys(node.outputs, arrays) if arrays else {}
                continue
            data |= set(node.outputs)
            if arrays or not self.moving_values.isdisjoint(inputs):
                self.moving_values |= set(node.outputs)
            floats = tuple(
                i
                for i, var in enumerate(node.eqn.outvars)
                if jnp.issubdtype(var.aval.dtype, jnp.inexact)
            )
            if arrays and floats:
                self.meetings.append(Meeting(len(self.meetings), index, thetas, arrays, floats))
        if isinstance(self.out, int) and self.out in self.sources:
            # The output does not depend on the data: an identity node is its meeting.
            arrays, constant = self.sources[self.out], self.out
            self.out = self._add_value()
            self.nodes.append(Node(None, (constant,), (self.out,)))
            self.meetings.append(
                Meeting(len(self.meetings), len(self.nodes) - 1, (0,), arrays, (0,))
            )

    @cached_property
    def selective(self) -> bool:
        """Whether a derivative rule depends on which of its inputs are perturbed.

        JAX's custom rules do so if they are defined with `symbolic_zeros=True`.
        """
        return any(_is_selective(node.eqn) for node in self.nodes if node.eqn is not None)

    def moving_inputs(self, meeting: Meeting) -> tuple[int, ...]:
        """Return the positions of the meeting's floating inputs that depend on data and parameters.

        These are the inputs, besides `thetas`, that a derivative in the parameters perturbs.
        """
        node = self.nodes[meeting.node]
        return tuple(
            i
            for i, atom in enumerate(node.inputs)
            if isinstance(atom, int)
            and atom in self.moving_values
            and node.eqn is not None
            and jnp.issubdtype(node.eqn.invars[i].aval.dtype, jnp.inexact)
        )

    @cached_property
    def uses(self) -> dict[int, list[Meeting]]:
        """Index of a parameter array → its meetings, for the arrays that have one."""
        uses: dict[int, list[Meeting]] = {}
        for meeting in self.meetings:
            for leaf in sorted(meeting.leaves):
                uses.setdefault(leaf, []).append(meeting)
        return uses

    def chain(self, value: int) -> list[Node]:
        """Return the nodes that compute a value from the parameters alone, in order."""
        return self._trace_back({value}, self.producers.get(value, -1) + 1)

    def output_shapes(self, meeting: Meeting) -> list[jax.ShapeDtypeStruct]:
        """Return shape and dtype of the meeting's outputs `floats`."""
        node = self.nodes[meeting.node]
        if node.eqn is None:
            return [jax.ShapeDtypeStruct(self.shape.shape, self.shape.dtype)]
        return [
            jax.ShapeDtypeStruct(node.eqn.outvars[i].aval.shape, node.eqn.outvars[i].aval.dtype)
            for i in meeting.floats
        ]

    def evaluate(
        self, leaves: Sequence[Any], x: Any, offsets: Mapping[int, Sequence[Any]]
    ) -> tuple[Any, dict[int, list[Any]]]:
        """Evaluate the function, with an array added to outputs of meetings.

        The gradient of the output in an offset, at offsets of zero, is the cotangent of that output
        of the meeting.

        Args:
            leaves: the parameter arrays.
            x: one sample [1, ...].
            offsets: number of a meeting → an array for each of its outputs `floats`.

        Returns:
            The output, and the inputs of each meeting that has offsets, by the meeting's number.
        """
        env: dict[int, Any] = dict(self.consts) | dict(zip(self.inputs, [*leaves, x], strict=True))
        positions = {meeting.node: (meeting.number, meeting.floats) for meeting in self.meetings}
        inputs: dict[int, list[Any]] = {}
        for index, node in enumerate(self.nodes):
            values = _look_up_inputs(env, node)
            outputs = node(values)
            number, floats = positions.get(index, (-1, ()))
            if number in offsets:
                inputs[number] = values
                for i, offset in zip(floats, offsets[number], strict=True):
                    outputs[i] = outputs[i] + offset
            env.update(zip(node.outputs, outputs, strict=True))
        return _look_up(env, self.out), inputs

    def theta(self, leaves: Mapping[int, Any], value: int) -> Any:
        """Compute a value that depends on the parameters alone.

        Args:
            leaves: index → array, for at least the parameter arrays that the value depends on.
            value: its number.
        """
        env = dict(self.consts) | {self.inputs[i]: leaf for i, leaf in leaves.items()}
        for node in self.chain(value):
            env.update(zip(node.outputs, node(_look_up_inputs(env, node)), strict=True))
        return env[value]

    def meeting_outputs(
        self, meeting: Meeting, leaves: Mapping[int, Any], inputs: Sequence[Any]
    ) -> list[Any]:
        """Compute the meeting's outputs `floats` from parameter arrays and its inputs.

        The inputs `thetas` are computed from the parameter arrays, so that the result can be
        differentiated in these. All other inputs are used as given.
        """
        node, values = self.nodes[meeting.node], list(inputs)
        for i in meeting.thetas:
            values[i] = self.theta(leaves, node.inputs[i])
        outputs = node(values)
        return [outputs[i] for i in meeting.floats]


def _look_up_inputs(env: Mapping[int, Any], node: Node) -> list[Any]:
    """Return the arrays of a node's inputs."""
    return [_look_up(env, atom) for atom in node.inputs]


def _look_up(env: Mapping[int, Any], atom: Any) -> Any:
    """Return the array of a value or a literal."""
    return atom.val if isinstance(atom, Literal) else env[atom]


def _is_selective(eqn: Any) -> bool:
    """Return whether an equation, or one within it, has a derivative rule with symbolic zeros."""
    if eqn.params.get("symbolic_zeros"):
        return True
    inner = (
        each
        for value in eqn.params.values()
        for each in (value if isinstance(value, tuple | list) else (value,))
    )
    jaxprs = (getattr(each, "jaxpr", each) for each in inner)
    return any(_is_selective(each) for jaxpr in jaxprs for each in getattr(jaxpr, "eqns", ()))
