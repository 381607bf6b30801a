"""The glyphs: characters that exist, pictures that differ, and names that say what they show."""

import unicodedata

import numpy as np
import pytest

from stepwise import data
from stepwise.data import glyphs


@pytest.fixture(scope="module")
def letters():
    return data.load("glyphs", size=16)


def test_every_character_has_a_name_a_picture_and_a_category(letters):
    assert letters.pixels.shape[1:] == (16, 16, 1) and letters.pixels.dtype == np.uint8
    assert letters.pixels.reshape(len(letters), -1).any(axis=1).all()
    assert len(letters.captions) == len(letters) > 13_000
    for caption, label in list(zip(letters.captions, letters.labels, strict=True))[::97]:
        char = unicodedata.lookup(caption.upper())
        kind = glyphs.CATEGORIES[unicodedata.category(char)]
        assert letters.class_names[label] == kind
    assert {"latin capital letter a", "greek small letter alpha"} <= set(letters.captions)
    assert "space" not in letters.captions and "no-break space" not in letters.captions
    assert 5_500 < len(glyphs.characters()) < 6_500


def test_a_character_is_in_one_split_in_all_of_its_faces(letters):
    test = data.load("glyphs", split="test", size=16)
    assert not set(letters.captions) & set(test.captions)
    share = len(set(test.captions)) / len(set(test.captions) | set(letters.captions))
    assert abs(share - 0.2) < 0.02
    assert letters.captions.count("latin capital letter b") == len(glyphs.FACES)


def test_characters_that_look_the_same_are_in_one_split():
    """Latin A, Greek Alpha and Cyrillic A differ in name alone."""
    train, test = (data.load("glyphs", split=split, size=32).pixels for split in ("train", "test"))
    shown = {picture.tobytes() for picture in train}
    assert not any(picture.tobytes() in shown for picture in test)
    held = glyphs.held_out()
    assert len({code in held for code in (ord("A"), 0x0391, 0x0410)}) == 1
    for faces in ((), ("DejaVuSans",)):
        with pytest.raises(ValueError, match=r"faces: expected (some|two) of"):
            glyphs.pair(faces) if faces else glyphs.load("train", None, 8, 0, faces=faces)
    with pytest.raises(ValueError, match="size: expected a positive number of pixels, received 0"):
        glyphs.pair(size=0)


def test_a_picture_shows_its_character():
    """A bar is one column, a dash one row, and a full stop lies below an apostrophe."""
    bar, dash, stop, apostrophe = glyphs.draw("DejaVuSans", [*map(ord, "|-.'")], 32)[..., 0]
    assert (bar.max(axis=0) > 128).sum() <= 3 < (bar.max(axis=1) > 128).sum() / 6
    assert (dash.max(axis=1) > 128).sum() <= 3 < (dash.max(axis=0) > 128).sum()
    rows = [np.average(np.arange(32), weights=each.sum(axis=1)) for each in (stop, apostrophe)]
    assert rows[0] - rows[1] > 8
    left = np.average(np.arange(32), weights=bar.sum(axis=0))
    assert abs(left - 15.5) < 1


def test_a_subset_is_part_of_a_larger_one(letters):
    few, more = (data.load("glyphs", size=16, limit=count) for count in (20, 50))
    seen = {image.tobytes() for image in more.pixels}
    assert len(few) == len(few.captions) == 20
    assert all(image.tobytes() in seen for image in few.pixels)
    index = letters.captions.index(few.captions[0])
    assert letters.pixels[index].shape == few.pixels[0].shape


def test_two_faces_are_a_pair_of_views_of_the_same_characters():
    x, x2, names = glyphs.pair(("DejaVuSans", "DejaVuSans-Bold"), size=16)
    assert x.shape == x2.shape == (len(names), 16, 16, 1) and len(set(names)) == len(names)
    flat, flat2 = (view.reshape(len(view), -1) / 255.0 for view in (x, x2))
    assert flat2.mean() > 1.1 * flat.mean()  # bold has more ink
    flat, flat2 = (view - view.mean(axis=0) for view in (flat, flat2))
    agreement = (flat * flat2).sum() / (0.5 * (flat**2).sum() + 0.5 * (flat2**2).sum())
    assert agreement > 0.6
    with pytest.raises(ValueError, match=r"faces: expected two of .*, received 'Comic'"):
        glyphs.pair(("DejaVuSans", "Comic"))


def test_equal_pictures_are_the_first_of_their_kind():
    same = glyphs.draw("DejaVuSans", [ord("A"), 0x0391, ord("B"), 0x0410], 16)  # Alpha, Cyrillic A
    np.testing.assert_array_equal(glyphs.first_equal(same), [0, 0, 2, 0])
