"""Compiled steps of a kernel: what is stored of each sample for a piece, and the products of it.

The *part* of a piece (`entk.plan.Piece`) is what is stored of the samples for it. With R outputs in
a unit and n samples:

- "ghost": a pair (A [n, T, c], G [n, T, R · p]), or (tokens [n, T], G) for an embedding;
- "outer": gradients [n, g · (last − first) · R · p];
- "sketched": sketches [n, copies · s²];
- "pulled" and "direct": gradients [n, R · (last − first)].

T, g, c and p are explained in `entk.layers`.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from stepwise.entk.graph import Graph
from stepwise.entk.parameters import Split
from stepwise.entk.plan import Piece
from stepwise.entk.verify import gradient_products

HIGHEST = lax.Precision.HIGHEST
DEPTH = 2304
"""Number of columns that a product of two samples' gradients covers at once.

Beyond it, XLA's matrix product on a CPU loses half of its rate.
"""


@lru_cache(maxsize=8)
def engine(function: Split, leaves: tuple[Any, ...], sample: Any) -> "Engine":
    """Return the engine of a function at these shapes, from a cache of the last eight."""
    return Engine(function, leaves, sample)


class Engine:
    """A function's graph, and the compiled steps of its kernel.

    Attributes:
        graph: the function at one sample, as a list of operations.
        parts: compiled (pieces, leaves, samples [m, ...], V [R, O], sketches) -> the parts of m
            samples; see `sample_parts`.
        allocate: compiled (pieces, R, n, dtype) -> parts of n samples, filled with zeros.
        write: compiled (parts of n samples, parts of m samples, start) -> the former, with the
            latter written from sample `start`.
        product: compiled products of the parts of two blocks of samples; see `_multiply_blocks`.
        add_transposed: compiled addition of Jᵀ v to sums; see `_add_transposed`.
        multiply: compiled product J u; see `_multiply`.
        gradients: compiled (leaf indices, leaves, pair, v) -> inner products of the gradients of
            two samples by plain backward passes, to verify the kernel.
    """

    def __init__(self, function: Split, leaves: tuple[Any, ...], sample: Any) -> None:
        """Trace the function.

        Args:
            function: a pure function (leaves, x [1, ...]) -> outputs.
            leaves: shapes and dtypes of the parameter arrays.
            sample: shape and dtype of one input [1, ...].
        """
        self.graph = Graph(function, list(leaves), sample)
        self.parts = jax.jit(self._chunk_parts, static_argnums=0)
        self.write = jax.jit(_write, donate_argnums=0)
        self.allocate = jax.jit(_allocate, static_argnums=(0, 1, 2, 3))
        self.add_transposed = jax.jit(_add_transposed, donate_argnums=2)
        self.multiply = jax.jit(_multiply)
        self.product = jax.jit(_multiply_blocks, static_argnums=(0, 1))
        self.gradients = jax.jit(partial(gradient_products, function), static_argnums=0)

    def _chunk_parts(
        self, pieces: tuple[Piece, ...], leaves: list[Any], samples: Any, V: Any, sketches: Any
    ) -> list[Any]:
        """Return the parts of a chunk of samples [m, ...].

        The arguments do not include the total number of samples, so that one compiled function
        serves any total.
        """
        return jax.vmap(lambda sample: self.sample_parts(pieces, leaves, sample, V, sketches))(
            samples
        )

    def sample_parts(
        self, pieces: tuple[Piece, ...], leaves: list[Any], sample: Any, V: Any, sketches: Any
    ) -> list[Any]:
        """Return the parts of one sample: one forward pass, and a backward pass for each row of V.

        Args:
            pieces: the pieces of a unit.
            leaves: the parameter arrays.
            sample: one input, without a batch axis.
            V: directions of the outputs [R, O].
            sketches: index of a parameter array → (P, Q), see `projections`; empty if there are no
                sketches.

        Returns:
            The part of each piece, without the axis of the samples.
        """
        meetings = {meeting.number: meeting for piece in pieces for meeting in piece.meetings}
        zeros = {
            number: [
                jnp.zeros(shape.shape, shape.dtype) for shape in self.graph.output_shapes(meeting)
            ]
            for number, meeting in meetings.items()
        }

        real = self._perturbed_leaves(leaves)

        def run(offsets: Any, perturbed: dict[int, Any]) -> Any:
            arrays = [perturbed.get(i, leaf) for i, leaf in enumerate(leaves)]
            out, inputs = self.graph.evaluate(arrays, sample[None], offsets)
            return out.reshape(-1), inputs

        out, pull, inputs = jax.vjp(run, zeros, real, has_aux=True)
        cotangents, _ = jax.vmap(pull)(V.astype(out.dtype))
        return [self._piece_part(piece, leaves, inputs, cotangents, sketches) for piece in pieces]

    def _piece_part(
        self, piece: Piece, leaves: list[Any], inputs: Any, cotangents: Any, sketches: Any
    ) -> Any:
        """Return the part of one piece and one sample.

        Args:
            piece: the piece.
            leaves: the parameter arrays.
            inputs: number of a meeting → the arrays that it reads.
            cotangents: number of a meeting → for each of its outputs `floats`, the cotangents
                [R, *shape of the output].
            sketches: as for `sample_parts`.
        """
        if piece.form == "direct":
            return self._direct_part(piece, leaves, inputs, cotangents)
        A = jnp.concatenate(
            [each.activations(inputs[each.meeting.number]) for each in piece.layers]
        )
        layer_cotangents = [
            each.scale * jax.vmap(each.cotangents)(cotangents[each.meeting.number][0])
            for each in piece.layers
        ]
        G = jnp.concatenate(layer_cotangents, axis=1)  # [R, T, g, p]
        t, g, _, _ = piece.sizes
        G = G.transpose(1, 2, 0, 3).reshape(t, g, -1)  # [T, g, R p]
        if piece.form == "ghost":
            return (A if A.ndim == 1 else A[:, 0]), G[:, 0]
        if piece.form == "outer":
            A = A[:, :, piece.first : piece.last]
        if piece.form == "sketched":
            P, Q = sketches[piece.leaf]
            A, G = (
                jnp.matmul(A[:, 0], P, precision=HIGHEST),
                jnp.matmul(G[:, 0], Q, precision=HIGHEST),
            )
            return jnp.einsum("kts,ktq->ksq", A, G, precision=HIGHEST).reshape(-1)
        J = jnp.einsum("tgc,tgq->gcq", A, G, precision=HIGHEST)
        if piece.form != "pulled":
            return J.reshape(-1)
        (layer,) = piece.layers
        J = J.reshape(*J.shape[:2], -1, piece.sizes[3])  # [g, c, R, p]
        value = layer.node.inputs[layer.meeting.thetas[0]]
        arrays = dict(enumerate(leaves))
        theta, pull = jax.vjp(
            lambda leaf: self.graph.theta(arrays | {piece.leaf: leaf}, value), leaves[piece.leaf]
        )
        (J,) = jax.vmap(lambda each: pull(layer.gradient(each).astype(theta.dtype)), 2)(J)
        return J.reshape(len(J), -1)[:, piece.first : piece.last].reshape(-1)

    def _perturbed_leaves(self, leaves: Sequence[Any]) -> dict[int, Any]:
        """Return the parameter arrays to perturb besides those that a derivative is taken in.

        A derivative rule may depend on which of its inputs are perturbed. The graph of such a
        function is differentiated in all parameter arrays, as a derivative of the whole function
        is. Their cotangents are not used, and XLA does not compute them. For all other functions
        the result is empty.
        """
        if not self.graph.selective:
            return {}
        return {i: leaf for i, leaf in enumerate(leaves) if self.graph.real[i]}

    def _direct_part(self, piece: Piece, leaves: list[Any], inputs: Any, cotangents: Any) -> Any:
        """Return gradients [R · (last − first)] of one sample by the meetings' own derivatives."""
        moving = {
            meeting.number: {
                i: inputs[meeting.number][i] for i in self.graph.moving_inputs(meeting)
            }
            for meeting in piece.meetings
            if self.graph.selective
        }

        def run(leaf: Any, perturbed: dict[int, Any], moving: dict[int, Any]) -> list[Any]:
            arrays = dict(enumerate(leaves)) | perturbed | {piece.leaf: leaf}
            outputs = []
            for meeting in piece.meetings:
                values = dict(enumerate(inputs[meeting.number])) | moving.get(meeting.number, {})
                outputs.append(self.graph.meeting_outputs(meeting, arrays, list(values.values())))
            return outputs

        _, pull = jax.vjp(run, leaves[piece.leaf], self._perturbed_leaves(leaves), moving)
        J, *_ = jax.vmap(pull)([cotangents[meeting.number] for meeting in piece.meetings])
        return J.reshape(len(J), -1)[:, piece.first : piece.last].reshape(-1)


def _allocate(pieces: Sequence[Piece], outputs: int, samples: int, dtype: Any) -> list[Any]:
    """Return parts of `samples` samples for `outputs` outputs, filled with zeros."""
    parts: list[Any] = []
    for piece in pieces:
        if piece.form != "ghost":
            parts.append(jnp.zeros((samples, piece.stored_numbers(outputs)), dtype))
            continue
        t, _, c, p = piece.sizes
        tokens = piece.layers[0].kind == "embedding"
        a = jnp.zeros((samples, t), jnp.int32) if tokens else jnp.zeros((samples, t, c), dtype)
        parts.append((a, jnp.zeros((samples, t, outputs * p), dtype)))
    return parts


def _write(parts: list[Any], chunk: list[Any], start: Any) -> list[Any]:
    """Return the parts of all samples, with those of a chunk written from sample `start`."""
    write = partial(lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
    return jax.tree.map(lambda target, new: write(target, new.astype(target.dtype)), parts, chunk)


def _add_transposed(parts: list[Any], block: Any, sums: list[Any]) -> list[Any]:
    """Return sums [P, b] + Jᵀ block for each piece, with its gradients J [m, P] of m samples.

    Args:
        parts: gradients of the pieces.
        block: b vectors over the samples [m, b].
        sums: one sum for each piece.
    """
    return [
        total + jnp.matmul(part.T, block, precision=HIGHEST)
        for part, total in zip(parts, sums, strict=True)
    ]


def _multiply(parts: list[Any], sums: list[Any]) -> Any:
    """Return Σ J u [m, b] over the pieces, with gradients J [m, P] and vectors u [P, b]."""
    return sum(
        jnp.matmul(part, total, precision=HIGHEST) for part, total in zip(parts, sums, strict=True)
    )


def projections(
    pieces: Sequence[Piece], outputs: int, key: Any, dtype: Any
) -> dict[int, list[np.ndarray]]:
    """Draw the random projections P [copies, c, s] and Q [copies, R · p, s] of all sketched pieces.

    Their columns are orthogonal, scaled so that E P Pᵀ = 1 and E Q Qᵀ = 1.

    They are drawn on the host, once for all chunks. A QR decomposition within the compiled chunk
    would be repeated for each chunk, and has hung XLA's CPU client (jaxlib 0.10.2, 2 cores, s = 8).

    Args:
        pieces: the pieces of a unit.
        outputs: number of outputs R of the unit.
        key: a random key.
        dtype: dtype of the projections.

    Returns:
        Index of the parameter array → [P, Q].
    """
    matrices: dict[int, list[np.ndarray]] = {}
    for piece in pieces:
        if piece.form != "sketched":
            continue
        for k, size in enumerate((piece.sizes[2], outputs * piece.sizes[3])):
            own = jax.random.fold_in(jax.random.fold_in(key, piece.leaf), k)
            normal = np.asarray(jax.random.normal(own, (piece.copies, size, piece.sketch), dtype))
            basis, triangle = np.linalg.qr(normal.astype(np.float64))
            signs = np.sign(np.diagonal(triangle, axis1=1, axis2=2))[:, None]
            matrices.setdefault(piece.leaf, []).append(
                (basis * signs * np.sqrt(size / piece.sketch)).astype(dtype)
            )
    return matrices


def _multiply_blocks(
    pieces: tuple[tuple[str, int], ...], side: int, parts: list[Any], i: Any, j: Any
) -> Any:
    """Return a block of the sum of the pieces' terms of the kernel.

    Args:
        pieces: form and number of copies of each piece.
        side: number of rows and columns of the block.
        parts: the parts of all samples.
        i, j: the first sample of the rows, and that of the columns.

    Returns:
        The block [side, side], or [copies, side, side] if a piece has several copies.
    """
    take = lambda array, start: lax.dynamic_slice_in_dim(array, start, side)  # noqa: E731
    total: Any = 0.0
    for (form, copies), part in zip(pieces, parts, strict=True):
        if form != "ghost" and copies == 1:
            total += _multiply_tiled(part, i, j, side)
            continue
        if form != "ghost":
            a, b = (take(part, start).reshape(side, copies, -1).swapaxes(0, 1) for start in (i, j))
            total += jnp.matmul(a, b.mT, precision=HIGHEST)
            continue
        A, G = part
        a, b = take(A, i), take(A, j)
        t = A.shape[1]
        if A.ndim == 2:  # one-hot A, stored as tokens: A_i A_jᵀ is whether two tokens are equal
            rows, columns = a.reshape(-1)[:, None], b.reshape(-1)[None]
            activation_products = (rows == columns) & (columns >= 0)
        else:
            activation_products = jnp.matmul(
                a.reshape(side * t, -1), b.reshape(side * t, -1).T, precision=HIGHEST
            )
        cotangent_products = jnp.matmul(
            take(G, i).reshape(side * t, -1), take(G, j).reshape(side * t, -1).T, precision=HIGHEST
        )
        total += (activation_products * cotangent_products).reshape(side, t, side, t).sum((1, 3))
    return total


def _multiply_tiled(J: Any, i: Any, j: Any, side: int) -> Any:
    """Return J[i : i + side] J[j : j + side]ᵀ, summed over tiles of `DEPTH` columns."""

    def product(start: Any, depth: int) -> Any:
        column = jnp.asarray(start, i.dtype)
        a, b = (lax.dynamic_slice(J, (first, column), (side, depth)) for first in (i, j))
        return jnp.matmul(a, b.T, precision=HIGHEST)

    tiles, rest = divmod(J.shape[1], DEPTH)
    total = product(tiles * DEPTH, rest)
    return (
        lax.fori_loop(
            0, tiles, lambda k, partial_sum: partial_sum + product(k * DEPTH, DEPTH), total
        )
        if tiles
        else total
    )
