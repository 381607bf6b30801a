r"""Growth rates of any loss: the gradient flow of a linear model, linearised at one point.

`rates` needs no law. It differentiates the gradient of a loss, so it answers for a loss that the
package does not contain which directions of the inputs are learned, in which order and how fast:

    growth.rates(lambda z1, z2: my_loss(z1, z2), problem, d=4, modes=10).rates
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from stepwise import _check
from stepwise._linearisation import (
    Directions,
    Linearisation,
    by_differences,
    common_row,
    fastest,
    linearise,
    restrict,
)
from stepwise.problem import Problem
from stepwise.types import Real, Whole

LARGEST_ERROR = 0.1
"""The largest relative error of the linearisation at the size `scale`."""


class Growth(NamedTuple):
    """The fastest directions of a linearised gradient flow.

    Attributes:
        rates: twice the real part of each eigenvalue [k] in descending order: the rate
            d ln(variance)/dt, t = learning rate × step. Negative for a direction that decays.
        directions: the eigenvectors, of unit norm: [k, d, r] in mode coordinates, or a pytree like
            `at` whose leaves have a leading axis k.
        frequencies: the imaginary part of each eigenvalue [k], in radians per unit of t. 0 unless
            the flow is not that of one loss, because a gradient is stopped.
        drift: norm of the gradient at `at`, 0 at a saddle. Elsewhere the rates are those at which
            two neighbouring solutions diverge.
    """

    rates: Any
    directions: Any
    frequencies: Any
    drift: Any


def rates(
    loss: Any,
    problem: Problem,
    *,
    at: Any = None,
    modes: Whole | None = None,
    d: Whole = 1,
    scale: Real = 1e-4,
) -> Growth:
    r"""Compute how fast the directions of a linear model grow near a point, under any loss.

    The flow dA/dt = −∂L/∂A of the mode coordinates A [d, r] is linearised at `at`, by default the
    zero embedding:

        dδ/dt = J δ,    J = −∂²L/∂A²,    rates = 2 Re eig(J),

    because a variance grows at twice the rate of its amplitude. J is never formed: a product with J
    is a forward-mode derivative of the gradient. Its largest eigenvalues (not the largest in
    magnitude, which may belong to directions that decay) are computed by block Lanczos
    (`eigen.top`). `stop_gradient` in the loss is respected: it defines the gradient, which is then
    differentiated in full. J is not symmetric in that case, and its eigenvalues are computed from
    the matrix, or by Arnoldi's iteration if it has more than 800 rows.

    Near zero most losses act alike on every direction of the embedding, so every rate occurs d
    times. The result has one rate for each direction of the *inputs*: the fastest one. Elsewhere
    each of the d·r eigenvalues counts on its own.

    For the losses of `stepwise.laws`, the rates at zero equal `law.growth()`, sorted. Γ and Σ need
    no common eigenbasis here.

    Args:
        loss: a JAX function loss(z1, z2) of the two views' embeddings [n, d]. If `at` is a pytree,
            a function loss(tree, x, x2) of it and of the views' mode coordinates [n, r].
        problem: the problem, with all of its modes. Its features are the views.
        at: where to linearise: mode coordinates [d, r], or a pytree of arrays, such as
            {"W": [d, r], "b": [d]}. The default is the zero embedding. If a loss is not smooth
            there (SimCLR divides by the norm), linearise at an embedding with an offset:
            loss = lambda z1, z2: losses.simclr(z1 + b[None], z2 + b[None]). In a pytree, "near
            zero" means that all leaves [d, r] are zero.
        modes: number k of directions; by default r, but at most 16.
        d: dimension of the embedding, if `at` is None. Some losses (VICReg) depend on it.
        scale: standard deviation of the embedding (relative to `at`) up to which the rates must
            hold. Two steps of this size, in opposite directions, check the linearisation.

    Returns:
        The k fastest directions and their rates.

    Raises:
        ValueError: if the loss, or its gradient, is not finite at `at`; if the gradient is not 0 at
            the zero embedding, so that it is no saddle; if the gradient is not linear up to
            `scale`, because the loss has a kink, a norm or a smoothing constant there; if the
            problem is truncated, `at` has the wrong shape, or `modes` is out of range.
        eigen.NotConvergedError: if the eigenvalues are too close to each other.

    Runs in the precision of the problem: relative errors of about 1e-8 in float64 and 1e-3 in
    float32.
    """
    state, is_tree = _state(at, problem, d)
    dtype = jax.tree.leaves(state)[0].dtype
    point, unravel = ravel_pytree(state)
    views = tuple(jnp.split(jnp.asarray(problem.features, dtype), 2))
    _check.require(callable(loss), "loss", "a function loss(z1, z2) of two embeddings", repr(loss))

    def value(theta: Any, views: Any) -> Any:
        current, (x, x2) = unravel(theta), views
        return loss(current, x, x2) if is_tree else loss(x @ current.T, x2 @ current.T)

    number = jax.eval_shape(value, point, views)
    real = number.shape == () and jnp.issubdtype(number.dtype, jnp.floating)
    _check.require(real, "loss", "a function that returns one real number", number)

    def velocity(theta: Any, views: Any) -> Any:
        return -jax.grad(value)(theta, views)

    r = problem.gamma.shape[0]
    inputs = _input_leaves(state, r)
    most = r if inputs else point.size
    chosen = min(most, 16) if modes is None else modes
    _check.whole("modes", chosen, 1, most, ", the number of directions")
    k = int(chosen)

    flow = linearise(velocity, point, views)
    begin = flow.velocity(point, views)
    _require_finite(loss, begin)
    probe = np.random.default_rng(1).normal(size=(1, point.size))
    if not np.isfinite(flow.apply(probe)).all():
        # An intermediate step, such as a matrix root, may have no derivative where the result has.
        flow = by_differences(flow, float(scale / jnp.sqrt(jnp.mean(jnp.square(views[0])))))
        _require_finite(loss, flow.apply(probe))

    row = None if is_tree or not inputs else common_row(flow, state.shape)
    if row is not None:
        inner = fastest(restrict(flow, row), r, k)
        rows = np.einsum("d,kr->kdr", row, inner.rows).reshape(k, point.size)
        result = inner._replace(rows=rows)
    elif inputs:
        result = _one_per_input(flow, unravel, inputs, k, r)
    else:
        result = fastest(flow, point.size, k)
    directions = jax.vmap(unravel)(jnp.asarray(result.rows, dtype))
    sizes = _embedding_sizes(directions, views, r, k)
    steps = [float(scale) * result.rows[i] / sizes[i] for i in {0, k - 1}]
    _require_linear(loss, flow, begin, probe, result, steps, bool(inputs))
    speeds, turns = (jnp.asarray(part, dtype) for part in (2 * result.values, result.turns))
    return Growth(speeds, directions, turns, jnp.linalg.norm(begin))


def _state(at: Any, problem: Problem, d: Whole) -> tuple[Any, bool]:
    """Return the point of linearisation with the problem's precision, and whether it is a tree."""
    gamma, lowest = np.asarray(problem.gamma), float(np.asarray(problem.lowest))
    r, dtype = gamma.size, problem.gamma.dtype
    whole = lowest >= gamma.min() - 1e-6 * np.abs(gamma).max()
    received = f"one truncated to its {r} largest"
    expected = "a problem with all of its modes, because a loss may have another order than γ"
    _check.require(whole, "problem", expected, received)
    if at is None:
        _check.whole("d", d)
        return jnp.zeros((int(d), r), dtype), False
    is_array = isinstance(at, jax.Array | np.ndarray)
    leaves = [] if is_array else jax.tree.leaves(at)
    if is_array or not (isinstance(at, dict) or any(np.ndim(leaf) > 1 for leaf in leaves)):
        array = jnp.asarray(_check.real_array("at", at, ndim=2), dtype)
        _check.require(array.shape[1] == r, "at", f"{r} columns, one for each mode", array)
        return array, False
    return jax.tree.map(lambda leaf: jnp.asarray(_check.real_array("at", leaf), dtype), at), True


def _input_leaves(state: Any, r: int) -> list[int]:
    """Return the leaves [d, r] of a state if they are all zero, otherwise none.

    These are the linear maps of the inputs. They must have equally many rows.
    """
    leaves = jax.tree.leaves(state)
    maps = [i for i, leaf in enumerate(leaves) if leaf.ndim == 2 and leaf.shape[1] == r]
    zero = all(not np.asarray(leaves[i]).any() for i in maps)
    return maps if zero and len({leaves[i].shape[0] for i in maps}) == 1 else []


def _one_per_input(
    flow: Linearisation, unravel: Any, inputs: list[int], k: int, r: int
) -> Directions:
    """Return eigenpairs of J whose input directions are new, fastest first.

    An eigenvector [d, r] has the input direction v if it is u ⊗ v. It is left out if v lies in the
    span of those of faster eigenvectors, or if most of it lies in parameters that do not act on
    inputs. Several maps of the inputs form one direction together.
    """
    size, dtype = flow.point.size, flow.point.dtype
    count = min(size, k)
    while True:
        result = fastest(flow, size, count)
        # Eigenvectors of a matrix that is not symmetric need not be orthogonal.
        least = 0.5 if result.symmetric else 1e-3
        kept: list[int] = []
        span = np.zeros((len(inputs) * r, 0))
        for i in range(count):
            leaves = jax.tree.leaves(unravel(jnp.asarray(result.rows[i], dtype)))
            maps = np.concatenate([np.asarray(leaves[j], np.float64) for j in inputs], axis=1)
            left = maps - maps @ span @ span.T
            whole = np.sum(maps**2)
            if len(kept) < k and whole >= 0.5 and np.sum(left**2) >= least * whole:
                kept.append(i)
                span = np.column_stack([span, np.linalg.svd(left)[2][0]])
        if len(kept) == k or count == size:
            return Directions(
                result.values[kept], result.rows[kept], result.turns[kept], result.symmetric
            )
        count = min(size, 2 * count)


def _embedding_sizes(directions: Any, views: tuple[Any, ...], r: int, k: int) -> np.ndarray:
    """Return the root mean square [k] of the embedding that each direction adds."""
    x = np.concatenate([np.asarray(view, np.float64) for view in views])
    squares = np.zeros(k)
    for leaf in jax.tree.leaves(directions):
        if leaf.ndim == 3 and leaf.shape[2] == r:
            squares += np.sum((np.asarray(leaf, np.float64) @ x.T) ** 2, axis=(1, 2)) / len(x)
    return np.where(squares > 0, np.sqrt(squares), 1)


def _name(loss: Any) -> str:
    function = getattr(loss, "func", loss)  # of a functools.partial
    return str(getattr(function, "__name__", function))


def _require_finite(loss: Any, slope: Any) -> None:
    bad = int(jnp.sum(~jnp.isfinite(slope)))
    _check.require(
        bad == 0,
        "loss",
        "a loss that can be differentiated twice at `at`; pass an embedding with an offset",
        f"{_name(loss)}, whose derivative there has {bad} entries that are not finite",
    )


def _require_linear(
    loss: Any,
    flow: Linearisation,
    begin: Any,
    probe: np.ndarray,
    result: Directions,
    steps: list[np.ndarray],
    near_zero: bool,
) -> None:
    """Raise unless the flow is linear up to these steps, and has a rest at the zero embedding."""
    typical = np.linalg.norm(flow.apply(probe)) / np.linalg.norm(probe)
    largest = max(float(typical), float(np.abs(result.values).max()))
    drift = float(jnp.linalg.norm(begin))

    def error(step: np.ndarray) -> float:
        shift, linear = jnp.asarray(step, flow.point.dtype), flow.apply(step[None])[0]
        moved = [flow.velocity(flow.point + sign * shift, flow.data) for sign in (1, -1)]
        gaps = [
            np.asarray(v - begin) - sign * linear for v, sign in zip(moved, (1, -1), strict=True)
        ]
        return max(float(np.linalg.norm(gap)) for gap in gaps)

    for step in steps:
        size = float(np.linalg.norm(step)) * largest
        _check.require(
            not near_zero or drift <= LARGEST_ERROR * size,
            "at",
            "a saddle, where the gradient is 0",
            f"a gradient of norm {drift:.3g} of {_name(loss)} at the zero embedding",
        )
        wrong = error(step)
        # Without a linear part, the next term of a smooth flow is at most a quarter at half a step.
        smooth = wrong == 0 or (size == 0 and error(step / 2) < wrong / 3)
        _check.require(
            smooth or wrong <= LARGEST_ERROR * size,
            "loss",
            "a gradient that is linear, to a tenth, for changes of the embedding by `scale`; pass "
            "a smaller scale, or `at` an embedding with an offset",
            f"{_name(loss)}, off by {wrong / size:.1e}" if size > 0 else _name(loss),
        )
