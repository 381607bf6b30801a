"""Two towers of networks: what they are measured by, and that a run resumes to the same bits."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from experiments.contract import silent
from experiments.shared import tower_scores, towers

SETTINGS = towers.Settings(
    limit=400, width=4, hidden=16, d=4, steps=6, records=4, batch_size=64, blocks=(1,), lr=0.5
)


def test_the_spectrum_of_linear_towers_is_that_of_the_whitened_product():
    rng = np.random.default_rng(0)
    x1, x2 = rng.normal(size=(200, 6)) * [3, 2, 1, 1, 1, 1], rng.normal(size=(200, 5))
    x1, x2 = x1 - x1.mean(axis=0), x2 - x2.mean(axis=0)
    W1, W2 = rng.normal(size=(3, 6)), rng.normal(size=(3, 5))
    roots = []
    for x in (x1, x2):
        values, vectors = np.linalg.eigh(x.T @ x / len(x))
        roots.append(vectors @ np.diag(np.sqrt(values)) @ vectors.T)
    expected = np.linalg.svd(roots[0] @ W1.T @ W2 @ roots[1], compute_uv=False)[:3]
    z = np.stack([x1 @ W1.T + 5, x2 @ W2.T - 2])
    np.testing.assert_allclose(tower_scores.spectrum(z), expected, rtol=1e-9)
    pictures, captions = tower_scores.directions(z)
    centred = z - z.mean(axis=1, keepdims=True)
    found = pictures.T @ (centred[0] @ centred[1].T / len(x1)) @ captions
    np.testing.assert_allclose(found, np.diag(expected), atol=1e-9)


def test_retrieval_counts_equal_captions_and_equal_pictures():
    z = np.stack([np.eye(4), np.eye(4)[[1, 0, 2, 3]]])
    bags, pixels = np.eye(4), np.arange(4)[:, None]
    assert tower_scores.retrieval(z, bags, pixels) == {"accuracy": 0.5, "chance": 0.25}
    same = tower_scores.retrieval(z, bags[[0, 0, 2, 3]], pixels)
    assert same == {"accuracy": 1.0, "chance": (2 + 2 + 1 + 1) / 16}
    assert tower_scores.retrieval(z, bags, pixels[[0, 0, 2, 3]])["accuracy"] == 1.0


def test_words_and_pictures_at_the_ends_of_a_mode():
    scores = np.array([3.0, 2.0, -1.0, -4.0])
    bags = np.array([[1, 0, 1], [1, 0, 0], [0, 0, 1], [0, 1, 0]])
    assert tower_scores.words(scores, bags, 1) == ([0], [1])
    pixels = np.array([[1], [1], [2], [3]])
    np.testing.assert_array_equal(tower_scores.extremes(scores, pixels, 2), [[0, 2], [3, 2]])


@pytest.fixture(scope="module")
def given():
    return towers.corpus(SETTINGS)


def test_held_out_characters_are_never_trained_on(given):
    assert not set(given.test.captions) & set(given.train.captions)
    assert set(given.probe.captions) & set(given.train.captions)
    assert given.train.bags.any(axis=1).all() and len(given.train) > 300


def test_a_run_that_is_cut_off_resumes_to_the_same_bits(given, tmp_path, monkeypatch):
    whole = towers.train(SETTINGS, given, str(tmp_path / "whole"), silent)
    monkeypatch.setattr(towers, "SAVED", 2)

    def interrupt(message):
        if "step 4" in message:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        towers.train(SETTINGS, given, str(tmp_path / "parts"), interrupt)
    resumed = towers.train(SETTINGS, given, str(tmp_path / "parts"), silent)
    for name in ("probe", "test"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))
    assert np.ptp(whole.probe[:, 0, 0, 0]) > 0 and whole.first > 0


def test_another_start_is_another_run(given, tmp_path):
    first, second = (
        towers.train(
            dataclasses.replace(SETTINGS, steps=1, seed=seed), given, str(tmp_path), silent
        )
        for seed in (0, 1)
    )
    assert not np.array_equal(first.probe, second.probe)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_picture_with_several_captions_is_not_trained_and_held_out(tmp_path):
    lines = ["file,caption"]
    for i in range(40):
        glyph = np.random.default_rng(i).integers(0, 255, (8, 8), np.uint8)
        Image.fromarray(glyph).save(tmp_path / f"{i}.png")
        lines += [f"{i}.png,word {name}" for name in ("one", "two", "three")]
    (tmp_path / "captions.csv").write_text("\n".join(lines))
    settings = dataclasses.replace(SETTINGS, data=f"pairs:{tmp_path}", limit=None, side=8, least=1)
    given = towers.corpus(settings)
    shown = {picture.tobytes() for picture in given.train.pixels}
    assert not any(picture.tobytes() in shown for picture in given.test.pixels)
    assert len(given.train) == 96 and len(given.test) == 24
    before = towers.digest(towers.corpus(settings))
    (tmp_path / "captions.csv").write_text("\n".join(lines).replace("three", "four"))
    assert towers.digest(towers.corpus(settings)) != before
    with pytest.raises(ValueError, match=r"at least 100 pairs .* received 96 and 24"):
        towers.corpus(dataclasses.replace(settings, batch_size=100))
