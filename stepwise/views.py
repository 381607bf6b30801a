"""Positive pairs: two random views of every image, drawn on the device.

A `Recipe` says how, or its name in `RECIPES`. The recipes and their parts are those of
`stepwise.recipes`.
"""

import math
from functools import partial
from itertools import permutations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, PRNGKeyArray, UInt8, UInt32

from stepwise import _random, augment
from stepwise._check import describe, is_traced, require
from stepwise.recipes import RECIPES as RECIPES
from stepwise.recipes import Blur as Blur
from stepwise.recipes import Crop as Crop
from stepwise.recipes import Jitter as Jitter
from stepwise.recipes import MultiCrop as MultiCrop
from stepwise.recipes import Recipe as Recipe
from stepwise.recipes import ResizedCrop as ResizedCrop
from stepwise.recipes import Solarize as Solarize
from stepwise.recipes import View as View
from stepwise.recipes import crops as crops

# Number of values in one batch of images: 4 MB in float32, which fits a CPU's cache and is enough
# to occupy a GPU.
_BATCH_VALUES = 2**20

_ORDERS = np.array(list(permutations(range(4))), dtype=np.int32)


def positive_pairs(
    pixels: Any,
    key: PRNGKeyArray,
    recipe: Recipe | str,
    *,
    start: int | np.integer | Array = 0,
    batch_size: int | None = None,
) -> tuple[Float32[Array, "n h w c"], Float32[Array, "n h2 w2 c"]]:
    """Draw two random views of every image: x_i = T_i(pixels_i) and x'_i = T'_i(pixels_i).

    T_i and T'_i are independent. Image i uses only the key fold_in(key, start + i), so the pairs of
    pixels[a:b] with start=a equal the slice [a:b] of the pairs of all images. They are equal to the
    same bits, because every call computes batches of one size and pads the last one. Another batch
    size is another compiled program, whose last bits may differ. Crops are always exactly
    pixels / 255.

    Args:
        pixels: uint8 [n, H, W, C], a NumPy array (a memmap is read batch by batch) or a JAX array.
        key: a random key. A key of a generator other than threefry, JAX's default, is converted to
            a threefry key first, because its numbers depend on the batch.
        recipe: a `Recipe`, or the name of one of `RECIPES`.
        start: index of the first image in the whole set; start + n is at most 2³².
        batch_size: number of images computed at a time, which bounds the memory beyond input and
            output. By default it depends on the image's shape.

    Returns:
        x and x', float32 in [0, 1], in the order of `pixels`. Each combination of recipe, image
        shape and batch size compiles once. Under an enclosing jit, the default is one batch of all
        images without padding, and the last bits may differ.

    Raises:
        ValueError: if pixels are not uint8 of rank 4, are empty, are smaller than a crop or a blur
            kernel, or have neither 1 nor 3 channels although colours change; if the recipe's name
            is unknown, or `start` or `batch_size` is out of range.
    """
    name = "this recipe"
    if isinstance(recipe, str):
        name = f"the recipe {recipe}"
        require(
            recipe in RECIPES, "recipe", f"a Recipe or one of {', '.join(RECIPES)}", repr(recipe)
        )
        recipe = RECIPES[recipe]
    _require_pixels(pixels)
    count, height, width, channels = pixels.shape
    for view in (recipe.first, recipe.second):
        _require_fit(view, pixels, name)
    key = _random.threefry(key)
    if not is_traced(start):
        require(0 <= int(start) <= 2**32 - count, "start", "an index in [0, 2**32 - n]", start)
    if batch_size is None:
        sizes = [(height, width), *(v.size(height, width) for v in (recipe.first, recipe.second))]
        values = channels * max(map(math.prod, sizes))
        batch_size = count if is_traced(pixels) else max(1, _BATCH_VALUES // values)
    require(batch_size >= 1, "batch_size", "at least 1 image", batch_size)

    pairs: list[Array] = []
    for first in range(0, count, batch_size):
        batch = jnp.asarray(pixels[first : first + batch_size])
        size = len(batch)
        if not is_traced(batch):
            batch = jnp.pad(batch, ((0, batch_size - size), (0, 0), (0, 0), (0, 0)))
        index = jnp.asarray(start, jnp.uint32) + jnp.uint32(first)
        drawn = [x[:size] for x in _pairs(batch, key, index, recipe)]
        pairs = pairs or [jnp.zeros((count, *x.shape[1:]), x.dtype) for x in drawn]
        pairs = [_write_rows(whole, x, first) for whole, x in zip(pairs, drawn, strict=True)]
    return pairs[0], pairs[1]


def local_crops(
    pixels: Any, key: PRNGKeyArray, recipe: MultiCrop | str
) -> tuple[Float32[Array, "n h w c"], ...]:
    """Draw the local crops of every image, as many arrays as the recipe counts.

    They are independent of the pairs that `positive_pairs` draws from the same key.

    Args:
        pixels: uint8 [n, H, W, C], a NumPy or a JAX array.
        key: a random key.
        recipe: the recipe, or its name in `RECIPES`.

    Returns:
        Each local crop of all images, float32 in [0, 1].

    Raises:
        ValueError: if the recipe has no local crops; if the pixels are not uint8 of rank 4, are
            empty, are smaller than a crop or a blur kernel, or have neither 1 nor 3 channels
            although colours change.
    """
    known: Any = RECIPES.get(recipe) if isinstance(recipe, str) else recipe
    fits = isinstance(known, MultiCrop)
    require(fits, "recipe", "a recipe with local crops", repr(recipe)[:60])
    _require_pixels(pixels)
    pixels = jnp.asarray(pixels)
    _require_fit(known.local, pixels, "this recipe")
    key = jax.random.fold_in(_random.threefry(key), 2**32 - 1)
    each = jax.vmap(partial(draw, known.local))
    crops = []
    for i in range(known.count):
        one = jax.random.fold_in(key, i)
        index = jnp.arange(len(pixels), dtype=jnp.uint32)
        crops.append(each(pixels, jax.vmap(partial(jax.random.fold_in, one))(index)))
    return tuple(crops)


@partial(jax.jit, static_argnames="recipe")
def _pairs(
    pixels: UInt8[Array, "b H W c"], key: PRNGKeyArray, start: UInt32[Array, ""], recipe: Recipe
) -> tuple[Float32[Array, "b h w c"], Float32[Array, "b h2 w2 c"]]:
    index = start + jnp.arange(len(pixels), dtype=jnp.uint32)
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(index)
    first, second = (jax.vmap(partial(draw, view)) for view in (recipe.first, recipe.second))
    return first(pixels, keys[:, 0]), second(pixels, keys[:, 1])


@partial(jax.jit, donate_argnums=0)
def _write_rows(whole: Array, part: Array, first: Array | int) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(whole, part, first, axis=0)


def draw(view: View, pixels: UInt8[Array, "H W c"], key: PRNGKeyArray) -> Float32[Array, "h w c"]:
    """Draw one view of one image, float32 in [0, 1].

    It is meant for `vmap` and for sets of more than two views. Each operation has its own random
    numbers, so its outcome does not depend on the other operations of the view.
    """
    # A single draw, because a generator is slow to compile. The dtype is explicit so that x64 mode
    # changes no view.
    noise = jax.random.uniform(key, (33,), jnp.float32)
    place, flip, jitter, grey, blur, solarize = jnp.split(noise, [22, 23, 29, 30, 32])
    height, width, _ = pixels.shape
    if isinstance(view.crop, Crop):
        room = jnp.array([height, width], jnp.int32) - view.crop.side
        corner = augment.to_integers(place[20:], room + 1)
        for axis in (0, 1):
            pixels = jax.lax.dynamic_slice_in_dim(pixels, corner[axis], view.crop.side, axis)
    image = augment.unit(jnp.moveaxis(pixels, 2, 0))
    if isinstance(view.crop, ResizedCrop):
        box = augment.crop_box(place, height, width, view.crop.scale, view.crop.ratio)
        image = augment.resized_crop(image, box, view.size(height, width), view.crop.interpolation)
    if view.flip > 0:
        image = jnp.where(flip[0] < view.flip, augment.flip(image), image)
    if view.jitter is not None and view.jitter.probability > 0:
        jittered = _apply_jitter(view.jitter, image, jitter[1:])
        image = jnp.where(jitter[0] < view.jitter.probability, jittered, image)
    if view.grayscale > 0:
        image = jnp.where(grey[0] < view.grayscale, augment.grayscale(image), image)
    if view.blur is not None and view.blur.probability > 0:
        sigma = augment.to_interval(blur[1], view.blur.sigma)
        blurred = augment.gaussian_blur(image, sigma, view.blur.width(*image.shape[1:]))
        image = jnp.where(blur[0] < view.blur.probability, blurred, image)
    if view.solarize is not None and view.solarize.probability > 0:
        inverted = augment.solarize(image, view.solarize.threshold)
        image = jnp.where(solarize[0] < view.solarize.probability, inverted, image)
    return jnp.moveaxis(image, 0, 2)


def _apply_jitter(
    jitter: Jitter, image: Float32[Array, "c h w"], noise: Float32[Array, "5"]
) -> Float32[Array, "c h w"]:
    strengths = (jitter.brightness, jitter.contrast, jitter.saturation)
    bounds = [(max(0.0, 1 - s), 1 + s) for s in strengths]
    factors = [augment.to_interval(u, b) for u, b in zip(noise[:3], bounds, strict=True)]
    shift = augment.to_interval(noise[3], (-jitter.hue, jitter.hue))
    order = jnp.asarray(_ORDERS)[augment.to_integers(noise[4], len(_ORDERS))]
    return augment.jitter(image, jnp.stack(factors), shift, order)


def _require_pixels(pixels: Any) -> None:
    array = isinstance(pixels, (np.ndarray, jax.Array))
    received = describe(pixels) if array else type(pixels).__name__
    fits = array and pixels.dtype == np.uint8 and pixels.ndim == 4
    require(fits, "pixels", "uint8 [n, H, W, C]", received)
    require(pixels.size > 0, "pixels", "at least one image", pixels)


def _require_fit(view: View, pixels: Any, recipe: str) -> None:
    _, height, width, channels = pixels.shape
    if isinstance(view.crop, Crop):
        side = view.crop.side
        require(
            side <= min(height, width),
            "pixels",
            f"images of at least {side} x {side}, the size of the crops of {recipe}",
            f"{describe(pixels)}; use --side {side} or more, or another --recipe",
        )
    if view.blur is not None and view.blur.probability > 0:
        size = view.size(height, width)
        least = view.blur.width(*size) // 2 + 1
        received = f"views of {size[0]} x {size[1]}"
        require(
            min(size) >= least, "pixels", f"views of at least {least} for the blur kernel", received
        )
    coloured = view.grayscale > 0 or (view.jitter is not None and view.jitter.probability > 0)
    require(
        not coloured or channels in (1, 3),
        "pixels",
        "1 or 3 channels for colour operations",
        pixels,
    )
