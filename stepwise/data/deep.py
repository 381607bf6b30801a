"""Images of 16 bits per channel, scaled to 8 bits.

Pillow reduces some of them by leaving out the lower byte, so that values that use 12 of the 16 bits
become 16 grey levels.
"""

import io
import struct
import zlib
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from stepwise.data.images import DataError

DEEP_MODES = ("I", "F")
"""First letters of the Pillow modes with more than 8 bits per channel."""


SCALED = ("PPM", "JPEG2000")
"""Formats whose files state their largest value or number of bits."""


BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
"""Tags of a TIFF file: bits per channel, the meaning of 0, and the kind of numbers."""


class DepthError(DataError):
    """An image of more than 8 bits per channel whose white is not known."""


def describe(image: Image.Image) -> str:
    """Say how an image has more than 8 bits per channel, or negative numbers; empty for 8 bits."""
    if image.mode.startswith(DEEP_MODES):
        return f"Pillow mode {image.mode!r}"
    if image.format == "PNG" and str(rawmode(image)).endswith(";16B"):
        return "a PNG file of 16 bits per channel"
    if image.format == "TIFF":
        bits = max(np.ravel(_tag(image, BITS, 8)).tolist())
        if (np.ravel(_tag(image, SAMPLE_FORMAT, 1)) == 2).any():
            return "a TIFF file of signed numbers"
        return f"a TIFF file of {bits} bits per channel" if bits > 8 else ""
    return ""


def decode(image: Image.Image, kind: str, depth: int | None) -> UInt8[np.ndarray, "h w _"]:
    """Return RGB or RGBA, in which the value 2^depth − 1 is 255.

    PGM and JPEG 2000 files state their own largest value, and need no depth.

    Raises:
        DepthError: if the depth is not passed, or a value exceeds it.
    """
    values = _values(image, kind)
    colours, alpha = values[..., :-1], values[..., -1:]
    if image.format in SCALED:
        depth = 16  # to which Pillow has scaled the values
    largest = int(colours.max())
    if depth is None:
        raise DepthError(
            f"expected 8 bits per channel, received {kind} with values up to {largest:,}; pass "
            f"{_suggest(largest)}"
        )
    top = 2**depth - 1
    if largest > top:
        raise DepthError(
            f"expected values up to {top:,} (depth = {depth}), received {largest:,}; pass "
            f"{_suggest(largest)}"
        )
    if image.format == "TIFF" and _tag(image, PHOTOMETRIC, 1) == 0:  # 0 is white
        colours = top - colours
    # the opacity of an image with fewer bits may use all 16
    opaque = top if alpha.max() <= top else 65535
    scaled = [np.rint(colours * (255 / top)), np.rint(alpha * (255 / opaque))]
    if colours.shape[2] == 1:
        scaled[0] = np.repeat(scaled[0], 3, axis=2)
    return np.concatenate(scaled, axis=2).astype(np.uint8)


def _tag(image: Any, number: int, default: int) -> Any:
    """Return the value of a TIFF file's tag."""
    return image.tag_v2.get(number, default)


def _suggest(largest: int) -> str:
    fits = [bits for bits in (10, 12, 14, 16) if largest < 2**bits]
    choices = [f"depth={bits} (--depth {bits}) if {2**bits - 1:,} is white" for bits in fits[:1]]
    if fits[0] < 16:
        choices.append("depth=16 (--depth 16) if 65,535 is")
    return ", or ".join(choices)


def _values(image: Image.Image, kind: str) -> Any:
    """Return the values with their opacity as the last channel [h, w, 2 or 4]."""
    key = image.info.get("transparency")
    if image.mode == "F" or (image.format == "TIFF" and not image.mode.startswith(DEEP_MODES)):
        raise DepthError(
            f"expected 8 bits per channel, received {kind}; convert it to a PNG file of 8 or 16 "
            "bits per channel"
        )
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)[..., None]
        if values.min() < 0 or values.max() > 65535:
            raise DepthError(
                f"expected values from 0 to 65,535, received {kind} with "
                f"{values.min():,} to {values.max():,}; convert it to 8 bits per channel"
            )
    elif rawmode(image) == "LA;16B":
        return _grey_with_alpha(image, kind)
    else:
        values = _colours(image, kind)
        if values.shape[2] == 4:
            return values
    opaque = np.full((*values.shape[:2], 1), 65535)
    if key is not None:
        opaque[(values == np.ravel(key)).all(axis=2)] = 0
    return np.concatenate([values, opaque], axis=2)


def rawmode(image: Image.Image) -> Any:
    """Return how the pixels are stored, in Pillow's words, before they are decoded."""
    tiles = getattr(image, "tile", [])
    return tiles[0][3] if tiles else ""


def _colours(image: Image.Image, kind: str) -> Any:
    """Decode a PNG twice, once for the upper bytes and once for the lower bytes."""
    content = _content(image, kind)
    planes = []
    for order in ("16B", "16L"):  # read as little-endian, the lower byte is the upper one
        with Image.open(io.BytesIO(content), formats=["PNG"]) as copy:
            tile: Any = copy.tile[0]
            copy.tile = [_as_tile(tile, (*tile[:3], tile[3].replace("16B", order)))]
            planes.append(np.asarray(copy).astype(np.int64))
    return 256 * planes[0] + planes[1]


def _as_tile(old: Any, new: tuple[Any, ...]) -> Any:
    """Return a tile of the type that this version of Pillow uses."""
    return type(old)(*new) if hasattr(old, "_fields") else new


def _grey_with_alpha(image: Image.Image, kind: str) -> Any:
    """Decode a PNG's two channels of 16 bits as four channels of 8 bits, which have the same bytes.

    Pillow has no mode for the two channels.
    """
    content = bytearray(_content(image, kind))
    content[24:26] = 8, 6  # bits per channel, and the colour type RGBA
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    with Image.open(io.BytesIO(bytes(content)), formats=["PNG"]) as copy:
        split = np.asarray(copy).astype(np.int64)
    return 256 * split[..., 0::2] + split[..., 1::2]


def _content(image: Image.Image, kind: str) -> bytes:
    """Return the bytes of the file of an image that is not decoded yet."""
    if image.tell() > 0:
        raise DepthError(
            f"expected 8 bits per channel in a file of several frames, received {kind}; convert it"
        )
    stream: Any = image.fp  # type: ignore[attr-defined]
    place = stream.tell()
    stream.seek(0)
    content: bytes = stream.read()
    stream.seek(place)
    return content
