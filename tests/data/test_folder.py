import numpy as np
import pytest
from PIL import Image

from stepwise import data

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
    np.testing.assert_array_equal(
        load(tmp_path).pixels[0], np.broadcast_to(pixels[..., :3], (6, 8, 3))
    )


def test_a_palette_with_transparency_becomes_rgb_without_a_warning(tmp_path):
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    assert load(tmp_path).pixels[0].tolist() == [[[10, 20, 30], [40, 50, 60]]]


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


@pytest.mark.parametrize("most", [20, 47])
def test_an_image_of_too_many_pixels_is_refused(tmp_path, monkeypatch, most):
    # By default Pillow only warns about an image of up to twice the limit.
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
        match="absent: expected a folder of images, received a path with no folder",
    ):
        load(tmp_path / "absent")
