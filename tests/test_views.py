"""Pairs of views: exact crops, the same bits for any split, and the distributions of recipes."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from stepwise import _random, views
from stepwise.views import Blur, Crop, Jitter, Recipe, ResizedCrop, Solarize, View, positive_pairs

KEY = jax.random.key(7)


def images(count, side=32, channels=3, seed=0):
    return np.random.default_rng(seed).integers(
        0, 256, (count, side, side, channels), dtype=np.uint8
    )


def alone(view):
    return Recipe(view, View())


def assert_same_bits(pairs, expected):
    for x, y in zip(pairs, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_crop20_is_pixels_over_255_at_two_uniform_independent_places(dtype):
    count, places = 4000, 32 - 20 + 1
    pixels = np.zeros((count, 32, 32, 3), np.uint8)
    pixels[..., 0] = np.arange(32)[:, None]  # every pixel encodes its own position
    pixels[..., 1] = np.arange(32)
    pixels[..., 2] = np.random.default_rng(0).integers(0, 256, (count, 32, 32))
    corners = []
    for x in map(np.asarray, positive_pairs(pixels, KEY, "crop20")):
        assert x.shape == (count, 20, 20, 3) and x.dtype == np.float32
        top, left = np.rint(x[:, 0, 0, :2] * 255).astype(int).T
        windows = np.lib.stride_tricks.sliding_window_view(pixels, (20, 20), axis=(1, 2))
        cropped = np.moveaxis(windows[np.arange(count), top, left], 1, -1)
        np.testing.assert_array_equal(x, (cropped / 255).astype(np.float32))
        corners += [top, left]
    for i, one in enumerate(corners):
        assert stats.chisquare(np.bincount(one, minlength=places)).pvalue > 0.01
        for other in corners[:i]:
            table = np.histogram2d(one, other, bins=places)[0]
            assert stats.chi2_contingency(table).pvalue > 0.01


@pytest.mark.parametrize(("recipe", "batch_size"), [("crop20", None), ("crop20", 4), ("byol", 4)])
def test_a_key_yields_the_same_bits_for_any_split_of_the_images(recipe, batch_size):
    pixels = images(11)
    x, x2 = positive_pairs(pixels, KEY, recipe, batch_size=batch_size)
    for a, b in ((0, 11), (0, 1), (3, 4), (2, 9), (8, 11)):
        part = positive_pairs(pixels[a:b], KEY, recipe, start=a, batch_size=batch_size)
        assert_same_bits(part, (x[a:b], x2[a:b]))
    assert not np.array_equal(
        x, positive_pairs(pixels, KEY, recipe, start=1, batch_size=batch_size)[0]
    )
    assert not np.array_equal(
        x, positive_pairs(pixels, jax.random.key(8), recipe, batch_size=batch_size)[0]
    )
    assert not np.array_equal(x, x2)


def test_another_batch_size_changes_last_bits_only():
    # At this side, a batch of one was once compiled to a hue whose largest channel was none of the
    # three.
    pixels, recipe = images(5, 96), alone(replace(views.RECIPES["simsiam_cifar"].first, flip=0.0))
    sizes = (1, 4)
    one, four = (positive_pairs(pixels, KEY, recipe, batch_size=size)[0] for size in sizes)
    np.testing.assert_allclose(one, four, atol=1e-5)
    assert_same_bits(*(positive_pairs(pixels, KEY, "crop20", batch_size=size) for size in sizes))


def test_numpy_memmap_device_arrays_and_old_keys_yield_the_same_bits(tmp_path):
    pixels = images(9)
    np.save(tmp_path / "pixels.npy", pixels)
    mapped = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    expected = positive_pairs(pixels, KEY, "byol", batch_size=4)
    for same in (mapped, jnp.asarray(pixels)):
        assert_same_bits(positive_pairs(same, KEY, "byol", batch_size=4), expected)
    assert_same_bits(positive_pairs(pixels, KEY, "byol", start=np.int64(0), batch_size=4), expected)
    old, new = (positive_pairs(pixels, key, "crop20") for key in (jax.random.PRNGKey(7), KEY))
    assert_same_bits(old, new)


def test_x64_mode_changes_no_view():
    pixels = images(4)
    expected = positive_pairs(pixels, KEY, "byol", batch_size=4)
    with jax.enable_x64(True):
        pairs = positive_pairs(pixels, KEY, "byol", batch_size=4)
    assert all(x.dtype == jnp.float32 for x in pairs)
    assert_same_bits(pairs, expected)


def test_views_are_the_same_under_jit_and_image_by_image():
    pixels = images(4)
    expected = positive_pairs(pixels, KEY, "byol", start=3, batch_size=4)
    traced = jax.jit(lambda p, k, s: positive_pairs(p, k, "byol", start=s))(pixels, KEY, 3)
    view = views.RECIPES["byol"].second
    for i in range(2):
        key = jax.random.split(jax.random.fold_in(KEY, 3 + i))[1]
        single = jax.jit(views.draw, static_argnums=0)(view, jnp.asarray(pixels[i]), key)
        np.testing.assert_allclose(single, expected[1][i], atol=1e-5)
    for x, y in zip(traced, expected, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_each_recipe_shape_and_batch_size_compiles_once():
    recipe = views.crops(5)
    before = views._pairs._cache_size()
    for count in (1, 7, 8, 20):
        positive_pairs(images(count, 8), KEY, recipe, batch_size=8, start=count)
    assert views._pairs._cache_size() == before + 1


@pytest.mark.parametrize("name", views.RECIPES)
def test_recipes_yield_two_different_views_in_the_unit_range(name):
    x, x2 = map(np.asarray, positive_pairs(images(8), KEY, name, batch_size=4))
    side = 20 if name == "crop20" else 32
    for view in (x, x2):
        assert view.shape == (8, side, side, 3) and view.dtype == np.float32
        assert view.min() >= 0 and view.max() <= 1 and view.std() > 0.01
    assert np.all(np.abs(x - x2).mean(axis=(1, 2, 3)) > 1e-3)


def test_recipes_match_the_table_of_published_values():
    def row(view):
        jitter, blur, solarize = view.jitter, view.blur, view.solarize
        return (
            view.crop.scale,
            view.flip,
            jitter
            and (
                jitter.brightness,
                jitter.contrast,
                jitter.saturation,
                jitter.hue,
                jitter.probability,
            ),
            view.grayscale,
            blur.probability if blur else 0,
            solarize.probability if solarize else 0,
        )

    strong, even, weak = (
        (0.8, 0.8, 0.8, 0.2, 0.8),
        (0.4, 0.4, 0.4, 0.1, 0.8),
        (0.4, 0.4, 0.2, 0.1, 0.8),
    )
    table = {
        "simclr": [((0.08, 1), 0.5, strong, 0.2, 0.5, 0)] * 2,
        "simclr_cifar": [((0.08, 1), 0.5, even, 0.2, 0, 0)] * 2,
        "simsiam": [((0.2, 1), 0.5, even, 0.2, 0.5, 0)] * 2,
        "simsiam_cifar": [((0.2, 1), 0.5, even, 0.2, 0, 0)] * 2,
        "barlow_twins": [((0.08, 1), 0.5, weak, 0.2, 1, 0), ((0.08, 1), 0.5, weak, 0.2, 0.1, 0.2)],
        "dino": [((0.4, 1), 0.5, weak, 0.2, 1, 0), ((0.4, 1), 0.5, weak, 0.2, 0.1, 0.2)],
        "clip": [((0.9, 1), 0, None, 0, 0, 0)] * 2,
    }
    for name, rows in table.items():
        recipe = views.RECIPES[name]
        assert [row(recipe.first), row(recipe.second)] == rows, name
    for name, same in {
        "vicreg": "barlow_twins",
        "byol": "barlow_twins",
        "spectral": "simsiam",
    }.items():
        assert views.RECIPES[name] == views.RECIPES[same]
    assert views.RECIPES["crop20"] == Recipe(View(Crop(20)), View(Crop(20)))
    assert [Blur(1.0).width(side, side) for side in (16, 32, 96, 224)] == [1, 3, 9, 23]


@pytest.mark.parametrize(
    ("view", "probability"),
    [
        (View(flip=0.5), 0.5),
        (View(jitter=Jitter(0.4, 0.4, 0.2, 0.1)), 0.8),
        (View(grayscale=0.2), 0.2),
        (View(blur=Blur(0.1, sigma=(0.5, 2.0), kernel=3)), 0.1),
        (View(solarize=Solarize(0.2)), 0.2),
    ],
)
def test_an_operation_has_its_probability_in_each_view_independently(view, probability):
    count = 4000
    pixels = images(count, 6)
    plain = pixels / 255
    first, second = (
        np.abs(np.asarray(x) - plain).max(axis=(1, 2, 3)) > 1e-4
        for x in positive_pairs(pixels, KEY, Recipe(view, view))
    )
    for changed in (first, second):
        assert stats.binomtest(int(changed.sum()), count, probability).pvalue > 0.01
    assert stats.binomtest(int((first & second).sum()), count, probability**2).pvalue > 0.01


def test_operations_of_one_view_are_chosen_independently():
    # Red on the left and black on the right reveal each operation: flipped, grey, inverted.
    pixels = np.zeros((4000, 2, 2, 3), np.uint8)
    pixels[:, :, 0, 0] = 255
    view = View(flip=0.5, grayscale=0.4, solarize=Solarize(0.3, threshold=0.0))
    x = np.asarray(positive_pairs(pixels, KEY, alone(view))[0])[:, 0]
    inverted = x[:, :, 2].max(axis=1) > 0.9
    x = np.where(inverted[:, None, None], 1 - x, x)
    flipped, grey = x[:, 1, 0] > 0.2, x[:, :, 1].max(axis=1) > 0.2
    for one, other in ((flipped, grey), (grey, inverted), (flipped, inverted)):
        assert stats.chi2_contingency(np.histogram2d(one, other, bins=2)[0]).pvalue > 0.01


@pytest.mark.parametrize("strength", [0.4, 1.5])
def test_jitter_factors_are_uniform_and_never_negative(strength):
    view = View(jitter=Jitter(strength, 0.0, 0.0, 0.0, probability=1.0))
    pixels = np.full((3000, 2, 2, 3), 51, np.uint8)  # 0.2: no factor below 5 saturates
    factor = np.asarray(positive_pairs(pixels, KEY, alone(view))[0])[:, 0, 0, 0] * 5
    low, high = max(0, 1 - strength), 1 + strength
    assert stats.kstest(factor, "uniform", args=(low, high - low)).pvalue > 0.01


def test_hue_shifts_are_uniform_on_both_sides():
    view = View(jitter=Jitter(0.0, 0.0, 0.0, 0.1, probability=1.0))
    red = np.zeros((3000, 2, 2, 3), np.uint8)
    red[..., 0] = 255
    x = np.asarray(positive_pairs(red, KEY, alone(view))[0])[:, 0, 0]
    shift = (x[:, 1] - x[:, 2]) / 6  # red turns to yellow by green, to magenta by blue
    assert stats.kstest(shift, "uniform", args=(-0.1, 0.2)).pvalue > 0.01


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_zero_strength_is_the_identity(interpolation):
    crop = ResizedCrop((1.0, 1.0), (1.0, 1.0), interpolation=interpolation)
    view = View(crop, 0.0, Jitter(0.0, 0.0, 0.0, 0.0, 1.0), 0.0, Blur(1.0, kernel=1), Solarize(0.0))
    pixels = images(5, 12)
    expected = (pixels / 255).astype(np.float32)
    assert_same_bits(positive_pairs(pixels, KEY, Recipe(view, View())), (expected, expected))


def test_an_operation_draws_the_same_numbers_whatever_the_other_operations():
    pixels = images(20, 8)
    flipped = positive_pairs(pixels, KEY, alone(View(flip=0.5)))[0]
    both = positive_pairs(
        pixels, KEY, alone(View(flip=0.5, solarize=Solarize(1.0, threshold=0.0)))
    )[0]
    np.testing.assert_array_equal(both, 1 - flipped)


def test_views_may_have_their_own_sizes_and_one_channel():
    recipe = Recipe(
        View(ResizedCrop(size=9)), View(Crop(7), jitter=Jitter(0.4, 0.4, 0.4, 0.1), grayscale=0.5)
    )
    x, x2 = positive_pairs(images(3, 12, channels=1), KEY, recipe)
    assert x.shape == (3, 9, 9, 1) and x2.shape == (3, 7, 7, 1)
    assert positive_pairs(images(3, 12, channels=5), KEY, views.crops(4))[0].shape == (3, 4, 4, 5)


@pytest.mark.parametrize(
    ("pixels", "recipe", "message"),
    [
        (
            images(2) / 255,
            "crop20",
            r"pixels: expected uint8 \[n, H, W, C\], received float64 \[2, 32, 32, 3\]",
        ),
        (images(2)[0], "crop20", r"pixels: expected uint8 .*, received uint8 \[32, 32, 3\]"),
        ([[1, 2]], "crop20", "pixels: expected uint8 .*, received list"),
        (
            images(2)[:0],
            "crop20",
            r"pixels: expected at least one image, received uint8 \[0, 32, 32, 3\]",
        ),
        (
            images(2, 19),
            "crop20",
            r"pixels: expected images of at least 20 x 20, the size of the crops of the recipe "
            r"crop20, received uint8 \[2, 19, 19, 3\]; use --side 20 or more, or another --recipe",
        ),
        (
            images(2, channels=2),
            "simclr",
            r"pixels: expected 1 or 3 channels .*, received uint8 \[2, 32, 32, 2\]",
        ),
        (
            images(2),
            "crop21",
            "recipe: expected a Recipe or one of crop20, .*simclr, .*, received 'crop21'",
        ),
        (
            images(2, 4),
            alone(View(blur=Blur(0.5, kernel=9))),
            "pixels: expected views of at least 5 .*4 x 4",
        ),
    ],
)
def test_bad_input_is_refused(pixels, recipe, message):
    with pytest.raises(ValueError, match=message):
        positive_pairs(pixels, KEY, recipe)


def test_arguments_out_of_range_are_refused():
    for knobs, message in (
        ({"start": -1}, "start: expected an index .*, received -1"),
        ({"start": 2**32 - 1}, "start: expected an index .*, received 4294967295"),
        ({"batch_size": 0}, "batch_size: expected at least 1 image, received 0"),
    ):
        with pytest.raises(ValueError, match=message):
            positive_pairs(images(2), KEY, "crop20", **knobs)


def test_keys_of_other_generators_are_converted_to_threefry():
    pixels = images(3, 24)
    for other in (jax.random.key(5, impl="rbg"), jax.random.key(5, impl="unsafe_rbg")):
        first, again = (positive_pairs(pixels, other, "crop20") for _ in range(2))
        np.testing.assert_array_equal(first[0], again[0])
        part = positive_pairs(pixels[1:], other, "crop20", start=1)
        np.testing.assert_array_equal(first[1][1:], part[1])  # independent of the batch
        assert (
            first[0] != positive_pairs(pixels, jax.random.key(6, impl="rbg"), "crop20")[0]
        ).any()
    raw = jax.random.PRNGKey(5)
    np.testing.assert_array_equal(
        positive_pairs(pixels, raw, "crop20")[0],
        positive_pairs(pixels, jax.random.key(5), "crop20")[0],
    )


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg", "threefry2x32"])
def test_the_generator_of_the_process_changes_no_number(impl):
    expected = jax.random.key_data(jax.random.key(7))
    with jax.default_prng_impl(impl):
        np.testing.assert_array_equal(jax.random.key_data(_random.key(7)), expected)


fractions = st.floats(0, 1)
wrong_fractions = st.floats().filter(lambda p: not 0 <= p <= 1)


@given(
    st.tuples(fractions, fractions).map(sorted),
    fractions,
    fractions,
    st.floats(0, 10),
    st.floats(0, 0.5),
)
def test_equal_recipes_compare_and_hash_as_equal(scale, chance, other, strength, hue):
    def build():
        crop = ResizedCrop((max(scale[0], 1e-3), max(scale[1], 1e-3)))
        jitter = Jitter(strength, strength, strength, hue, chance)
        return alone(View(crop, chance, jitter, other, Blur(chance), Solarize(other)))

    assert build() == build() and hash(build()) == hash(build())


@given(wrong_fractions)
def test_a_value_that_is_no_probability_is_refused(p):
    for build, name in (
        (lambda: View(flip=p), "flip"),
        (lambda: View(grayscale=p), "grayscale"),
        (lambda: Jitter(0.4, 0.4, 0.4, 0.1, p), "probability"),
        (lambda: Blur(p), "probability"),
        (lambda: Solarize(p), "probability"),
    ):
        with pytest.raises(
            ValueError, match=rf"{name}: expected a probability in \[0, 1\], received"
        ):
            build()


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: ResizedCrop((0.5, 0.2)), "scale"),
        (lambda: ResizedCrop((0.0, 1.0)), "scale"),
        (lambda: ResizedCrop((0.5, 1.1)), "scale"),
        (lambda: ResizedCrop(ratio=(2.0, 1.0)), "ratio"),
        (lambda: ResizedCrop(ratio=(0.5, math.inf)), "ratio"),
        (lambda: ResizedCrop(size=0), "size"),
        (lambda: ResizedCrop(interpolation="nearest"), "interpolation"),
        (lambda: Crop(0), "side"),
        (lambda: Jitter(-0.1, 0.4, 0.4, 0.1), "brightness"),
        (lambda: Jitter(0.4, math.nan, 0.4, 0.1), "contrast"),
        (lambda: Jitter(0.4, 0.4, math.inf, 0.1), "saturation"),
        (lambda: Jitter(0.4, 0.4, 0.4, 0.51), "hue"),
        (lambda: Blur(0.5, kernel=4), "kernel"),
        (lambda: Blur(0.5, sigma=(2.0, 0.1)), "sigma"),
        (lambda: Blur(0.5, sigma=(0.0, 0.1)), "sigma"),
        (lambda: Solarize(0.5, threshold=1.5), "threshold"),
    ],
)
def test_strengths_out_of_range_are_refused(build, name):
    with pytest.raises(ValueError, match=f"{name}: expected .*, received"):
        build()


def test_local_crops_are_smaller_views_of_the_same_images():
    recipe = views.RECIPES["dino_multicrop"]
    assert recipe.first == views.RECIPES["dino"].first and recipe.count == 8
    assert recipe.local.size(224, 224) == (96, 96)  # as published
    assert recipe.local.size(32, 32) == (16, 16) and recipe.local.size(16, 40) == (8, 8)
    pixels = images(4)
    pixels[2] = 77  # an image of one colour stays one, but for its changed colours
    crops = views.local_crops(pixels, KEY, recipe)
    assert len(crops) == 8 and all(crop.shape == (4, 16, 16, 3) for crop in crops)
    for crop in crops:
        assert float(np.ptp(np.asarray(crop[2]), axis=(0, 1)).max()) < 1e-4
    assert len({float(crop[0].mean()) for crop in crops}) == 8
    assert_same_bits(crops, views.local_crops(pixels, KEY, recipe))
    assert_same_bits(positive_pairs(pixels, KEY, recipe), positive_pairs(pixels, KEY, "dino"))


def test_sizes_and_numbers_of_crops_that_cannot_be_are_refused_by_name():
    with pytest.raises(ValueError, match="size: expected a number of pixels, a fraction below 1"):
        ResizedCrop(size=1.5)
    with pytest.raises(ValueError, match="count: expected at least one local crop, received 0"):
        views.MultiCrop(View(), View(), View(), 0)


def test_local_crops_need_a_recipe_that_has_them_and_images():
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    crops = views.local_crops(pixels, KEY, "dino_multicrop")
    assert len(crops) == views.RECIPES["dino_multicrop"].count
    for recipe in ("small", "nope"):
        with pytest.raises(ValueError, match="recipe: expected a recipe with local crops"):
            views.local_crops(pixels, KEY, recipe)
    with pytest.raises(ValueError, match=r"pixels: expected uint8 \[n, H, W, C\]"):
        views.local_crops(pixels / 255, KEY, "dino_multicrop")
