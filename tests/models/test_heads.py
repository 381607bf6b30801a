import jax
import numpy as np
import pytest
from flax import nnx

from stepwise import models

X = np.random.default_rng(0).uniform(size=(20, 4, 4, 3)).astype("float32")


def encoder(sizes=(6, 3), **options):
    rngs = nnx.Rngs(0)
    return models.Encoder(
        models.Features(48, [10, 8], rngs=rngs), models.Head(8, sizes, rngs=rngs, **options)
    )


def test_official_heads_have_the_official_numbers_of_parameters():
    f = 2048
    counts = {
        "Barlow Twins": (
            models.Head,
            [8192] * 3,
            {"bias": False},
            f * 8192 + 2 * 8192**2 + 2 * 2 * 8192,
        ),
        "VICReg": (
            models.Head,
            [8192] * 3,
            {"last_bias": False},
            f * 8192 + 2 * 8192**2 + 2 * 3 * 8192,
        ),
        "BYOL": (models.Head, [4096, 256], {}, f * 4096 + 4096 + 2 * 4096 + 4096 * 256 + 256),
        "read-out": (models.Head, [10], {"bias": False}, f * 10),
    }
    for kind, sizes, options, expected in counts.values():
        shapes = nnx.eval_shape(
            lambda kind=kind, sizes=sizes, options=options: kind(
                f, sizes, rngs=nnx.Rngs(0), **options
            )
        )
        assert models.count_parameters(shapes) == expected


def test_hidden_layers_are_normalised_and_the_last_one_only_on_request():
    features = np.random.default_rng(1).normal(size=(50, 8)).astype("float32") * 7
    plain = models.Head(8, [6, 3], rngs=nnx.Rngs(0))(features)
    normal = models.Head(8, [6, 3], last_norm=True, rngs=nnx.Rngs(0))(features)
    np.testing.assert_allclose(normal.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(normal.std(0), 1, atol=1e-3)
    scaled = models.Head(8, [6, 3], rngs=nnx.Rngs(0))(10 * features)
    # the hidden normalisation removes the scale
    np.testing.assert_allclose(scaled, plain, rtol=1e-2, atol=1e-3)
    bare = models.Head(8, [6, 3], norm=False, rngs=nnx.Rngs(0))
    # without normalisation the network is homogeneous, because biases start at zero
    np.testing.assert_allclose(bare(10 * features), 10 * bare(features), rtol=1e-4, atol=1e-4)


def test_a_small_head_shrinks_the_outputs_by_the_factor_and_nothing_else():
    before, after = encoder(), models.scale_start(encoder(), 1e-3)
    (z, hidden), (small, same) = before.everything(X), after.everything(X)
    np.testing.assert_allclose(small, 1e-3 * z, rtol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, same, hidden)


def test_a_small_start_of_all_weights_shrinks_every_parameter():
    before, after = (
        nnx.state(encoder(), nnx.Param),
        nnx.state(models.scale_start(encoder(), 0.1, "all"), nnx.Param),
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, 0.1 * a, rtol=1e-5), before, after)


def test_an_offset_start_puts_all_embeddings_near_one_vector():
    whole = models.offset_start(models.scale_start(encoder(), 1e-3), 2.0, rngs=nnx.Rngs(5))
    z, hidden = whole.everything(X)
    bias = np.asarray(whole.head.layers[-1].bias[...])
    np.testing.assert_allclose(np.linalg.norm(bias), 2, rtol=1e-6)
    np.testing.assert_allclose(z - bias[None], models.scale_start(encoder(), 1e-3)(X), atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, hidden, encoder().everything(X)[1])
    with pytest.raises(
        ValueError,
        match=r"encoder: expected a head whose last layer has a bias, received one without",
    ):
        models.offset_start(encoder(last_bias=False), 1.0, rngs=nnx.Rngs(5))


def test_the_input_is_centred_by_the_mean_and_divided_by_the_std():
    plain, shifted = encoder(), encoder()
    shifted.mean, shifted.std = (0.2, 0.3, 0.4), (0.5, 0.6, 0.7)
    same = (X - np.array(shifted.mean)) / np.array(shifted.std) * 0.25 + 0.5
    np.testing.assert_allclose(shifted(X), plain(same.astype("float32")), rtol=1e-4, atol=1e-5)


def test_parameters_and_statistics_can_be_extracted_and_restored():
    forward, params, stats = models.stateful(encoder())
    moved = jax.tree.map(lambda leaf: leaf + 0.1, params)
    _, _, after = forward(moved, stats, X, True)
    other = models.restore(encoder(), moved, after)
    expected, hidden, _ = forward(moved, after, X, False)
    np.testing.assert_allclose(other(X), expected, rtol=1e-5)
    assert list(hidden) == ["layer1", "layer2"] and hidden["layer2"].shape == (20, 8)
