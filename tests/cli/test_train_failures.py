"""`stepwise train` says why a training cannot work, or did not."""

import numpy as np
import pytest
from PIL import Image

from stepwise.cli import main

SMALL = ["--blocks", "1", "--width", "4", "--side", "16", "--batch-size", "8", "--head", "3"]
SMALL += ["--probe", "8", "--records", "6", "--no-forecast"]


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("same", "different"):
        (tmp_path / name).mkdir()
    rng = np.random.default_rng(0)
    for i in range(16):
        Image.new("RGB", (20, 20)).save(tmp_path / "same" / f"{i}.png")
        pixels = rng.integers(0, 256, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "different" / f"{i}.png")
    return tmp_path


def train(folder, *flags):
    return main(["train", "--data", f"folder:{folder}", "--n-images", "16", *SMALL, *flags])


def test_a_batch_larger_than_the_images_names_the_flags_and_a_command_that_works(work, capsys):
    assert main(["train", "--data", "folder:different", "--n-images", "16"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "--batch-size: expected at most the 16 images of --data and --n-images" in message
    command = message.strip().rpartition("stepwise ")[2].split()
    assert main([*command, *SMALL[:6], *SMALL[8:], "--steps", "2"]) == 0


def test_a_probe_larger_than_the_images_is_all_of_them(work, capsys):
    note = "loss and eigenvalues are measured on all 16 images, which are fewer than --probe 17"
    assert train("different", "--steps", "2", "--probe", "17") == 0
    assert note in capsys.readouterr().out
    assert train("different", "--steps", "2", "--probe", "16") == 0
    assert "measured on all" not in capsys.readouterr().out


def test_a_training_on_equal_images_fails_in_words(work, capfd):
    assert train("same", "--steps", "4") == 1
    printed = capfd.readouterr()
    assert "all images are the same; give other --data" in printed.err
    assert "next: stepwise align" not in printed.out
    (log,) = (work / "runs").glob("*/log.jsonl")
    assert ": null" in log.read_text()  # some statistics of equal embeddings are not finite
    assert "NaN" not in printed.err and "WARNING" not in printed.err


def test_a_training_that_does_not_move_fails_in_words(work, capfd):
    assert train("different", "--steps", "4", "--lr", "1e-12") == 1
    assert "the embeddings did not change; try --lr 1e-11" in capfd.readouterr().err


def test_a_longer_run_says_why_it_starts_again(work, capsys):
    assert train("different", "--steps", "4") == 0
    first = capsys.readouterr().out
    assert "starts again" not in first
    assert train("different", "--steps", "6") == 0
    second = capsys.readouterr().out
    folder = first.split("4 steps; ")[1].split()[0]
    assert f"{folder} is the same run with fewer steps; this one starts again at step 0" in second
    assert train("different", "--steps", "6", "--seed", "1") == 0
    assert "starts again" not in capsys.readouterr().out
