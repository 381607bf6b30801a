"""One image file, decoded to RGB, and its pages or frames counted."""

import io
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageColor

from stepwise.data import deep, opening
from stepwise.data.images import DataError, printable, require

ANIMATED = ("GIF", "PNG", "WEBP", "TIFF", "AVIF")
"""Formats whose further frames are pictures of their own. Those of MPO are previews, depth or gain
maps of the first.
"""
ORIENTED = frozenset({"exif", "xmp", "XML:com.adobe.xmp"})
"""Metadata in which Pillow finds an orientation."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class Reading:
    """How image files are read; the arguments of `data.load`.

    Attributes:
        background: colour on which transparent images are put (red, green, blue).
        depth: bits that the values of images of 16 bits per channel use; None rejects such images.
        frames: "first" reads the first page or frame of a file, "all" reads all of them.
        skip_damaged: leave out damaged files.
    """

    background: tuple[int, int, int] = (255, 255, 255)
    depth: int | None = None
    frames: str = "first"
    skip_damaged: bool = False


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes:
        pixels: uint8 [h, w, 3].
        transparent: whether a pixel shows the background.
        frames: number of pages or frames in the file.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    transparent: bool
    frames: int


@dataclass(frozen=True)
class Header:
    """What an image file says of itself before it is decoded.

    Attributes:
        shape: height and width in px, turned upright.
        frames: indices of its pages or frames.
        transparent: whether it can be transparent.
        deep: how it has more than 8 bits per channel; empty for 8 bits.
    """

    shape: tuple[int, int]
    frames: tuple[int, ...]
    transparent: bool
    deep: str


def colour(value: str | tuple[int, int, int]) -> tuple[int, int, int]:
    """Return a colour's red, green and blue, from 0 to 255.

    Args:
        value: a name or code that Pillow knows, such as "white" or "#ff8000", or the three numbers.

    Raises:
        DataError: if this is no colour.
    """
    expected = "a colour such as 'white', '#808080' or (128, 128, 128)"
    try:
        numbers = ImageColor.getrgb(value) if isinstance(value, str) else tuple(value)
        fits = all(isinstance(each, int | np.integer) and 0 <= each <= 255 for each in numbers)
    except (TypeError, ValueError):
        numbers, fits = (), False
    require(fits and len(numbers) == 3, "background", expected, repr(value))
    red, green, blue = map(int, numbers)
    return red, green, blue


def read_header(path: Path) -> Header:
    """Read a file's size and kind without decoding it.

    Raises:
        DataError: if the file is no image.
    """
    return _read(path, _header)


def decode(path: Path, reading: Reading, frame: int = 0) -> Picture:
    """Decode one frame of a file to RGB, upright, on the background.

    Metadata that cannot be read is ignored.

    Raises:
        DataError: if the file is no image or is damaged.
        DepthError: if it has more than 8 bits per channel, and `reading.depth` does not fit.
    """
    return _read(path, lambda image: _picture(image, reading, frame))


def _read(path: Path, use: Callable[[Any], Result]) -> Result:
    try:
        try:
            with opening.open_image(path) as image:
                return use(image)
        except deep.DepthError:
            raise
        # For damaged files, Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error
        # and other exceptions.
        except Exception as error:
            try:
                with opening.open_image(io.BytesIO(opening.without_metadata(path))) as image:
                    return use(image)
            except deep.DepthError:
                raise
            except Exception:
                reason = opening.explain(path, error)
                raise DataError(f"{printable(path)}: {reason}") from error
    except deep.DepthError as error:
        raise deep.DepthError(f"{printable(path)}: {error}") from error


def _header(image: Image.Image) -> Header:
    _require_whole(image)
    width, height = image.size
    # Pillow turns TIFF images itself, and decodes a PNG to look for metadata behind its pixels
    known = image.format not in ("TIFF", "PNG") or not ORIENTED.isdisjoint(image.info)
    turned = known and image.format != "TIFF" and _orientation(image) in (5, 6, 7, 8)
    return Header(
        (width, height) if turned else (height, width),
        tuple(_frames(image)),
        image.has_transparency_data,
        deep.describe(image),
    )


def _picture(image: Image.Image, reading: Reading, frame: int) -> Picture:
    count = len(_frames(image))
    if frame:
        image.seek(frame)
    _require_whole(image)
    kind = deep.describe(image)
    with opening.silent_stderr(image):
        pixels = deep.decode(image, kind, reading.depth) if kind else _eight_bits(image)
        turn = _orientation(image)
    pixels = _turn(pixels, turn)
    if pixels.shape[2] == 3:
        return Picture(pixels, False, count)
    alpha = pixels[..., 3:]
    if (alpha == 255).all():
        return Picture(pixels[..., :3], False, count)
    weight = alpha.astype(np.uint32)
    ground = np.array(reading.background, np.uint32)
    mixed = (pixels[..., :3] * weight + ground * (255 - weight) + 127) // 255
    return Picture(mixed.astype(np.uint8), True, count)


def _eight_bits(image: Image.Image) -> UInt8[np.ndarray, "h w _"]:
    """Return RGB, or RGBA if the image has transparency."""
    scale = {"L;2": 85, "L;4": 17}.get(str(deep.rawmode(image)), 1)
    image.load()
    if isinstance(image.info.get("transparency"), int):
        image.info["transparency"] *= scale  # Pillow scales the pixels to 8 bits, but not the key
    picture = image
    for mode, straight in (("La", "LA"), ("RGBa", "RGBA")):
        if picture.mode == mode:
            picture = picture.convert(straight)
    # Converted through RGBA, because Pillow warns about palettes with transparency.
    return np.asarray(picture.convert("RGBA" if picture.has_transparency_data else "RGB"))


def _require_whole(image: Any) -> None:
    """Raise ValueError for the preview of a camera raw file, which keeps its picture elsewhere."""
    if _is_reduced(image) and 330 in image.tag_v2:
        raise ValueError("it holds a preview of a camera raw file, which Pillow cannot read")


def _frames(image: Image.Image) -> list[int]:
    """Return the indices of the pages or frames that are pictures of their own."""
    indices = [0]
    if image.format not in ANIMATED:
        return indices
    # what follows the first frame may be damaged
    with suppress(Exception):
        if not getattr(image, "is_animated", False):
            return indices
        for index in range(1, getattr(image, "n_frames", 1)):
            if image.format == "TIFF":
                image.seek(index)
            if not _is_reduced(image):
                indices.append(index)
    image.seek(0)
    return indices


def _is_reduced(image: Any) -> bool:
    """Return whether a page of a TIFF file is a smaller copy of another page."""
    return image.format == "TIFF" and bool(image.tag_v2.get(254, 0) & 1)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if there is none that can be read."""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) else 1


def _turn(pixels: UInt8[np.ndarray, "h w c"], turn: int) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Turn an image upright by its EXIF orientation."""
    if turn in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
