"""Kernel problems have the modes of explicit features, by decomposition or by products alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import kernels, spectra
from stepwise.dynamics import closed_form, descent
from stepwise.problem import from_gram, from_kernel, from_views, gram

RNG = np.random.default_rng(0)
N, M = 60, 5
X = RNG.normal(size=(N, M)) * np.array([3, 2, 1.5, 1, 0.7])
X2 = X + 0.3 * RNG.normal(size=(N, M))
NEW = RNG.normal(size=(7, M))
FREQUENCIES, PHASES = RNG.normal(size=(M, 9)), RNG.uniform(0, 6, size=9)


def quadratic(x):
    """Return the features of the kernel (x·y + 1)²."""
    x = np.asarray(x)
    products = np.stack(
        [x[:, i] * x[:, j] * (1 if i == j else 2**0.5) for i in range(M) for j in range(i, M)], 1
    )
    return np.concatenate([products, 2**0.5 * x, np.ones((len(x), 1))], axis=1)


def fourier(x):
    return np.cos(np.asarray(x) @ FREQUENCIES + PHASES)


FEATURES = {
    "linear": (kernels.linear(), np.asarray),
    "polynomial": (kernels.polynomial(2), quadratic),
    "random features": (lambda a, b: jnp.asarray(fourier(a) @ fourier(b).T), fourier),
}


@pytest.mark.parametrize("center", ["none", "pooled", "per_view"])
@pytest.mark.parametrize("modes", [None, 3])
@pytest.mark.parametrize("name", FEATURES)
def test_predictions_equal_those_of_explicit_features(name, center, modes, x64):
    kernel, features = FEATURES[name]
    implicit = from_kernel(kernel, X, X2, center=center, modes=modes)
    explicit = from_views(features(X), features(X2), center=center)
    np.testing.assert_allclose(implicit.gamma[:3], explicit.gamma[:3], rtol=1e-10)
    for one, two in (
        (implicit.predict(3), explicit.predict(3)),
        (
            implicit.embed(implicit.optimum(3), NEW),
            explicit.embed(explicit.optimum(3), features(NEW)),
        ),
    ):
        signs = np.sign(np.sum(np.asarray(one) * np.asarray(two), axis=0))
        np.testing.assert_allclose(one * signs[None], two, atol=1e-9 * np.abs(two).max())
    np.testing.assert_allclose(
        spectra.eigenvalues(*np.split(np.asarray(implicit.predict(3)), 2)), 1, atol=0.2
    )


@pytest.mark.parametrize("center", ["none", "pooled", "per_view"])
def test_products_alone_give_the_modes_of_a_decomposition(center, x64, tmp_path):
    kernel = kernels.rbf(2.0)
    whole = from_kernel(kernel, X, X2, center=center)
    few = from_kernel(kernel, X, X2, center=center, modes=4, path=tmp_path / "K.npy")
    np.testing.assert_allclose(few.gamma, whole.gamma[:4], rtol=1e-9)
    np.testing.assert_allclose(few.lowest, whole.lowest, rtol=1e-3)
    signs = np.sign(np.sum(np.asarray(few.features) * np.asarray(whole.features[:, :4]), axis=0))
    np.testing.assert_allclose(few.features * signs[None], whole.features[:, :4], atol=1e-7)
    A = np.eye(4)
    np.testing.assert_allclose(
        few.embed(A, NEW) * signs[None], whole.truncate(4).embed(A, NEW), atol=1e-6
    )


def test_a_positive_definite_kernel_has_as_many_negative_modes_as_positive(x64):
    p = from_kernel(kernels.rbf(0.7), X, X2)
    assert p.gamma.size == 2 * N and p.n_positive == N and np.sum(np.asarray(p.gamma) < 0) == N
    # Centring makes one direction of K null. By Cauchy's interlacing theorem, this removes one
    # positive or one negative mode.
    centred = from_kernel(kernels.rbf(0.7), X, X2, center="pooled")
    assert centred.gamma.size == 2 * N - 1 and centred.n_positive in (N - 1, N)


def test_rank_deficient_kernels_keep_their_rank(x64):
    assert from_kernel(kernels.polynomial(2), X, X2).gamma.size == M * (M + 1) // 2 + M + 1
    assert from_kernel(kernels.linear(), X, X2, center="pooled").gamma.size == M


def test_the_kernel_model_follows_the_same_laws_and_solvers(x64):
    p = from_kernel(kernels.rbf(3.0), X, X2, center="pooled")
    A0 = 1e-6 * np.asarray(RNG.normal(size=(3, p.gamma.size)))
    run = descent(p, A0, 0.02 * p.max_stable_lr(), 60_000, record_every=100)
    theory = closed_form(p, A0, run.times)
    assert str(run.result) == "converged"
    C = spectra.eigenvalues(
        *np.split(np.asarray(p.embed(run.snapshots[-1], np.concatenate([X, X2]))), 2)
    )
    np.testing.assert_allclose(C, run.eigenvalues[-1], rtol=1e-6)
    assert np.sqrt(np.mean((run.eigenvalues - theory.eigenvalues) ** 2)) < 0.05


def test_the_kernel_of_many_inputs_is_evaluated_in_parts(x64):
    rbf, most = kernels.rbf(3.0), []

    def watched(a, b):
        most.append(max(len(a), len(b)))
        return rbf(a, b)

    whole, parts = from_kernel(rbf, X, X2), from_kernel(watched, X, X2, tile=16)
    A = np.eye(whole.gamma.size)[:2]
    np.testing.assert_allclose(
        np.abs(parts.embed(A, X)), np.abs(whole.embed(A, X)), rtol=1e-8, atol=1e-10
    )
    assert max(most) == 16


@pytest.mark.parametrize("center", ["none", "pooled"])
def test_coordinates_are_recovered_from_embeddings(center, x64):
    both = np.concatenate([X, X2])
    for p in (
        from_kernel(kernels.rbf(3.0), X, X2, center=center),
        from_views(X, X2, center=center),
    ):
        A = p.start(jax.random.key(0), 3, 1.0)
        np.testing.assert_allclose(p.coordinates_of(p.embed(A, both)), A, rtol=1e-6, atol=1e-8)
    with pytest.raises(ValueError, match="embeddings: expected 120 rows, one for each view"):
        p.coordinates_of(np.ones((5, 2)))


def test_float32_kernels_give_the_float64_modes(tmp_path):
    x, x2 = X.astype("float32"), X2.astype("float32")
    few = from_kernel(kernels.rbf(2.0), x, x2, modes=4)
    assert few.gamma.dtype == "float32"
    K = np.exp(-np.sum((np.concatenate([X, X2])[:, None] - np.concatenate([X, X2])) ** 2, -1) / 8)
    np.testing.assert_allclose(few.gamma, from_gram(K).gamma[:4], rtol=1e-5)


def test_a_kernel_that_is_not_positive_is_rejected_either_way(x64):
    with pytest.raises(ValueError, match="positive semi-definite"):
        from_kernel(lambda a, b: -kernels.linear()(a, b), X, X2)
    with pytest.raises(ValueError, match="positive semi-definite"):
        from_kernel(lambda a, b: -kernels.linear()(a, b), X, X2, modes=2)


def test_more_dimensions_than_positive_modes_are_rejected(x64):
    p = from_kernel(kernels.linear(), X, X2)
    with pytest.raises(
        ValueError, match=r"d: expected a whole number in 1 \.\.\. 5, the number of modes that grow"
    ):
        p.predict(6)


@pytest.mark.parametrize("seed", range(6))
def test_products_alone_are_accurate_for_fast_decaying_kernels(seed, x64):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(100, 2))
    x, x2 = x + 0.1 * rng.normal(size=x.shape), x + 0.1 * rng.normal(size=x.shape)
    for kernel in (kernels.rbf(3.0), kernels.rbf(0.7), kernels.polynomial(3)):
        whole = from_kernel(kernel, x, x2)
        for modes in (1, 3):
            np.testing.assert_allclose(
                from_kernel(kernel, x, x2, modes=modes).gamma, whole.gamma[:modes], rtol=1e-7
            )


def test_a_large_mean_does_not_make_a_kernel_indefinite(x64):
    V = np.random.default_rng(0).normal(size=(400, 3))
    far = from_gram(V @ V.T + 1e4, center="pooled")
    np.testing.assert_allclose(far.gamma, from_gram(V @ V.T, center="pooled").gamma, rtol=1e-6)
    with pytest.raises(ValueError, match="that differ from one another"):
        from_gram(np.ones((6, 6)), center="pooled")


def test_a_kernel_rounded_to_float32_keeps_its_modes():
    with jax.enable_x64(True):
        K = np.asarray(kernels.rbf(2.0)(np.concatenate([X, X2]), np.concatenate([X, X2])))
        exact = np.asarray(from_gram(K).gamma)
    rounded = from_gram(K.astype("float32"))
    resolved = exact[:30] > 3e-6 * exact[0]
    assert resolved.sum() >= 10
    np.testing.assert_allclose(
        np.asarray(rounded.gamma)[:30][resolved], exact[:30][resolved], rtol=0.05
    )


def test_a_kernel_of_zeros_is_rejected_either_way(x64):
    for modes in (None, 1):
        with pytest.raises(ValueError, match="that differ from one another"):
            from_gram(np.zeros((100, 100)), modes=modes)


def test_the_cutoff_also_applies_to_products_alone(x64, monkeypatch):
    spread = np.r_[1, 0.5, 1e-4 * 0.8 ** np.arange(N - 2)]
    half = np.linalg.qr(RNG.normal(size=(N, N)))[0] / 2**0.5
    # Both views of a pair are equal, so K_Γ is K/2n and its modes are the eigenvectors of K.
    views = np.concatenate([half, half])
    K = views * spread @ views.T
    np.testing.assert_allclose(from_gram(K, modes=3).gamma, spread[:3] / (2 * N), rtol=1e-8)
    assert (
        from_gram(K, modes=2, cutoff=1e-3).gamma.size == from_gram(K, cutoff=1e-3).gamma.size == 2
    )
    with pytest.raises(
        ValueError,
        match=r"modes: expected a whole number in 1 ... 2, the rank of the data, received 3",
    ):
        from_gram(K, modes=3, cutoff=1e-3)
    monkeypatch.setattr(gram, "DENSE", N)
    with pytest.raises(
        ValueError,
        match=r"modes above the cutoff \(1.0e-03 .* received mode 3, along which K is 1.0e-04",
    ):
        from_gram(K, modes=3, cutoff=1e-3)


@pytest.mark.parametrize("center", ["none", "pooled"])
@pytest.mark.parametrize("length", [300.0, 500.0, 1000.0])
def test_rounding_of_a_nearly_constant_kernel_adds_no_mode(length, center):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 20))
    views = np.concatenate([x, x + 0.1 * rng.normal(size=x.shape)])
    exact = np.exp(-((views[:, None] - views[None]) ** 2).sum(2) / (2 * length**2))
    truth = from_gram(exact, center=center, cutoff=1e-10).gamma[:5]
    for modes in (1, 2, 3, 5):
        try:
            gamma = from_gram(exact.astype("float32"), center=center, modes=modes).gamma
        except ValueError as error:
            assert "the rank of the data" in str(error) or "differ from one another" in str(error)
            continue
        np.testing.assert_allclose(gamma, truth[:modes], rtol=0.05)


def test_a_kernel_widened_from_float32_is_accepted_in_tiles_with_a_cutoff(x64):
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(2, 60, 12))

    def widened(a, b):
        # The two triangles of K round differently.
        a32, b32 = np.asarray(a, np.float32), np.asarray(b, np.float32)
        return np.asarray(
            np.exp(-0.1 * ((a32[:, None] - b32[None]) ** 2).sum(-1) * (1 + 1e-7 * a32[:, :1])),
            np.float64,
        )

    with pytest.raises(ValueError, match="a symmetric kernel"):
        from_kernel(widened, *inputs, tile=32)
    p = from_kernel(widened, *inputs, tile=32, cutoff=1e-6)
    exact = from_kernel(kernels.rbf(5**0.5), *inputs)
    np.testing.assert_allclose(p.gamma[:10], exact.gamma[:10], rtol=1e-5)
