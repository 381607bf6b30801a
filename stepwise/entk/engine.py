"""Compiled passes of a kernel: every sample's part of a unit's pieces, and the products of these
parts.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from stepwise.entk.graph import Graph
from stepwise.entk.plan import Piece

HIGHEST = lax.Precision.HIGHEST
DEPTH = 2304
"""Numbers of two samples' gradients multiplied at once: XLA's product on a CPU loses half its rate
beyond.
"""


@lru_cache(maxsize=8)
def engine(
    apply: Callable[[Any, Any], Any], tree: Any, leaves: tuple[Any, ...], sample: Any
) -> "Engine":
    """The engine of a function at these shapes; the last few are kept, with what they compiled."""
    return Engine(apply, tree, leaves, sample)


class Engine:
    """A function's graph, and the compiled steps of its kernel."""

    def __init__(
        self, apply: Callable[[Any, Any], Any], tree: Any, leaves: tuple[Any, ...], sample: Any
    ) -> None:
        """Trace it; leaves and the sample are shapes."""
        self.graph = Graph(apply, jax.tree.unflatten(tree, leaves), sample)
        self.parts = jax.jit(self._chunk, static_argnums=0)
        self.put = jax.jit(_put, donate_argnums=0)
        self.empty = jax.jit(_empty, static_argnums=(0, 1, 2, 3))
        self.onto = jax.jit(_onto, donate_argnums=2)
        self.along = jax.jit(_along)
        self.product = jax.jit(_product, static_argnums=(0, 1))

    def _chunk(
        self, pieces: tuple[Piece, ...], leaves: list[Any], some: Any, V: Any, into: Any
    ) -> list[Any]:
        """The parts of some samples. How many there are of all is not known here, so that it is
        compiled once.
        """
        return jax.vmap(lambda sample: self.parts_of(pieces, leaves, sample, V, into))(some)

    def parts_of(
        self, pieces: tuple[Piece, ...], leaves: list[Any], sample: Any, V: Any, into: Any
    ) -> list[Any]:
        """Of one sample: forward once, backward from each row of V."""
        meetings = {meeting.number: meeting for piece in pieces for meeting in piece.meetings}
        zeros = {
            k: [jnp.zeros(shape.shape, shape.dtype) for shape in self.graph.shapes(meeting)]
            for k, meeting in meetings.items()
        }

        def run(added: Any) -> Any:
            out, seen = self.graph.evaluate(leaves, sample[None], added)
            return out.reshape(-1), seen

        out, pull, seen = jax.vjp(run, zeros, has_aux=True)
        (cotangents,) = jax.vmap(pull)(V.astype(out.dtype))
        return [self._part(piece, leaves, seen, cotangents, into) for piece in pieces]

    def _part(self, piece: Piece, leaves: list[Any], seen: Any, cotangents: Any, into: Any) -> Any:
        if piece.form == "direct":
            return self._direct(piece, leaves, seen, cotangents)
        A = jnp.concatenate([each.positions(seen[each.meeting.number]) for each in piece.layers])
        behind = [
            each.scale * jax.vmap(each.cotangents)(cotangents[each.meeting.number][0])
            for each in piece.layers
        ]
        G = jnp.concatenate(behind, axis=1)  # [R, T, g, p]
        t, g, _, _ = piece.sizes
        G = G.transpose(1, 2, 0, 3).reshape(t, g, -1)
        if piece.form == "ghost":
            return (A if A.ndim == 1 else A[:, 0]), G[:, 0]
        if piece.form == "outer":
            A = A[:, :, piece.first : piece.last]
        if piece.form == "sketched":
            P, Q = into[piece.leaf]
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
        known = dict(enumerate(leaves))
        theta, pull = jax.vjp(
            lambda leaf: self.graph.theta(known | {piece.leaf: leaf}, value), leaves[piece.leaf]
        )
        (J,) = jax.vmap(lambda each: pull(layer.gradient(each).astype(theta.dtype)), 2)(J)
        return J.reshape(len(J), -1)[:, piece.first : piece.last].reshape(-1)

    def _direct(self, piece: Piece, leaves: list[Any], seen: Any, cotangents: Any) -> Any:
        def local(leaf: Any) -> list[Any]:
            known = dict(enumerate(leaves)) | {piece.leaf: leaf}
            return [
                self.graph.local(meeting, known, seen[meeting.number]) for meeting in piece.meetings
            ]

        _, pull = jax.vjp(local, leaves[piece.leaf])
        (J,) = jax.vmap(pull)([cotangents[meeting.number] for meeting in piece.meetings])
        return J.reshape(len(J), -1)[:, piece.first : piece.last].reshape(-1)


def _empty(pieces: Sequence[Piece], outputs: int, samples: int, dtype: Any) -> list[Any]:
    """Room for all samples' parts."""
    made: list[Any] = []
    for piece in pieces:
        if piece.form != "ghost":
            made.append(jnp.zeros((samples, piece.stored_numbers(outputs)), dtype))
            continue
        t, _, c, p = piece.sizes
        tokens = piece.layers[0].kind == "embedding"
        a = jnp.zeros((samples, t), jnp.int32) if tokens else jnp.zeros((samples, t, c), dtype)
        made.append((a, jnp.zeros((samples, t, outputs * p), dtype)))
    return made


def _put(whole: list[Any], some: list[Any], start: Any) -> list[Any]:
    put = partial(lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
    return jax.tree.map(lambda all_of, new: put(all_of, new.astype(all_of.dtype)), whole, some)


def _onto(parts: list[Any], block: Any, sums: list[Any]) -> list[Any]:
    """Sums of gradients, J^T v added for some samples."""
    return [
        known + jnp.matmul(part.T, block, precision=HIGHEST)
        for part, known in zip(parts, sums, strict=True)
    ]


def _along(parts: list[Any], sums: list[Any]) -> Any:
    """J u of some samples."""
    return sum(
        jnp.matmul(part, known, precision=HIGHEST) for part, known in zip(parts, sums, strict=True)
    )


def projections(
    pieces: Sequence[Piece], outputs: int, key: Any, dtype: Any
) -> dict[int, list[np.ndarray]]:
    """For every sketched layer P [copies, c, s] and Q [copies, O p, s], by its leaf.

    Random orthonormal columns scaled so that E P Pᵀ = 1 and E Q Qᵀ = 1. On the host and once for
    all chunks: a QR within the compiled chunk is done anew for each, and has hung XLA's CPU client
    (jaxlib 0.10.2, 2 cores, s = 8).
    """
    found: dict[int, list[np.ndarray]] = {}
    for piece in pieces:
        if piece.form != "sketched":
            continue
        for k, size in enumerate((piece.sizes[2], outputs * piece.sizes[3])):
            own = jax.random.fold_in(jax.random.fold_in(key, piece.leaf), k)
            drawn = np.asarray(jax.random.normal(own, (piece.copies, size, piece.sketch), dtype))
            basis, triangle = np.linalg.qr(drawn.astype(np.float64))
            signs = np.sign(np.diagonal(triangle, axis1=1, axis2=2))[:, None]
            found.setdefault(piece.leaf, []).append(
                (basis * signs * np.sqrt(size / piece.sketch)).astype(dtype)
            )
    return found


def _product(
    pieces: tuple[tuple[str, int], ...], side: int, parts: list[Any], i: Any, j: Any
) -> Any:
    """A block [side, side] of the sum over pieces (their forms and copies), of samples from i on
    and from j on.

    With copies a block each [copies, side, side].
    """
    take = lambda some, at: lax.dynamic_slice_in_dim(some, at, side)  # noqa: E731
    total: Any = 0.0
    for (form, copies), part in zip(pieces, parts, strict=True):
        if form != "ghost" and copies == 1:
            total += _tiled(part, i, j, side)
            continue
        if form != "ghost":
            a, b = (take(part, at).reshape(side, copies, -1).swapaxes(0, 1) for at in (i, j))
            total += jnp.matmul(a, b.mT, precision=HIGHEST)
            continue
        A, G = part
        a, b = take(A, i), take(A, j)
        t = A.shape[1]
        if A.ndim == 2:
            same = (a.reshape(-1)[:, None] == b.reshape(-1)) & (b.reshape(-1) >= 0)
        else:
            same = jnp.matmul(a.reshape(side * t, -1), b.reshape(side * t, -1).T, precision=HIGHEST)
        grams = jnp.matmul(
            take(G, i).reshape(side * t, -1), take(G, j).reshape(side * t, -1).T, precision=HIGHEST
        )
        total += (same * grams).reshape(side, t, side, t).sum((1, 3))
    return total


def _tiled(J: Any, i: Any, j: Any, side: int) -> Any:
    """J[i : i + side] J[j : j + side]ᵀ, tile by tile of its columns."""

    def product(at: Any, depth: int) -> Any:
        column = jnp.asarray(at, i.dtype)
        a, b = (lax.dynamic_slice(J, (first, column), (side, depth)) for first in (i, j))
        return jnp.matmul(a, b.T, precision=HIGHEST)

    tiles, rest = divmod(J.shape[1], DEPTH)
    total = product(tiles * DEPTH, rest)
    return (
        lax.fori_loop(0, tiles, lambda k, known: known + product(k * DEPTH, DEPTH), total)
        if tiles
        else total
    )
