"""Image files and folders as people have them."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def picture(seed, height=40, width=40):
    """A smooth random picture."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def pictures(folder, count, seed=0, suffix="png"):
    """Write ordinary pictures into a folder, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        picture(1000 * seed + i).save(folder / f"im{i:03d}.{suffix}")
    return folder


def split_folder(folder, *splits, counts=(6, 3)):
    """Write cats and dogs into the folder of each split."""
    for s, (split, count) in enumerate(zip(splits, counts, strict=True)):
        for c, label in enumerate(("cats", "dogs")):
            pictures(folder / split / label, count, 10 * s + c)
    return folder


def encoded(image, kind="PNG", **options):
    """Return the bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind, content):
    """Return a PNG chunk."""
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def with_chunk(png, kind, content):
    """Return a PNG file with one more chunk before its pixels."""
    place = png.index(b"IDAT") - 4
    return png[:place] + chunk(kind, content) + png[place:]


def png(width, height, bits, colour, rows, *chunks, interlaced=False):
    """Return a PNG file of these filtered rows."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    body = (chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows)))
    return b"".join((SIGNATURE, *body, chunk(b"IEND", b"")))


def sixteen_bits(values, *chunks, interlaced=False):
    """Return a PNG of 16 bits per channel [h, w, 1 to 4], with all five filters."""
    h, w, channels = values.shape
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2)]
        passes += [(0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b"".join(_filtered(values[y::dy, x::dx]) for y, x, dy, dx in passes)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    return png(w, h, 16, colour, rows, *chunks, interlaced=interlaced)


def _filtered(values):
    h, w, channels = values.shape
    step = 2 * channels
    if w == 0:
        return b""
    rows = np.frombuffer(values.astype(">u2").tobytes(), np.uint8).reshape(h, w * step).astype(int)
    above, out = np.zeros(w * step, int), b""
    for y, row in enumerate(rows):
        left, corner = (np.r_[np.zeros(step, int), each[:-step]] for each in (row, above))
        guess = left + above - corner
        near = [abs(guess - each) for each in (left, above, corner)]
        paeth = np.select(
            [(near[0] <= near[1]) & (near[0] <= near[2]), near[1] <= near[2]], [left, above], corner
        )
        predicted = (0 * row, left, above, (left + above) // 2, paeth)[y % 5]
        out += bytes([y % 5]) + ((row - predicted) % 256).astype(np.uint8).tobytes()
        above = row
    return out


def glyph(box):
    """A black shape on a transparent ground."""
    from PIL import ImageDraw

    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse(box, fill=(0, 0, 0, 255))
    return image


def coloured_splits(folder):
    """Write a train split of three colours and a test split without the first of them."""
    rng = np.random.default_rng(0)
    colours = {"blue": (30, 40, 200), "green": (20, 180, 40), "red": (210, 30, 30)}
    for split, labels, count in (("train", tuple(colours), 20), ("test", ("green", "red"), 10)):
        for label in labels:
            place = folder / split / label
            place.mkdir(parents=True)
            for i in range(count):
                values = np.array(colours[label]) + rng.integers(-20, 20, (16, 16, 3))
                Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(place / f"{i}.png")
    return folder
