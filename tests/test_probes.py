import jax
import numpy as np
import pytest
from flax import nnx

from stepwise import models, probes

RNG = np.random.default_rng(0)


def clusters(n, spread, classes=3):
    """Rows around one direction per class, with random norms that cosine similarity ignores."""
    labels = RNG.integers(0, classes, n)
    directions = np.eye(classes, 6)
    rows = (directions[labels] + spread * RNG.normal(size=(n, 6))) * RNG.uniform(0.1, 10, (n, 1))
    return rows, labels


def test_separate_classes_are_classified_and_noise_is_at_chance():
    for probe in (probes.knn_accuracy, probes.linear_accuracy):
        (a, la), (b, lb) = clusters(300, 0.05), clusters(200, 0.05)
        assert probe(a, la, b, lb) > 0.97
        chance = probe(
            RNG.normal(size=(600, 6)),
            RNG.integers(0, 3, 600),
            RNG.normal(size=(600, 6)),
            RNG.integers(0, 3, 600),
        )
        assert abs(chance - 1 / 3) < 0.08


def test_neighbours_vote_with_the_exponential_of_their_cosine():
    train = np.array([[1.0, 0.0], [0.0, 1.0], [-0.1, 1.0]])
    # One near neighbour against two far ones: the near one wins at a low temperature, the far ones
    # at a high temperature.
    test = np.array([[1.0, 0.6]])
    assert probes.knn_accuracy(train, [0, 1, 1], test, [0], k=3, temperature=0.07) == 1
    assert probes.knn_accuracy(train, [0, 1, 1], test, [1], k=3, temperature=10.0) == 1
    assert probes.knn_accuracy(train, [0, 1, 1], test, [0], k=1, temperature=10.0) == 1


def test_features_are_those_of_the_backbone_in_evaluation_mode_for_any_batch_size():
    pixels = RNG.integers(0, 256, (11, 8, 8, 3)).astype(np.uint8)
    rngs = nnx.Rngs(0)
    backbone = models.ResNet((1,), width=4, stem="small", rngs=rngs)
    encoder = models.Encoder(backbone, models.Head(4, [2], rngs=rngs), mean=(0.4,), std=(0.2,))
    whole = probes.features(encoder, pixels)
    np.testing.assert_allclose(probes.features(encoder, pixels, batch_size=4), whole, rtol=1e-5)
    backbone.eval()
    expected = jax.jit(lambda x: backbone(x))((pixels.astype("float32") / 255 - 0.4) / 0.2)
    np.testing.assert_allclose(whole, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: probes.knn_accuracy(np.ones((3, 2)), [0, 1], np.ones((1, 2)), [0]),
            r"train_labels: expected \[3\]",
        ),
        (
            lambda: probes.knn_accuracy(np.ones((3, 2)), [0, 1, 0], np.ones((1, 3)), [0]),
            "test: expected 2 columns as train",
        ),
        (
            lambda: probes.knn_accuracy(np.ones((3, 2)), [0, 1, 0], np.ones((1, 2)), [0], k=4),
            "k: expected a whole number in 1 ... 3",
        ),
        (
            lambda: probes.features(
                models.Encoder(
                    models.Features(4, [2], rngs=nnx.Rngs(0)), models.Head(2, [1], rngs=nnx.Rngs(0))
                ),
                np.ones((2, 2, 2, 1)),
            ),
            "pixels: expected uint8",
        ),
    ],
)
def test_bad_arguments_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_neighbours_do_not_depend_on_the_size_of_features(size):
    (a, la), (b, lb) = clusters(60, 0.05), clusters(40, 0.05)
    assert probes.knn_accuracy(size * a, la, size * b, lb) > 0.97


def test_a_low_temperature_is_the_nearest_neighbour():
    (a, la), (b, lb) = clusters(60, 0.5), clusters(40, 0.5)
    nearest = probes.knn_accuracy(a, la, b, lb, k=1)
    assert probes.knn_accuracy(a, la, b, lb, k=20, temperature=1e-5) == nearest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature: expected a positive number"),
        ({"temperature": -1.0}, "temperature: expected a positive number"),
        ({"train_labels": [0.5, 1, 2]}, "train_labels: expected whole numbers or names"),
        ({"test_labels": [np.nan, 1, 2]}, "test_labels: expected whole numbers or names"),
        ({"test_labels": ["0", "1", "2"]}, r"test_labels: expected names or numbers as train"),
        ({"test": np.empty((0, 3)), "test_labels": []}, "test: expected at least one row"),
    ],
)
def test_labels_that_are_no_classes_are_refused_by_name(change, message):
    given = {"train": np.eye(3), "train_labels": [0, 1, 2], "k": 1}
    given |= {"test": np.eye(3), "test_labels": [0, 1, 2]}
    with pytest.raises(ValueError, match=message):
        probes.knn_accuracy(**(given | change))


def test_names_of_classes_may_be_python_strings():
    names = np.array(["cat", "dog", "owl"], object)
    assert probes.knn_accuracy(np.eye(3), names, np.eye(3), names.astype(str), k=1) == 1


@pytest.mark.parametrize(
    ("labels", "penalty", "message"),
    [([0, 0], 1.0, "train_labels: expected at least two classes"), ([0, 1], 0.0, "penalty: ")],
)
def test_a_classifier_needs_classes_and_a_penalty(labels, penalty, message):
    with pytest.raises(ValueError, match=message):
        probes.linear_accuracy(np.eye(2), labels, np.eye(2), labels, penalty=penalty)
