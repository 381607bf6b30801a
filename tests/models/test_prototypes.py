"""DINO's head: products with prototypes, with and without normalisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stepwise import models

X = np.random.default_rng(0).normal(size=(9, 6)).astype("float32")


def head(**options):
    return models.PrototypeHead(6, [8, 4], 5, rngs=nnx.Rngs(0), **options)


def test_the_authors_head_has_its_number_of_parameters():
    """ViT-S's: 384-2048-2048-256 with biases, and 65,536 prototypes without norms of their own."""
    shapes = nnx.eval_shape(
        lambda: models.PrototypeHead(384, [2048, 2048, 256], 65536, rngs=nnx.Rngs(0))
    )
    dense = 384 * 2048 + 2048 + 2048**2 + 2048 + 2048 * 256 + 256
    assert models.count_parameters(shapes) == dense + 256 * 65536


def test_logits_are_cosines_whatever_the_sizes_of_outputs_and_prototypes():
    network = head()
    logits = np.asarray(network(X))
    assert logits.shape == (9, 5) and np.abs(logits).max() <= 1 + 1e-6
    last = network.layers[-1]
    last.kernel[...], last.bias[...] = 7 * last.kernel[...], 7 * last.bias[...]
    network.prototypes[...] = network.prototypes[...] * jnp.arange(1.0, 6)[None]
    np.testing.assert_allclose(network(X), logits, atol=1e-6)
    apply, params = models.functional(network)
    slope = jax.grad(lambda params: apply(params, X)[:, 2].sum())(params)
    radial = (slope["prototypes"][...] * params["prototypes"][...]).sum(axis=0)
    np.testing.assert_allclose(radial, 0, atol=1e-5)


def test_without_normalisation_logits_are_linear_in_the_prototypes():
    network = head(normalise=False, weight_norm=False)
    logits = np.asarray(network(X))
    network.prototypes[...] = 3 * network.prototypes[...]
    np.testing.assert_allclose(network(X), 3 * logits, rtol=1e-5)
    half = head(weight_norm=False)
    cosines = np.asarray(head()(X))
    norms = np.linalg.norm(np.asarray(half.prototypes[...]), axis=0)
    np.testing.assert_allclose(half(X), cosines * norms[None], rtol=1e-4, atol=1e-6)


def test_bad_sizes_are_refused_by_name():
    with pytest.raises(ValueError, match="sizes: expected positive numbers"):
        models.PrototypeHead(6, [], 5, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="prototypes: expected a positive whole number"):
        models.PrototypeHead(6, [4], 0, rngs=nnx.Rngs(0))
