"""The plan of a kernel's computation: a form for each parameter array, in units that fit in memory.

The kernel Σ_o ⟨∂f_o(x_i)/∂θ, ∂f_o(x_j)/∂θ⟩ is a sum over parameter arrays and outputs. The term of
a parameter array is a `Piece`. Its *form* determines which arrays are stored of every sample, and
how the term is computed from their products. The forms agree up to rounding and differ in cost.
Pieces that fit in memory together, for the same range of outputs, are a `Unit`.

Symbols: n and n2 are the numbers of inputs x and x2 (n2 = 0 if the kernel is symmetric). R is the
number of outputs, or of directions of the outputs, in a unit. T, g, c and p are the positions,
groups, inputs and outputs of a layer (`entk.layers`).
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
"""Largest number of outputs in a unit: beyond it, a core's matrix products become no faster."""
BUFFERS, WORK = 0.6, 0.25
"""Shares of the budget: for what is stored of all samples, and for the passes through one chunk."""
CHUNK = 64
"""Largest number of samples in a chunk, which is passed through the network at once."""
PARTS = 64
"""Largest number of passes over the samples for one parameter array and one range of outputs."""


@dataclass(frozen=True)
class Piece:
    """One parameter array's term of the kernel, or a part of that term.

    The form is one of:

    - "ghost": Σ (A_i A_jᵀ) ∘ (Σ_o G_io G_joᵀ). No gradient is formed.
    - "outer": gradients J_io = A_iᵀ G_io, then their products J_io · J_jo.
    - "sketched": random projections Pᵀ A_iᵀ G_i Q of the gradients over all outputs, then the
      products of the projections.
    - "pulled": as "outer", with each gradient in the weights that the layer reads pulled back to
      the parameter array (for weights that are computed from it, such as W/‖W‖).
    - "direct": gradients J_io by the derivative of the meetings' own operations, then their
      products.

    Attributes:
        leaf: index of the parameter array.
        numbers: number of its entries.
        meetings: all meetings that use it.
        layers: the meetings as layers, if all are layers that read the array in the same way;
            their positions then add up. Otherwise empty.
        form: one of the forms above.
        first, last: the part of the gradient that is stored: a range of the c inputs for "outer",
            of the entries of the parameter array for "pulled" and "direct".
        sketch: dimension s to which both the c inputs and the R · p outputs are projected.
        copies: number of independent sketches.
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
        """(T, g, c, p) of the layers, with the positions of all of them added up."""
        return sum(each.sizes[0] for each in self.layers), *self.layers[0].sizes[1:]

    def stored_numbers(self, outputs: int) -> int:
        """Return how many numbers are stored of one sample, for a range of `outputs` outputs."""
        if self.form in ("pulled", "direct"):
            return outputs * (self.last - self.first)
        t, g, c, p = self.sizes
        if self.form == "sketched":
            return self.copies * self.sketch**2
        if self.form == "ghost":
            return t * (c + outputs * p)
        return g * (self.last - self.first) * p * outputs

    def flops(self, n: int, n2: int, outputs: int) -> float:
        """Estimate the operations that follow the backward pass, for n and n2 inputs."""
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
    """Pieces, and the outputs `first`, ..., `first + outputs − 1` for which they are computed.

    A unit takes one pass over all samples and contributes one term of the kernel.
    """

    pieces: tuple[Piece, ...]
    first: int
    outputs: int


@dataclass(frozen=True)
class Plan:
    """Units of work, in their order.

    Attributes:
        units: the units, whose terms add up to the kernel.
        outputs: number of outputs R of every unit.
        chunk: number of samples that are passed through the network at once.
        flops: estimate of all operations.
    """

    units: tuple[Unit, ...]
    outputs: int
    chunk: int
    flops: float


def pieces(graph: Graph, only: Callable[[int], bool] = lambda leaf: True) -> list[Piece]:
    """Return a piece for each parameter array that the function uses, in its default form.

    The default is "ghost" for embeddings, "outer" or "pulled" for the other layers, and "direct"
    for everything else. `plan` may choose a cheaper form.

    Args:
        graph: the function.
        only: whether to include a parameter array, by its index.
    """
    parts = []
    for leaf, meetings in sorted(graph.uses.items()):
        numbers = graph.sizes[leaf]
        if not numbers or not only(leaf):
            continue
        layers = [layer(graph, meeting) for meeting in meetings]
        stack = _stack_layers(graph, [each for each in layers if each is not None], len(meetings))
        if stack and stack[0].kind == "embedding":
            parts.append(Piece(leaf, numbers, tuple(meetings), stack, "ghost", 0, 1))
        elif stack and not stack[0].straight:
            parts.append(Piece(leaf, numbers, tuple(meetings), stack, "pulled", 0, numbers))
        elif stack:
            parts.append(
                Piece(leaf, numbers, tuple(meetings), stack, "outer", 0, stack[0].sizes[2])
            )
        else:
            parts.append(Piece(leaf, numbers, tuple(meetings), (), "direct", 0, numbers))
    return parts


def form_gradients(part: Piece) -> Piece:
    """Return the piece with a form that stores gradients: "direct" in place of "ghost"."""
    if part.form != "ghost":
        return part
    return replace(part, form="direct", layers=(), first=0, last=part.numbers)


def _stack_layers(graph: Graph, layers: Sequence[Layer], count: int) -> tuple[Layer, ...]:
    """Return the layers if their A and G may be concatenated along positions, and () otherwise.

    They may if there are `count` layers and all read the parameter array in the same way.
    """
    if len(layers) != count:
        return ()

    def describe(each: Layer) -> tuple[object, ...]:
        (theta,) = each.meeting.thetas
        chain = [(node.name, str(node.eqn.params)) for node in graph.chain(each.node.inputs[theta])]
        numbers = (
            None if each.kind == "embedding" else str(each.node.eqn.params["dimension_numbers"])
        )
        return each.kind, each.sizes[1:], numbers, theta, chain

    first = layers[0]
    if len(layers) > 1 and not (
        all(each.straight for each in layers)
        and all(describe(e) == describe(first) for e in layers)
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
    form_all: bool = False,
) -> Plan:
    """Return the plan with the fewest operations that fits in the budget.

    The plans compared differ in the number of outputs of a unit.

    Args:
        graph: the function.
        parts: its pieces, in their default form.
        n, n2: numbers of inputs.
        rows: total number of outputs, or of directions of the outputs.
        budget: bytes for what is stored of all samples and computed at once.
        itemsize: bytes of a number.
        devices: number of devices among which the outputs are divided.
        sketch: dimension of the sketches; 0 for none.
        copies: number of independent sketches.
        form_all: keep the form of every piece, instead of choosing the cheapest.

    Raises:
        ValueError: if the budget is so small that a parameter array would take more than `PARTS`
            passes over the samples for one output.
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
    plans = [
        _plan_units(
            graph, parts, n, n2, rows, outputs, budget, itemsize, (sketch, copies), form_all
        )
        for outputs in candidates
    ]
    return min(plans, key=lambda each: each.flops)


def _plan_units(
    graph: Graph,
    parts: Sequence[Piece],
    n: int,
    n2: int,
    rows: int,
    outputs: int,
    budget: int,
    itemsize: int,
    sketch: tuple[int, int],
    form_all: bool,
) -> Plan:
    """Return a plan with about `outputs` outputs in each unit. See `plan` for the arguments."""
    outputs = ceil(rows / ceil(rows / outputs))
    samples, most = n + n2, BUFFERS * budget / itemsize
    groups: list[list[Piece]] = [[]]
    filled, flops = 0.0, 0.0
    for part in parts:
        part = part if form_all else _choose_form(part, n, n2, outputs, most, sketch)
        flops += part.flops(n, n2, outputs)
        count = max(1, ceil(samples * part.stored_numbers(outputs) / most))
        for section in _split_piece(part, count):
            size = samples * section.stored_numbers(outputs)
            if groups[-1] and filled + size > most:
                groups.append([])
                filled = 0.0
            groups[-1].append(section)
            filled += size
    pass_flops, pass_numbers = _estimate_pass(graph, parts, outputs)
    chunk = int(max(1, min(samples, CHUNK, WORK * budget / itemsize / max(pass_numbers, 1))))
    passes = ceil(rows / outputs)
    units = tuple(
        Unit(tuple(group), first, outputs)
        for first in range(0, passes * outputs, outputs)
        for group in groups
    )
    return Plan(units, outputs, chunk, passes * (flops + len(groups) * samples * pass_flops))


def _choose_form(
    part: Piece, n: int, n2: int, outputs: int, most: float, sketch: tuple[int, int]
) -> Piece:
    """Return the piece in the form with the fewest operations.

    Only an "outer" piece without groups is changed: to "ghost" if that fits in `most` numbers, or
    to "sketched" if the dimension `sketch[0]` is smaller than both sides of the gradient.
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


def _split_piece(part: Piece, count: int) -> list[Piece]:
    """Split the range of a stored gradient into at most `count` pieces.

    A "ghost" or "sketched" piece stores no gradient and is not split.
    """
    if part.form in ("ghost", "sketched") or count == 1:
        return [part]
    size = ceil((part.last - part.first) / count)
    return [
        replace(part, first=start, last=min(start + size, part.last))
        for start in range(part.first, part.last, size)
    ]


def _estimate_pass(graph: Graph, parts: Sequence[Piece], outputs: int) -> tuple[float, float]:
    """Estimate the cost of one sample's forward pass and its `outputs` backward passes.

    Returns:
        Operations, and numbers held in memory.
    """
    layers = [layer for part in parts for layer in part.layers]
    flops = 2.0 * sum(prod(each.sizes) for each in layers) * (1 + outputs)
    values = sum(
        prod(shape.shape) for meeting in graph.meetings for shape in graph.output_shapes(meeting)
    )
    patches = sum(prod(each.sizes[:3]) for each in layers)
    stored = sum(part.stored_numbers(outputs) for part in parts)
    return flops, 3.0 * values * (1 + outputs) + patches + stored
