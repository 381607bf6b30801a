"""The report on one sample of a run."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from stepwise import _files
from stepwise.forecast.answer import Forecast, refusal

NUMBERS = ("amplitude", "rate", "step", "low", "high", "extrapolated")
"""Numbers of a forecast that a summary holds."""


@dataclass(frozen=True)
class Report:
    """What a monitor says of one sample.

    Attributes:
        step: training step.
        n: number of pairs.
        eigenvalues: of C about the pooled mean [d], the largest first; NaN if z is not finite.
        learned: number of modes learned, with an eigenvalue of at least the level; that of the
            sample before if z is not finite.
        crossings: step at which each mode crossed the level, interpolated between samples [d];
            infinite if it has not.
        forecast: of the next mode. Without features it is an extrapolation, as `reason` says, and
            has no interval.
        measures: rank and collapse (`spectra.monitors`).
        dead: number of dimensions that are the same for all images in both views.
        loss: NaN if none was given.
        diagnosis: of the loss (`diagnose`); empty without a loss.
        problems: what was wrong with the sample, one text each.
        missing: number of samples so far with an embedding or a loss that was not finite.
    """

    step: int
    n: int
    eigenvalues: Float[np.ndarray, " d"]
    learned: int
    crossings: Float[np.ndarray, " d"]
    forecast: Forecast
    measures: dict[str, float]
    dead: int
    loss: float
    diagnosis: str
    problems: tuple[str, ...]
    missing: int

    def __str__(self) -> str:
        """Say the report in a few lines."""
        d = len(self.eigenvalues)
        loss = f", loss {self.loss:.6g}" if np.isfinite(self.loss) else ""
        shown = ", ".join(f"{value:.2g}" for value in self.eigenvalues[:8])
        more = ", ..." if d > 8 else ""
        dead = f", {self.dead} of {d} dimensions dead" if self.dead else ""
        crossed = self.crossings[np.isfinite(self.crossings)]
        lines = [
            f"step {self.step:,}{loss}: {self.learned} of {d} modes learned",
            f"  eigenvalues of C   {shown}{more}",
            f"  next mode          {self._next()}",
            f"  RankMe             {self.measures['rankme']:.3g} of {min(d, 2 * self.n)}{dead}",
        ]
        if len(crossed):
            steps = ", ".join(f"{step:,.0f}" for step in crossed[:8])
            lines.insert(2, f"  learned at steps   {steps}{', ...' if len(crossed) > 8 else ''}")
        lines += [f"  diagnosis          {self.diagnosis}"] if self.diagnosis else []
        return "\n".join([*lines, *(f"  problem            {text}" for text in self.problems)])

    def summary(self) -> dict[str, Any]:
        """Return the report as JSON values, without the forecast's direction."""
        names = ("learned", "reason", *NUMBERS)
        forecast = {name: getattr(self.forecast, name) for name in names}
        rest = {name: value for name, value in vars(self).items() if name != "forecast"}
        summary: dict[str, Any] = _files.jsonable(rest | {"forecast": forecast})
        return summary

    @classmethod
    def from_summary(cls, summary: dict[str, Any]) -> "Report":
        """Return a report from its JSON values. Its forecast has no direction.

        Raises:
            KeyError, TypeError, ValueError: if a value is missing or of another kind.
        """
        nan, inf = float("nan"), float("inf")
        said = summary["forecast"]
        none = said["step"] is None
        numbers: dict[str, Any] = {
            name: _real(said[name], inf if none and name in ("step", "low", "high") else nan)
            for name in NUMBERS
        }
        forecast = Forecast(
            learned=int(said["learned"]),
            reason=str(said["reason"]),
            direction=None,
            weights=None,
            **numbers,
        )
        return cls(
            int(summary["step"]),
            int(summary["n"]),
            np.array([_real(value, nan) for value in summary["eigenvalues"]]),
            int(summary["learned"]),
            np.array([_real(value, inf) for value in summary["crossings"]]),
            forecast,
            {name: _real(value, nan) for name, value in summary["measures"].items()},
            int(summary["dead"]),
            _real(summary["loss"], nan),
            str(summary["diagnosis"]),
            tuple(map(str, summary["problems"])),
            int(summary["missing"]),
        )

    def _next(self) -> str:
        """Say the forecast without the number of learned modes."""
        said = self.forecast
        if not said.coming:
            return refusal(said.reason)
        interval = f" (80%: {said.low:,.0f} to {said.high:,.0f})" if np.isfinite(said.low) else ""
        reason = f"; {said.reason}" if said.reason else ""
        return f"expected at step {said.step:,.0f}{interval}{reason}"


def _real(value: Any, missing: float) -> float:
    """Return a JSON number, or `missing` for null."""
    return missing if value is None else float(value)
