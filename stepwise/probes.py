"""What a frozen representation is good for: nearest neighbours and a linear read-out, by
scikit-learn.
"""

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
    """What the encoder's backbone hands to its head [n, f], of whole images, in evaluation mode.

    Raises:
        ValueError: pixels are not uint8 [n, h, w, c], or this is no `models.Encoder`.
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

    return _in_batches(lambda batch: forward(state, batch), pixels, batch_size)


def embeddings(encoder: nnx.Module, pixels: Numbers, *, batch_size: Whole = 256) -> np.ndarray:
    """Embeddings [n, d] of whole images uint8 [n, h, w, c], in evaluation mode."""
    apply, params = models.evaluation(encoder)
    embed = jax.jit(lambda batch: apply(params, batch.astype(jnp.float32) / 255))
    return _in_batches(embed, pixels, batch_size)


def _in_batches(function: Callable[[Any], Any], pixels: Numbers, batch_size: Whole) -> np.ndarray:
    """The function of every image, in batches of one size, so that it is compiled once."""
    size, out = min(int(batch_size), len(pixels)), []
    for i in range(0, len(pixels), size):
        batch = np.asarray(pixels[i : i + size])
        filled = np.pad(batch, ((0, size - len(batch)), *[(0, 0)] * (batch.ndim - 1)))
        out.append(np.asarray(function(filled))[: len(batch)])
    return np.concatenate(out)


def knn_accuracy(
    train: Numbers,
    train_labels: Numbers,
    test: Numbers,
    test_labels: Numbers,
    *,
    k: Whole = 20,
    temperature: Real = 0.07,
) -> float:
    """Share of test rows whose k nearest train rows vote for their class, in cosine, each weighing
    e^{cos/temperature}.

    Wu et al. 2018; k and temperature as in the SSL literature, k = 200 there for ImageNet.

    Raises:
        ValueError: rows, labels and widths do not fit, or k is not in 1 ... rows of train.
    """
    train, train_labels, test, test_labels = _sets(train, train_labels, test, test_labels)
    _check.require(1 <= k <= len(train), "k", f"a number in 1 ... {len(train)}, the train rows", k)
    from sklearn.neighbors import (
        KNeighborsClassifier,
    )  # here: it takes seconds, and every `runs` would wait for it

    found = KNeighborsClassifier(
        int(k), metric="cosine", weights=lambda distance: np.exp((1 - distance) / temperature)
    )
    return float(found.fit(train, train_labels).score(test, test_labels))


def linear_accuracy(
    train: Numbers,
    train_labels: Numbers,
    test: Numbers,
    test_labels: Numbers,
    *,
    penalty: Real = 1.0,
) -> float:
    """Share of test rows that a multinomial logistic regression on standardised train rows gets
    right.

    Raises:
        ValueError: rows, labels and widths do not fit.
    """
    train, train_labels, test, test_labels = _sets(train, train_labels, test, test_labels)
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=1 / float(penalty), max_iter=300))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # its accuracy has long settled by then
        return float(model.fit(train, train_labels).score(test, test_labels))


def _sets(
    train: Numbers, train_labels: Numbers, test: Numbers, test_labels: Numbers
) -> tuple[Any, ...]:
    out = []
    for name, rows, labels in (("train", train, train_labels), ("test", test, test_labels)):
        rows = np.asarray(_check.real_array(name, rows, ndim=2))
        labels = np.asarray(labels)
        _check.require(
            labels.shape == (len(rows),),
            f"{name}_labels",
            f"[{len(rows)}], one a row of {name}",
            labels,
        )
        out += [rows, labels]
    _check.require(
        out[2].shape[1] == out[0].shape[1], "test", f"{out[0].shape[1]} columns as train", out[2]
    )
    return tuple(out)
