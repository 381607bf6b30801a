import itertools
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwise import moments, problem
from tests import problems

RNG = np.random.default_rng(0)
X, X2 = RNG.normal(size=(24, 4)) + 3, RNG.normal(size=(24, 4)) - 1


@pytest.mark.parametrize("center", moments.CENTERS)
def test_moments_match_their_formulas(center, x64):
    cross, single = moments.of_pairs(X, X2).centre(center)
    np.testing.assert_allclose(cross, problems.cross_moment(X, X2, center), atol=1e-13)
    shifts = {
        "none": (0, 0),
        "pooled": ((X + X2).mean(0) / 2,) * 2,
        "per_view": (X.mean(0), X2.mean(0)),
    }[center]
    a, b = X - shifts[0], X2 - shifts[1]
    np.testing.assert_allclose(single, (a.T @ a + b.T @ b) / 48, atol=1e-13)


def test_centring_subtracts_the_means_from_the_cross_moment(x64):
    whole = moments.of_pairs(X, X2)
    mu, mu2 = X.mean(0), X2.mean(0)
    gamma = whole.centre("none")[0]
    per_view = gamma - (np.outer(mu, mu2) + np.outer(mu2, mu)) / 2
    np.testing.assert_allclose(whole.centre("per_view")[0], per_view, atol=1e-13)
    pooled = gamma - np.outer(mu + mu2, mu + mu2) / 4
    np.testing.assert_allclose(whole.centre("pooled")[0], pooled, atol=1e-13)


@pytest.mark.parametrize("center", moments.CENTERS)
def test_the_moment_has_the_spectrum_of_the_problem(center, x64):
    values = np.linalg.eigvalsh(moments.of_pairs(X, X2).centre(center)[0])[::-1]
    np.testing.assert_allclose(values, problem.from_views(X, X2, center=center).gamma, atol=1e-13)


@given(cuts=st.sets(st.integers(1, 23)))
@settings(max_examples=15)
def test_batches_of_any_sizes_have_the_moments_of_one_batch(cuts):
    edges = [0, *sorted(cuts), 24]
    batches = ((X[a:b], X2[a:b]) for a, b in itertools.pairwise(edges))
    streamed, whole = moments.of_batches(batches), moments.of_pairs(X, X2)
    assert streamed.n_pairs == 24
    for center in moments.CENTERS:
        for part, expected in zip(streamed.centre(center), whole.centre(center), strict=True):
            np.testing.assert_allclose(part, expected, atol=1e-12)


def test_merging_does_not_depend_on_the_order(x64):
    a, b = moments.of_pairs(X[:5], X2[:5]), moments.of_pairs(X[5:] + 100, X2[5:])
    for center in moments.CENTERS:
        for one, two in zip(a.merge(b).centre(center), b.merge(a).centre(center), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-11, atol=1e-10)


def test_a_large_mean_costs_no_digits(dtype):
    mean = 2.0**12 if dtype == "float32" else 2.0**30
    x, x2 = (np.round(v * 64) / 64 for v in (X, X2))  # so that adding the mean is exact in float32
    far = moments.of_pairs((x + mean).astype(dtype), (x2 + mean).astype(dtype)).centre("pooled")
    near = moments.of_pairs(x, x2).centre("pooled")
    np.testing.assert_allclose(far[0], near[0], rtol=1e-4 if dtype == "float32" else 1e-6)
    half = [
        ((x + mean)[:12].astype(dtype), (x2 + mean)[:12].astype(dtype)),
        ((x + mean)[12:], (x2 + mean)[12:]),
    ]
    streamed = moments.of_batches(half).centre("pooled")
    np.testing.assert_allclose(streamed[0], near[0], rtol=1e-4 if dtype == "float32" else 1e-6)


def test_images_lists_and_device_arrays_are_accepted(dtype):
    pixels = RNG.integers(0, 255, (8, 3, 2, 1), np.uint8)
    expected = problems.cross_moment(pixels, pixels[::-1], "pooled")
    for x in (pixels, jnp.asarray(pixels), pixels.tolist()):
        np.testing.assert_allclose(
            moments.of_pairs(x, x[::-1]).centre()[0],
            expected,
            rtol=1e-5,
            atol=1e-3 * np.abs(expected).max(),
        )


def test_bad_pairs_and_streams_are_refused_by_name():
    with pytest.raises(
        ValueError, match=r"x2: expected shape \[24, 4\] as x, received float64 \[3, 4\]"
    ):
        moments.of_pairs(X, X2[:3])
    with pytest.raises(
        ValueError, match="batches: expected at least one batch of pairs, received none"
    ):
        moments.of_batches([])
    with pytest.raises(
        ValueError, match="batches: expected inputs of size 4 as in the first batch"
    ):
        moments.of_batches([(X, X2), (X[:, :3], X2[:, :3])])
    with pytest.raises(ValueError, match="x2: expected finite entries"):
        moments.of_pairs(X, X2 * np.inf)
    with pytest.raises(Exception, match="center"):
        moments.of_pairs(X, X2).centre("mean")


EIGHT = """
import jax, numpy as np
from stepwise import moments
assert len(jax.local_devices()) == 8
rng = np.random.default_rng(0)
for n in (24, 23):
    x, x2 = (rng.normal(size=(n, 4)).astype(np.float32) + 3 for _ in range(2))
    spread, host = moments.of_pairs(x, x2), moments.of_pairs(x.astype(float), x2.astype(float))
    for a, b in zip(spread.centre("none"), host.centre("none"), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
"""


def test_eight_devices_compute_the_moments_of_one():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    environment = {**os.environ, **flags}
    done = subprocess.run(
        [sys.executable, "-c", EIGHT], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
