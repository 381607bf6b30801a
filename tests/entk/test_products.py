"""`entk.products` multiplies by the kernel of `entk.gram`, and leads to the same modes."""

import jax
import numpy as np
import pytest

from stepwise import entk, problem, spectra
from tests.entk import networks


@pytest.mark.parametrize("name", ["mlp", "shared", "looped"])
def test_products_agree_with_the_kernel(name, x64):
    apply, params, x = networks.ALL[name]()
    params = networks.cast(params)
    block = np.random.default_rng(0).normal(size=(len(x), 2))
    expected = entk.gram(apply, params, x) @ block
    np.testing.assert_allclose(
        entk.products(apply, params, x)(block), expected, rtol=1e-9, atol=1e-9
    )


def test_chunks_of_samples_and_single_columns_give_the_same_products(x64):
    apply, params, _ = networks.mlp()
    params = networks.cast(params)
    x = np.random.default_rng(1).normal(size=(70, 6))
    K = entk.gram(apply, params, x)
    product = entk.products(apply, params, x, budget=30_000)
    np.testing.assert_allclose(product(np.eye(70)), K, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(product(np.eye(70)[:, :1]), K[:, :1], rtol=1e-9, atol=1e-9)
    free = problem.from_products(product, 70, modes=3, center="pooled")
    whole = problem.from_gram(K, modes=3, center="pooled")
    np.testing.assert_allclose(free.gamma, whole.gamma, rtol=1e-5)
    assert spectra.subspace_alignment(free.predict(3), whole.predict(3)) > 1 - 1e-5


def test_bad_arguments_are_refused_by_name():
    apply, params, x = networks.mlp()
    x = x.astype(np.float32)
    with pytest.raises(ValueError, match="block: expected 3 rows, one per input, received float64"):
        entk.products(apply, params, x)(np.ones((4, 1)))
    with pytest.raises(
        ValueError, match="n_views: expected an even number, X stacked on X', received 3"
    ):
        problem.from_products(lambda block: block, 3, modes=1)
    with pytest.raises(
        ValueError,
        match="backend: expected 'exact' with these options, received 'neural_tangents' and",
    ):
        entk.gram(apply, params, x, probes=2, backend="neural_tangents")


@pytest.mark.filterwarnings("ignore:size requires ndarray:DeprecationWarning")
def test_the_reference_backend_agrees(x64):
    apply, params, _ = networks.mlp()
    params = jax.tree.map(lambda leaf: leaf.astype("float64"), params)
    x = np.random.default_rng(1).normal(size=(21, 6))
    theirs = entk.gram(apply, params, x, backend="neural_tangents")
    np.testing.assert_allclose(theirs, entk.gram(apply, params, x), rtol=1e-10, atol=1e-10)
    rows = entk.gram(apply, params, x[:2], x, backend="neural_tangents")
    np.testing.assert_allclose(rows, theirs[:2], rtol=1e-12, atol=1e-12)
