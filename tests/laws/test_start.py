"""The effective aligned start of a generic start."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group

from stepwise import laws


def test_an_aligned_start_is_its_own_effective_start(dtype):
    s = np.array([0.3, 2.0, 0.1], dtype)
    A = np.pad(np.diag(s), ((0, 0), (0, 4)))
    np.testing.assert_allclose(laws.effective_start(A), s, rtol=1e-6)


@given(seed=st.integers(0, 2**16), d=st.integers(2, 5), r=st.integers(5, 7))
@settings(max_examples=15)
def test_the_effective_start_is_invariant_under_rotations_of_the_embedding(seed, d, r):
    rng = np.random.default_rng(seed)
    A, U = rng.normal(size=(d, r)), ortho_group.rvs(d, random_state=rng)
    with jax.enable_x64(True):
        s = np.asarray(laws.effective_start(A))
        np.testing.assert_allclose(laws.effective_start(U @ A), s, rtol=1e-9)
    # |R_jj| is the length of column j orthogonal to the columns before it.
    np.testing.assert_allclose(np.cumprod(s**2)[-1], np.linalg.det(A[:, :d]) ** 2, rtol=1e-9)
    np.testing.assert_allclose(s[0], np.linalg.norm(A[:, 0]), rtol=1e-12)


def test_gaussian_starts_spread_as_a_chi_squared_distribution(x64):
    d, draws = 4, 20_000
    A = np.random.default_rng(0).normal(size=(draws, d, 6))
    logs = 2 * np.log(np.asarray(jax.vmap(laws.effective_start)(A)))
    mean, deviation = (np.asarray(part) for part in laws.expected_start(d))
    assert (np.abs(logs.mean(0) - mean) < 4 * deviation / np.sqrt(draws)).all()
    np.testing.assert_allclose(logs.std(0), deviation, rtol=0.04)
    np.testing.assert_allclose(np.exp(logs).mean(0), [4, 3, 2, 1], rtol=0.05)


def test_an_effective_start_with_too_few_modes_is_rejected():
    with pytest.raises(
        ValueError, match=r"A: expected at least as many columns.*received float.*\[3, 2\]"
    ):
        laws.effective_start(np.ones((3, 2)))
    with pytest.raises(ValueError, match="d: expected a positive number of dimensions, received 0"):
        laws.expected_start(0)
