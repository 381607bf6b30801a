"""When will a network learn its next mode? What a snapshot of a run says of its next step."""

from stepwise.forecast.answer import Forecast
from stepwise.forecast.backbone import sensitivity
from stepwise.forecast.diagnosis import diagnose
from stepwise.forecast.extrapolation import extrapolate
from stepwise.forecast.monitor import Monitor
from stepwise.forecast.report import Report
from stepwise.forecast.snapshot import next_step
from stepwise.forecast.stream import log_arrays

__all__ = [
    "Forecast",
    "Monitor",
    "Report",
    "diagnose",
    "extrapolate",
    "log_arrays",
    "next_step",
    "sensitivity",
]
