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
        ValueError: if the shapes of rows and labels do not match, or k is not in 1 ... n.
    """
    train, train_labels, test, test_labels = _check_sets(train, train_labels, test, test_labels)
    _check.require(
        1 <= k <= len(train), "k", f"a number in 1 ... {len(train)}, the number of train rows", k
    )
    # imported here because the import takes seconds, which would delay every import of this module
    from sklearn.neighbors import KNeighborsClassifier

    classifier = KNeighborsClassifier(
        int(k), metric="cosine", weights=lambda distance: np.exp((1 - distance) / temperature)
    )
    return float(classifier.fit(train, train_labels).score(test, test_labels))


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
        ValueError: if the shapes of rows and labels do not match.
    """
    train, train_labels, test, test_labels = _check_sets(train, train_labels, test, test_labels)
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
        _check.require(
            labels.shape == (len(rows),),
            f"{name}_labels",
            f"[{len(rows)}], one per row of {name}",
            labels,
        )
        arrays += [rows, labels]
    _check.require(
        arrays[2].shape[1] == arrays[0].shape[1],
        "test",
        f"{arrays[0].shape[1]} columns as train",
        arrays[2],
    )
    return tuple(arrays)
