"""Measures of rank and collapse against closed forms on embeddings with a known spectrum."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwise import spectra

RNG = np.random.default_rng(0)


def embeddings(variances, n=200, mean=0.0):
    """Build embeddings with exactly these covariance eigenvalues, in a random frame."""
    d = len(variances)
    white = np.linalg.qr(np.concatenate([np.ones((n, 1)), RNG.normal(size=(n, d))], axis=1))[0][
        :, 1:
    ] * np.sqrt(n)
    frame = np.linalg.qr(RNG.normal(size=(d, d)))[0]
    return white * np.sqrt(variances) @ frame + mean


def test_covariance_eigenvalues_are_the_variances():
    variances = np.array([5.0, 2.0, 0.3, 0.01])
    np.testing.assert_allclose(
        spectra.covariance_eigenvalues(embeddings(variances, mean=3.0)), variances, rtol=1e-10
    )


@pytest.mark.parametrize("k", [1, 3, 6])
def test_k_equal_variances_have_rank_k(k):
    z = embeddings([2.0] * k + [0.0] * (6 - k))
    np.testing.assert_allclose(
        [spectra.effective_rank(z), spectra.participation_ratio(z)], k, rtol=1e-6
    )
    np.testing.assert_allclose(spectra.rankme(z), k, rtol=1e-4)


def test_collapse_is_rank_one_by_any_measure():
    z = np.tile(RNG.normal(size=5), (20, 1))
    np.testing.assert_allclose([spectra.effective_rank(z), spectra.participation_ratio(z)], 1)
    np.testing.assert_allclose(spectra.collapse_std(z), 0, atol=1e-12)
    np.testing.assert_allclose(spectra.uniformity(z), 0, atol=1e-12)
    np.testing.assert_allclose(spectra.alignment(z, z), 0, atol=1e-12)


def test_rankme_uses_uncentred_singular_values_and_effective_rank_centred_variances():
    variances = np.array([4.0, 1.0])
    z = embeddings(variances, mean=10.0)
    p = variances / variances.sum()
    np.testing.assert_allclose(spectra.effective_rank(z), np.exp(-(p * np.log(p)).sum()), rtol=1e-8)
    sizes = np.linalg.svd(z, compute_uv=False)
    q = sizes / sizes.sum() + 1e-7
    np.testing.assert_allclose(spectra.rankme(z), np.exp(-(q * np.log(q)).sum()), rtol=1e-8)
    assert spectra.rankme(z) < spectra.effective_rank(z)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_a_power_law_has_its_exponent(alpha):
    z = embeddings(np.arange(1, 11.0) ** -alpha)
    np.testing.assert_allclose(spectra.alpha_req(z), alpha, rtol=1e-6)


def test_isotropic_embeddings_have_their_known_values():
    z = RNG.normal(size=(4000, 16))
    np.testing.assert_allclose(spectra.collapse_std(z), 1 / 4, rtol=0.02)
    # independent unit vectors: ‖u − v‖² = 2 − 2c, c with density ∝ (1 − c²)^((d − 3)/2)
    c = np.linspace(-1, 1, 20001)
    weight = (1 - c**2) ** 6.5
    expected = np.log(np.sum(weight * np.exp(-4 + 4 * c)) / weight.sum())
    np.testing.assert_allclose(spectra.uniformity(z[:1500]), expected, atol=0.01)
    np.testing.assert_allclose(spectra.alignment(z[:2000], z[2000:]), 2, atol=0.05)


@given(st.integers(0, 100), st.floats(0.1, 10))
def test_monitors_do_not_depend_on_scale_or_frame(seed, scale):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(30, 4)) * [3, 1, 0.5, 0.1]
    frame = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    for measure in (
        spectra.rankme,
        spectra.effective_rank,
        spectra.participation_ratio,
        spectra.uniformity,
    ):
        np.testing.assert_allclose(measure(scale * z @ frame), measure(z), rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: spectra.effective_rank(np.ones(3)),
            "z: expected an array of rank 2, received float64",
        ),
        (lambda: spectra.alpha_req(np.full((3, 2), np.nan)), "z: expected finite entries"),
        (lambda: spectra.uniformity(np.ones((1, 2))), "z: expected at least two rows"),
        (
            lambda: spectra.alignment(np.ones((3, 2)), np.ones((4, 2))),
            r"z2: expected shape \[3, 2\] as z1",
        ),
    ],
)
def test_bad_arguments_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_monitors_equal_the_single_functions_and_are_nan_if_undefined():
    z1, z2 = RNG.normal(size=(2, 30, 4))
    both, values = np.concatenate([z1, z2]), spectra.monitors(z1, z2)
    assert values.pop("alignment") == spectra.alignment(z1, z2)
    assert values == {name: getattr(spectra, name)(both) for name in values}
    assert {"rankme", "effective_rank", "alpha_req", "collapse_std", "uniformity"} < values.keys()
    z2[3, 1] = np.inf
    assert all(np.isnan(value) for value in spectra.monitors(z1, z2).values())
    assert np.isnan(spectra.monitors(0 * z1, 0 * z1)["rankme"])
