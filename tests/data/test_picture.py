"""Single image files: 16 bits, transparency, metadata, frames, and what libraries print."""

import logging
import struct
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from stepwise import data
from stepwise.data import picture
from stepwise.data.picture import Reading
from tests.data import samples

RNG = np.random.default_rng(0)


def load(path, **options):
    return data.load(f"folder:{path}", **options)


def one(tmp_path, name, content, **options):
    (tmp_path / name).write_bytes(content)
    return load(tmp_path, **options)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("interlaced", [False, True])
def test_twelve_bits_in_sixteen_are_refused_or_scaled_by_their_own_white(
    tmp_path, channels, interlaced
):
    values = RNG.integers(0, 4096, (13, 11, channels))
    values[0, 0] = 4095
    if channels in (2, 4):
        values[..., -1] = 65535
    content = samples.sixteen_bits(values, interlaced=interlaced)
    match = r"a\.png: expected 8 bits per channel, .* up to 4,095; pass depth=12 \(--depth 12\) if"
    with pytest.raises(data.DataError, match=match):
        one(tmp_path, "a.png", content)
    colours = values[..., : channels - 1 + channels % 2]
    for depth in (12, 16):
        expected = np.rint(colours / (2**depth - 1) * 255)
        received = load(tmp_path, depth=depth).pixels[0]
        np.testing.assert_array_equal(received, np.broadcast_to(expected, (13, 11, 3)))
    with pytest.raises(data.DataError, match=r"expected values up to 1,023 .* received 4,095"):
        load(tmp_path, depth=10)


def test_the_opacity_of_sixteen_bits_is_scaled_too(tmp_path):
    values = np.array([[[0, 0, 0, 4095], [0, 0, 0, 0], [0, 0, 0, 2048]]])
    images = one(tmp_path, "a.png", samples.sixteen_bits(values), depth=12)
    assert images.pixels[0, 0, :, 0].tolist() == [0, 255, 127]
    values[0, 0, 3] = 65535
    images = one(tmp_path, "a.png", samples.sixteen_bits(values), depth=12)
    assert images.pixels[0, 0, :, 0].tolist() == [0, 255, 247]


def test_a_transparent_colour_of_sixteen_bits_is_compared_with_all_of_them(tmp_path):
    values = np.array([[[1000, 2000, 3000], [1001, 2001, 3001]]])
    key = samples.chunk(b"tRNS", struct.pack(">HHH", 1000, 2000, 3000))
    images = one(tmp_path, "a.png", samples.sixteen_bits(values, key), depth=16)
    assert images.pixels[0, 0].tolist() == [[255, 255, 255], [4, 8, 12]]


def test_sixteen_bits_of_a_tiff_are_scaled_if_grey_and_refused_if_coloured(tmp_path):
    grey = np.array([[0, 2048, 4095]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.tif")
    assert load(tmp_path, depth=12).pixels[0, 0, :, 0].tolist() == [0, 128, 255]
    # Pillow cannot write 16-bit colour: rewrite the header of one with 8 bits
    content = bytearray(samples.encoded(Image.new("RGB", (2, 4)), "TIFF"))
    place = content.index(struct.pack("<HHI", 258, 3, 3)) + 8
    (bits,) = struct.unpack_from("<I", content, place)
    content[bits : bits + 6] = struct.pack("<HHH", 16, 16, 16)
    (tmp_path / "a.tif").write_bytes(content + bytes(100))
    for depth in (None, 12):
        with pytest.raises(data.DataError, match=r"a\.tif: .* a TIFF file of 16 bits per channel"):
            load(tmp_path, depth=depth)


def tiff_with(image, tag, before, after):
    """Return a TIFF file in which Pillow's value of a tag is replaced."""
    content = samples.encoded(image, "TIFF")
    entry = struct.pack("<HHIH", tag, 3, 1, before)
    assert content.count(entry) == 1
    return content.replace(entry, struct.pack("<HHIH", tag, 3, 1, after))


@pytest.mark.parametrize("depth", [12, 16])
def test_sixteen_bits_of_which_zero_is_white_are_inverted(tmp_path, depth):
    top = 2**depth - 1
    image = Image.fromarray(np.array([[0, top // 3, top]], np.uint16))
    images = one(tmp_path, "a.tif", tiff_with(image, 262, 1, 0), depth=depth)
    assert images.pixels[0, 0, :, 0].tolist() == [255, 170, 0]


def test_bytes_with_a_sign_are_refused(tmp_path):
    """Pillow reads -1 as 255."""
    image = Image.fromarray(np.array([[0, 127, 255]], np.uint8))
    content = samples.encoded(image, "TIFF", tiffinfo={339: 2})
    with pytest.raises(data.DataError, match=r"a\.tif: .* received a TIFF file of signed numbers"):
        one(tmp_path, "a.tif", content)


def test_a_pgm_states_its_own_white(tmp_path):
    content = b"P5 3 1 4095\n" + struct.pack(">HHH", 0, 2048, 4095)
    assert one(tmp_path, "a.pgm", content).pixels[0, 0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("value", [8, 17, True])
def test_a_depth_is_a_number_of_bits(value):
    with pytest.raises(data.DataError, match=r"depth: expected a whole number from 9 to 16"):
        data.load("photos", depth=value)


def test_transparent_glyphs_are_put_on_white_and_the_note_says_so(tmp_path, caplog):
    for name, box in {"ring": (4, 4, 36, 36), "bar": (16, 2, 24, 38)}.items():
        glyph = samples.glyph(box)
        glyph.save(tmp_path / f"{name}_rgba.png")
        glyph.convert("LA").save(tmp_path / f"{name}_la.png")
    images = load(tmp_path)
    expected = Image.new("RGB", (40, 40), "white")
    glyph = samples.glyph((16, 2, 24, 38))
    expected.paste(glyph, mask=glyph)
    for image in images.pixels[:2]:
        np.testing.assert_array_equal(image, expected)
    assert "4 of 4 images are transparent and were put on white" in caplog.text
    assert images.notes[0] in caplog.text
    red = load(tmp_path, background="#ff0000").pixels
    assert (red[:, 0, 0] == [255, 0, 0]).all() and (red[0, 20, 20] == 0).all()
    np.testing.assert_array_equal(load(tmp_path, background=(255, 0, 0)).pixels, red)


@pytest.mark.parametrize("value", ["no colour", "", (0, 0, 300), "#ff000080"])
def test_an_invalid_background_is_refused(value):
    with pytest.raises(data.DataError, match="background: expected a colour such as 'white'"):
        data.load("photos", background=value)


@pytest.mark.parametrize(
    ("bits", "rows", "key", "expected"),
    [
        (1, b"\0\xa0", 0, [255, 9, 255, 9]),
        (2, b"\0\x1b", 1, [0, 9, 170, 255]),
        (4, b"\0\x5f\x05", 5, [9, 255, 0, 9]),
        (8, b"\0\1\2\3\4", 3, [1, 2, 9, 4]),
    ],
)
def test_a_transparent_grey_counts_at_every_depth(tmp_path, bits, rows, key, expected):
    mark = samples.chunk(b"tRNS", struct.pack(">H", key))
    content = samples.png(4, 1, bits, 0, rows, mark)
    images = one(tmp_path, "a.png", content, background=(9, 9, 9))
    assert images.pixels[0, 0, :, 0].tolist() == expected


def test_opaque_images_with_an_alpha_channel_are_unchanged_and_not_noted(tmp_path):
    image = samples.picture(0)
    image.convert("RGBA").save(tmp_path / "a.png")
    images = load(tmp_path)
    np.testing.assert_array_equal(images.pixels[0], image)
    assert images.notes == ()


BROKEN = {
    "truncated EXIF": (b"eXIf", b"\0\x08\0\x02\x01\x12\0\x03"),
    "EXIF that is none": (b"eXIf", b"nonsense"),
    "a text that expands": (b"zTXt", b"a\0\0" + samples.zlib.compress(bytes(10**8))),
    "a profile that is none": (b"iCCP", b"a\0\0nonsense"),
    "a text without end": (b"iTXt", b"a\0\1\0"),
    "an impossible resolution": (b"pHYs", b"\0"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_metadata_of_a_png_does_not_decide_over_its_pixels(tmp_path, name):
    image = samples.picture(5)
    content = samples.with_chunk(samples.encoded(image), *BROKEN[name])
    np.testing.assert_array_equal(one(tmp_path, "a.png", content).pixels[0], image)


def test_a_wrong_checksum_of_metadata_is_ignored_but_not_that_of_pixels(tmp_path):
    image = samples.picture(5)
    content = bytearray(samples.with_chunk(samples.encoded(image), b"tEXt", b"a\0b"))
    content[content.index(b"tEXt") + 8] ^= 1
    np.testing.assert_array_equal(one(tmp_path, "a.png", content).pixels[0], image)
    content[content.index(b"IDAT") + 30] ^= 1
    with pytest.raises(data.DataError, match=r"a\.png: expected an image that Pillow can read"):
        one(tmp_path, "a.png", content)


@pytest.mark.parametrize("marker", [0xE1, 0xE2, 0xED, 0xFE])
def test_metadata_of_a_jpeg_does_not_decide_over_its_pixels(tmp_path, marker):
    content = samples.encoded(samples.picture(5), "JPEG")
    starts = {0xE1: b"Exif\0\0", 0xE2: b"MPF\0", 0xED: b"Photoshop 3.0\0", 0xFE: b""}
    body = starts[marker] + b"MM\0\x2a\xff\xff\xff\xff" + bytes(range(256))
    segment = struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body
    expected = one(tmp_path, "a.jpg", content).pixels
    received = one(tmp_path, "a.jpg", content[:2] + segment + content[2:]).pixels
    np.testing.assert_array_equal(received, expected)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif", "tif lzw"])
def test_every_orientation_is_turned_as_pillow_does(tmp_path, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    suffix, *compression = kind.split()
    if compression and orientation in (0, 9):
        pytest.skip("libtiff does not write it")
    options = {"compression": "tiff_lzw"} if compression else {}
    samples.picture(1, 6, 9).save(tmp_path / f"a.{suffix}", exif=exif, **options)
    with Image.open(tmp_path / f"a.{suffix}") as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(load(tmp_path).pixels[0], expected)
    height, width = expected.shape[:2]
    assert f"1 image of {height} x {width} px" in str(data.describe(f"folder:{tmp_path}"))


def test_an_orientation_in_xmp_counts_in_a_description_too(tmp_path):
    start = b"XML:com.adobe.xmp" + bytes(5)
    chunk = start + b'<rdf:Description tiff:Orientation="6"/>'
    png = samples.with_chunk(samples.encoded(samples.picture(0, 4, 8)), b"iTXt", chunk)
    assert one(tmp_path, "a.png", png).pixels.shape[1:3] == (8, 4)
    assert set(data.describe(f"folder:{tmp_path}").sizes) == {(8, 4)}


def test_a_large_scan_is_read_and_a_limit_says_how_to_raise_it(tmp_path, monkeypatch):
    monkeypatch.delenv("STEPWISE_MAX_IMAGE_PIXELS", raising=False)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 890)
    Image.new("1", (100, 95), 1).save(tmp_path / "scan.png")
    match = (
        r"scan\.png: .* Image size \(9500 pixels\) exceeds limit of 1780 pixels; set the "
        r"environment variable STEPWISE_MAX_IMAGE_PIXELS=9500 to raise it"
    )
    with pytest.raises(data.DataError, match=match):
        load(tmp_path)
    monkeypatch.setenv("STEPWISE_MAX_IMAGE_PIXELS", "9500")
    assert (load(tmp_path).pixels == 255).all()
    monkeypatch.setenv("STEPWISE_MAX_IMAGE_PIXELS", "many")
    with pytest.raises(data.DataError, match=r"STEPWISE_MAX_IMAGE_PIXELS.*'many'"):
        load(tmp_path)
    monkeypatch.delenv("STEPWISE_MAX_IMAGE_PIXELS")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)  # up to twice that, Pillow only warns
    assert (load(tmp_path).pixels == 255).all()
    assert Image.MAX_IMAGE_PIXELS == 5000


def stack(tmp_path):
    images = [samples.picture(i) for i in range(12)]
    rest = {"save_all": True, "append_images": images[1:]}
    images[0].save(tmp_path / "stack.tif", **rest)
    images[0].save(tmp_path / "clip.webp", **rest, duration=40, lossless=True)
    return images


def test_pages_that_are_not_read_are_counted_and_can_be_read(tmp_path):
    images = stack(tmp_path)
    first = load(tmp_path)
    assert len(first) == 2
    assert "22 pages or frames beyond the first of 2 files were not read" in first.notes[0]
    every = load(tmp_path, frames="all")
    assert every.notes == ()
    np.testing.assert_array_equal(every.pixels, [np.asarray(each) for each in images] * 2)
    few = load(tmp_path, frames="all", limit=7)
    assert len(few) == 7
    with pytest.raises(data.DataError, match="frames: expected 'first' or 'all', received 'some'"):
        load(tmp_path, frames="some")


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("PNG", {"default_image": False})])
def test_animations_are_read_frame_by_frame_with_their_label(tmp_path, kind, options):
    (tmp_path / "a").mkdir()
    samples.pictures(tmp_path / "b", 1)
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(
        tmp_path / "a" / "x", kind, save_all=True, append_images=frames[1:], duration=40, **options
    )
    images = load(tmp_path, frames="all")
    assert images.labels.tolist() == [0, 0, 0, 1]
    for image, frame in zip(images.pixels, frames, strict=False):
        np.testing.assert_array_equal(image, frame)


def test_previews_and_maps_inside_a_file_are_no_pictures(tmp_path):
    # a phone's JPEG holds a gain map, and a tiled TIFF smaller copies of its page
    samples.picture(0).save(
        tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[samples.picture(1, 20, 20)]
    )
    small = samples.picture(2).resize((20, 20))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    samples.picture(2).save(tmp_path / "scan.tif", save_all=True, append_images=[small])
    images = load(tmp_path, frames="all")
    assert len(images) == 2 and load(tmp_path).notes == ()


def test_the_preview_of_a_camera_raw_file_is_not_read_as_its_picture(tmp_path):
    samples.picture(0).save(tmp_path / "a.png")
    thumbnail = samples.encoded(samples.picture(1), "TIFF", tiffinfo={254: 1, 330: 8})
    images = one(tmp_path, "b.nef", thumbnail)
    assert len(images) == 1 and "no image that Pillow can read (1 .nef)" in images.notes[0]
    with pytest.raises(data.DataError, match=r"b\.tif: .* preview of a camera raw file"):
        one(tmp_path, "b.tif", thumbnail)


def test_a_file_cut_short_is_refused_whatever_the_process_told_pillow(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    content = samples.encoded(samples.picture(0), "JPEG")
    with pytest.raises(data.DataError, match=r"a\.jpg: .* an error: Truncated"):
        one(tmp_path, "a.jpg", content[: len(content) // 2])
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_postscript_file_is_not_run(tmp_path):
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\nshowpage\n"
    with pytest.raises(data.DataError, match=r"a\.png: .* it is no image"):
        one(tmp_path, "a.png", content)


def test_libraries_print_nothing_about_a_damaged_file(tmp_path, capfd, caplog):
    content = bytearray(samples.encoded(samples.picture(0), "TIFF"))
    place = content.index(struct.pack("<HHI", 277, 3, 1)) + 8
    content[place : place + 2] = struct.pack("<H", 60000)  # samples per pixel
    packed = bytearray(samples.encoded(samples.picture(0), "TIFF", compression="tiff_lzw"))
    packed[20:60] = RNG.bytes(40)
    for name, damaged in {"a.tif": content, "b.tif": packed}.items():
        (tmp_path / name).write_bytes(damaged)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(data.DataError, match=r"2 damaged files of 2: a\.tif: .*; b\.tif: "):
            load(tmp_path)
    assert capfd.readouterr() == ("", "") and not caplog.records
    assert not logging.getLogger("PIL").handlers and logging.getLogger("PIL").propagate


KINDS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "AVIF", "PPM")
WHOLE = [samples.encoded(samples.picture(0, 12, 12), kind) for kind in KINDS]
WHOLE += [samples.encoded(samples.picture(0, 12, 12), "TIFF", compression="tiff_lzw")]
WHOLE += [samples.sixteen_bits(RNG.integers(0, 65536, (5, 5, n))) for n in (1, 2, 3, 4)]


@given(
    content=st.sampled_from(WHOLE),
    edits=st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), min_size=1, max_size=6),
    end=st.none() | st.integers(0, 2000),
)
def test_a_damaged_file_is_read_or_refused_by_name(tmp_path_factory, content, edits, end):
    damaged = bytearray(content)
    for place, value in edits:
        damaged[place % len(damaged)] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(damaged[:end])
    for depth in (None, 12):
        try:
            pixels = picture.decode(path, Reading(depth=depth)).pixels
        except data.DataError as error:
            assert str(error).startswith(f"{path}: expected") and str(error).isprintable()
        else:
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    picture.opening.is_image(path)
