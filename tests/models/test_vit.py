"""The vision transformer: published sizes, what it does with positions, and its representations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stepwise import models

X = np.random.default_rng(0).uniform(size=(3, 16, 16, 3)).astype("float32")


def network(**options):
    settings = {"side": 16, "patch": 4, "width": 24, "heads": 3} | options
    return models.ViT(settings.pop("blocks", (1, 1)), rngs=nnx.Rngs(0), **settings)


@pytest.mark.parametrize(
    ("width", "patch", "expected"),
    [(192, 16, 5_524_416), (384, 16, 21_665_664), (384, 8, 21_670_272)],
)
def test_published_sizes_have_the_published_numbers_of_parameters(width, patch, expected):
    """ViT-Ti/16, ViT-S/16 and ViT-S/8 without their read-outs (Touvron et al.; Caron et al.)."""
    shapes = nnx.eval_shape(
        lambda: models.ViT((12,), side=224, patch=patch, width=width, rngs=nnx.Rngs(0))
    )
    assert models.count_parameters(shapes) == expected


def test_without_position_embeddings_the_order_of_the_patches_does_not_matter():
    vit = network()
    patches = X.reshape(3, 4, 4, 4, 4, 3).swapaxes(2, 3).reshape(3, 16, 4, 4, 3)
    order = np.random.default_rng(1).permutation(16)
    moved = patches[:, order].reshape(3, 4, 4, 4, 4, 3).swapaxes(2, 3).reshape(3, 16, 16, 3)
    assert np.abs(vit(moved) - vit(X)).max() > 1e-3
    vit.positions[...] = jnp.zeros_like(vit.positions[...])
    np.testing.assert_allclose(vit(moved), vit(X), atol=1e-5)


def test_position_embeddings_are_interpolated_to_other_sizes():
    vit = network()
    grid = jnp.linspace(0, 1, 4)
    ramp = jnp.stack([*jnp.meshgrid(grid, grid, indexing="ij")] * 12, axis=-1).reshape(16, 24)
    vit.positions[...] = jnp.concatenate([jnp.zeros((1, 24)), ramp])
    np.testing.assert_array_equal(vit._positions(4, 4), vit.positions[...])
    smaller = np.asarray(vit._positions(2, 2))
    assert smaller.shape == (5, 24) and (smaller[0] == 0).all()
    np.testing.assert_allclose(smaller[1:, 0], [1 / 6, 1 / 6, 5 / 6, 5 / 6], atol=0.05)
    assert vit(X[:, :8, :8]).shape == vit(X[:, :8]).shape == (3, 24)


def test_representations_are_one_for_each_stage_and_the_last_are_the_features():
    vit = network(blocks=(1, 2))
    stages = vit.representations(X)
    assert list(stages) == ["stage1", "stage2"] and vit.features == 24
    np.testing.assert_array_equal(stages["stage2"], vit(X))
    for stage in stages.values():  # the last layer's normalisation, with its starting scale
        np.testing.assert_allclose(stage.mean(axis=1), 0, atol=1e-5)
        np.testing.assert_allclose(stage.std(axis=1), 1, atol=1e-2)
    assert not jax.tree.leaves(models.stateful(vit)[2])


def test_half_precision_computes_features_in_float32_parameters():
    vit = network(dtype=jnp.bfloat16)
    assert vit(X).dtype == jnp.float32
    np.testing.assert_allclose(vit(X), network()(X), atol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": ()}, "blocks: expected positive numbers"),
        ({"side": 18}, "side: expected a multiple of the patches' 4 pixels, received 18"),
        ({"heads": 5}, "width: expected a multiple of 5 heads, received 24"),
        ({"patch": 0}, "patch: expected a positive whole number"),
    ],
)
def test_bad_sizes_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        network(**options)
    with pytest.raises(ValueError, match="x: expected images whose sides are multiples of 4"):
        network()(X[:, :9])
