"""When will a network learn its next mode? What a snapshot of a run says of its next step."""

from stepwise.forecast.backbone import sensitivity
from stepwise.forecast.extrapolation import extrapolate
from stepwise.forecast.snapshot import Forecast, next_step

__all__ = ["Forecast", "extrapolate", "next_step", "sensitivity"]
