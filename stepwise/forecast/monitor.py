"""A monitor of any trainer, in any framework: it takes NumPy arrays and reports on each sample."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stepwise import _check, laws, methods, spectra
from stepwise._threads import one_blas_thread
from stepwise.forecast import rates, samples, stream
from stepwise.forecast.answer import Forecast, none_coming
from stepwise.forecast.diagnosis import diagnose
from stepwise.forecast.extrapolation import extrapolated
from stepwise.forecast.recursion import LEVEL
from stepwise.forecast.report import Report
from stepwise.forecast.samples import Samples
from stepwise.forecast.snapshot import next_step
from stepwise.types import Numbers, Real, Whole

MEASURED = 1000
"""Largest number of pairs of which rank and uniformity are measured, the first ones."""


class Monitor:
    """Follows a training run, and says after each sample when the next mode is learned.

    A sample is the embedding of some pairs at one training step. The number of pairs may change
    between samples, the dimension d may not. Eigenvalues are those of C about the pooled mean.

    A sample that is not finite is reported and counted, and later samples are not affected.

    Args:
        method: a name in `methods.METHODS`, or FILE.py:NAME; empty for the default.
        lr: learning rate, or a schedule: a function of the step, in JAX or plain Python. Without
            it, forecasts are extrapolations.
        momentum: of SGD.
        batch_size: pairs in a training batch; None for full batches.
        every: smallest number of steps between two samples. A call in between returns the last
            report and computes nothing.
        level: eigenvalue of C from which a mode counts as learned. For a level other than 1/2,
            forecasts are extrapolations.
        path: file to which each report is appended as a line of JSON. If it exists, the monitor
            continues it; a half-written last line, from a killed process, is dropped.

    Raises:
        ValueError: if an argument is out of range, or the file is damaged or of another method.
    """

    def __init__(
        self,
        method: str = "",
        lr: Real | Callable[[Any], Any] | None = None,
        *,
        momentum: Real = 0.0,
        batch_size: Whole | None = None,
        every: Whole = 1,
        level: Real = LEVEL,
        path: str | os.PathLike[str] | None = None,
    ) -> None:
        self.row = methods.find(method)
        if lr is not None and not callable(lr):
            fits = np.isfinite(lr) and lr > 0
            _check.require(fits, "lr", "a positive number, or a function of the step", lr)
        _check.require(0 <= momentum < 1, "momentum", "a number in 0 ≤ x < 1", momentum)
        if batch_size is not None:
            _check.whole("batch_size", batch_size, 2)
        _check.whole("every", every)
        fits = np.isfinite(level) and level > 0
        _check.require(fits, "level", "a positive number", level)
        self.method, self.lr, self.momentum = method, lr, momentum
        self.batch_size, self.every, self.level = batch_size, int(every), float(level)
        self.path = None if path is None else Path(path)
        self.samples = Samples(self.level)
        self.missing = 0
        self.last: Report | None = None
        self._seen = -1
        if self.path is not None and self.path.exists():
            self._continue(self.path)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *args: Any, until: Whole | None = None, **options: Any
    ) -> "Monitor":
        """Continue a file of reports.

        Args:
            path: the file.
            args, options: of `Monitor`.
            until: drop reports of later steps, for a run that restarts from a checkpoint at this
                step; by default none.

        Raises:
            ValueError: if the file does not exist, is damaged or of another method.
        """
        place = Path(path)
        _check.require(place.is_file(), "path", "an existing file of reports", repr(str(place)))
        if until is None:
            return cls(*args, path=place, **options)
        _check.whole("until", until, 0)
        stream.drop_half_line(place)
        lines = list(stream.read_lines(place))
        # all are read before any is dropped, so that a wrong call loses nothing
        cls(*args, **options)._read(place, lines)
        stream.write_lines(place, [line for line in lines if line["step"] <= until])
        return cls(*args, path=place, **options)

    @one_blas_thread()
    def add(
        self,
        step: Whole,
        z1: Numbers,
        z2: Numbers,
        *,
        features1: Numbers | None = None,
        features2: Numbers | None = None,
        head: Numbers | None = None,
        loss: Real | None = None,
        sensitivity: Real | Callable[[np.ndarray, np.ndarray], float] = 0.0,
    ) -> Report:
        """Add a sample, and return the report on it.

        Args:
            step: training step, larger than at the call before.
            z1, z2: embeddings of both views [n, d], row i of both of one image.
            features1, features2: features of both views before the last linear layer [n', f], for
                the forecast by theory; row i of both of one image.
            head: weights of that layer [d, f].
            loss: of these embeddings.
            sensitivity: of the backbone (`forecast.sensitivity`).

        Raises:
            ValueError: if the step does not increase, a shape does not fit, or d changed. The
                monitor then is as it was before the call.
        """
        _check.whole("step", step, 0)
        _check.require(step > self._seen, "step", f"a step after {self._seen}", step)
        if self.last is not None and step < self.last.step + self.every:
            self._seen = int(step)
            return self.last
        a, b = self._pair(z1, z2)
        layers = _layers(features1, features2, head)
        if layers:
            expected = f"{a.shape[1]} rows, one for each column of z1"
            _check.require(len(layers["head"]) == a.shape[1], "head", expected, layers["head"])
        value = float("nan") if loss is None else samples.number("loss", loss)
        usable = samples.finite(a) and samples.finite(b)
        lost = [] if usable else ["the embedding is not finite; the sample counts as missing"]
        if loss is not None and not np.isfinite(value):
            lost.append("the loss is not finite; the sample counts as missing")
        problems = lost + [
            f"{name} is not finite; the forecast is an extrapolation"
            for name, part in layers.items()
            if not samples.finite(part)
        ]
        if not callable(sensitivity) and not np.isfinite(sensitivity):
            problems.append("the sensitivity is not finite; the forecast is made without it")
            sensitivity = 0.0
        (n, d), before = a.shape, 0 if self.last is None else self.last.learned
        values = samples.eigenvalues(a, b) if usable else np.full(d, np.nan)
        learned = int(np.sum(values >= self.level)) if usable else before
        if usable:
            forecast = self._forecast(int(step), values, learned, layers, sensitivity)
        else:
            forecast = none_coming(learned, "the embedding of this sample is not finite")
        measured = (a[:MEASURED], b[:MEASURED]) if usable else (np.full((1, d), np.nan),) * 2
        report = Report(
            step=int(step),
            n=n,
            eigenvalues=values,
            learned=learned,
            crossings=self.samples.crossed(int(step), values),
            forecast=forecast,
            measures=spectra.monitors(*measured),
            dead=samples.count_dead(a, b) if usable else 0,
            loss=value,
            diagnosis="" if loss is None else self._diagnose(value, a, b, learned, usable),
            problems=tuple(problems),
            missing=self.missing + bool(lost),
        )
        if self.path is not None:
            stream.append_line(self.path, {"method": self.row.name} | report.summary())
        self._remember(report)
        return report

    def figure(self) -> Any:
        """Draw the eigenvalues against the step, with the forecast's interval, and the loss above.

        Returns:
            A matplotlib figure, which `plotting.save` writes and closes.

        Raises:
            ValueError: if there are fewer than two finite samples after step 0.
        """
        from stepwise.forecast import drawing  # matplotlib is slow to import

        return drawing.draw(self.samples, None if self.last is None else self.last.forecast)

    def _pair(self, z1: Numbers, z2: Numbers) -> tuple[np.ndarray, np.ndarray]:
        a, b = samples.matrix("z1", z1), samples.matrix("z2", z2)
        _check.require(a.size > 0, "z1", "at least one pair", a)
        _check.require(a.shape == b.shape, "z2", f"shape {list(a.shape)} as z1", b)
        if self.samples.eigenvalues:
            d = len(self.samples.eigenvalues[0])
            _check.require(a.shape[1] == d, "z1", f"{d} columns as in the samples before", a)
        return a, b

    def _forecast(
        self,
        step: int,
        values: np.ndarray,
        learned: int,
        layers: dict[str, np.ndarray],
        sensitivity: Any,
    ) -> Forecast:
        """Return the forecast by theory if it is possible, and an extrapolation otherwise."""
        if learned == len(values):
            return none_coming(learned, f"all {learned} dimensions are learned")
        past = self.samples.continued(step, values, learned)
        schedule = rates.tabulate(self.lr, step) if layers else None
        reason = self._why_extrapolated(layers, schedule)
        if reason:
            return extrapolated(past, learned, self.level, reason)
        return next_step(
            *layers.values(),
            step=step,
            lr=schedule,
            momentum=self.momentum,
            batch_size=self.batch_size,
            method=self.method,
            sensitivity=sensitivity,
            history=past,
        )

    def _why_extrapolated(self, layers: dict[str, np.ndarray], schedule: Any) -> str:
        """Say why there is no forecast by theory, or return an empty text."""
        if not layers:
            return "extrapolated, without features and head"
        if not all(map(samples.finite, layers.values())):
            return "extrapolated, because features or head are not finite"
        if self.row.law != laws.DEFAULT:
            return f"extrapolated, because {self.row.title} has another law"
        if self.level != LEVEL:
            return f"extrapolated, because the level is not {LEVEL:g}"
        if self.lr is None:
            return "extrapolated, without a learning rate"
        return (
            ""
            if schedule is not None
            else "extrapolated, because the learning rate is not positive"
        )

    def _diagnose(
        self, loss: float, a: np.ndarray, b: np.ndarray, learned: int, usable: bool
    ) -> str:
        """Return the diagnosis of a loss, without eigenvalues if the embedding is not finite."""
        about = samples.eigenvalues(a, b, center=False) if usable else None
        known = learned if usable else None
        n, d = a.shape
        return diagnose(self.method, loss, n=n, d=d, learned=known, eigenvalues=about)

    def _remember(self, report: Report) -> None:
        self.samples.add(report.step, report.eigenvalues, report.loss)
        self.missing, self.last, self._seen = report.missing, report, report.step

    def _continue(self, path: Path) -> None:
        """Read the reports of a file, and drop its half-written last line."""
        stream.drop_half_line(path)
        self._read(path, list(stream.read_lines(path)))

    def _read(self, path: Path, lines: list[dict[str, Any]]) -> None:
        """Take the reports of a file as the past."""
        for i, line in enumerate(lines, 1):
            name = line.get("method")
            expected = f"reports of {self.row.name}"
            _check.require(name == self.row.name, str(path), expected, f"one of {name} on line {i}")
            try:
                report = Report.from_summary(line)
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{path}: expected a report on line {i}, received something else ({error!r})"
                ) from error
            fits = report.step > self._seen
            expected = f"a step after {self._seen} on line {i}"
            _check.require(fits, str(path), expected, f"{report.step}")
            d = len(self.samples.eigenvalues[0]) if self.last else len(report.eigenvalues)
            fits = len(report.eigenvalues) == d
            received = f"{len(report.eigenvalues)} on line {i}"
            _check.require(fits, str(path), f"{d} eigenvalues in each report", received)
            self._remember(report)


def _layers(features1: Any, features2: Any, head: Any) -> dict[str, np.ndarray]:
    """Return the features of both views and the head, or nothing.

    Raises:
        ValueError: if some are given and others are not, or one is no matrix.
    """
    parts = {"features1": features1, "features2": features2, "head": head}
    given = [name for name, part in parts.items() if part is not None]
    expected = "features1, features2 and head, or none of them"
    _check.require(len(given) in (0, 3), "features1", expected, f"only {' and '.join(given)}")
    return {name: samples.matrix(name, parts[name]) for name in given}
