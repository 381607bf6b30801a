"""The linearised gradient flow of a loss: products with its Jacobian, and their eigenpairs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun
from jax.extend.core.primitives import copy_p
from jaxtyping import Array

from stepwise import eigen

SMALL = 256
"""The largest size for which a Jacobian is computed as a matrix."""
DENSE = 800
"""The same for a Jacobian that is not symmetric."""
KRYLOV = 400
"""The largest dimension of the Krylov space of a larger one."""


class Linearisation(NamedTuple):
    """The flow v(θ) = −∂L/∂θ of a vector θ [N] near one point θ0, and its Jacobian J there.

    Attributes:
        velocity: compiled function (θ [N], data) -> v [N].
        product: compiled function ((θ0, data), u [N]) -> J u [N].
        point: θ0 [N].
        data: what both functions need besides.
    """

    velocity: Callable[[Any, Any], Any]
    product: Callable[[Any, Any], Any]
    point: Any
    data: Any

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """Return J u of each row u of rows [b, N], in float64."""
        dtype, operands = self.point.dtype, (self.point, self.data)
        images = [self.product(operands, jnp.asarray(row, dtype)) for row in rows]
        return np.asarray(jax.device_get(images), np.float64).reshape(rows.shape)


class Directions(NamedTuple):
    """The eigenvalues of a Jacobian with the largest real parts, and their eigenvectors.

    Attributes:
        values: the real parts [k] in descending order.
        rows: the eigenvectors as rows [k, N] of norm 1. For two conjugate eigenvalues these are the
            real and the imaginary part of one eigenvector.
        turns: the imaginary parts [k].
        symmetric: whether the Jacobian is symmetric.
    """

    values: np.ndarray
    rows: np.ndarray
    turns: np.ndarray
    symmetric: bool


def linearise(velocity: Callable[[Any, Any], Any], point: Array, data: Any) -> Linearisation:
    """Return products with the Jacobian of `velocity`, by forward-mode differentiation.

    A loss may contain `stop_gradient`, which defines its gradient, and which would also stop the
    derivative *of* that gradient. It is therefore replaced by the identity in the traced form of
    the gradient, before the gradient is differentiated.
    """
    opened = jaxpr_as_fun(_without_stops(jax.make_jaxpr(velocity)(point, data)))

    def product(operands: Any, u: Any) -> Any:
        start, given = operands
        leaves = jax.tree.leaves(given)
        return jax.jvp(lambda theta: opened(theta, *leaves)[0], (start,), (u,))[1]

    return Linearisation(jax.jit(velocity), jax.jit(product), point, data)


def by_differences(flow: Linearisation, step: float) -> Linearisation:
    """Return the same linearisation with J u by central differences over ±step u/‖u‖."""

    def product(operands: Any, u: Any) -> Any:
        start, given = operands
        size = jnp.linalg.norm(u)
        shift = step * u / jnp.where(size == 0, 1, size)
        change = flow.velocity(start + shift, given) - flow.velocity(start - shift, given)
        return change * size / (2 * step)

    return flow._replace(product=jax.jit(product))


def restrict(flow: Linearisation, row: np.ndarray) -> Linearisation:
    """Return B u = eᵀ J (e ⊗ u) for one direction e [d] of the embedding, in the inputs [r]."""
    e = jnp.asarray(row, flow.point.dtype)

    def product(operands: Any, u: Any) -> Any:
        start, given = operands
        image = flow.product((start, given), jnp.outer(e, u).ravel())
        return e @ image.reshape(e.shape[0], -1)

    return flow._replace(product=jax.jit(product))


def common_row(flow: Linearisation, shape: tuple[int, int]) -> np.ndarray | None:
    """Return the direction e [d] of the embedding that grows fastest, if J = P ⊗ A.

    P [d, d] is symmetric and positive semi-definite, and e is its leading eigenvector. P is the
    identity for a loss that treats all directions of the embedding alike. Returns None if J is not
    such a product.
    """
    d, r = shape
    random = np.random.default_rng(2)
    v, w, u = random.normal(size=r), random.normal(size=r), random.normal(size=d)
    tol = 1e-6 if flow.point.dtype == jnp.float64 else 1e-2

    def image(rows: np.ndarray) -> np.ndarray:  # J of rows [b, d, r]
        return flow.apply(rows.reshape(len(rows), d * r)).reshape(rows.shape)

    P = np.einsum("ber,r->eb", image(np.eye(d)[:, :, None] * v), w)
    P = P if np.trace(P) >= 0 else -P
    size = np.abs(P).max()
    values, vectors = np.linalg.eigh((P + P.T) / 2)
    if np.abs(P - P.T).max() > tol * size or values[0] < -tol * size:
        return None
    alike = np.abs(P - values[-1] * np.eye(d)).max() <= tol * size
    e = np.eye(d)[0] if alike else vectors[:, -1]
    along, across = image(np.stack([np.outer(e, w), np.outer(u, w)]))
    B = e @ along
    expected = np.outer(P @ u, B) / (values[-1] if size > 0 else 1)
    wrong = max(np.abs(along - np.outer(e, B)).max(), np.abs(across - expected).max())
    return e if wrong <= tol * max(np.abs(along).max(), np.abs(across).max()) else None


def fastest(flow: Linearisation, size: int, k: int) -> Directions:
    """Compute the k eigenvalues with the largest real parts of a Jacobian [size, size].

    Raises:
        eigen.NotConvergedError: if an iteration without the matrix does not converge.
    """
    double = flow.point.dtype == jnp.float64
    if size > SMALL:
        probes = np.random.default_rng(0).normal(size=(4, size)) / size**0.5
        if _is_symmetric(probes @ flow.apply(probes).T, double):
            return _lanczos(flow, size, k)
    if size > max(SMALL, DENSE):
        values, columns = _arnoldi(flow, size, k)
        return _directions(values, columns)
    matrix = flow.apply(np.eye(size)).T
    if _is_symmetric(matrix, double):
        values, columns = eigen.eigh_descending((matrix + matrix.T) / 2)
        return Directions(values[:k], columns[:, :k].T, np.zeros(k), symmetric=True)
    values, columns = np.linalg.eig(matrix)
    first = np.argsort(-values.real, kind="stable")[:k]
    return _directions(values[first], columns[:, first])


def _is_symmetric(matrix: np.ndarray, double: bool) -> bool:
    difference = np.linalg.norm(matrix - matrix.T)
    return bool(difference <= (1e-7 if double else 3e-3) * np.linalg.norm(matrix))


def _directions(values: np.ndarray, columns: np.ndarray) -> Directions:
    parts = np.where(values.imag < 0, columns.imag, columns.real)
    parts = parts / np.linalg.norm(parts, axis=0)
    peaks = np.take_along_axis(parts, np.argmax(np.abs(parts), axis=0)[None], axis=0)
    return Directions(values.real, (parts * np.sign(peaks)).T, values.imag, symmetric=False)


def _lanczos(flow: Linearisation, size: int, k: int) -> Directions:
    dtype = flow.point.dtype

    def block(operands: Any, columns: Any) -> Any:
        return jax.lax.map(lambda u: flow.product(operands, u), columns.T, batch_size=8).T

    tol = 1e-9 if dtype == jnp.float64 else 1e-5
    pairs = eigen.top(block, (flow.point, flow.data), size, k, dtype=dtype, tol=tol)
    values, vectors = (np.asarray(part, np.float64) for part in pairs[:2])
    return Directions(values, vectors.T, np.zeros(k), symmetric=True)


def _arnoldi(flow: Linearisation, size: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k eigenvalues with the largest real parts, from a growing Krylov space."""
    tol = 1e-8 if flow.point.dtype == jnp.float64 else 1e-4
    most = min(size, KRYLOV)
    basis, small = np.zeros((most + 1, size)), np.zeros((most + 1, most))
    basis[0] = np.random.default_rng(0).normal(size=size)
    basis[0] /= np.linalg.norm(basis[0])
    worst = np.inf
    for j in range(most):
        image = flow.apply(basis[j : j + 1])[0]
        for _ in range(2):  # the second projection removes the rounding of the first
            weights = basis[: j + 1] @ image
            image = image - weights @ basis[: j + 1]
            small[: j + 1, j] += weights
        small[j + 1, j] = np.linalg.norm(image)
        basis[j + 1] = image / max(small[j + 1, j], np.finfo(float).tiny)
        closed = small[j + 1, j] <= tol * np.abs(small).max()
        if j + 1 >= k and ((j + 1) % 20 == 0 or closed or j + 1 == most):
            values, vectors = np.linalg.eig(small[: j + 1, : j + 1])
            order = np.argsort(-values.real, kind="stable")[:k]
            residuals = small[j + 1, j] * np.abs(vectors[j, order])
            worst = float(residuals.max() / np.abs(values).max())
            if worst <= tol:
                return values[order], basis[: j + 1].T @ vectors[:, order]
    raise eigen.NotConvergedError(
        f"fastest directions: expected every residual below {tol:.1e} of the largest eigenvalue "
        f"within {most} products, received {worst:.1e}; pass fewer modes"
    )


def _without_stops(program: Any) -> Any:
    """Return a jaxpr, and all that it contains, with `stop_gradient` replaced by the identity."""
    if hasattr(program, "jaxpr"):
        return program.replace(jaxpr=_without_stops(program.jaxpr))
    equations = []
    for equation in program.eqns:
        if equation.primitive.name == "stop_gradient":
            equations.append(equation.replace(primitive=copy_p, params={}))
        else:
            inner = {name: _open(value) for name, value in equation.params.items()}
            equations.append(equation.replace(params=inner))
    return program.replace(eqns=equations)


def _open(value: Any) -> Any:
    if type(value) in (tuple, list):
        return type(value)(_open(each) for each in value)
    is_program = hasattr(value, "eqns") and hasattr(value, "replace")
    return _without_stops(value) if is_program else value
