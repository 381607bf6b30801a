"""Data in the commands: what they say about images, and where they write."""

import json
import os

import numpy as np
import pytest

from stepwise import data
from stepwise.cli import main
from stepwise.cli.commands import Predict, Train
from stepwise.cli.data import move_outputs
from stepwise.training import runs
from tests.data import samples

PREDICT = ["--n-pairs", "24", "--side", "24", "--d", "2"]
TRAIN = [
    "--n-images", "24", "--side", "8", "--blocks", "1", "--width", "4", "--head", "2", "--steps",
    "4", "--batch-size", "8", "--probe", "8", "--lr", "0.02", "--records", "4",
]  # fmt: skip


def numbers(out):
    return json.loads((out / "summary.json").read_text())["numbers"]


@pytest.mark.parametrize("kind", ["classes", "flat"])
@pytest.mark.parametrize("out", [[], ["--out", "mine/predict"]], ids=["default", "inside"])
def test_predict_twice_in_the_folder_of_the_images_is_the_same(
    tmp_path, monkeypatch, kind, out, capsys
):
    folder = tmp_path / "set"
    for i, name in enumerate(("cats", "dogs") if kind == "classes" else ("", "")):
        samples.pictures(folder / name, 12 if name else 24, i)
    monkeypatch.chdir(folder)
    results = folder / "mine/predict" if out else tmp_path / "results/predict"
    both = []
    for _ in range(2):
        assert main(["predict", "--data", "folder:.", *PREDICT, *out]) == 0
        both.append(numbers(results))
    assert both[0] == both[1]
    assert not (folder / "results").exists()
    assert bool(out) == (folder / "mine").exists()
    images = data.load("folder:.")
    assert len(images) == 24 and images.class_names == (
        ("cats", "dogs") if kind == "classes" else ()
    )


def test_default_outputs_move_out_of_the_images_and_no_others(tmp_path, monkeypatch):
    images = tmp_path / "set"
    (images / "inner").mkdir(parents=True)
    monkeypatch.chdir(images / "inner")
    for name in ("folder:..", f"folder:{images}"):
        assert move_outputs(Predict(data=name)).out == tmp_path / "results/predict"
    moved = move_outputs(Train(settings=Train().settings.__class__(data="folder:..")))
    assert (moved.out, moved.runs_dir) == (tmp_path / "results/train", tmp_path / "runs")
    for options in (
        Predict(data="photos"),
        Predict(data="folder:elsewhere"),
        Predict(data="folder:..", out=images / "mine"),
    ):
        assert move_outputs(options) == options


def test_a_name_that_is_not_utf_8_works_and_is_escaped(tmp_path, capsys):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    samples.pictures(folder, 24)
    out = tmp_path / "out"
    assert main(["predict", "--data", f"folder:{folder}", "--out", str(out), *PREDICT]) == 0
    assert r"caf\xe9: 24 pairs" in capsys.readouterr().out
    assert (out / "summary.json").is_file() and (out / "figure.pdf").is_file()
    assert main(["data", "show", f"folder:{folder}"]) == 0
    assert r"caf\xe9" in capsys.readouterr().out


def test_data_show_ends_with_what_is_read_and_skipped(tmp_path, capsys):
    samples.pictures(tmp_path, 3)
    (tmp_path / "a.heic").write_bytes(b"none")
    assert main(["data", "show", f"folder:{tmp_path}"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "3 read, 1 skipped: no image that Pillow can read (1 .heic)"
    (tmp_path / "b.png").write_bytes(b"")
    assert main(["data", "show", f"folder:{tmp_path}"]) == 2
    assert "b.png" in capsys.readouterr().err
    assert main(["data", "show", f"folder:{tmp_path}", "--skip-damaged"]) == 0
    assert "3 read, 2 skipped: no image" in capsys.readouterr().out
    assert main(["data", "show", "photos"]) == 0
    assert capsys.readouterr().out.endswith("4096 read, 0 skipped\n")


def test_data_show_counts_frames(tmp_path, capsys):
    first, *rest = (samples.picture(i) for i in range(12))
    first.save(tmp_path / "stack.tif", save_all=True, append_images=rest)
    assert main(["data", "show", f"folder:{tmp_path}", "--frames", "all"]) == 0
    assert "12 images of 40 x 40 px" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["images/", "images"])
def test_a_path_without_its_prefix_is_refused_with_the_name_that_works(
    tmp_path, monkeypatch, name, capsys
):
    samples.pictures(tmp_path / "images", 1)
    monkeypatch.chdir(tmp_path)
    assert main(["data", "show", name]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"pass 'folder:{name}'" in error


def test_predict_says_once_what_it_changed_and_takes_the_options_of_a_folder(tmp_path, capsys):
    samples.pictures(tmp_path / "set", 24)
    samples.glyph((4, 4, 36, 36)).save(tmp_path / "set" / "glyph.png")
    (tmp_path / "set" / "z.png").write_bytes(b"")
    flags = ["--data", f"folder:{tmp_path}/set", "--out", str(tmp_path / "out"), *PREDICT]
    flags[flags.index("24")] = "26"
    assert main(["predict", *flags]) == 2
    assert "z.png" in capsys.readouterr().err
    assert main(["predict", *flags, "--skip-damaged", "--background", "black"]) == 0
    text = capsys.readouterr().out
    assert text.count("1 of 25 images are transparent and were put on #000000") == 1
    assert "left out: 1 damaged file" in text
    assert "only 25 of the 26 requested images are available" in text


def test_train_takes_the_options_of_a_folder_and_its_hash_is_that_of_the_pixels(tmp_path, capsys):
    values = np.random.default_rng(0).integers(0, 4096, (24, 8, 8, 3))
    values[:, 0, 0] = 4095
    (tmp_path / "set").mkdir()
    for i, image in enumerate(values):
        (tmp_path / "set" / f"{i}.png").write_bytes(samples.sixteen_bits(image))
    flags = ["--data", f"folder:{tmp_path}/set", "--out", str(tmp_path / "out"), *TRAIN]
    flags += ["--runs-dir", str(tmp_path / "runs")]
    assert main(["train", *flags]) == 2
    assert "depth=12 (--depth 12)" in capsys.readouterr().err
    config = runs.Config(data=f"folder:{tmp_path}/set", n_images=24, side=8, depth=12)
    images = runs.load(config)
    assert images.pixels.max() == 255
    pixels = np.rint(values / 4095 * 255).astype(np.uint8)
    np.savez(tmp_path / "a.npz", pixels=pixels[np.argsort([f"{i}.png" for i in range(24)])])
    other = runs.Config(data=f"npz:{tmp_path}/a.npz", n_images=24, side=8)
    assert runs.folder(config, images) == runs.folder(other, runs.load(other))
