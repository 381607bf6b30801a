import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stepwise import models

X = np.random.default_rng(0).uniform(size=(6, 16, 16, 3)).astype("float32")
TORCHVISION = {
    "resnet18": (11_689_512, 512),
    "resnet34": (21_797_672, 512),
    "resnet50": (25_557_032, 2048),
}


def encoder(d=5, seed=0, **options):
    rngs = nnx.Rngs(seed)
    backbone = models.ResNet((1, 1), width=8, rngs=rngs, **({"stem": "small"} | options))
    return models.Encoder(backbone, models.Head(backbone.features, [d], bias=False, rngs=rngs))


@pytest.mark.parametrize("name", TORCHVISION)
def test_parameter_counts_are_torchvisions(name):
    parameters, features = TORCHVISION[name]

    def built():
        backbone = models.ResNet.standard(name, rngs=nnx.Rngs(0))
        return models.Encoder(backbone, models.Head(backbone.features, [1000], rngs=nnx.Rngs(1)))

    shapes = nnx.eval_shape(built)
    assert models.count_parameters(shapes) == parameters
    assert shapes.backbone.features == features


@pytest.mark.parametrize(
    "stem, sides", [("imagenet", [8, 8, 4, 2, 1]), ("small", [32, 32, 16, 8, 4])]
)
def test_stages_halve_the_image_and_double_the_width(stem, sides):
    widths = []
    backbone = nnx.eval_shape(
        lambda: models.ResNet.standard("resnet18", width=16, stem=stem, rngs=nnx.Rngs(0))
    )
    shapes = jax.eval_shape(lambda m, x: m.representations(x), backbone, jnp.zeros((2, 32, 32, 3)))
    assert {name: shape.shape for name, shape in shapes.items()} == {
        "stem": (2, 16), "stage1": (2, 16), "stage2": (2, 32), "stage3": (2, 64), "stage4": (2, 128)
    }  # fmt: skip
    # the sides of the images in each stage
    real = models.ResNet((1, 1, 1, 1), width=2, stem=stem, norm="group", rngs=nnx.Rngs(0))
    x = real.norm(real.stem(jnp.ones((1, 32, 32, 3))))
    x = nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))) if stem == "imagenet" else x
    widths.append(x.shape[1])
    for stage in real.stages:
        for block in stage:
            x = block(x)
        widths.append(x.shape[1])
    assert widths == sides


def test_a_network_of_one_stage_equals_its_formula(x64):
    net = models.ResNet((1,), width=4, stem="small", param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    x = X.astype("float64")

    def convolution(x, kernel):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        return np.einsum("nhwcij,ijco->nhwo", windows, kernel)

    def normalised(x):
        return (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)

    stem = np.maximum(normalised(convolution(x, net.stem.kernel[...])), 0)
    block = net.stages[0][0]
    inner = np.maximum(normalised(convolution(stem, block.convolutions[0].kernel[...])), 0)
    inner = normalised(convolution(inner, block.convolutions[1].kernel[...]))
    outputs = net.representations(x)
    np.testing.assert_allclose(outputs["stem"], stem.mean((1, 2)), rtol=1e-10)
    np.testing.assert_allclose(
        outputs["stage1"], np.maximum(stem + inner, 0).mean((1, 2)), rtol=1e-10
    )


def test_batch_statistics_follow_the_batch_in_training_and_are_fixed_in_evaluation():
    forward, params, stats = models.stateful(encoder())
    trained, _, after = forward(params, stats, X, True)
    still, _, same = forward(params, stats, X, False)
    jax.tree.map(np.testing.assert_array_equal, same, stats)
    assert not np.allclose(trained, still)
    stem = params["backbone"]["stem"]["kernel"]
    hidden = jax.lax.conv_general_dilated(
        (X - 0.5) / 0.25, stem, (1, 1), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    mean, var = hidden.mean((0, 1, 2)), hidden.var((0, 1, 2))
    np.testing.assert_allclose(after["backbone"]["norm"]["mean"], 0.1 * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(after["backbone"]["norm"]["var"], 0.9 + 0.1 * var, rtol=1e-4)


def test_group_norm_treats_each_image_alone():
    forward, params, stats = models.stateful(encoder(norm="group"))
    assert not jax.tree.leaves(stats)
    together = forward(params, stats, X, True)[0]
    alone = jnp.concatenate([forward(params, stats, X[i : i + 1], True)[0] for i in range(3)])
    np.testing.assert_allclose(alone, together[:3], rtol=1e-4, atol=1e-5)


def test_half_precision_computes_in_bfloat16_with_float32_parameters():
    net = encoder(dtype=jnp.bfloat16)
    forward, params, stats = models.stateful(net)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
    z, hidden, _ = forward(params, stats, X, True)
    assert z.dtype == jnp.float32 and {each.dtype.name for each in hidden.values()} == {"float32"}
    full = models.stateful(encoder())[0](params, stats, X, True)[0]
    assert 1e-6 < np.abs(z - full).max() / np.abs(full).max() < 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda r: models.ResNet((), rngs=r),
            r"blocks: expected positive numbers, one a stage, received \(\)",
        ),
        (lambda r: models.ResNet((1, 0), rngs=r), "blocks: expected positive numbers"),
        (
            lambda r: models.ResNet((1,), width=0, rngs=r),
            "width: expected a positive number of channels, received 0",
        ),
        (lambda r: models.ResNet.standard("resnet19", rngs=r), "name"),
        (
            lambda r: models.Head(4, [], rngs=r),
            r"sizes: expected positive numbers, one a layer, received \[\]",
        ),
        (lambda r: models.Features(4, [0], rngs=r), "widths: expected positive numbers"),
        (
            lambda r: models.scale_start(encoder(), 0.0),
            "scale: expected a positive number, received 0.0",
        ),
    ],
)
def test_bad_arguments_are_refused_by_name(call, message):
    with pytest.raises(Exception, match=message):
        call(nnx.Rngs(0))
