"""Where parameters meet data: the places in a pure function's jaxpr, and each sample's cotangents
there.
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
"""Calls that are looked into; what has a derivative of its own (custom_jvp_call), or a loop, stays
whole.
"""


@dataclass(frozen=True, eq=False)
class Node:
    """One operation: its equation, and the numbers of the values that it reads and makes (a Literal
    is itself).
    """

    eqn: Any
    inputs: tuple[Any, ...]
    outputs: tuple[int, ...]

    @property
    def name(self) -> str:
        """Of the primitive; "output" where a value made of parameters alone is the function's
        output.
        """
        return "output" if self.eqn is None else self.eqn.primitive.name

    def __call__(self, values: Sequence[Any]) -> list[Any]:
        """What it makes of its inputs."""
        if self.eqn is None:
            return list(values)
        found = self.eqn.primitive.get_bind_params(self.eqn.params)
        functions, params = (
            found if isinstance(found, tuple) else ((), found)
        )  # a pair before JAX 0.10
        made = self.eqn.primitive.bind(*functions, *values, **params)
        return list(made) if self.eqn.primitive.multiple_results else [made]


@dataclass(frozen=True)
class Meeting:
    """An operation with inputs from the data and inputs made of parameters alone.

    Attributes:
        number: among the meetings.
        at: which node.
        thetas: positions among its inputs of those made of parameters alone.
        leaves: parameter arrays that these are made of.
        floats: positions among its outputs of those that have a derivative.
    """

    number: int
    at: int
    thetas: tuple[int, ...]
    leaves: frozenset[int]
    floats: tuple[int, ...]


class Graph:
    """A pure function of one sample as a list of nodes, calls inlined, with the meetings of
    parameters and data.

    The gradient of an output in a parameter is the sum, over its meetings, of what each pulls back
    on its own: no other node sees both.
    """

    def __init__(self, apply: Callable[[Any, Any], Any], params: Any, sample: Any) -> None:
        """Trace apply(params, x) at one sample [1, ...]; `params` and `sample` may be shapes."""
        closed, shape = jax.make_jaxpr(apply, return_shape=True)(params, sample)
        self.shape = shape
        self.nodes: list[Node] = []
        self.consts: dict[int, Any] = {}
        self._made = 0
        leaves = jax.tree.leaves(params)
        self.sizes = [int(np.prod(np.shape(leaf))) for leaf in leaves]
        self.real = [bool(jnp.issubdtype(leaf.dtype, jnp.floating)) for leaf in leaves]
        self.inputs = tuple(self._new() for _ in range(len(leaves) + 1))
        (self.out,) = self._inlined(closed, self.inputs)
        self.nodes = self._needed()
        self._resolve()

    def _new(self) -> int:
        self._made += 1
        return self._made

    def _inlined(self, closed: ClosedJaxpr, inputs: Sequence[Any]) -> list[Any]:
        number: dict[Any, Any] = dict(zip(closed.jaxpr.invars, inputs, strict=True))
        for var, value in zip(closed.jaxpr.constvars, closed.consts, strict=True):
            number[var] = self._new()
            self.consts[number[var]] = value
        read = lambda atom: atom if isinstance(atom, Literal) else number[atom]  # noqa: E731
        for eqn in closed.jaxpr.eqns:
            into = [read(atom) for atom in eqn.invars]
            inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
            if eqn.primitive.name in INLINED and inner is not None:
                inner = inner if hasattr(inner, "consts") else ClosedJaxpr(inner, ())
                made = self._inlined(inner, into)
            else:
                made = [self._new() for _ in eqn.outvars]
                self.nodes.append(Node(eqn, tuple(into), tuple(made)))
            number |= dict(zip(eqn.outvars, made, strict=True))
        return [read(atom) for atom in closed.jaxpr.outvars]

    def _needed(self) -> list[Node]:
        """The nodes that the output depends on: a gradient that nothing passes on may be
        anything."""
        wanted, kept = {self.out}, []
        for node in reversed(self.nodes):
            if not wanted.isdisjoint(node.outputs):
                kept.append(node)
                wanted |= {atom for atom in node.inputs if isinstance(atom, int)}
        return kept[::-1]

    def _resolve(self) -> None:
        """Which values depend on the data, which are made of parameters alone and of which, and
        where both meet.
        """
        *leaves, x = self.inputs
        data, self.made_of = (
            {x},
            {leaf: frozenset([i]) for i, leaf in enumerate(leaves) if self.real[i]},
        )
        self.meetings: list[Meeting] = []
        self.maker: dict[int, int] = {}
        for at, node in enumerate(self.nodes):
            self.maker |= dict.fromkeys(node.outputs, at)
            inputs = [atom if isinstance(atom, int) else 0 for atom in node.inputs]
            thetas = tuple(i for i, value in enumerate(inputs) if value in self.made_of)
            of = frozenset[int]().union(*(self.made_of[inputs[i]] for i in thetas))
            if data.isdisjoint(inputs):
                self.made_of |= dict.fromkeys(node.outputs, of) if of else {}
                continue
            data |= set(node.outputs)
            floats = tuple(
                i
                for i, var in enumerate(node.eqn.outvars)
                if jnp.issubdtype(var.aval.dtype, jnp.inexact)
            )
            if of and floats:
                self.meetings.append(Meeting(len(self.meetings), at, thetas, of, floats))
        if isinstance(self.out, int) and self.out in self.made_of:  # the same for every sample
            of, alone = self.made_of[self.out], self.out
            self.out = self._new()
            self.nodes.append(Node(None, (alone,), (self.out,)))
            self.meetings.append(Meeting(len(self.meetings), len(self.nodes) - 1, (0,), of, (0,)))

    @cached_property
    def uses(self) -> dict[int, list[Meeting]]:
        """The meetings of every parameter array that has one."""
        found: dict[int, list[Meeting]] = {}
        for meeting in self.meetings:
            for leaf in sorted(meeting.leaves):
                found.setdefault(leaf, []).append(meeting)
        return found

    def chain(self, value: int) -> list[Node]:
        """The nodes that make a value of parameters alone, in order."""
        wanted, found = {value}, []
        for at in range(self.maker.get(value, -1), -1, -1):
            node = self.nodes[at]
            if not wanted.isdisjoint(node.outputs):
                found.append(node)
                wanted |= {atom for atom in node.inputs if isinstance(atom, int)}
        return found[::-1]

    def shapes(self, meeting: Meeting) -> list[jax.ShapeDtypeStruct]:
        """Of the meeting's outputs that have a derivative."""
        node = self.nodes[meeting.at]
        if node.eqn is None:
            return [jax.ShapeDtypeStruct(self.shape.shape, self.shape.dtype)]
        return [
            jax.ShapeDtypeStruct(node.eqn.outvars[i].aval.shape, node.eqn.outvars[i].aval.dtype)
            for i in meeting.floats
        ]

    def evaluate(
        self, leaves: Sequence[Any], x: Any, added: Mapping[int, Sequence[Any]]
    ) -> tuple[Any, dict[int, list[Any]]]:
        """The output at one sample [1, ...], with something added to the outputs of meetings; the
        meetings' inputs.
        """
        env: dict[int, Any] = dict(self.consts) | dict(zip(self.inputs, [*leaves, x], strict=True))
        positions = {meeting.at: (meeting.number, meeting.floats) for meeting in self.meetings}
        seen: dict[int, list[Any]] = {}
        for at, node in enumerate(self.nodes):
            values = _read(env, node)
            made = node(values)
            k, floats = positions.get(at, (-1, ()))
            if k in added:
                seen[k] = values
                for i, extra in zip(floats, added[k], strict=True):
                    made[i] = made[i] + extra
            env.update(zip(node.outputs, made, strict=True))
        return _value(env, self.out), seen

    def theta(self, leaves: Mapping[int, Any], value: int) -> Any:
        """A value made of parameters alone."""
        env = dict(self.consts) | {self.inputs[i]: leaf for i, leaf in leaves.items()}
        for node in self.chain(value):
            env.update(zip(node.outputs, node(_read(env, node)), strict=True))
        return env[value]

    def local(
        self, meeting: Meeting, leaves: Mapping[int, Any], inputs: Sequence[Any]
    ) -> list[Any]:
        """The meeting's outputs that have a derivative, as a function of the parameters it sees, at
        its inputs.
        """
        node, values = self.nodes[meeting.at], list(inputs)
        for i in meeting.thetas:
            values[i] = self.theta(leaves, node.inputs[i])
        made = node(values)
        return [made[i] for i in meeting.floats]


def _read(env: Mapping[int, Any], node: Node) -> list[Any]:
    return [_value(env, atom) for atom in node.inputs]


def _value(env: Mapping[int, Any], atom: Any) -> Any:
    return atom.val if isinstance(atom, Literal) else env[atom]
