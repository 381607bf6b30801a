"""Tables of captions beside images: every layout, and every fault by its line or file."""

import json

import numpy as np
import pytest
from PIL import Image

from stepwise import data

NAMES = ("a.png", "b.png", "sub/c.png")
TEXTS = ("a red square", "a green, large square", "blau: größer")
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for name, colour in zip(NAMES, COLOURS, strict=True):
        Image.new("RGB", (8, 8), colour).save(tmp_path / name)
    return tmp_path


def rows(separator):
    quoted = [f'"{text}"' if separator in text else text for text in TEXTS]
    return [f"{name}{separator}{text}" for name, text in zip(NAMES, quoted, strict=True)]


LAYOUTS = {
    "captions.csv": ["file,caption", *rows(",")],
    "metadata.csv": ["file_name,text", *rows(",")],
    "captions.tsv": ["image\tcaption", *rows("\t")],
    "captions.txt": rows("\t"),
    "metadata.jsonl": [
        json.dumps({"file_name": name, "text": text, "other": 1})
        for name, text in zip(NAMES, TEXTS, strict=True)
    ],
}


@pytest.mark.parametrize("table", LAYOUTS)
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_every_layout_gives_the_same_pairs(table, start, folder):
    (folder / table).write_text(start + "\n".join(LAYOUTS[table]) + "\n", encoding="utf-8")
    images = data.load(f"pairs:{folder}")
    assert images.captions == TEXTS and images.labels is None
    np.testing.assert_array_equal(images.pixels[:, 0, 0], COLOURS)
    assert data.load(f"pairs:{folder}", limit=2, size=4).pixels.shape == (2, 4, 4, 3)
    few = data.load(f"pairs:{folder}", limit=1)
    assert few.captions[0] == TEXTS[COLOURS.index(tuple(few.pixels[0, 0, 0].tolist()))]


def test_an_image_with_several_captions_is_several_pairs_and_none_is_left_out(folder, caplog):
    lines = ["file,caption", "a.png,one", "a.png,two", "b.png,", "sub/c.png,three"]
    (folder / "captions.csv").write_text("\n".join(lines))
    images = data.load(f"pairs:{folder}")
    assert images.captions == ("one", "two", "three")
    np.testing.assert_array_equal(images.pixels[0], images.pixels[1])
    assert images.notes == ("left out: 1 row without a caption",)


def test_a_split_has_its_own_table(folder):
    (folder / "test").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "test" / "x.png")
    (folder / "test" / "captions.txt").write_text("x.png\tblack")
    assert data.load(f"pairs:{folder}", split="test").captions == ("black",)
    with pytest.raises(FileNotFoundError, match="val: expected a table of captions"):
        data.load(f"pairs:{folder}", split="val")


def test_a_table_above_its_splits_is_divided_by_them(folder):
    for split in ("train", "test"):
        (folder / split).mkdir()
        Image.new("RGB", (8, 8)).save(folder / split / "x.png")
    table = folder / "metadata.csv"
    table.write_text("file_name,text\ntrain/x.png,one\ntest/x.png,two\n")
    for split, caption in (("train", "one"), ("test", "two"), ("testing", "two")):
        assert data.load(f"pairs:{folder}", split=split).captions == (caption,)
    with pytest.raises(FileNotFoundError, match="files of the split 'val', received test, train"):
        data.load(f"pairs:{folder}", split="val")
    with pytest.raises(ValueError, match="split: expected the name of a sub-folder"):
        data.load(f"pairs:{folder}", split="../elsewhere")
    (folder / "train" / "captions.txt").write_text("x.png\tthree")
    with pytest.raises(ValueError, match=r"one table of captions, received metadata\.csv, tr"):
        data.load(f"pairs:{folder}")


def test_tab_separated_tables_have_no_quotes(folder):
    (folder / "captions.tsv").write_text('file\tcaption\na.png\t"cat\nb.png\t"Dog" barks\n')
    assert data.load(f"pairs:{folder}").captions == ('"cat', '"Dog" barks')


@pytest.mark.parametrize(
    ("table", "text", "message"),
    [
        (
            "captions.csv",
            "name,words\na.png,x",
            "expected a column file_name or file or .* name, words",
        ),
        (
            "captions.csv",
            "file\na.png",
            "expected a column caption or text or title, received file",
        ),
        (
            "captions.csv",
            "file,caption\nz.png,x",
            "expected files that exist, received 1 that do not",
        ),
        ("captions.csv", "file,caption\n../a.png,x", "line 2: expected a file inside the folder"),
        (
            "captions.csv",
            "file,caption\na.png,",
            "expected a row with a file and a caption, received none",
        ),
        (
            "captions.csv",
            "file,caption\na.png,a dog, sitting",
            "line 2: expected 2 fields, with quotes around a text with commas, received 3",
        ),
        ("captions.csv", 'file,caption\na.png,"a dog\nb.png,cat', "expected a table, received"),
        (
            "captions.csv",
            'file,caption\na.png,"a dog\nb.png,cat"',
            "line 3: expected a caption on one line; check the quotes",
        ),
        ("captions.csv", "file,text,text\na.png,x,y", "expected columns of different names"),
        ("captions.jsonl", '{"file": "a.png", "text": ["x"]}', "a caption that are texts"),
        ("captions.jsonl", "[" * 100_000, "line 1: expected a JSON object"),
        ("captions.txt", "a" * 5000 + "\tx", "line 1: expected a file inside the folder"),
        ("captions.txt", "a.png no tab", "line 1: expected a file name, a tab and a caption"),
        ("captions.jsonl", '{"file": "a.png", "text": "x"}\n[1]', "line 2: expected a JSON object"),
        ("captions.jsonl", '{"file": "a.png"', "line 1: expected a JSON object"),
    ],
)
def test_a_faulty_table_is_refused_by_its_line(table, text, message, folder):
    (folder / table).write_text(text)
    with pytest.raises(ValueError, match=f"{table}.*{message}"):
        data.load(f"pairs:{folder}")


def test_other_faults_are_refused_by_name(folder):
    with pytest.raises(FileNotFoundError, match=r"expected a table of captions \(captions.csv"):
        data.load(f"pairs:{folder}")
    (folder / "captions.csv").write_bytes(b"file,caption\na.png,\xff\xfe")
    with pytest.raises(ValueError, match="expected text in UTF-8"):
        data.load(f"pairs:{folder}")
    (folder / "captions.txt").write_text("a.png\tx")
    with pytest.raises(
        ValueError, match=r"expected one table of captions, received captions.csv, cap"
    ):
        data.load(f"pairs:{folder}")
    (folder / "captions.csv").unlink()
    (folder / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a\.png: expected an image that Pillow can read"):
        data.load(f"pairs:{folder}")
    with pytest.raises(FileNotFoundError, match="received a file"):
        data.load(f"pairs:{folder}/captions.txt")


def test_captions_must_be_one_for_each_image():
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="captions of x: expected 2, one for each image, or none"):
        data.Images(pixels, None, (), "x", captions=("one",))
