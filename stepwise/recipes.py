"""Recipes: which augmentations make the views of an image, by name.

A `Recipe` holds two `View`s. A `View` holds the operations of `stepwise.augment`, with their
probabilities and strengths, in the order in which they are applied. `RECIPES` maps names to the
recipes of published methods. `stepwise.views` draws the views, and has all of these names too.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from stepwise import augment
from stepwise._check import require

# Strengths may be whole numbers, and beartype does not accept an int where `float` is annotated.
Number = int | float


def _require_probability(name: str, value: Number) -> None:
    require(0 <= value <= 1, name, "a probability in [0, 1]", value)


def _require_range(name: str, value: tuple[Number, Number], most: Number = math.inf) -> None:
    pair = isinstance(value, tuple) and len(value) == 2
    ordered = pair and 0 < value[0] <= value[1] <= most and value[1] < math.inf
    require(
        ordered,
        name,
        f"a pair with 0 < low <= high{'' if most == math.inf else f' <= {most}'}",
        repr(value),
    )


@dataclass(frozen=True)
class Crop:
    """A crop of `side` x `side` pixels at a uniformly random position, without resizing."""

    side: int

    def __post_init__(self) -> None:
        require(self.side >= 1, "side", "at least 1 pixel", self.side)


@dataclass(frozen=True)
class ResizedCrop:
    """A box of random area and aspect ratio, resized to `size` x `size` pixels.

    Attributes:
        scale: bounds of the box's area as a fraction of the image's; the area is uniform.
        ratio: bounds of the aspect ratio width/height, which is log-uniform.
        size: side of the result in pixels, or None to keep the input's height and width. A fraction
            below 1 is one of the input's smaller side, rounded to a multiple of 8 pixels.
        interpolation: "bilinear" or "bicubic", both antialiased.
    """

    scale: tuple[Number, Number] = (0.08, 1.0)
    ratio: tuple[Number, Number] = (3 / 4, 4 / 3)
    size: Number | None = None
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        _require_range("scale", self.scale, most=1)
        _require_range("ratio", self.ratio)
        pixels = self.size is None or 0 < self.size < 1 or self.size == int(self.size) >= 1
        expected = "a number of pixels, a fraction below 1, or None"
        require(pixels, "size", expected, self.size)
        known = augment.INTERPOLATIONS
        require(
            self.interpolation in known,
            "interpolation",
            f"one of {known}",
            repr(self.interpolation),
        )


@dataclass(frozen=True)
class Jitter:
    """Random changes of brightness, contrast, saturation and hue, in random order.

    For a strength s, the factors of the first three are U[max(0, 1 - s), 1 + s], and the hue shift
    is U[-s, s] turns.
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
    """A Gaussian blur with standard deviation U(sigma) pixels.

    kernel=None chooses an odd width of about a tenth of the image's side.
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
        """Return the kernel's width for an image: 3 at 32 pixels, 9 at 96 and 23 at 224."""
        return min(height, width) // 20 * 2 + 1 if self.kernel is None else self.kernel


@dataclass(frozen=True)
class Solarize:
    """Inversion of all values of at least `threshold`."""

    probability: Number
    threshold: Number = 0.5

    def __post_init__(self) -> None:
        require(0 <= self.threshold <= 1, "threshold", "a value in [0, 1]", self.threshold)
        _require_probability("probability", self.probability)


@dataclass(frozen=True)
class View:
    """The operations of one random view, applied in the order of the fields.

    `flip` and `grayscale` are probabilities.
    """

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
        """Return the height and width of the view of a `height` x `width` image."""
        if isinstance(self.crop, Crop):
            return self.crop.side, self.crop.side
        if self.crop is None or self.crop.size is None:
            return height, width
        side = int(self.crop.size)
        if self.crop.size < 1:
            side = max(8, 8 * round(self.crop.size * min(height, width) / 8))
        return side, side


@dataclass(frozen=True)
class Recipe:
    """The two views of a positive pair, drawn independently."""

    first: View
    second: View


@dataclass(frozen=True)
class MultiCrop(Recipe):
    """A positive pair of global views, and smaller local crops beside it (Caron et al. 2020).

    In training only the online network sees the local crops. A loss such as `losses.dino` compares
    each of them with the target network's outputs of both global views.

    Attributes:
        local: the view of a local crop.
        count: number of local crops of each image.
    """

    local: View
    count: int = 8

    def __post_init__(self) -> None:
        require(self.count >= 1, "count", "at least one local crop", self.count)


def crops(side: int) -> Recipe:
    """Return the recipe of the linear experiment: two random crops of `side` x `side` pixels."""
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

    def with_local(globals_: Recipe) -> MultiCrop:
        # 96 pixels beside global views of 224
        crop = ResizedCrop((0.05, 0.4), size=3 / 7, interpolation="bicubic")
        local = replace(globals_.first, crop=crop, blur=Blur(0.5))
        return MultiCrop(globals_.first, globals_.second, local)

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
        "dino_multicrop": with_local(uneven(0.4)),
        "clip": twice(View(ResizedCrop((0.9, 1.0), interpolation="bicubic"))),
    }


RECIPES: Mapping[str, Recipe] = MappingProxyType(_recipes())
"""Augmentation recipes by name.

Names that end in _cifar are for 32 px images; "dino" consists of DINO's two global views, and
"dino_multicrop" has eight local crops beside them, 3/7 as large. "crop20"
is the recipe of the linear experiment, and "small" (crops, flip, brightness, grey) that of this
project's small networks.
"""
