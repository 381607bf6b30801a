"""Positive pairs: two random views of every image, drawn on the device.

A `Recipe` is two `View`s; a `View` is the operations of `stepwise.augment` with their probabilities
and strengths, applied in the order of its fields. `RECIPES` holds those of the literature by name.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, PRNGKeyArray, UInt8, UInt32

from stepwise import augment
from stepwise._check import describe, is_traced, require

# Values of one batch of images: 4 MB in float32, which stays in a CPU's cache and is enough to fill
# a GPU.
_BATCH_VALUES = 2**20

_ORDERS = np.array(list(permutations(range(4))), dtype=np.int32)


# A whole number is as good a strength; at run time beartype takes `float` at its word.
Number = int | float


def _require_probability(name: str, value: Number) -> None:
    require(0 <= value <= 1, name, "a probability in [0, 1]", value)


def _require_range(name: str, value: tuple[Number, Number], upto: Number = math.inf) -> None:
    pair = isinstance(value, tuple) and len(value) == 2
    ordered = pair and 0 < value[0] <= value[1] <= upto and value[1] < math.inf
    require(
        ordered,
        name,
        f"a pair with 0 < low <= high{'' if upto == math.inf else f' <= {upto}'}",
        repr(value),
    )


@dataclass(frozen=True)
class Crop:
    """A crop of `side` x `side` pixels at a uniformly random place; moves bytes, computes
    nothing."""

    side: int

    def __post_init__(self) -> None:
        require(self.side >= 1, "side", "at least 1 pixel", self.side)


@dataclass(frozen=True)
class ResizedCrop:
    """A box of random area (a fraction in `scale`) and aspect (log-uniform in `ratio`), resized to
    `size`.

    size=None is the input's height and width; interpolation is "bilinear" or "bicubic", both
    antialiased.
    """

    scale: tuple[Number, Number] = (0.08, 1.0)
    ratio: tuple[Number, Number] = (3 / 4, 4 / 3)
    size: int | None = None
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        _require_range("scale", self.scale, upto=1)
        _require_range("ratio", self.ratio)
        require(self.size is None or self.size >= 1, "size", "at least 1 pixel, or None", self.size)
        known = augment.INTERPOLATIONS
        require(
            self.interpolation in known,
            "interpolation",
            f"one of {known}",
            repr(self.interpolation),
        )


@dataclass(frozen=True)
class Jitter:
    """Brightness, contrast, saturation by U[max(0, 1 - s), 1 + s], hue by U[-s, s] turns, in random
    order.
    """

    brightness: Number
    contrast: Number
    saturation: Number
    hue: Number
    probability: Number = 0.8

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            strength = getattr(self, name)
            require(0 <= strength < math.inf, name, "a finite strength >= 0", strength)
        require(0 <= self.hue <= 0.5, "hue", "a strength in [0, 0.5] turns", self.hue)
        _require_probability("probability", self.probability)


@dataclass(frozen=True)
class Blur:
    """Gaussian blur with standard deviation U(sigma) pixels; kernel=None is a tenth of the side,
    made odd.
    """

    probability: Number
    sigma: tuple[Number, Number] = (0.1, 2.0)
    kernel: int | None = None

    def __post_init__(self) -> None:
        _require_range("sigma", self.sigma)
        odd = self.kernel is None or (self.kernel >= 1 and self.kernel % 2 == 1)
        require(odd, "kernel", "an odd number of pixels, or None", self.kernel)
        _require_probability("probability", self.probability)

    def width(self, height: int, width: int) -> int:
        """Return the kernel's width for images of height x width: 3 at 32 pixels, 9 at 96, 23 at
        224.
        """
        return min(height, width) // 20 * 2 + 1 if self.kernel is None else self.kernel


@dataclass(frozen=True)
class Solarize:
    """Inversion of the values from `threshold` up."""

    probability: Number
    threshold: Number = 0.5

    def __post_init__(self) -> None:
        require(0 <= self.threshold <= 1, "threshold", "a value in [0, 1]", self.threshold)
        _require_probability("probability", self.probability)


@dataclass(frozen=True)
class View:
    """One random view: its operations, in this order; `flip` and `grayscale` are probabilities."""

    crop: Crop | ResizedCrop | None = None
    flip: Number = 0.0
    jitter: Jitter | None = None
    grayscale: Number = 0.0
    blur: Blur | None = None
    solarize: Solarize | None = None

    def __post_init__(self) -> None:
        _require_probability("flip", self.flip)
        _require_probability("grayscale", self.grayscale)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of the view of an image of height x width."""
        if isinstance(self.crop, Crop):
            return self.crop.side, self.crop.side
        if self.crop is None or self.crop.size is None:
            return height, width
        return self.crop.size, self.crop.size


@dataclass(frozen=True)
class Recipe:
    """The two views of a positive pair, drawn independently."""

    first: View
    second: View


def crops(side: int) -> Recipe:
    """Return the recipe of the linear experiment: two random crops of `side` x `side`, nothing
    else.
    """
    return Recipe(View(Crop(side)), View(Crop(side)))


def _recipes() -> dict[str, Recipe]:
    def view(
        least: float, jitter: Jitter, interpolation: str = "bicubic", blur: Blur | None = None
    ) -> View:
        crop = ResizedCrop((least, 1.0), interpolation=interpolation)
        return View(crop, flip=0.5, jitter=jitter, grayscale=0.2, blur=blur)

    def twice(view: View) -> Recipe:
        return Recipe(view, view)

    def uneven(least: float) -> Recipe:
        first = view(least, Jitter(0.4, 0.4, 0.2, 0.1), blur=Blur(1.0))
        return Recipe(first, replace(first, blur=Blur(0.1), solarize=Solarize(0.2)))

    even = Jitter(0.4, 0.4, 0.4, 0.1)
    small = View(ResizedCrop((0.25, 1.0)), flip=0.5, jitter=Jitter(0.4, 0, 0, 0), grayscale=0.2)
    return {
        "crop20": crops(20),
        "small": twice(small),
        "simclr": twice(view(0.08, Jitter(0.8, 0.8, 0.8, 0.2), blur=Blur(0.5))),
        "simclr_cifar": twice(view(0.08, even)),
        "barlow_twins": uneven(0.08),
        "vicreg": uneven(0.08),
        "byol": uneven(0.08),
        "simsiam": twice(view(0.2, even, "bilinear", Blur(0.5))),
        "simsiam_cifar": twice(view(0.2, even, "bilinear")),
        "spectral": twice(view(0.2, even, "bilinear", Blur(0.5))),
        "spectral_cifar": twice(view(0.2, even, "bilinear")),
        "dino": uneven(0.4),
        "clip": twice(View(ResizedCrop((0.9, 1.0), interpolation="bicubic"))),
    }


RECIPES: Mapping[str, Recipe] = MappingProxyType(_recipes())
"""The published recipes; the names with _cifar are for 32 pixels, and "dino" is its two global
views.

"crop20" is the linear experiment's, "small" (crops, flip, brightness, grey) that of the small
networks here.
"""


def positive_pairs(
    pixels: Any,
    key: PRNGKeyArray,
    recipe: Recipe | str,
    *,
    start: int | np.integer | Array = 0,
    batch_size: int | None = None,
) -> tuple[Float32[Array, "n h w c"], Float32[Array, "n h2 w2 c"]]:
    """Draw two views of every image: x_i = T_i(pixels_i), x'_i = T'_i(pixels_i), T_i and T'_i
    independent.

    Image i draws from fold_in(key, start + i) alone, so the pairs of pixels[a:b] with start=a are
    the slice [a:b] of the pairs of all of them: to the bit, because every call computes batches of
    one size, padding the last. That size follows from the image's shape, or is `batch_size`;
    another size is another program, whose last bits may differ, except in crops, which are exactly
    pixels / 255.

    Args:
        pixels: uint8 [n, H, W, C], a NumPy array (a memmap is read batch by batch) or one on the
            device.
        key: a threefry key, JAX's default: the other generators draw otherwise in another batch.
        recipe: a `Recipe`, or the name of one of `RECIPES`.
        start: index of the first image in the whole set; start + n is at most 2³².
        batch_size: images computed at a time; it bounds the memory beyond input and output.

    Returns:
        x and x', float32 in [0, 1], in the order of `pixels`. There is one compilation for each
        recipe, image shape and batch size. Under an enclosing jit the default is one batch of all
        images, nothing is padded, and the last bits are the enclosing program's.

    Raises:
        ValueError: pixels that are not uint8 of rank 4, are none, are smaller than a crop or a blur
            kernel needs, or have other than 1 or 3 channels where colours change; an unknown name;
            another kind of key; a start or batch size out of range.
    """
    if isinstance(recipe, str):
        require(
            recipe in RECIPES, "recipe", f"a Recipe or one of {', '.join(RECIPES)}", repr(recipe)
        )
        recipe = RECIPES[recipe]
    array = isinstance(pixels, (np.ndarray, jax.Array))
    received = describe(pixels) if array else type(pixels).__name__
    require(
        array and pixels.dtype == np.uint8 and pixels.ndim == 4,
        "pixels",
        "uint8 [n, H, W, C]",
        received,
    )
    require(pixels.size > 0, "pixels", "at least one image", pixels)
    count, height, width, channels = pixels.shape
    for view in (recipe.first, recipe.second):
        _require_fit(view, pixels)
    impl = str(jax.random.key_impl(key))
    require(impl == "threefry2x32", "key", "a threefry2x32 key", impl)
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
        pairs = [_placed(whole, x, first) for whole, x in zip(pairs, drawn, strict=True)]
    return pairs[0], pairs[1]


@partial(jax.jit, static_argnames="recipe")
def _pairs(
    pixels: UInt8[Array, "b H W c"], key: PRNGKeyArray, start: UInt32[Array, ""], recipe: Recipe
) -> tuple[Float32[Array, "b h w c"], Float32[Array, "b h2 w2 c"]]:
    index = start + jnp.arange(len(pixels), dtype=jnp.uint32)
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(index)
    first, second = (jax.vmap(partial(draw, view)) for view in (recipe.first, recipe.second))
    return first(pixels, keys[:, 0]), second(pixels, keys[:, 1])


@partial(jax.jit, donate_argnums=0)
def _placed(whole: Array, part: Array, first: Array | int) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(whole, part, first, axis=0)


def draw(view: View, pixels: UInt8[Array, "H W c"], key: PRNGKeyArray) -> Float32[Array, "h w c"]:
    """Draw one view of one image, in [0, 1]; for `vmap`, and for sets of more than two views.

    Every operation has its own numbers, so that what one draws does not depend on which others
    there are.
    """
    # One draw for all, as a generator is slow to compile; float32 by name, so that x64 mode changes
    # no view.
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
        jittered = _jittered(view.jitter, image, jitter[1:])
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


def _jittered(
    jitter: Jitter, image: Float32[Array, "c h w"], noise: Float32[Array, "5"]
) -> Float32[Array, "c h w"]:
    strengths = (jitter.brightness, jitter.contrast, jitter.saturation)
    bounds = [(max(0.0, 1 - s), 1 + s) for s in strengths]
    factors = [augment.to_interval(u, b) for u, b in zip(noise[:3], bounds, strict=True)]
    shift = augment.to_interval(noise[3], (-jitter.hue, jitter.hue))
    order = jnp.asarray(_ORDERS)[augment.to_integers(noise[4], len(_ORDERS))]
    return augment.jitter(image, jnp.stack(factors), shift, order)


def _require_fit(view: View, pixels: Any) -> None:
    _, height, width, channels = pixels.shape
    if isinstance(view.crop, Crop):
        side = view.crop.side
        require(side <= min(height, width), "pixels", f"images of at least {side} x {side}", pixels)
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
