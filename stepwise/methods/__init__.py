"""The methods of joint-embedding learning: a table with one row for each method.

A row holds the training objective of a method (its loss, predictor, target network, and the state
of its loss), the law that predicts it (`stepwise.laws`), the views that it was published with, and
the small start and schedule with which it is trained here. Training, figures, the command line and
the documentation all read this table, `METHODS`. To add a method, write one more `Method` in a file
of your own (`find`).
"""

from stepwise.methods.lookup import find, identity, run_with
from stepwise.methods.row import OCCASIONS as OCCASIONS
from stepwise.methods.row import Method, Objective, Schedule, Start
from stepwise.methods.table import DEFAULT as DEFAULT
from stepwise.methods.table import METHODS as METHODS

# The constants are not in this list, so that the documentation shows them with their own modules.
__all__ = ["Method", "Objective", "Schedule", "Start", "find", "identity", "run_with"]
