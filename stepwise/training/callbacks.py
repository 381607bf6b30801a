"""Callbacks: functions of the user that a training run calls after each measured sample.

`loop.train(..., callbacks=[...])` calls each of them with an `Event`. Ready-made callbacks are the
online probes `NearestNeighbours` and `LinearProbe`, and `Sink`, which passes the numbers to W&B or
MLflow.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from stepwise import _check, probes
from stepwise.training.log import MEASURED
from stepwise.types import Numbers, Real, Whole


class CallbackError(RuntimeError):
    """A callback raised an exception, or returned neither None nor a dict of numbers."""


@dataclass(frozen=True)
class Event:
    """One measured sample of a run.

    Attributes:
        step: number of steps taken.
        measured: the measurements by name, as log.jsonl has them.
        embeddings: embeddings z1 and z2 [n, d] of the two views of the probe, normalised by the
            batch statistics of the probe.
        hidden: the hidden representations of all views of the probe by name [views · n, f].
        folder: the folder of the run; None if it has none.
        build: copies the network; call `network` instead.
        numbers: what the callbacks before this one returned for this sample.
    """

    step: int
    measured: dict[str, Any]
    embeddings: tuple[np.ndarray, np.ndarray]
    hidden: dict[str, np.ndarray]
    folder: Path | None
    build: Callable[[], nnx.Module] = field(repr=False)
    numbers: dict[str, float] = field(default_factory=dict)

    def network(self) -> nnx.Module:
        """Return a copy of the encoder with the present parameters, in evaluation mode.

        Each call copies the parameters. The run reuses their memory at its next step, so call this
        before the callback returns.
        """
        return self.build()

    def scalars(self) -> dict[str, float]:
        """Return all finite numbers of this sample, by the names that TensorBoard has.

        They are the scalar measurements, each measured eigenvalue as eigenvalues/1, ... and
        covariance_eigenvalues/1, ..., and `numbers` as callback/NAME.
        """
        scalars: dict[str, Any] = {
            name: value for name, value in self.measured.items() if np.ndim(value) == 0
        }
        for name in set(MEASURED) & set(self.measured) - set(scalars):
            scalars |= {f"{name}/{j + 1}": each for j, each in enumerate(self.measured[name])}
        scalars |= {f"callback/{name}": value for name, value in self.numbers.items()}
        return {
            name: float(scalars[name]) for name in sorted(scalars) if np.isfinite(scalars[name])
        }


class _Probe:
    """An accuracy of the backbone's features on test images, computed at each sample."""

    name = ""

    def __init__(
        self, images: Numbers, labels: Numbers, test_images: Numbers, test_labels: Numbers
    ) -> None:
        sets = (("images", images, labels), ("test_images", test_images, test_labels))
        for name, pixels, classes in sets:
            fits = getattr(pixels, "dtype", None) == np.uint8 and np.ndim(pixels) == 4
            _check.require(fits and len(pixels) > 0, name, "uint8 [n, h, w, c]", pixels)
            expected = f"[{len(pixels)}], one per image"
            fits = np.shape(classes) == (len(pixels),)
            _check.require(fits, name.replace("images", "labels"), expected, np.asarray(classes))
        self._images, self._labels = images, labels
        self._test_images, self._test_labels = test_images, test_labels

    def __call__(self, event: Event) -> dict[str, float]:
        """Return the accuracy by its name; NaN if a feature is not finite.

        Raises:
            ValueError: if the encoder is not a `models.Encoder`.
        """
        network = event.network()
        train, test = (_features(network, each) for each in (self._images, self._test_images))
        if not (np.isfinite(train).all() and np.isfinite(test).all()):
            return {self.name: np.nan}
        return {self.name: self._accuracy(train, test)}

    def _accuracy(self, train: np.ndarray, test: np.ndarray) -> float:
        raise NotImplementedError


class NearestNeighbours(_Probe):
    """The nearest-neighbour accuracy of the backbone's features, `probes.knn_accuracy`.

    It is recorded as "knn_accuracy", or under another `name`. The features are those of
    `probes.features`, with the running batch statistics.

    Args:
        images, labels: the neighbours, uint8 [n, h, w, c], and their classes [n].
        test_images, test_labels: the images that are classified, and their classes.
        k: number of neighbours.
        name: the name of the number.

    Raises:
        ValueError: if images are not uint8, a set has another number of labels than of images, or k
            is not in 1 ... n.
    """

    def __init__(
        self,
        images: Numbers,
        labels: Numbers,
        test_images: Numbers,
        test_labels: Numbers,
        k: Whole = 20,
        *,
        name: str = "knn_accuracy",
    ) -> None:
        super().__init__(images, labels, test_images, test_labels)
        _check.whole("k", k, 1, len(images), ", the number of images")
        self._k, self.name = k, name

    def _accuracy(self, train: np.ndarray, test: np.ndarray) -> float:
        return probes.knn_accuracy(train, self._labels, test, self._test_labels, k=self._k)


class LinearProbe(_Probe):
    """The accuracy of a linear classifier on the backbone's features, `probes.linear_accuracy`.

    It is recorded as "linear_accuracy", or under another `name`. The features are those of
    `probes.features`, with the running batch statistics.

    Args:
        images, labels: the images that it is fitted to, uint8 [n, h, w, c], and their classes [n].
        test_images, test_labels: the images that are classified, and their classes.
        penalty: weight of the L2 penalty.
        name: the name of the number.

    Raises:
        ValueError: if images are not uint8, or a set has another number of labels than of images.
    """

    def __init__(
        self,
        images: Numbers,
        labels: Numbers,
        test_images: Numbers,
        test_labels: Numbers,
        penalty: Real = 1.0,
        *,
        name: str = "linear_accuracy",
    ) -> None:
        super().__init__(images, labels, test_images, test_labels)
        _check.require(0 < penalty < np.inf, "penalty", "a positive number", penalty)
        self._penalty, self.name = penalty, name

    def _accuracy(self, train: np.ndarray, test: np.ndarray) -> float:
        labels = (self._labels, self._test_labels)
        return probes.linear_accuracy(train, labels[0], test, labels[1], penalty=self._penalty)


class Sink:
    """A callback that passes `Event.scalars` to a function, as log(scalars, step=step).

    Place it last, so that it also receives the numbers of the other callbacks. In a
    `jax.distributed` program only the first process calls the function.

    Args:
        log: the function, such as the method `log` of a W&B run.

    Raises:
        ValueError: if `log` is not callable.
    """

    def __init__(self, log: Callable[..., Any]) -> None:
        _check.require(callable(log), "log", "a function of scalars and step", log)
        self._log = log

    def __call__(self, event: Event) -> None:
        """Pass the numbers on."""
        if jax.process_index() == 0:
            self._log(event.scalars(), step=event.step)

    @classmethod
    def wandb(cls, **settings: Any) -> "Sink":
        """Start a W&B run by wandb.init(**settings), and log to it.

        Raises:
            ImportError: if wandb is not installed.
        """
        return cls(_import("wandb").init(**settings).log)

    @classmethod
    def mlflow(cls, **settings: Any) -> "Sink":
        """Log to the active MLflow run, or to one started by mlflow.start_run(**settings).

        Raises:
            ImportError: if mlflow is not installed.
        """
        mlflow = _import("mlflow")
        if mlflow.active_run() is None:
            mlflow.start_run(**settings)
        return cls(mlflow.log_metrics)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{name} cannot be imported ({error}): pip install {name}") from error


@partial(jax.jit, static_argnums=0)
def _forward(graph: Any, state: Any, batch: Any) -> Any:
    """Return the features of `probes.features`; compiled once for all samples of a run."""
    module: Any = nnx.merge(graph, state)
    return list(module.everything(batch.astype(jnp.float32) / 255)[1].values())[-1]


def _features(network: nnx.Module, pixels: Numbers) -> np.ndarray:
    has_features = hasattr(network, "everything")
    _check.require(has_features, "encoder", "a models.Encoder", type(network).__name__)
    forward = partial(_forward, *nnx.split(network))
    return probes._map_batches(forward, pixels, 256)
