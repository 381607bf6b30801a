"""Every operation against an independent reference: Pillow, SciPy, colorsys or NumPy formulas."""

import colorsys
import math
from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage, stats

from stepwise import augment

RATIO = (3 / 4, 4 / 3)


@pytest.fixture(scope="module")
def pixels():
    """Bytes [h, w, 3]: smooth colours, noise, and the grey and saturated corners of the cube."""
    rng = np.random.default_rng(0)
    smooth = ndimage.zoom(rng.uniform(0, 255, (4, 4, 3)), (6, 5, 1), order=1)
    image = np.clip(smooth + rng.normal(0, 20, smooth.shape), 0, 255).astype(np.uint8)
    corners = [(r, g, b) for r in (0, 255) for g in (0, 255) for b in (0, 255)]
    image[0, :8] = corners
    image[1, :5] = np.array([0, 1, 127, 128, 255])[:, None]
    return image


# Compiled once per shape; without jit, each step of an operation would compile by itself.
brightness, contrast, saturation = map(
    jax.jit, (augment.brightness, augment.contrast, augment.saturation)
)
hue, jitter, grayscale = map(jax.jit, (augment.hue, augment.jitter, augment.grayscale))
resized_crop = jax.jit(augment.resized_crop, static_argnames=("size", "interpolation"))
gaussian_blur = jax.jit(augment.gaussian_blur, static_argnames="kernel")


def planes(pixels):
    return augment.unit(jnp.moveaxis(jnp.asarray(pixels), 2, 0))


def to_bytes(image):
    return np.moveaxis(np.asarray(image), 0, 2) * 255


def test_unit_returns_the_float32_nearest_to_a_byte_over_255():
    values = np.arange(256, dtype=np.uint8)
    unit = np.asarray(jax.jit(augment.unit)(jnp.asarray(values)))
    np.testing.assert_array_equal(unit, (np.arange(256) / 255).astype(np.float32))


@pytest.mark.parametrize("factor", [0.0, 0.3, 0.9, 1.8])
@pytest.mark.parametrize(
    ("operation", "enhancer"),
    [
        (brightness, ImageEnhance.Brightness),
        (contrast, ImageEnhance.Contrast),
        (saturation, ImageEnhance.Color),
    ],
)
def test_blends_match_pillow_up_to_rounding_to_bytes(pixels, operation, enhancer, factor):
    expected = np.asarray(enhancer(Image.fromarray(pixels)).enhance(factor), float)
    np.testing.assert_allclose(to_bytes(operation(planes(pixels), factor)), expected, atol=1.6)


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.8])
def test_blends_match_their_formulas(pixels, factor):
    image = planes(pixels)
    x = np.asarray(image, np.float64)
    luma = 0.2989 * x[0] + 0.587 * x[1] + 0.114 * x[2]
    for operation, partner in (
        (brightness, 0),
        (contrast, luma.mean()),
        (saturation, luma),
    ):
        expected = np.clip(factor * x + (1 - factor) * partner, 0, 1)
        np.testing.assert_allclose(operation(image, factor), expected, atol=1e-6)
    np.testing.assert_allclose(grayscale(image), np.stack([luma] * 3), atol=1e-6)


@pytest.mark.parametrize("shift", [-0.5, -0.2, 0.07, 0.5])
def test_hue_is_a_rotation_in_hsv(pixels, shift):
    image = planes(pixels)
    flat = np.asarray(image, np.float64).reshape(3, -1).T
    turned = [
        colorsys.hsv_to_rgb((h + shift) % 1, s, v)
        for h, s, v in (colorsys.rgb_to_hsv(*p) for p in flat)
    ]
    np.testing.assert_allclose(
        hue(image, shift), np.array(turned).T.reshape(image.shape), atol=2e-6
    )


def test_hue_matches_pillow_up_to_rounding_to_bytes(pixels):
    hsv = np.array(Image.fromarray(pixels).convert("HSV"))
    hsv[..., 0] += np.uint8(64)
    bands = [Image.fromarray(np.ascontiguousarray(hsv[..., i])) for i in range(3)]
    expected = np.asarray(Image.merge("HSV", bands).convert("RGB"), float)
    gap = np.abs(to_bytes(hue(planes(pixels), 0.25)) - expected)
    # Pillow floors the hue to 255ths of a turn, each of which changes a channel by 6, and its hue
    # wraps at 256.
    assert gap.max() < 12 and gap.mean() < 1.5


def test_solarize_matches_pillow_and_flip_mirrors(pixels):
    expected = np.asarray(ImageOps.solarize(Image.fromarray(pixels)), float)
    np.testing.assert_allclose(to_bytes(augment.solarize(planes(pixels))), expected, atol=1e-4)
    np.testing.assert_array_equal(
        to_bytes(augment.flip(planes(pixels))), to_bytes(planes(pixels[:, ::-1]))
    )


def test_zero_strength_returns_the_same_bits(pixels):
    image = planes(pixels)
    whole = jnp.array([0, 0, *image.shape[1:]], jnp.int32)
    results = [operation(image, 1.0) for operation in (brightness, contrast, saturation)]
    results += [
        resized_crop(image, whole, size=image.shape[1:], interpolation=kind)
        for kind in augment.INTERPOLATIONS
    ]
    results += [hue(image, 0.0), gaussian_blur(image, 1.0, kernel=1)]
    results += [jitter(image, jnp.ones(3), 0.0, jnp.array([1, 3, 0, 2]))]
    for result in results:
        np.testing.assert_array_equal(result, image)


def test_jitter_equals_its_four_operations_in_any_order(pixels):
    image, factors, shift = planes(pixels), jnp.array([1.3, 0.6, 1.7], jnp.float32), 0.15
    steps = [
        lambda x: brightness(x, factors[0]),
        lambda x: contrast(x, factors[1]),
        lambda x: saturation(x, factors[2]),
        lambda x: hue(x, shift),
    ]
    orders = list(permutations(range(4)))
    results = jax.jit(jax.vmap(lambda order: jitter(image, factors, shift, order)))(
        jnp.array(orders)
    )
    for order, result in zip(orders, results, strict=True):
        expected = image
        for step in order:
            expected = steps[step](expected)
        np.testing.assert_allclose(result, expected, atol=3e-6)


def test_one_channel_has_brightness_and_contrast_but_no_colour(pixels):
    grey = planes(pixels[..., :1])
    for operation in (saturation, hue):
        np.testing.assert_array_equal(operation(grey, 0.3), grey)
    np.testing.assert_array_equal(grayscale(grey), grey)
    expected = np.asarray(
        ImageEnhance.Contrast(Image.fromarray(pixels[..., 0])).enhance(0.4), float
    )
    np.testing.assert_allclose(to_bytes(contrast(grey, 0.4))[..., 0], expected, atol=1.6)
    for operation in (hue, saturation, contrast):
        with pytest.raises(
            ValueError, match=r"image: expected 1 or 3 channels .*, received float32 \[2, 24, 20\]"
        ):
            operation(planes(pixels[..., :2]), 0.3)


@pytest.mark.parametrize("kind", augment.INTERPOLATIONS)
@pytest.mark.parametrize("size", [(24, 20), (9, 31), (3, 5), (40, 50)])
def test_resized_crop_matches_pillows_crop_then_resize(pixels, kind, size):
    box = (3, 2, 17, 11)  # top, left, height, width
    top, left, height, width = box
    resample = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[kind]
    result = resized_crop(planes(pixels), jnp.array(box, jnp.int32), size=size, interpolation=kind)
    corners = (left, top, left + width, top + height)
    for plane, x in zip(result, np.asarray(planes(pixels)), strict=True):
        exact = (
            Image.fromarray(x).crop(corners).resize(size[::-1], resample)
        )  # mode F: no rounding to bytes
        np.testing.assert_allclose(plane, np.clip(np.asarray(exact), 0, 1), atol=1e-5)
    rounded = Image.fromarray(pixels).crop(corners).resize(size[::-1], resample)
    # Pillow rounds between the two axes and clamps the overshoot of the cubic.
    atol = 1.1 if kind == "bilinear" else 3
    np.testing.assert_allclose(to_bytes(result), np.asarray(rounded, float), atol=atol)


def test_pixels_outside_the_box_do_not_contribute(pixels):
    box = jnp.array([3, 2, 17, 11], jnp.int32)
    image = planes(pixels)
    other = jnp.ones_like(image).at[:, 3:20, 2:13].set(image[:, 3:20, 2:13])
    results = [resized_crop(x, box, size=(24, 20), interpolation="bicubic") for x in (image, other)]
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(("sigma", "kernel"), [(0.1, 3), (0.7, 5), (2.0, 9), (2.0, 39)])
def test_gaussian_blur_is_a_mirrored_convolution(pixels, sigma, kernel):
    x = np.asarray(planes(pixels), np.float64)
    offset = np.linspace(-(kernel - 1) / 2, (kernel - 1) / 2, kernel)
    weights = np.exp(-0.5 * (offset / sigma) ** 2)
    weights /= weights.sum()
    for axis in (1, 2):
        x = ndimage.correlate1d(x, weights, axis=axis, mode="mirror")
    np.testing.assert_allclose(gaussian_blur(planes(pixels), sigma, kernel=kernel), x, atol=1e-6)


@pytest.mark.parametrize(
    ("kernel", "expected"), [(4, "an odd number"), (0, "an odd number"), (41, "at most 39")]
)
def test_an_even_or_too_large_kernel_is_refused(pixels, kernel, expected):
    with pytest.raises(ValueError, match=f"kernel: expected {expected}.*, received {kernel}"):
        gaussian_blur(planes(pixels), 1.0, kernel=kernel)


def boxes(count, height, width, scale, ratio, seed=0):
    noise = jax.random.uniform(jax.random.key(seed), (count, 22), jnp.float32)
    place = jax.jit(jax.vmap(lambda u: augment.crop_box(u, height, width, scale, ratio)))
    return np.asarray(noise, np.float64), np.asarray(place(noise))


def torchvision_box(noise, height, width, scale, ratio):
    """Repeat RandomResizedCrop.get_params with the given numbers of U[0, 1)."""
    for u, v in zip(noise[:10], noise[10:20], strict=True):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * u)
        aspect = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * v)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(noise[20] * (height - h + 1)), int(noise[21] * (width - w + 1)), h, w
    w, h = width, height
    if width / height < min(ratio):
        h = round(w / min(ratio))
    elif width / height > max(ratio):
        w = round(h * max(ratio))
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (32, 32, (0.08, 1.0), RATIO),
        (96, 40, (0.5, 1.0), RATIO),  # many draws fall back to the central box
        (17, 90, (0.9, 1.0), RATIO),  # all draws fall back
        (40, 40, (1.0, 1.0), (2.0, 3.0)),
    ],
)
def test_crop_box_matches_torchvision(height, width, scale, ratio):
    noise, result = boxes(500, height, width, scale, ratio)
    expected = [torchvision_box(u, height, width, scale, ratio) for u in noise]
    # float32 may round one side in thousands differently from float64.
    assert np.mean(np.all(result == expected, axis=1)) >= 0.99
    top, left, h, w = result.T
    assert np.all(
        (top >= 0) & (left >= 0) & (h > 0) & (w > 0) & (top + h <= height) & (left + w <= width)
    )


def test_crop_area_and_log_aspect_and_place_are_uniform():
    # √(0.56 · 4/3) < 1, so the first try always fits and no box is rejected
    side, scale = 4000, (0.2, 0.56)
    _, result = boxes(4000, side, side, scale, RATIO)
    top, left, height, width = result.T
    samples = {
        "area": (height * width / side**2 - scale[0]) / (scale[1] - scale[0]),
        "aspect": np.log(width / height) / np.log(RATIO[1]) / 2 + 0.5,
        "top": (top + 0.5) / (side - height + 1),
        "left": (left + 0.5) / (side - width + 1),
    }
    for name, sample in samples.items():
        assert stats.kstest(sample, "uniform").pvalue > 0.01, name
    correlation = np.corrcoef(list(samples.values())) - np.eye(4)
    assert np.abs(correlation).max() < 4 / math.sqrt(4000)


def test_to_integers_reaches_the_largest_integer_but_not_the_bound():
    counts = jnp.arange(1, 5000, dtype=jnp.int32)
    largest = jnp.full(
        counts.shape, 1 - 2.0**-23, jnp.float32
    )  # the largest that jax.random.uniform draws
    np.testing.assert_array_equal(augment.to_integers(largest, counts), counts - 1)
    np.testing.assert_array_equal(augment.to_integers(jnp.zeros_like(largest), counts), 0)


def test_float32_images_stay_float32_with_and_without_x64(dtype, pixels):
    image = planes(pixels)
    order = jnp.array([2, 3, 0, 1])
    results = [
        jitter(image, jnp.full(3, 0.7, jnp.float32), 0.1, order),
        resized_crop(
            image, jnp.array([1, 2, 9, 8], jnp.int32), size=(6, 6), interpolation="bicubic"
        ),
        gaussian_blur(image, 0.8, kernel=3),
        augment.solarize(image),
        grayscale(image),
    ]
    assert all(result.dtype == jnp.float32 for result in results)
