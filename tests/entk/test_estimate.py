"""Estimates from probes and sketches are unbiased, and their stated errors hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import entk, problem, spectra
from stepwise.entk.engine import projections
from stepwise.entk.gram import directions
from stepwise.entk.kernel import Kernel

RNG = np.random.default_rng(0)
PAIRS, POSITIONS, WIDE, OUTPUTS = 20, 32, 24, 24
BASE = RNG.normal(size=(PAIRS, POSITIONS, 1)) @ RNG.normal(size=(PAIRS, 1, WIDE)) + RNG.normal(
    size=(PAIRS, 1, WIDE)
)
X = np.concatenate([BASE + 0.1 * RNG.normal(size=BASE.shape) for _ in range(2)])
PARAMS = {
    "first": RNG.normal(size=(WIDE, WIDE)) / WIDE**0.5,
    "last": RNG.normal(size=(WIDE, OUTPUTS)) / WIDE**0.5,
}


def apply(params, x):
    """Apply a layer to a sequence, average, and read out.

    The outputs differ in scale: with equal outputs, a few probes would be as good as all.
    """
    scales = np.geomspace(3, 0.1, OUTPUTS)[None]
    return jnp.tanh(x @ params["first"]).mean(1) @ params["last"] * scales


def error(K, exact):
    return np.linalg.norm(K - exact) / np.linalg.norm(exact)


def subspace(K, d):
    return np.asarray(problem.from_gram(K, center="pooled", cutoff=1e-6).predict(d))


def test_all_probes_are_exact_and_state_no_error(x64):
    estimate = entk.estimate(apply, PARAMS, X, probes=24)
    np.testing.assert_allclose(estimate.K, entk.gram(apply, PARAMS, X), rtol=1e-10)
    assert estimate.error == 0 and estimate.subspace_error(3) == 0


def test_batches_of_unequal_size_are_weighted_by_their_probes(x64):
    """70 probes are batches of 18, 18, 17 and 17, each in two units padded with zeros."""
    params = {"W": RNG.normal(size=(6, 70))}
    wide = lambda params, x: jnp.tanh(x @ params["W"])  # noqa: E731
    x = RNG.normal(size=(4, 6))
    np.testing.assert_allclose(
        entk.estimate(wide, params, x).K, entk.gram(wide, params, x), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("options", [{"probes": 8}, {"probes": 20}, {"sketch": 8}])
def test_the_stated_error_is_the_actual_error(options, x64):
    exact = entk.gram(apply, PARAMS, X)
    estimates = [entk.estimate(apply, PARAMS, X, seed=seed, **options) for seed in range(12)]
    actual = np.sqrt(np.mean([error(each.K, exact) ** 2 for each in estimates]))
    stated = np.sqrt(np.mean([each.error**2 for each in estimates]))
    assert 0.005 < actual < 0.5 and 0.7 < stated / actual < 1.5
    mean = np.mean([each.K for each in estimates], axis=0)
    assert error(mean, exact) < 1.8 * actual / np.sqrt(12)  # the error of the mean shrinks: no bias


@pytest.mark.parametrize("options", [{"probes": 20}, {"sketch": 8}])
def test_the_stated_subspace_error_is_the_actual_error(options, x64):
    exact = subspace(entk.gram(apply, PARAMS, X), 3)
    estimates = [entk.estimate(apply, PARAMS, X, seed=seed, **options) for seed in range(12)]
    actual = np.mean(
        [1 - spectra.subspace_alignment(subspace(each.K, 3), exact) for each in estimates]
    )
    stated = np.mean([each.subspace_error(3) for each in estimates])
    assert 0 < actual < 0.2 and 0.4 < stated / actual < 2.5


def test_a_layer_smaller_than_the_sketch_is_not_sketched(x64):
    estimate = entk.estimate(apply, PARAMS, X, sketch=24)
    np.testing.assert_allclose(estimate.K, entk.gram(apply, PARAMS, X), rtol=1e-10)
    assert estimate.error < 1e-12


def test_bad_arguments_are_refused_by_name(x64):
    with pytest.raises(
        ValueError, match="probes: expected a whole number from 4, one for each batch, received 3"
    ):
        entk.estimate(apply, PARAMS, X, probes=3)
    with pytest.raises(ValueError, match="sketch: expected a whole number from 0, received -1"):
        entk.estimate(apply, PARAMS, X, sketch=-1)


def test_the_code_compiled_for_a_chunk_factorises_no_matrix(x64):
    """A QR decomposition there was repeated for every chunk, and hung XLA's CPU client.

    It did so at 512 samples of a ResNet.
    """
    kernel = Kernel(apply, PARAMS, X)
    work = kernel.work(directions(kernel.outputs, None, 0), sketch=3, copies=4)
    unit = next(
        unit for unit in work.plan.units if any(piece.form == "sketched" for piece in unit.pieces)
    )
    sketches = projections(unit.pieces, unit.outputs, work.key, work.V.dtype)
    V = work.V[unit.first : unit.first + unit.outputs]
    traced = jax.make_jaxpr(kernel.engine._chunk_parts, static_argnums=0)(
        unit.pieces, kernel.leaves, kernel.x, V, sketches
    )
    assert "qr" not in str(traced) and "householder" not in str(traced)
    for P, Q in sketches.values():
        for each in (P, Q):
            size, s = each.shape[1:]
            np.testing.assert_allclose(
                each.mT @ each, np.broadcast_to(np.eye(s) * size / s, (4, s, s)), atol=1e-5
            )
