"""Image files opened by Pillow: recognised by content, and without metadata that is damaged."""

import io
import logging
import os
import struct
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import Image, ImageFile, UnidentifiedImageError

from stepwise.data.images import printable, require

SUFFIXES = frozenset({
    ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm",
    ".tif", ".tiff", ".webp",
})  # fmt: skip
"""Suffixes that promise an image: a file with one of them that is no image is damaged."""
FORMATS = (
    "PNG",
    "JPEG",
    "WEBP",
    "GIF",
    "BMP",
    "TIFF",
    "JPEG2000",
    "AVIF",
    "HEIF",
    "JXL",
    "QOI",
    "PSD",
    "ICO",
    "ICNS",
    "SUN",
    "PPM",
)
"""Formats of images whose first bytes are distinct enough to recognise them without a suffix. EPS
is not among them, because Pillow runs another program to read it.
"""
BY_SUFFIX = {".tga": "TGA", ".pcx": "PCX", ".xbm": "XBM", ".xpm": "XPM", ".dib": "DIB"}
"""Formats whose first bytes occur in other files too."""
RAW = frozenset({
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos",
    ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw",
    ".x3f",
})  # fmt: skip
"""Suffixes of camera raw files, of which Pillow reads the preview at most."""
SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a")
"""First bytes of images that no other file has, even if what follows is damaged."""
LIMIT = "STEPWISE_MAX_IMAGE_PIXELS"
"""Environment variable that replaces Pillow's limit on the number of pixels of an image."""


def is_image(path: Path) -> bool:
    """Return whether a file is an image that can be read, or claims to be one."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return True
    if suffix in RAW:
        return False
    try:
        with open_image(path):
            return True
    except Image.DecompressionBombError:
        return True
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            return True  # it cannot be opened, which reading it will report
        with path.open("rb") as file:
            return file.read(8).startswith(SIGNATURES)


def explain(path: Path, error: Exception) -> str:
    """Say why a file cannot be read."""
    expected = "expected an image that Pillow can read, received"
    if isinstance(error, Image.DecompressionBombError):
        pixels = "".join(filter(str.isdigit, str(error).partition("(")[2].partition(")")[0]))
        return (
            f"{expected} an error: {str(error).partition(', ')[0]}; set the environment variable "
            f"{LIMIT}={pixels} to raise it"
        )
    with suppress(OSError):
        with path.open("rb") as file:
            start = file.read(200)
        if not start:
            return f"{expected} an error: the file is empty"
        if start.startswith(b"version https://git-lfs.github.com"):
            return f"{expected} an error: it is a pointer of Git LFS; run: git lfs pull"
    if isinstance(error, UnidentifiedImageError):
        return f"{expected} an error: it is no image"
    text = printable(" ".join(str(error).split())) or type(error).__name__
    return f"{expected} an error: {text}"


@contextmanager
def open_image(source: Path | io.BytesIO) -> Iterator[Image.Image]:
    """Open an image without messages of the libraries, which name no file."""
    Image.init()
    weak = BY_SUFFIX.get(source.suffix.lower()) if isinstance(source, Path) else None
    names = [name for name in (*FORMATS, weak) if name in Image.OPEN]
    with _quiet(), _limit(), _whole(), Image.open(source, formats=names) as image:
        yield image


@contextmanager
def _quiet() -> Iterator[None]:
    logger, handler = logging.getLogger("PIL"), logging.NullHandler()
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.propagate = before
        logger.removeHandler(handler)


@contextmanager
def _limit() -> Iterator[None]:
    """Replace Pillow's limit by that of the environment; Pillow's error is at twice its limit."""
    value = os.environ.get(LIMIT)
    if not value:
        yield
        return
    require(value.isdecimal() and int(value) > 0, LIMIT, "a positive whole number", repr(value))
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = -(-int(value) // 2)
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


@contextmanager
def _whole() -> Iterator[None]:
    """Reject files that are cut short, even if the process has told Pillow to fill them in grey."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


@contextmanager
def silent_stderr(image: Image.Image) -> Iterator[None]:
    """Discard what libtiff itself writes to the standard error of the process."""
    if image.format != "TIFF":
        yield
        return
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    copy = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(copy, 2)
        os.close(copy)
        os.close(null)


def without_metadata(path: Path) -> bytes:
    """Return a PNG or JPEG file without the parts that do not determine its pixels.

    Raises:
        ValueError: if it is neither.
    """
    content = path.read_bytes()
    if content.startswith(SIGNATURES[0]):
        return _png_without_metadata(content)
    if content.startswith(SIGNATURES[1]):
        return _jpeg_without_metadata(content)
    raise ValueError("neither a PNG nor a JPEG file")


def _png_without_metadata(content: bytes) -> bytes:
    needed = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"acTL", b"fcTL", b"fdAT")
    parts, start = [content[:8]], 8
    while start < len(content):
        (length,) = struct.unpack_from(">I", content, start)
        end = start + 12 + length
        if content[start + 4 : start + 8] in needed:
            parts.append(content[start:end])
        start = end
    return b"".join(parts)


def _jpeg_without_metadata(content: bytes) -> bytes:
    parts, start = [content[:2]], 2
    while content[start + 1] != 0xDA:  # until the compressed pixels
        (length,) = struct.unpack_from(">H", content, start + 2)
        marker = content[start + 1]
        # APP0 and APP14 determine the colours; the rest of APPn and comments do not
        if marker in (0xE0, 0xEE) or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            parts.append(content[start : start + 2 + length])
        start += 2 + length
    return b"".join((*parts, content[start:]))
