"""Image operations of self-supervised learning, each a pure function of one image.

An image is float32 [c, h, w] with values in [0, 1]. Separate colour planes make colour operations
four times as fast on a CPU as the layout [h, w, c] that `stepwise.views` accepts and returns.

The operations are deterministic. Their parameters may be traced, so `jax.vmap` can pass different
ones for each image. The definitions are torchvision's for float tensors. Unlike in Pillow, values
are not rounded to 8 bits between operations, which would only add noise and cost.

Colour operations accept 3 channels (RGB) or 1 (grey). On one channel, brightness and contrast
apply, and the others are the identity.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32, UInt8

from stepwise._check import require

Image = Float32[Array, "c h w"]
Scalar = Float[Array, ""] | float | int

# A table, because division by a constant may be compiled to a multiplication by its reciprocal,
# which differs in the last bit.
_UNIT = np.arange(256, dtype=np.float32) / np.float32(255)

_LUMA = (0.2989, 0.587, 0.114)


def unit(pixels: UInt8[Array, "*s"]) -> Float32[Array, "*s"]:
    """Map bytes to [0, 1]: pixels / 255, the nearest float32 on every device."""
    return jnp.asarray(_UNIT)[pixels]


def crop_box(
    noise: Float32[Array, "22"],
    height: int,
    width: int,
    scale: tuple[float | int, float | int],
    ratio: tuple[float | int, float | int],
) -> Int32[Array, "4"]:
    """Choose the box of a random resized crop from 22 numbers of U[0, 1).

    The result is (top, left, height, width). As in torchvision's RandomResizedCrop, an area
    a ~ U(scale), relative to the image's, and an aspect ratio ρ = exp U(ln ratio) yield the width
    √(aρ) and the height √(a/ρ), both rounded. The first of ten such boxes that fits is placed
    uniformly. If no box fits, the result is the largest central box with ρ in `ratio`. All ten
    boxes are computed, because a traced loop over a batch cannot stop early for one image.
    """
    area = height * width * to_interval(noise[:10], scale)
    aspect = jnp.exp(to_interval(noise[10:20], (math.log(ratio[0]), math.log(ratio[1]))))
    heights, widths = (
        jnp.round(jnp.sqrt(a)).astype(jnp.int32) for a in (area / aspect, area * aspect)
    )
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)

    whole = width / height
    central_height = max(1, round(width / ratio[0])) if whole < ratio[0] else height
    central_width = max(1, round(height * ratio[1])) if whole > ratio[1] else width
    first, any_fits = jnp.argmax(fits), fits.any()
    sides = jnp.where(
        any_fits,
        jnp.stack([heights[first], widths[first]]),
        jnp.array([central_height, central_width], jnp.int32),
    )
    room = jnp.array([height, width], jnp.int32) - sides
    corner = jnp.where(any_fits, to_integers(noise[20:], room + 1), room // 2)
    return jnp.concatenate([corner, sides])


def to_interval(
    noise: Float32[Array, "*s"], bounds: tuple[float | int, float | int]
) -> Float32[Array, "*s"]:
    """Map U[0, 1) to U[low, high): low + (high - low) u."""
    low, high = bounds
    return low + (high - low) * noise


def to_integers(noise: Float32[Array, "*s"], count: Int32[Array, "*s"] | int) -> Int32[Array, "*s"]:
    """Map U[0, 1) to the integers 0 ... count - 1: ⌊count u⌋.

    All integers are equally likely to one part in 2²³ / count.
    """
    return jnp.floor(count * noise).astype(jnp.int32)


def resized_crop(
    image: Image, box: Int[Array, "4"], size: tuple[int, int], interpolation: str = "bilinear"
) -> Float32[Array, "c H W"]:
    """Crop the box (top, left, height, width) and resize it to `size`: x_c ↦ R x_c Sᵀ.

    The resizing is antialiased. Row i of R holds k((j + 1/2 - centre_i) / max(1, length / size)),
    normalised, for the pixels j in the box, with centre_i = start + (i + 1/2) length / size. The
    kernel k is the triangle ("bilinear") or Keys' cubic with a = -1/2 ("bicubic", whose overshoot
    is clamped to [0, 1]).

    The result equals Pillow's `crop(box).resize(size)` and torchvision's
    `resized_crop(antialias=True)`: pixels outside the box do not contribute.
    """
    require(
        interpolation in INTERPOLATIONS, "interpolation", f"one of {INTERPOLATIONS}", interpolation
    )
    rows = _resize_weights(box[0], box[2], image.shape[1], size[0], interpolation)
    columns = _resize_weights(box[1], box[3], image.shape[2], size[1], interpolation)
    # Full precision: with TF32 on a GPU, a box of the whole image would not return that image.
    resized = jnp.einsum(
        "ih,chw,jw->cij", rows, image, columns, precision=jax.lax.Precision.HIGHEST
    )
    return jnp.clip(resized, 0, 1)


def _resize_weights(
    start: Int[Array, ""], length: Int[Array, ""], side: int, size: int, interpolation: str
) -> Float32[Array, "size side"]:
    step = length.astype(jnp.float32) / size
    pixel = jnp.arange(side, dtype=jnp.int32)
    centre = start + (jnp.arange(size, dtype=jnp.float32) + 0.5) * step
    distance = jnp.abs(pixel[None] + jnp.float32(0.5) - centre[:, None]) / jnp.maximum(step, 1)
    inside = (pixel >= start) & (pixel < start + length)
    weights = jnp.where(inside[None], _KERNELS[interpolation](distance), 0)
    return weights / weights.sum(axis=1, keepdims=True)


def _triangle(t: Float32[Array, "..."]) -> Float32[Array, "..."]:
    return jnp.maximum(1 - t, 0)


def _cubic(t: Float32[Array, "..."]) -> Float32[Array, "..."]:
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return jnp.where(t < 1, near, jnp.where(t < 2, far, 0))


_KERNELS = {"bilinear": _triangle, "bicubic": _cubic}
INTERPOLATIONS = tuple(_KERNELS)


def flip(image: Image) -> Image:
    """Mirror left and right: x[c, i, j] ↦ x[c, i, w - 1 - j]."""
    return image[:, :, ::-1]


def luma(image: Image) -> Float32[Array, "1 h w"]:
    """Return the luma 0.2989 R + 0.587 G + 0.114 B; a one-channel image is returned unchanged.

    The weights are torchvision's. Pillow's are 0.299, 0.587 and 0.114: 1e-4 more red.
    """
    if len(image) == 1:
        return image
    require(len(image) == 3, "image", "1 or 3 channels for a colour operation", image)
    red, green, blue = (weight * plane[None] for weight, plane in zip(_LUMA, image, strict=True))
    return red + green + blue


def _mean_luma(image: Image) -> Float32[Array, ""]:
    # A dot product with 1/n, because the same sum as a reduction is ten times slower on a CPU.
    grey = luma(image).ravel()
    return jnp.dot(
        grey, jnp.full(grey.shape, 1 / grey.size, grey.dtype), precision=jax.lax.Precision.HIGHEST
    )


def grayscale(image: Image) -> Image:
    """Replace every channel by the luma."""
    return jnp.broadcast_to(luma(image), image.shape)


def _blend(image: Image, other: Float32[Array, "..."], factor: Scalar) -> Image:
    return jnp.clip(factor * image + (1 - factor) * other, 0, 1)


def brightness(image: Image, factor: Scalar) -> Image:
    """Scale by a factor f ≥ 0: clamp(f x)."""
    return _blend(image, jnp.zeros((), jnp.float32), factor)


def contrast(image: Image, factor: Scalar) -> Image:
    """Blend with the image's mean luma m: clamp(f x + (1 - f) m). Pillow rounds m to 8 bits."""
    return _blend(image, _mean_luma(image), factor)


def saturation(image: Image, factor: Scalar) -> Image:
    """Blend with each pixel's luma: clamp(f x + (1 - f) luma). The identity on one channel."""
    return _blend(image, luma(image), factor) if len(image) > 1 else image


def hue(image: Image, shift: Scalar) -> Image:
    """Rotate the hue by `shift` ∈ [-1/2, 1/2] turns, with HSV saturation and value unchanged.

    Let v = max and C = max - min over the channels, and h the hue in sixths of a turn. Each channel
    becomes v - C clamp(min(k, 4 - k), 0, 1), k = (n + h + 6 shift) mod 6, with n = 5, 3, 1 for R,
    G, B. This one formula covers the six sectors of HSV. On one channel it is the identity. Pillow
    floors the hue to 255ths of a turn.
    """
    if len(image) == 1:
        return image
    require(len(image) == 3, "image", "1 or 3 channels for a colour operation", image)
    red, green, blue = image
    value = image.max(axis=0)
    chroma = value - image.min(axis=0)
    inverse = 1 / jnp.where(chroma > 0, chroma, 1)
    # Compared by order, because `value == red` may fail if the compiler computes red twice. The
    # formulas agree at ties.
    sextant = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) * inverse,
        jnp.where(green >= blue, 2 + (blue - red) * inverse, 4 + (red - green) * inverse),
    )

    def channel(n: int) -> Float32[Array, "h w"]:
        k = sextant + (n + 6 * shift)
        k = k - 6 * jnp.floor(k / 6)
        return value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)

    turned = jnp.stack([channel(5), channel(3), channel(1)])
    # The conversion to hue and back rounds, but a shift of zero must return the same bits.
    return jnp.where(shift == 0, image, jnp.clip(turned, 0, 1))


def jitter(
    image: Image, factors: Float[Array, "3"], shift: Scalar, order: Int[Array, "4"]
) -> Image:
    """Apply brightness, contrast, saturation (by `factors`) and hue (by `shift`) in traced `order`.

    `order` is a permutation of 0, 1, 2, 3, which stand for the four operations as listed. The
    result equals that of the four functions one after the other.

    Under vmap, branches would compute all four operations in each of the four slots. Instead, the
    first three are one blend with different partners, and the hue is rotated once, between the
    blends before and after it. An inactive blend has the factor 1 and is the identity.
    """
    place = jnp.argmax(order == 3)
    factor = jnp.concatenate([factors, jnp.ones(1, factors.dtype)])[order]

    def blends(image: Image, slots: range, active: Array) -> Image:
        for slot in slots:
            partner = jnp.where(order[slot] == 2, luma(image), 0)
            partner = jnp.where(order[slot] == 1, _mean_luma(image), partner)
            image = _blend(image, partner, jnp.where(active[slot], factor[slot], 1))
        return image

    slot = jnp.arange(4, dtype=jnp.int32)
    # One long row, because a CPU spends most of its time on indices when rows are short.
    row = blends(image.reshape(len(image), 1, -1), range(3), slot < place)
    return blends(hue(row, shift), range(1, 4), slot > place).reshape(image.shape)


def gaussian_blur(image: Image, sigma: Scalar, kernel: int) -> Image:
    """Convolve rows and columns with weights ∝ exp(-d² / 2σ²), |d| ≤ (kernel - 1)/2.

    Borders are reflected. σ is in pixels, and the odd `kernel` is at most 2 min(h, w) - 1. This is
    torchvision's gaussian_blur. Pillow's, which some official recipes call, approximates the same
    Gaussian by box filters and extends the border.
    """
    radius = kernel // 2
    require(kernel > 0 and kernel % 2 == 1, "kernel", "an odd number of pixels", kernel)
    require(
        radius < min(image.shape[1:]),
        "kernel",
        f"at most {2 * min(image.shape[1:]) - 1} for this image",
        kernel,
    )
    offset = jnp.arange(radius + 1, dtype=jnp.float32)
    weights = jnp.exp(-0.5 * (offset / sigma) ** 2)
    weights = weights / (2 * weights.sum() - weights[0])
    for axis in (1, 2):
        side = image.shape[axis]
        padded = jnp.pad(
            image, [(radius, radius) if a == axis else (0, 0) for a in range(3)], mode="reflect"
        )
        # A sum of shifted images, which the compiler fuses. A convolution with one kernel per image
        # is slow on a CPU.
        shifted = [jax.lax.slice_in_dim(padded, d, d + side, axis=axis) for d in range(kernel)]
        image = weights[0] * shifted[radius] + sum(
            weights[d] * (shifted[radius - d] + shifted[radius + d]) for d in range(1, radius + 1)
        )
    return jnp.clip(image, 0, 1)


def solarize(image: Image, threshold: Scalar = 0.5) -> Image:
    """Invert bright values: x ↦ 1 - x where x ≥ threshold."""
    return jnp.where(image >= threshold, 1 - image, image)
