import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import eigen
from tests import problems

SPECTRA = {
    "power": 1 / np.arange(1.0, 161) ** 1.5,
    "negative and large": np.r_[3, 2, 1, np.zeros(150), -1, -1, -2, -3, -4, -7, -100.0],
    "degenerate": np.r_[2, 2, 2, 1, 1, np.linspace(0.5, -0.5, 155)],
    "cluster": np.r_[1 + 1e-5 * np.arange(4)[::-1], np.linspace(0.5, -0.3, 156)],
    "low rank": np.r_[2, 1, np.zeros(158)],
}


def build_matrix(values, dtype):
    V = problems.rotation(values.size)
    return (V * values @ V.T).astype(dtype), V


def multiply(matrix, block):
    return matrix @ block


@pytest.mark.parametrize("name", SPECTRA)
def test_the_top_pairs_match_a_full_decomposition(name, dtype):
    values = SPECTRA[name]
    matrix, V = build_matrix(values, dtype)
    pairs = eigen.top(multiply, jnp.asarray(matrix), 160, 5, dtype=dtype)
    size, eps = np.abs(values).max(), 1e-5 if dtype == "float32" else 1e-9
    np.testing.assert_allclose(pairs.values, values[:5], atol=eps * size)
    np.testing.assert_allclose(
        pairs.vectors.T @ pairs.vectors, np.eye(5), atol=10 * np.finfo(dtype).eps * 10
    )
    exact = np.asarray(matrix, float) @ np.asarray(pairs.vectors, float) - np.asarray(
        pairs.vectors * pairs.values[None], float
    )
    assert (
        np.linalg.norm(exact, axis=0) <= pairs.residuals + 20 * np.finfo(dtype).eps * size
    ).all()
    assert (np.asarray(pairs.residuals) <= max(1e-9, 20 * np.finfo(dtype).eps) * size).all()
    assert values[-1] - eps * size <= float(pairs.lowest) <= values[-1] + 0.2 * size
    if name == "degenerate":
        span = problems.projector(pairs.vectors[:, :3]) - problems.projector(V[:, :3])
        assert np.abs(span).max() < 1e3 * eps


def test_another_seed_returns_the_same_pairs(x64):
    matrix = jnp.asarray(build_matrix(SPECTRA["power"], float)[0])
    one, two = (eigen.top(multiply, matrix, 160, 4, dtype=float, seed=seed) for seed in (0, 1))
    np.testing.assert_allclose(one.values, two.values, atol=1e-12)
    np.testing.assert_allclose(one.vectors, two.vectors, atol=1e-6)


@pytest.mark.parametrize("k", [1, 7, 12])
def test_a_small_or_complete_spectrum_is_computed_densely(k, x64):
    values = np.linspace(3, -2, 12)
    pairs = eigen.top(multiply, jnp.asarray(build_matrix(values, float)[0]), 12, k, dtype=float)
    np.testing.assert_allclose(pairs.values, values[:k], atol=1e-13)
    assert float(pairs.lowest) == pytest.approx(-2)
    assert (np.asarray(pairs.residuals) < 1e-13).all()


def test_the_zero_operator_has_zero_eigenvalues(dtype):
    pairs = eigen.top(multiply, jnp.zeros((160, 160), dtype), 160, 3, dtype=dtype)
    np.testing.assert_array_equal(pairs.values, 0)


def test_an_iteration_that_does_not_converge_reports_its_residual(x64):
    matrix = jnp.asarray(build_matrix(np.linspace(1, 0.99, 400), float)[0])
    with pytest.raises(
        eigen.NotConvergedError, match=r"below 1\.0e-09 .* within 10 block products, received \d"
    ):
        eigen.top(multiply, matrix, 400, 3, dtype=float, max_products=10)
    for k in (0, 401):
        with pytest.raises(
            ValueError, match=rf"modes: expected a number in 1 \.\.\. 400, received {k}"
        ):
            eigen.top(multiply, matrix, 400, k)


def test_all_pairs_are_in_descending_order_with_a_fixed_sign():
    matrix = build_matrix(np.array([1.0, 3, -2, 0.5]), float)[0]
    values, vectors = eigen.descending(matrix)
    np.testing.assert_allclose(values, [3, 1, 0.5, -2], atol=1e-14)
    np.testing.assert_allclose(vectors * values @ vectors.T, matrix, atol=1e-14)
    assert (vectors[np.abs(vectors).argmax(0), np.arange(4)] > 0).all()


def build_pair(size, rank, seed=0):
    """Build a symmetric S and a positive semi-definite M of this rank."""
    rng = np.random.default_rng(seed)
    S = rng.normal(size=(size, size))
    root = rng.normal(size=(size, rank)) * np.linspace(1, 0.1, rank)
    return (S + S.T) / 2, root @ root.T


@pytest.mark.parametrize("rank", [120, 60])
def test_the_top_of_a_product_matches_its_symmetric_form(rank):
    S, M = build_pair(120, rank)
    values, vectors = np.linalg.eigh(M)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    exact = np.linalg.eigvalsh(root @ S @ root)[::-1]
    pairs = eigen.top_of_product(lambda b: S @ b, lambda b: M @ b, 120, 5)
    np.testing.assert_allclose(pairs.values, exact[:5], rtol=1e-10)
    np.testing.assert_allclose(pairs.vectors.T @ M @ pairs.vectors, np.eye(5), atol=1e-10)
    np.testing.assert_allclose(
        S @ M @ pairs.vectors, pairs.vectors * pairs.values, atol=1e-6 * exact[0]
    )
    assert pairs.residuals.max() <= 1e-9 * abs(exact).max()
    assert exact[-1] - 1e-9 <= pairs.lowest <= exact[4]


def test_a_product_with_an_indefinite_right_factor_is_refused():
    S, M = build_pair(60, 60)
    with pytest.raises(
        ValueError, match="K: expected a positive semi-definite kernel, received a direction"
    ):
        eigen.top_of_product(lambda b: S @ b, lambda b: b - 1.2 * M @ b, 60, 3)


def test_more_pairs_of_a_product_than_its_rank_are_refused():
    S, M = build_pair(60, 4)
    with pytest.raises(
        ValueError, match=r"modes: expected a number in 1 \.\.\. 4, the rank of K, received 6"
    ):
        eigen.top_of_product(lambda b: S @ b, lambda b: M @ b, 60, 6)


def test_a_product_that_does_not_converge_reports_its_residual():
    S, M = build_pair(200, 200)
    with pytest.raises(eigen.NotConvergedError, match=r"within 3 block products, received"):
        eigen.top_of_product(lambda b: S @ b, lambda b: M @ b, 200, 3, tol=1e-14, max_products=3)


@pytest.mark.parametrize("rank", [5, 8, 12])
def test_a_product_of_low_rank_does_not_count_as_indefinite(rank):
    """The rank is near a block's width of 11, so the other columns are rounding of either sign."""
    F = np.random.default_rng(rank).normal(size=(600, rank)) * np.geomspace(1, 1e-2, rank)
    K = F @ F.T

    def swapped(block):
        return np.concatenate([block[300:], block[:300]]) / 600

    pairs = eigen.top_of_product(swapped, lambda block: K @ block, 600, 3)
    cross = F[:300].T @ F[300:] / 300
    expected = np.sort(np.linalg.eigvalsh((cross + cross.T) / 2))[::-1][:3]
    np.testing.assert_allclose(pairs.values, expected, atol=1e-7 * expected[0])
