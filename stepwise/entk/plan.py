"""How a kernel is worked out: each parameter's form, and units of work that fit into a budget of
memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Literal

from stepwise import _check
from stepwise.entk.graph import Graph, Meeting
from stepwise.entk.layers import Layer, layer

Form = Literal["ghost", "outer", "sketched", "pulled", "direct"]
MOST_OUTPUTS = 16
"""Outputs at once, at most: more make no product larger than what a core works best on."""
BUFFERS, WORK = 0.6, 0.25
"""Shares of the budget: what is kept of all samples, and what a chunk of samples takes while it is
worked out.
"""
CHUNK = 64
"""Samples at once, at most."""
PARTS = 64
"""Passes over the samples for one parameter array, at most."""


@dataclass(frozen=True)
class Piece:
    """One parameter array's part of the kernel, or some of its columns.

    Attributes:
        leaf: which parameter array.
        numbers: in it.
        meetings: all that use it.
        layers: the same as layers, where all are and can be laid one below the other; otherwise
            none.
        form: "ghost", Σ (A_i A_jᵀ) ∘ (Σ_o G_io G_joᵀ) without any gradient formed; "outer", J_io =
            A_iᵀ G_io, then J Jᵀ; "sketched", the same of random projections of A and G; "pulled",
            the same as outer, but pulled back from what the layer sees to the parameter; "direct",
            J_io by the meetings' own derivative, then J Jᵀ.
        first, last: which part of J is kept: inputs c of an outer product, numbers of the array
            otherwise.
        sketch: dimensions that A's c and G's O · p are projected to, in so many independent
            `copies`.
    """

    leaf: int
    numbers: int
    meetings: tuple[Meeting, ...]
    layers: tuple[Layer, ...]
    form: Form
    first: int
    last: int
    sketch: int = 0
    copies: int = 1

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """(T, g, c, p) of the layers laid one below the other."""
        return sum(each.sizes[0] for each in self.layers), *self.layers[0].sizes[1:]

    def stored_numbers(self, outputs: int) -> int:
        """Numbers that have to be kept of a sample."""
        if self.form in ("pulled", "direct"):
            return outputs * (self.last - self.first)
        t, g, c, p = self.sizes
        if self.form == "sketched":
            return self.copies * self.sketch**2
        if self.form == "ghost":
            return t * (c + outputs * p)
        return g * (self.last - self.first) * p * outputs

    def flops(self, n: int, n2: int, outputs: int) -> float:
        """Of what comes after the cotangents."""
        pairs = float(n * n2) if n2 else n * n / 2
        if self.form in ("pulled", "direct"):
            return 2 * pairs * outputs * self.numbers
        t, g, c, p = self.sizes
        if self.form == "sketched":
            projected = t * self.sketch * (c + outputs * p + self.sketch)
            return 2.0 * self.copies * (pairs * self.sketch**2 + (n + n2) * projected)
        if self.form == "ghost":
            return 2 * pairs * t * t * (c + outputs * p + 1)
        return 2 * outputs * g * c * p * (pairs + (n + n2) * t)


@dataclass(frozen=True)
class Unit:
    """Pieces for the outputs `first` ... `first + outputs`: one pass over the samples, one term of
    the kernel.
    """

    pieces: tuple[Piece, ...]
    first: int
    outputs: int


@dataclass(frozen=True)
class Plan:
    """Units in their order, and how many samples a pass takes at once."""

    units: tuple[Unit, ...]
    outputs: int
    chunk: int
    flops: float


def pieces(graph: Graph, only: Callable[[int], bool] = lambda leaf: True) -> list[Piece]:
    """Every used parameter array that is asked for, in the form that needs no thought: outer or
    direct.
    """
    found = []
    for leaf, meetings in sorted(graph.uses.items()):
        numbers = graph.sizes[leaf]
        if not numbers or not only(leaf):
            continue
        layers = [layer(graph, meeting) for meeting in meetings]
        stacked = _stackable(graph, [each for each in layers if each is not None], len(meetings))
        if stacked and stacked[0].kind == "embedding":
            found.append(Piece(leaf, numbers, tuple(meetings), stacked, "ghost", 0, 1))
        elif stacked and not stacked[0].straight:
            found.append(Piece(leaf, numbers, tuple(meetings), stacked, "pulled", 0, numbers))
        elif stacked:
            found.append(
                Piece(leaf, numbers, tuple(meetings), stacked, "outer", 0, stacked[0].sizes[2])
            )
        else:
            found.append(Piece(leaf, numbers, tuple(meetings), (), "direct", 0, numbers))
    return found


def form_gradients(part: Piece) -> Piece:
    """The same, its gradients formed."""
    if part.form != "ghost":
        return part
    return replace(part, form="direct", layers=(), first=0, last=part.numbers)


def _stackable(graph: Graph, layers: Sequence[Layer], wanted: int) -> tuple[Layer, ...]:
    """The layers, if there are as many as wanted and all read the parameter in one way."""
    if len(layers) != wanted:
        return ()

    def way(each: Layer) -> tuple[object, ...]:
        (theta,) = each.meeting.thetas
        chain = [(node.name, str(node.eqn.params)) for node in graph.chain(each.node.inputs[theta])]
        numbers = (
            None if each.kind == "embedding" else str(each.node.eqn.params["dimension_numbers"])
        )
        return each.kind, each.sizes[1:], numbers, theta, chain

    first = layers[0]
    if len(layers) > 1 and not (
        all(each.straight for each in layers) and all(way(e) == way(first) for e in layers)
    ):
        return ()
    return () if first.kind == "embedding" and not first.straight else tuple(layers)


def plan(
    graph: Graph,
    parts: Sequence[Piece],
    n: int,
    n2: int,
    rows: int,
    *,
    budget: int,
    itemsize: int,
    devices: int = 1,
    sketch: int = 0,
    copies: int = 1,
    formed: bool = False,
) -> Plan:
    """The cheapest by a count of operations, over how many outputs are taken at once, that fits the
    budget.

    With `formed`, one in which every gradient is formed.

    Raises:
        ValueError: the budget is too small for a reasonable number of passes.
    """
    widest = max((part.numbers for part in parts), default=0)
    least = int((n + n2) * widest * itemsize / PARTS / BUFFERS)
    _check.require(
        budget > least,
        "budget",
        f"more than {least} bytes for {n + n2} samples of this network",
        budget,
    )
    most = ceil(rows / devices)
    candidates = sorted({max(1, min(most, MOST_OUTPUTS) >> k) for k in range(8)}, reverse=True)
    found = [
        _planned(graph, parts, n, n2, rows, outputs, budget, itemsize, (sketch, copies), formed)
        for outputs in candidates
    ]
    return min(found, key=lambda each: each.flops)


def _planned(
    graph: Graph,
    parts: Sequence[Piece],
    n: int,
    n2: int,
    rows: int,
    outputs: int,
    budget: int,
    itemsize: int,
    sketch: tuple[int, int],
    formed: bool,
) -> Plan:
    outputs = ceil(rows / ceil(rows / outputs))
    samples, most = n + n2, BUFFERS * budget / itemsize
    groups: list[list[Piece]] = [[]]
    filled, flops = 0.0, 0.0
    for part in parts:
        part = part if formed else _formed(part, n, n2, outputs, most, sketch)
        flops += part.flops(n, n2, outputs)
        for some in _split(part, max(1, ceil(samples * part.stored_numbers(outputs) / most))):
            size = samples * some.stored_numbers(outputs)
            if groups[-1] and filled + size > most:
                groups.append([])
                filled = 0.0
            groups[-1].append(some)
            filled += size
    along, work = _pass(graph, parts, outputs)
    chunk = int(max(1, min(samples, CHUNK, WORK * budget / itemsize / max(work, 1))))
    passes = ceil(rows / outputs)
    units = tuple(
        Unit(tuple(group), first, outputs)
        for first in range(0, passes * outputs, outputs)
        for group in groups
    )
    return Plan(units, outputs, chunk, passes * (flops + len(groups) * samples * along))


def _formed(
    part: Piece, n: int, n2: int, outputs: int, most: float, sketch: tuple[int, int]
) -> Piece:
    """The cheapest form of a layer; with a sketch that one too, where it is smaller than what it
    stands for.
    """
    if part.form != "outer" or part.sizes[1] != 1:
        return part
    forms = [part, replace(part, form="ghost", first=0, last=1)]
    if 0 < sketch[0] < min(part.sizes[2], outputs * part.sizes[3]):
        forms.append(
            replace(part, form="sketched", first=0, last=1, sketch=sketch[0], copies=sketch[1])
        )
    fits = [
        each
        for each in forms
        if each.form != "ghost" or (n + n2) * each.stored_numbers(outputs) <= most
    ]
    return min(fits, key=lambda each: each.flops(n, n2, outputs))


def _split(part: Piece, parts: int) -> list[Piece]:
    """By J's rows; what has none is one."""
    if part.form in ("ghost", "sketched") or parts == 1:
        return [part]
    size = ceil((part.last - part.first) / parts)
    return [
        replace(part, first=at, last=min(at + size, part.last))
        for at in range(part.first, part.last, size)
    ]


def _pass(graph: Graph, parts: Sequence[Piece], outputs: int) -> tuple[float, float]:
    """Operations of one sample's forward pass and so many backward, and numbers that it takes while
    at it.
    """
    layers = [layer for part in parts for layer in part.layers]
    along = 2.0 * sum(prod(each.sizes) for each in layers) * (1 + outputs)
    made = sum(prod(shape.shape) for meeting in graph.meetings for shape in graph.shapes(meeting))
    patches = sum(prod(each.sizes[:3]) for each in layers)
    formed = sum(part.stored_numbers(outputs) for part in parts)
    return along, 3.0 * made * (1 + outputs) + patches + formed
