import re
import zipfile

import numpy as np
import pytest
from PIL import Image

from stepwise import data
from tests.data.samples import encoded, pictures
from tests.data.samples import picture as smooth

RNG = np.random.default_rng(0)


def picture(path, height=6, width=8, *, mode="RGB", **options):
    """Write a random picture in a lossless format and return its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (height, width, len(mode)), np.uint8)
    Image.fromarray(pixels.squeeze()).save(path, **options)
    return pixels


def load(path, **options):
    return data.load(f"folder:{path}", **options)


def test_a_sub_folder_is_a_class_at_any_depth_and_files_are_sorted_by_path(
    tmp_path,
):
    b = picture(tmp_path / "n02" / "images" / "z.png")
    c = picture(tmp_path / "n10" / "0.PNG")
    a = picture(tmp_path / "n02" / "a.bmp")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "list.txt").write_text("a folder without images is no class")
    images = load(tmp_path)
    np.testing.assert_array_equal(images.pixels, [a, b, c])
    assert images.labels.tolist() == [0, 0, 1] and images.class_names == ("n02", "n10")


def test_a_flat_folder_has_no_labels_and_other_files_are_ignored(tmp_path):
    only = picture(tmp_path / "a.png")
    for name in (".DS_Store", "._a.png", "readme.txt", "LICENSE"):
        (tmp_path / name).write_bytes(b"no image")
    images = load(tmp_path)
    np.testing.assert_array_equal(images.pixels, [only])
    assert images.labels is None and images.class_names == ()


def test_splits_are_chosen_by_name_and_a_missing_one_is_refused(tmp_path):
    train, val = (
        picture(tmp_path / "train" / "cat" / "a.png"),
        picture(tmp_path / "val" / "cat" / "a.png"),
    )
    np.testing.assert_array_equal(load(tmp_path).pixels, [train])
    np.testing.assert_array_equal(load(tmp_path, split="val").pixels, [val])
    with pytest.raises(
        data.MissingDataError, match=r"sub-folder 'test', received the splits \['train', 'val'\]"
    ):
        load(tmp_path, split="test")


def test_a_folder_called_train_beside_other_classes_is_a_class(tmp_path):
    for name in ("car", "train"):
        picture(tmp_path / name / "a.png")
    assert load(tmp_path).class_names == ("car", "train")
    with pytest.raises(
        data.MissingDataError, match="sub-folder 'val', received a folder without splits"
    ):
        load(tmp_path, split="val")


def test_only_the_images_of_the_subset_are_decoded(tmp_path):
    for name in "abcdefgh":
        picture(tmp_path / f"{name}.png")
    chosen = load(tmp_path, limit=3).pixels
    for file in tmp_path.iterdir():
        if not any((np.asarray(Image.open(file)) == image).all() for image in chosen):
            file.write_bytes(b"damaged")
    np.testing.assert_array_equal(load(tmp_path, limit=3).pixels, chosen)


def test_an_image_is_turned_upright_by_its_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer turns the image clockwise by 90 degrees
    pixels = picture(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(load(tmp_path).pixels[0], np.rot90(pixels, -1))


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_grey_and_transparent_images_become_rgb(tmp_path, mode):
    pixels = picture(tmp_path / "a.png", mode=mode)
    opacity = pixels[..., 3:] / 255 if mode == "RGBA" else 1
    expected = np.rint(pixels[..., :3] * opacity + 255 * (1 - opacity))
    np.testing.assert_array_equal(load(tmp_path).pixels[0], np.broadcast_to(expected, (6, 8, 3)))


def test_a_palette_with_transparency_becomes_rgb_without_a_warning(tmp_path):
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    assert load(tmp_path).pixels[0].tolist() == [[[255, 255, 255], [147, 152, 157]]]


def test_images_of_more_than_eight_bits_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(
        data.DataError, match=r"deep\.png: expected 8 bits per channel, received Pillow mode 'I;16'"
    ):
        load(tmp_path)


def test_mixed_sizes_are_refused_by_both_names_unless_a_size_is_given(tmp_path):
    picture(tmp_path / "a.png", 6, 8)
    picture(tmp_path / "b.png", 6, 7)
    with pytest.raises(
        data.DataError,
        match=r"b\.png: expected 8 x 6 px like .*a\.png, .*`size`.* received 7 x 6 px",
    ):
        load(tmp_path)
    assert load(tmp_path, size=5).pixels.shape == (2, 5, 5, 3)


def test_images_beside_class_folders_are_refused(tmp_path):
    picture(tmp_path / "cat" / "a.png")
    picture(tmp_path / "b.png")
    with pytest.raises(
        data.DataError,
        match=r"all images in sub-folders or none, received .*b\.png and .*cat/a\.png",
    ):
        load(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "tif", "bmp", "ppm"])
def test_a_file_that_is_no_image_or_cut_short_is_refused_by_name(tmp_path, suffix):
    file = tmp_path / f"a.{suffix}"
    match = rf"a\.{suffix}: expected an image that Pillow can read, received an error"
    picture(file, 40, 40)
    whole = file.read_bytes()
    for content in (b"no image at all", b"", whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(data.DataError, match=match):
            load(tmp_path)


@pytest.mark.parametrize("most", [20, 23])
def test_an_image_of_too_many_pixels_is_refused(tmp_path, monkeypatch, most):
    # Pillow's error is at twice the limit.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
    picture(tmp_path / "a.png")
    with pytest.raises(
        data.DataError,
        match=r"a\.png: .* received an error: Image size \(48 pixels\) exceeds limit",
    ):
        load(tmp_path)


def test_a_folder_that_is_empty_or_absent_is_missing_data(tmp_path):
    with pytest.raises(
        data.MissingDataError, match=r"expected at least one image \(\.bmp .*\), received none"
    ):
        load(tmp_path)
    with pytest.raises(
        data.MissingDataError,
        match="absent: expected a folder of images, received a path that does not exist",
    ):
        load(tmp_path / "absent")


def damage(folder):
    """Damage three of six files, each in another way."""
    pictures(folder, 6, suffix="jpg")
    whole = (folder / "im001.jpg").read_bytes()
    (folder / "im001.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "im003.jpg").write_bytes(b"")
    (folder / "im005.jpg").write_text("<html>404 not found</html>")
    return folder


def test_all_damaged_files_are_in_one_message_and_can_be_skipped(tmp_path):
    damage(tmp_path)
    match = (
        r"expected images that Pillow can read, received 3 damaged files of 6: im001\.jpg: .*; "
        r"im003\.jpg: the file is empty; im005\.jpg: it is no image; pass skip_damaged=True "
        r"\(--skip-damaged\) to leave damaged files out$"
    )
    with pytest.raises(data.DataError, match=match):
        load(tmp_path)
    with pytest.raises(data.DataError, match=match):
        load(tmp_path, frames="all")
    images = load(tmp_path, skip_damaged=True)
    assert len(images) == 3 and images.notes == ("left out: 3 damaged files",)
    np.testing.assert_array_equal(
        load(tmp_path, skip_damaged=True, frames="all").pixels, images.pixels
    )


def test_a_long_list_of_damaged_files_ends_with_their_number(tmp_path):
    for i in range(25):
        (tmp_path / f"{i:02d}.png").write_bytes(b"")
    with pytest.raises(
        data.DataError, match=r"25 damaged files of 25: 00\.png.*; and 15 more; "
    ) as error:
        load(tmp_path)
    assert str(error.value).count(".png") == 10
    with pytest.raises(data.DataError, match="25 damaged files of 25"):
        load(tmp_path, skip_damaged=True)


def test_undamaged_files_fill_a_limit_and_smaller_limits_stay_parts_of_larger(tmp_path):
    pictures(tmp_path / "a", 20)
    whole = load(tmp_path).pixels
    bad = [2, 3, 5, 7, 11, 13]
    for i in bad:
        (tmp_path / "a" / f"im{i:03d}.png").write_bytes(b"")
    good = np.delete(whole, bad, axis=0)
    np.testing.assert_array_equal(load(tmp_path, skip_damaged=True).pixels, good)
    chosen = set()
    for limit in range(1, 15):
        images = load(tmp_path, skip_damaged=True, limit=limit, seed=4)
        rows = [np.flatnonzero((good == image).all((1, 2, 3)))[0] for image in images.pixels]
        assert (np.diff(rows) > 0).all() and len(rows) == limit and chosen <= set(rows)
        assert images.labels.shape == (limit,)
        chosen = set(rows)


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    (tmp_path / "a.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(data.DataError, match=r"a\.png: .* a pointer of Git LFS; run: git lfs pull"):
        load(tmp_path)


def test_images_are_recognised_by_content_and_what_is_left_out_is_counted(tmp_path, caplog):
    pictures(tmp_path, 3, suffix="jpg")
    for i in range(20):
        (tmp_path / f"IMG_{i:04d}.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    for i in range(5):
        smooth(i).save(tmp_path / f"web{i}.jfif", "JPEG")
        smooth(i).save(tmp_path / f"{i:032x}", "PNG")
    smooth(9).save(tmp_path / "a.txt", "WEBP")
    (tmp_path / "notes.txt").write_text("BMW")
    (tmp_path / "LICENSE").write_text("P1 is the first page")
    images = load(tmp_path)
    assert len(images) == 14
    expected = (
        "left out: no image that Pillow can read (20 .heic), "
        "files without suffix that are no images (1)"
    )
    assert images.notes == (expected,) and expected in caplog.text


def test_an_unknown_suffix_with_the_start_of_an_image_is_damaged(tmp_path):
    smooth(0).save(tmp_path / "a.png")
    (tmp_path / "b").write_bytes(encoded(smooth(1))[:20])
    with pytest.raises(data.DataError, match=r"/b: expected an image that Pillow can read"):
        load(tmp_path)


@pytest.mark.parametrize(
    "kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF", "QOI", "ICO", "PPM"]
)
def test_every_format_is_recognised_without_a_suffix(tmp_path, kind):
    (tmp_path / "0123abcd").write_bytes(encoded(smooth(0), kind))
    assert len(load(tmp_path, size=32)) == 1


def test_a_description_decodes_nothing_and_ends_with_what_is_read_and_skipped(
    tmp_path, monkeypatch
):
    pictures(tmp_path / "cats", 3)
    smooth(8, 30, 20).convert("RGBA").save(tmp_path / "cats" / "z.png")
    pictures(tmp_path / "dogs", 2, 5)
    (tmp_path / "dogs" / "a.heic").write_bytes(b"none")
    (tmp_path / "dogs" / ".hidden").write_bytes(b"none")
    monkeypatch.setattr(Image.Image, "convert", None)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    lines = str(data.describe(f"folder:{tmp_path}")).splitlines()
    assert lines == [
        f"folder:{tmp_path}",
        "6 images of 2 sizes from 30 x 20 to 40 x 40 px (height x width), 3 channels",
        "2 classes: cats 4, dogs 2",
        "1 image with transparency, which is put on a background (--background)",
        "6 read, 2 skipped: no image that Pillow can read (1 .heic), hidden (1)",
    ]
    assert "6 images of 8 x 8 px" in str(data.describe(f"folder:{tmp_path}", size=8))


def test_a_description_counts_frames_and_names_damaged_files(tmp_path):
    frames = [smooth(i) for i in range(4)]
    pictures(tmp_path, 1)
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    text = str(data.describe(f"folder:{tmp_path}"))
    assert "3 further pages or frames not read; --frames all reads them" in text
    assert data.describe(f"folder:{tmp_path}", frames="all").count == 5
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(data.DataError, match=r"b\.png: .* the file is empty"):
        data.describe(f"folder:{tmp_path}")
    description = data.describe(f"folder:{tmp_path}", skip_damaged=True)
    assert str(description).endswith("\n2 read, 1 skipped: damaged (1)")


def test_a_path_that_is_a_file_is_refused_with_the_line_that_works(tmp_path):
    smooth(0).save(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "my set.zip", "w") as archive:
        archive.write(tmp_path / "a.png", "a.png")
    np.savez(tmp_path / "a.npz", pixels=np.zeros((1, 2, 2, 3), np.uint8))
    for name, line in {
        "a.png": f"pass the folder that holds it, folder:{tmp_path}",
        "my set.zip": f"run `unzip '{tmp_path}/my set.zip' -d '{tmp_path}/my set'`",
        "a.npz": f"pass npz:{tmp_path}/a.npz",
    }.items():
        with pytest.raises(data.DataError, match=re.escape(line)):
            load(tmp_path / name)
