"""Probes of frozen representations: nearest neighbours and a linear classifier."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from stepwise import _check, models
from stepwise.models import Encoder
from stepwise.types import Numbers, Real, Whole


def features(encoder: Encoder, pixels: Numbers, *, batch_size: Whole = 256) -> np.ndarray:
    """Return the encoder's features [n, f] of whole images, in evaluation mode.

    The features are the last representation of the backbone, which is the input of the head.

    Args:
        encoder: the network; it is left in evaluation mode.
        pixels: uint8 [n, h, w, c], scaled to [0, 1] before they enter the network.
        batch_size: number of images computed at a time.

    Raises:
        ValueError: if `pixels` is not uint8 [n, h, w, c] with at least one image, or `encoder` is
            not a `models.Encoder`.
    """
    _check.require(
        hasattr(encoder, "everything"), "encoder", "a models.Encoder", type(encoder).__name__
    )
    fits = getattr(pixels, "dtype", None) == np.uint8 and np.ndim(pixels) == 4 and len(pixels) > 0
    _check.require(fits, "pixels", "uint8 [n, h, w, c]", pixels)
    encoder.eval()
    graph, state = nnx.split(encoder)

    @jax.jit
    def forward(state: Any, batch: Any) -> Any:
        module: Any = nnx.merge(graph, state)
        return list(module.everything(batch.astype(jnp.float32) / 255)[1].values())[-1]

    return _map_batches(lambda batch: forward(state, batch), pixels, batch_size)


def embeddings(encoder: nnx.Module, pixels: Numbers, *, batch_size: Whole = 256) -> np.ndarray:
    """Return the embeddings [n, d] of whole images uint8 [n, h, w, c], in evaluation mode."""
    apply, params = models.evaluation(encoder)
    embed = jax.jit(lambda batch: apply(params, batch.astype(jnp.float32) / 255))
    return _map_batches(embed, pixels, batch_size)


def _map_batches(function: Callable[[Any], Any], pixels: Numbers, batch_size: Whole) -> np.ndarray:
    """Apply the function to all images, in batches of one size so that it compiles once."""
    size, outputs = min(int(batch_size), len(pixels)), []
    for i in range(0, len(pixels), size):
        batch = np.asarray(pixels[i : i + size])
        padded = np.pad(batch, ((0, size - len(batch)), *[(0, 0)] * (batch.ndim - 1)))
        outputs.append(np.asarray(function(padded))[: len(batch)])
    return np.concatenate(outputs)


def knn_accuracy(
    train: Numbers,
    train_labels: Numbers,
    test: Numbers,
    test_labels: Numbers,
    *,
    k: Whole = 20,
    temperature: Real = 0.07,
) -> float:
    """Compute the accuracy of a weighted k-nearest-neighbour classifier.

    The k train rows of largest cosine similarity vote for the class of a test row, each with the
    weight e^{cos/temperature} (Wu et al. 2018). The default k and temperature are usual in the
    self-supervised literature, which uses k = 200 for ImageNet.

    Args:
        train, test: features [n, f] and [n', f].
        train_labels, test_labels: classes [n] and [n'].
        k: number of neighbours.
        temperature: temperature of the weights.

    Raises:
        ValueError: if the shapes or kinds of rows and labels do not match, k is not in 1 ... n, or
            the temperature is not positive.
    """
    train, train_labels, test, test_labels = _check_sets(train, train_labels, test, test_labels)
    _check.whole("k", k, 1, len(train), ", the number of train rows")
    fits = 0 < temperature < np.inf
    _check.require(fits, "temperature", "a positive number", temperature)
    # imported here because the import takes seconds, which would delay every import of this module
    from sklearn.neighbors import KNeighborsClassifier

    def weigh(distances: np.ndarray) -> np.ndarray:
        # relative to the nearest neighbour, since e^{cos/temperature} may overflow
        return np.exp((distances.min(axis=1, keepdims=True) - distances) / temperature)

    classifier = KNeighborsClassifier(int(k), metric="cosine", weights=weigh)
    classifier.fit(_scale_rows(train), train_labels)
    return float(classifier.score(_scale_rows(test), test_labels))


def _scale_rows(rows: np.ndarray) -> np.ndarray:
    """Divide each row by its largest entry, since squares of small or large numbers vanish."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    return rows / np.where(largest == 0, 1, largest)


def linear_accuracy(
    train: Numbers,
    train_labels: Numbers,
    test: Numbers,
    test_labels: Numbers,
    *,
    penalty: Real = 1.0,
) -> float:
    """Compute the accuracy of a multinomial logistic regression on standardised features.

    Args:
        train, test: features [n, f] and [n', f].
        train_labels, test_labels: classes [n] and [n'].
        penalty: weight of the L2 penalty, scikit-learn's 1/C.

    Raises:
        ValueError: if the shapes or kinds of rows and labels do not match, there is only one class,
            or the penalty is not positive.
    """
    train, train_labels, test, test_labels = _check_sets(train, train_labels, test, test_labels)
    _check.require(0 < penalty < np.inf, "penalty", "a positive number", penalty)
    classes = len(np.unique(train_labels))
    _check.require(classes > 1, "train_labels", "at least two classes", f"{classes}")
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=1 / float(penalty), max_iter=300))
    with warnings.catch_warnings():
        # the accuracy settles long before the optimiser converges
        warnings.simplefilter("ignore", ConvergenceWarning)
        return float(model.fit(train, train_labels).score(test, test_labels))


def _check_sets(
    train: Numbers, train_labels: Numbers, test: Numbers, test_labels: Numbers
) -> tuple[Any, ...]:
    arrays = []
    for name, rows, labels in (("train", train, train_labels), ("test", test, test_labels)):
        rows = np.asarray(_check.real_array(name, rows, ndim=2))
        labels = np.asarray(labels)
        if labels.dtype.kind in "OT" and all(isinstance(each, str) for each in labels.flat):
            labels = labels.astype(str)
        _check.require(
            labels.shape == (len(rows),),
            f"{name}_labels",
            f"[{len(rows)}], one per row of {name}",
            labels,
        )
        _check.require(len(rows) > 0, name, "at least one row", rows)
        whole = labels.dtype.kind in "biuUS" or (
            labels.dtype.kind == "f" and bool((labels == np.rint(labels)).all())
        )
        expected = "whole numbers or names of classes"
        _check.require(whole, f"{name}_labels", expected, f"{labels.dtype} {labels[:3].tolist()}")
        arrays += [rows, labels]
    _check.require(
        arrays[2].shape[1] == arrays[0].shape[1],
        "test",
        f"{arrays[0].shape[1]} columns as train",
        arrays[2],
    )
    kinds = [array.dtype.kind in "US" for array in (arrays[1], arrays[3])]
    expected = f"names or numbers as train_labels ({arrays[1].dtype})"
    _check.require(kinds[0] == kinds[1], "test_labels", expected, f"{arrays[3].dtype}")
    return tuple(arrays)
