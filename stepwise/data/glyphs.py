"""Characters of the DejaVu fonts, each with its Unicode name: images with captions, no download."""

import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from stepwise.data.images import Images, require, require_split, subset

FACES = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono")
"""Faces in which the characters are drawn, where they have them; matplotlib carries all of them."""
TEST = 5
"""Every TEST-th character, of those with different pictures, belongs to the split test."""
LOOK = 32
"""Side of the pictures by which characters count as equal."""
CATEGORIES = {
    "Lu": "uppercase letter",
    "Ll": "lowercase letter",
    "Lt": "titlecase letter",
    "Lm": "modifier letter",
    "Lo": "other letter",
    "Mn": "nonspacing mark",
    "Mc": "spacing mark",
    "Me": "enclosing mark",
    "Nd": "decimal digit",
    "Nl": "letter number",
    "No": "other number",
    "Pc": "connector",
    "Pd": "dash",
    "Ps": "open punctuation",
    "Pe": "close punctuation",
    "Pi": "initial quote",
    "Pf": "final quote",
    "Po": "other punctuation",
    "Sm": "mathematical symbol",
    "Sc": "currency symbol",
    "Sk": "modifier symbol",
    "So": "other symbol",
}
"""Unicode's general categories of visible characters, which are the classes."""
SIZE = 0.75
"""Size of the font in units of the image's side."""


def load(
    split: str, limit: int | None, size: int | None, seed: int, faces: Sequence[str] = FACES
) -> Images:
    """Draw every visible, named character of DejaVu Sans in each of the faces that has it.

    Images are white on black, [n, size, size, 1], by default of 32 px, sorted by code point and
    face. Their captions are the Unicode names in lower case, such as "greek small letter alpha",
    and their labels the general category. Characters whose picture is blank are left out. The split
    test has every fifth character, in all of its faces. Characters that look the same in a face at
    32 px, such as Latin A, Greek Alpha and Cyrillic A, are in one split.

    Pillow draws with its own layout engine, so the pictures depend on its version alone. Which
    characters have a name depends on the version of Python.
    """
    require_split("glyphs", split, ("train", "test"))
    require(len(faces) > 0, "faces", f"some of {', '.join(FACES)}", "none")
    for face in faces:
        require(face in FACES, "faces", f"some of {', '.join(FACES)}", repr(face))
    size = size or 32
    drawn = [
        (code, face, picture)
        for face in map(FACES.index, faces)
        for code, picture in zip(*_drawn(face, size), strict=True)
    ]
    held = held_out()
    drawn = [each for each in drawn if (each[0] in held) == (split == "test")]
    drawn.sort(key=lambda each: each[:2])
    kept = subset(len(drawn), limit, seed)
    chosen = [drawn[i] for i in kept]
    kinds = [unicodedata.category(chr(code)) for code, _, _ in chosen]
    known = [kind for kind in CATEGORIES if kind in kinds]
    return Images(
        np.stack([picture for *_, picture in chosen]),
        np.array([known.index(kind) for kind in kinds], np.int32),
        tuple(CATEGORIES[kind] for kind in known),
        f"glyphs/{split}",
        captions=tuple(name(code) for code, _, _ in chosen),
    )


def pair(
    faces: Sequence[str] = ("DejaVuSans", "DejaVuSerif"), *, size: int = 32
) -> tuple[UInt8[np.ndarray, "n s s 1"], UInt8[np.ndarray, "n s s 1"], tuple[str, ...]]:
    """Draw the characters that two faces have: positive pairs without augmentation.

    Args:
        faces: two names in `FACES`.
        size: side of the images, in pixels.

    Returns:
        Images of the characters in both faces, in the order of their code points, and their names.

    Raises:
        DataError: if a face is unknown.
    """
    expected = f"two of {', '.join(FACES)}"
    require(len(faces) == 2, "faces", expected, str(len(faces)))
    for face in faces:
        require(face in FACES, "faces", expected, repr(face))
    require(size >= 1, "size", "a positive number of pixels", str(size))
    first, second = (dict(zip(*_drawn(FACES.index(face), size), strict=True)) for face in faces)
    codes = [code for code in first if code in second]
    x, x2 = (np.stack([drawn[code] for code in codes]) for drawn in (first, second))
    return x, x2, tuple(map(name, codes))


def name(code: int) -> str:
    """Return the Unicode name of a character in lower case."""
    return unicodedata.name(chr(code)).lower()


@lru_cache(maxsize=1)
def characters() -> tuple[int, ...]:
    """Return the code points of the visible, named characters of DejaVu Sans, ascending."""
    return tuple(sorted(filter(_is_visible, _codes(FACES[0]))))


@lru_cache(maxsize=1)
def held_out() -> frozenset[int]:
    """Return the code points of the split test."""
    kind = {code: code for code in characters()}

    def first(code: int) -> int:
        while kind[code] != code:
            code = kind[code]
        return code

    for face in range(len(FACES)):
        codes, pictures = _drawn(face, LOOK)
        for code, same in zip(codes, first_equal(np.stack(pictures)), strict=True):
            one, other = first(code), first(codes[same])
            kind[max(one, other)] = min(one, other)
    kinds = {code: first(code) for code in kind}
    chosen = set(sorted(set(kinds.values()))[TEST - 1 :: TEST])
    return frozenset(code for code, one in kinds.items() if one in chosen)


def _is_visible(code: int) -> bool:
    char = chr(code)
    return unicodedata.category(char) in CATEGORIES and unicodedata.name(char, "") != ""


def _codes(face: str) -> Iterable[int]:
    """Return the code points that a face has."""
    from fontTools.ttLib import TTFont  # here, because it takes a tenth of a second

    with TTFont(_path(face), lazy=True) as font:
        return list(font.getBestCmap())


def _path(face: str) -> Path:
    """Return the path of a face in matplotlib, which is not imported."""
    (folder,) = find_spec("matplotlib").submodule_search_locations  # type: ignore[union-attr, misc]
    return Path(folder) / "mpl-data" / "fonts" / "ttf" / f"{face}.ttf"


def _drawn(face: int, size: int) -> tuple[list[int], list[np.ndarray]]:
    """Return the characters that a face has and does not leave blank, and their pictures."""
    available = set(_codes(FACES[face]))
    codes = [code for code in characters() if code in available]
    pictures = draw(FACES[face], codes, size)
    shown = pictures.reshape(len(codes), -1).any(axis=1)
    return [codes[i] for i in np.flatnonzero(shown)], list(pictures[shown])


def draw(face: str, codes: Sequence[int], size: int) -> UInt8[np.ndarray, "n size size 1"]:
    """Draw characters in one face, each on a common base line in the middle of its image."""
    layout = ImageFont.Layout.BASIC
    font = ImageFont.truetype(str(_path(face)), max(1, round(SIZE * size)), layout_engine=layout)
    pictures = np.empty((len(codes), size, size, 1), np.uint8)
    for code, place in zip(codes, pictures, strict=True):
        canvas = Image.new("L", (size, size))
        middle = (size / 2, size / 2)
        ImageDraw.Draw(canvas).text(middle, chr(code), fill=255, font=font, anchor="mm")
        place[..., 0] = np.asarray(canvas)
    return pictures


def first_equal(pixels: np.ndarray) -> Int[np.ndarray, " n"]:
    """Return for each image the index of the first one with the same pixels [n].

    In retrieval, characters with equal pictures (such as Latin A, Greek Alpha and Cyrillic A) count
    as one.
    """
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(image.tobytes(), i) for i, image in enumerate(pixels)])
