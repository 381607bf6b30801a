"""Attributes of known images, known correlations, and correlations by chance."""

import colorsys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwise import attributes

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (60, 6, 5, 3), dtype=np.uint8)


def flat(*colours):
    """Build images of one colour each [n, 4, 4, 3]."""
    return np.broadcast_to(np.array(colours, np.uint8)[:, None, None], (len(colours), 4, 4, 3))


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_an_image_of_one_colour_has_that_colours_hue_and_saturation(colour):
    measured = attributes.measure(flat(colour))
    hue, saturation, _ = colorsys.rgb_to_hsv(*(part / 255 for part in colour))
    assert measured["saturation"][0] == pytest.approx(saturation)
    assert measured["contrast"][0] == pytest.approx(0, abs=1e-12)
    assert measured["brightness"][0] == pytest.approx(np.dot([0.299, 0.587, 0.114], colour) / 255)
    if saturation > 0:
        # HSV's hexagon and the circle agree at the corners, and to a twentieth of a turn elsewhere
        gap = np.angle(np.exp(1j * (measured["hue"][0] - 2 * np.pi * hue)))
        assert abs(gap) < 0.05 * 2 * np.pi
        if sorted(colour)[0] == 0 and len(set(colour)) == 2:
            assert abs(gap) < 1e-6


def test_a_score_equal_to_an_attribute_has_correlation_one_up_to_its_sign():
    measured = attributes.measure(PIXELS)
    for name in ("brightness", "contrast", "saturation"):
        assert attributes.correlations(measured[name], PIXELS)[name] == pytest.approx(1)
        assert attributes.correlations(-3 * measured[name] + 7, PIXELS)[name] == pytest.approx(-1)
    assert attributes.correlations(np.cos(measured["hue"] - 0.3), PIXELS)["hue"] == pytest.approx(1)


def test_correlations_match_pearson_and_the_correlation_ratio():
    scores, labels = RNG.normal(size=60), RNG.integers(3, 6, 60)
    result = attributes.correlations(scores, PIXELS, labels)
    assert result["brightness"] == pytest.approx(
        np.corrcoef(scores, attributes.measure(PIXELS)["brightness"])[0, 1]
    )
    between = sum(
        np.sum(labels == k) * (scores[labels == k].mean() - scores.mean()) ** 2
        for k in np.unique(labels)
    )
    assert result["class"] == pytest.approx(
        np.sqrt(between / np.sum((scores - scores.mean()) ** 2))
    )


def test_unrelated_scores_stay_within_chance():
    chance = [
        attributes.correlations(RNG.normal(size=60), PIXELS)["brightness"] for _ in range(200)
    ]
    assert np.mean(np.abs(chance) > 1.96 / 60**0.5) < 0.12


def test_grey_images_have_no_hue_and_constants_have_no_correlation():
    grey = PIXELS[..., :1]
    result = attributes.correlations(np.arange(60.0), grey, np.zeros(60, int))
    assert result.keys() == {"brightness", "contrast", "class"}
    assert result["class"] == 0
    assert all(np.isnan(value) for value in attributes.correlations(np.ones(60), grey).values())
    same = attributes.correlations(np.arange(4.0), flat(*[(9, 9, 9)] * 4))
    assert np.isnan(same["brightness"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones(3), PIXELS), "pixels: expected 3 images, one for each score"),
        ((np.ones(60), PIXELS / 255), "pixels: expected uint8"),
        ((np.ones(60), PIXELS, [1, 2]), "labels: expected \\[60\\], one for each score"),
        ((np.full(60, np.nan), PIXELS), "scores: expected finite"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        attributes.correlations(*arguments)
