"""Modes of views and kernels: spectra, vectors and features against independent computations."""

import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import spectra
from stepwise.moments import CENTERS
from stepwise.problem import from_gram, from_kernel, from_views
from tests import problems

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 7)) + 2
X2 = X + 0.8 * RNG.normal(size=X.shape)
NEW = RNG.normal(size=(5, 7)) + 2
# The same pairs in a larger space.
WIDE = np.concatenate([X, np.zeros((12, 40))], 1) @ problems.rotation(47)
WIDE2 = np.concatenate([X2, np.zeros((12, 40))], 1) @ problems.rotation(47)


def linear(a, b):
    return a @ b.T


def quadratic(a, b):
    return (a @ b.T + 1.0) ** 2


def expanded(a):
    """Return the features of the quadratic kernel."""
    a = np.concatenate([np.ones((len(a), 1)), a], 1)
    return np.einsum("ni,nj->nij", a, a).reshape(len(a), -1)


def laplace(a, b):
    return jnp.exp(-jnp.sqrt(jnp.sum((a[:, None] - b[None]) ** 2, -1) + 1e-12))


def embedding_gram(p, A, inputs):
    """Return the Gram matrix of embeddings, which signs and rotations of modes leave unchanged."""
    z = np.asarray(p.embed(A, inputs))
    return z @ z.T


@pytest.mark.parametrize("center", CENTERS)
@pytest.mark.parametrize("pair", [(X, X2), (WIDE, WIDE2)], ids=["m<=2n", "m>2n"])
def test_the_spectrum_and_its_vectors_are_those_of_the_formula(pair, center, x64):
    gamma_matrix = problems.cross_moment(*pair, center)
    p = from_views(*pair, center=center)
    values = np.linalg.eigvalsh(gamma_matrix)[::-1]
    largest = np.sort(values[np.argsort(-np.abs(values))[: p.gamma.size]])[::-1]
    np.testing.assert_allclose(p.gamma, largest, atol=1e-13)
    assert np.abs(values).sum() == pytest.approx(np.abs(largest).sum(), abs=1e-11)
    V = np.asarray(p.basis)
    np.testing.assert_allclose(V.T @ V, np.eye(p.gamma.size), atol=1e-12)
    np.testing.assert_allclose(V * p.gamma[None] @ V.T, gamma_matrix, atol=1e-12)
    assert float(p.lowest) == float(p.gamma[-1])
    assert (p.n_pairs, p.n_positive) == (12, int((largest > 0).sum()))


@pytest.mark.parametrize("center", CENTERS)
def test_both_sides_that_can_be_diagonalised_agree(center, x64):
    narrow, wide = from_views(X, X2, center=center), from_views(WIDE, WIDE2, center=center)
    np.testing.assert_allclose(narrow.gamma, wide.gamma, atol=1e-13)
    np.testing.assert_allclose(np.abs(narrow.features), np.abs(wide.features), atol=1e-11)
    np.testing.assert_allclose(np.abs(narrow.offset), np.abs(wide.offset), atol=1e-11)


@pytest.mark.parametrize("center", CENTERS)
def test_features_are_the_mode_coordinates_of_the_centred_views(center, x64):
    p = from_views(X, X2, center=center)
    a, b = (np.asarray(p.features)[part] for part in (slice(0, 12), slice(12, 24)))
    np.testing.assert_allclose((a.T @ b + b.T @ a) / 24, np.diag(p.gamma), atol=1e-12)
    embedded = p.embed(np.eye(p.gamma.size), np.concatenate([X, X2]))
    if (
        center == "per_view"
    ):  # new inputs belong to neither view, so they are centred at the pooled mean
        np.testing.assert_allclose((embedded[:12] + embedded[12:]) / 2, (a + b) / 2, atol=1e-12)
    else:
        np.testing.assert_allclose(embedded, p.features, atol=1e-12)


@pytest.mark.parametrize("center", CENTERS)
def test_linear_is_the_kernel_of_dot_products(center, x64):
    views = np.concatenate([X, X2])
    ways = from_views(X, X2, center=center), from_kernel(linear, X, X2, center=center)
    grams = from_gram(views @ views.T, center=center)
    A = np.diag(np.arange(1.0, 4))
    for p, inputs in (*((way, NEW) for way in ways), (grams, NEW @ views.T)):
        np.testing.assert_allclose(p.gamma, ways[0].gamma, atol=1e-12)
        z = np.asarray(p.predict(3))
        np.testing.assert_allclose(
            z @ z.T, np.asarray(ways[0].predict(3)) @ np.asarray(ways[0].predict(3)).T, atol=1e-9
        )
        padded = np.pad(A, ((0, 0), (0, p.gamma.size - 3)))
        np.testing.assert_allclose(
            embedding_gram(p, padded, inputs), embedding_gram(ways[0], padded, NEW), atol=1e-9
        )


@pytest.mark.parametrize("center", CENTERS)
def test_a_kernel_predicts_what_its_explicit_features_do(center, x64):
    kernel = from_kernel(quadratic, X[:, :3], X2[:, :3], center=center)
    features = from_views(expanded(X[:, :3]), expanded(X2[:, :3]), center=center)
    assert kernel.gamma.size == features.gamma.size == (9 if center != "none" else 10)
    np.testing.assert_allclose(kernel.gamma, features.gamma, rtol=1e-10)
    d = kernel.n_positive
    pairs = [
        (kernel.predict(d), features.predict(d)),
        (
            kernel.embed(kernel.optimum(d), NEW[:, :3]),
            features.embed(features.optimum(d), expanded(NEW[:, :3])),
        ),
    ]
    for z, w in pairs:
        np.testing.assert_allclose(
            np.asarray(z) @ np.asarray(z).T, np.asarray(w) @ np.asarray(w).T, atol=1e-10
        )


def test_a_positive_definite_kernel_has_as_many_positive_as_negative_modes(x64):
    p = from_kernel(laplace, X, X2)
    assert (np.asarray(p.gamma) > 0).sum() == (np.asarray(p.gamma) < 0).sum() == 12
    K = np.asarray(laplace(np.concatenate([X, X2]), np.concatenate([X, X2])))
    np.testing.assert_allclose(p.basis.T @ K @ p.basis, np.eye(24), atol=1e-10)
    swap = np.roll(np.eye(24), 12, 0)
    np.testing.assert_allclose(
        p.gamma, np.sort(np.linalg.eigvals(swap @ K / 24).real)[::-1], atol=1e-13
    )
    assert from_kernel(laplace, X, X2, center="pooled").n_positive == 11


@pytest.mark.parametrize(
    "make", [lambda: from_views(X, X2), lambda: from_kernel(laplace, X, X2, center="pooled")]
)
def test_predicted_embeddings_have_the_identity_for_cross_moment(make, x64):
    p = make()
    for d in (1, p.n_positive):
        z = p.predict(d)
        np.testing.assert_allclose(spectra.eigenvalues(z[:12], z[12:]), 1, atol=1e-9)
    with pytest.raises(
        ValueError,
        match=rf"d: expected a whole number in 1 ... {p.n_positive}, the number of modes",
    ):
        p.predict(p.n_positive + 1)
    with pytest.raises(ValueError, match=r"d: expected a whole number in 1 .* received 0"):
        p.predict(0)


@pytest.mark.parametrize(("center", "rank"), [("none", 12), ("pooled", 11), ("per_view", 10)])
def test_null_directions_of_the_data_are_dropped(center, rank, dtype):
    x, x2 = (RNG.normal(size=(6, 30)).astype(dtype) for _ in range(2))
    assert from_views(x, x2, center=center).gamma.size == rank
    assert from_views(np.tile(x[:, :1], 2), np.tile(x2[:, :1], 2), center=center).gamma.size == 1


def test_repeated_pairs_change_nothing(x64):
    once, twice = from_views(X, X2), from_views(np.concatenate([X, X]), np.concatenate([X2, X2]))
    np.testing.assert_allclose(once.gamma, twice.gamma, atol=1e-13)
    np.testing.assert_allclose(
        problems.projector(once.basis), problems.projector(twice.basis), atol=1e-10
    )
    doubled = from_views(np.tile(WIDE[:4], (2, 1)), np.tile(WIDE2[:4], (2, 1)))
    assert doubled.gamma.size == 7


def test_a_prescribed_spectrum_is_recovered_with_its_degenerate_modes(x64):
    gamma = np.array([3, 3, 1, 0.5, 0.5, -0.2, -2])
    x, x2, V = problems.views(gamma, 9, mean=5.0)
    p = from_views(x, x2)
    np.testing.assert_allclose(p.gamma, gamma, atol=1e-12)
    for part in (slice(0, 2), slice(2, 3), slice(3, 5), slice(5, 6)):
        np.testing.assert_allclose(
            problems.projector(p.basis[:, part]), problems.projector(V[:, part]), atol=1e-10
        )


def test_one_pair_has_one_positive_and_one_negative_mode_or_one_of_them(x64):
    a, b = np.array([[1.0, 0, 0]]), np.array([[0.6, 0.8, 0]])
    np.testing.assert_allclose(from_views(a, b, center="none").gamma, [0.8, -0.2], atol=1e-15)
    np.testing.assert_allclose(from_views(a, b).gamma, [-0.2], atol=1e-15)
    with pytest.raises(ValueError, match="that differ from one another"):
        from_views(a, b, center="per_view")
    with pytest.raises(ValueError, match="that differ from one another"):
        from_views(np.ones((3, 2)), np.ones((3, 2)))


def test_a_kernel_computed_in_float32_and_widened_needs_a_cutoff(x64):
    features = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    K = (features @ features.T).astype(np.float64)
    with pytest.raises(ValueError, match="K: expected a positive semi-definite kernel"):
        from_gram(K)
    assert from_gram(K, cutoff=40 * np.finfo(np.float32).eps).gamma.size == 5


def big_views(n, m, dtype, noise=0.5, rank=20):
    rng = np.random.default_rng(3)
    base = (
        (rng.normal(size=(n, rank)) * 0.8 ** np.arange(rank))
        @ rng.normal(size=(rank, m))
        / np.sqrt(m)
    )
    return tuple((base + noise * rng.normal(size=(n, m)) / m + 1).astype(dtype) for _ in range(2))


@pytest.mark.parametrize(
    ("shape", "center"), [((80, 300), "pooled"), ((200, 130), "none"), ((200, 130), "per_view")]
)
def test_the_first_modes_alone_are_the_first_of_all(shape, center, dtype):
    x, x2 = big_views(*shape, dtype)
    whole, few = from_views(x, x2, center=center), from_views(x, x2, center=center, modes=4)
    tolerance = 1e-5 if dtype == "float32" else 1e-8
    assert few.gamma.shape == (4,)
    assert few.features.shape == (2 * shape[0], 4)
    assert few.gamma.dtype == dtype
    np.testing.assert_allclose(few.gamma, whole.gamma[:4], rtol=tolerance)
    for name in ("features", "basis", "offset"):
        scale = float(np.abs(getattr(whole, name)[..., :4]).max())
        difference = np.abs(
            np.abs(getattr(few, name)) - np.abs(getattr(whole, name)[..., :4])
        ).max()
        assert difference <= 300 * tolerance * scale + tolerance
    assert float(whole.lowest) <= float(few.lowest) + 1e-6 * float(whole.gamma[0])
    z = np.asarray(few.predict(4), float)
    np.testing.assert_allclose(spectra.eigenvalues(z[: shape[0]], z[shape[0] :]), 1, atol=1e-4)


def test_modes_beyond_the_positive_ones_come_from_the_whole_spectrum(x64):
    gamma = np.r_[np.linspace(3, 1, 3), -np.linspace(0.1, 2, 150)]
    x, x2, _ = problems.views(gamma, 200)
    np.testing.assert_allclose(
        from_views(x, x2, modes=5).gamma, [3, 2, 1, *np.sort(gamma)[::-1][3:5]], atol=1e-10
    )
    np.testing.assert_allclose(from_views(x, x2, modes=2).gamma, [3, 2], atol=1e-8)
    with pytest.raises(
        ValueError,
        match=r"modes: expected a whole number in 1 ... 153, the rank of the data, received 180",
    ):
        from_views(x, x2, modes=180)
    with pytest.raises(
        ValueError, match=r"modes: expected a whole number in 1 ... 200, received 201"
    ):
        from_views(x, x2, modes=201)


def test_a_flat_spectrum_is_computed_from_the_whole_matrix_instead():
    x, x2 = (RNG.normal(size=(150, 160)).astype(np.float32) for _ in range(2))
    with np.errstate(all="raise"):
        few = from_views(x, x2, modes=6)
    np.testing.assert_allclose(few.gamma, from_views(x, x2).gamma[:6], rtol=1e-5)
    nothing = from_views(x, 0 * x2, center="none", modes=2)
    np.testing.assert_allclose(nothing.gamma, 0, atol=1e-6)


def test_no_matrix_of_input_by_input_size_is_formed():
    x, x2 = (RNG.normal(size=(5, 200_000)).astype(np.float32) for _ in range(2))
    tracemalloc.start()
    p = from_views(x, x2, modes=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert p.basis.shape == (200_000, 3)
    assert peak < 40 * x.nbytes
