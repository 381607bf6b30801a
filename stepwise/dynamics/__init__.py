"""Solvers for the modes in time, which all return the same `Trajectory`.

- `closed_form` is exact from an aligned start, and uses the effective aligned start of any other.
- `flow` integrates the full matrix equation from any start.
- `descent` takes discrete steps of gradient descent in mode coordinates.
- `dual_descent`, `output_descent` and `full_batch` take them in a kernel model's dual coefficients,
  in the outputs of a linearised network, and in the parameters of a real network.

`stepwise.training` trains an encoder on random views, batch by batch, with checkpoints.
"""

from stepwise.dynamics.dual import dual_descent, output_descent
from stepwise.dynamics.exact import closed_form
from stepwise.dynamics.gradient import descent
from stepwise.dynamics.network import full_batch
from stepwise.dynamics.ode import flow
from stepwise.trajectory import Result, Trajectory

__all__ = [
    "Result",
    "Trajectory",
    "closed_form",
    "descent",
    "dual_descent",
    "flow",
    "full_batch",
    "output_descent",
]
