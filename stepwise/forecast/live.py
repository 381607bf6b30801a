"""The forecast as a callback of training: at each sample, when the next mode comes."""

from typing import Any

import numpy as np

from stepwise import _check
from stepwise.forecast.saved import require_supported
from stepwise.forecast.snapshot import has_theory, next_step
from stepwise.training import runs
from stepwise.training.callbacks import Event


class NextStep:
    """A callback (`training.callbacks`) that forecasts the next step from the run's own probe.

    It returns "learned", the number of modes learned, and, if a mode is coming, "next_step" with
    the 80% interval "next_low", "next_high". The features of the probe are those of the sample
    itself, so a forecast costs no pass of the network; it leaves the sensitivity of the backbone
    out, and is therefore late shortly before a step (`stepwise forecast` includes it).

    Args:
        config: the configuration of the run.

    Raises:
        ValueError: if the run has another law, optimiser or head than the theory knows.
    """

    def __init__(self, config: runs.Config) -> None:
        require_supported(config)
        fits = has_theory(config.method)
        _check.require(fits, "method", "the theory's form of Barlow Twins", repr(config.method))
        layers = len(config.head)
        _check.require(layers == 1, "head", "one linear layer", f"{layers} layers")
        self._config, self._lr = config, runs.plan(config).lr

    def __call__(self, event: Event) -> dict[str, float]:
        """Return the numbers of one sample; none if they cannot be computed."""
        network: Any = event.network()
        head = np.asarray(network.head.layers[-1].kernel).T
        z = event.embeddings[0] - event.embeddings[0].mean(axis=0)
        if not np.isfinite(z).all():
            return {}

        def distance(features: np.ndarray) -> float:
            first = features[0::2] - features[0::2].mean(axis=0)
            return float(np.linalg.norm(first @ head.T - z))

        # by name alone, one cannot tell which of the representations the head reads
        wide = [each for each in event.hidden.values() if each.shape[1] == head.shape[1]]
        features = min(wide, key=distance)
        try:
            said = next_step(
                features[0::2],
                features[1::2],
                head,
                step=event.step,
                lr=self._lr,
                momentum=self._config.momentum,
                batch_size=self._config.batch_size,
                method=self._config.method,
            )
        except ValueError:  # features that are not finite, or all equal, must not end the run
            return {}
        numbers = {"learned": float(said.learned)}
        if said.coming:
            numbers |= {"next_step": said.step, "next_low": said.low, "next_high": said.high}
        return {name: float(value) for name, value in numbers.items()}
