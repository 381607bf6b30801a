"""How self-supervised learning learns, step by step: exact laws, fast solvers, and the gap to
experiment.

The modules, in the order in which data flow through them:

- `types`: the symbols of the theory, their names, shapes and equations.
- `data`: photographs (embedded), CIFAR-10, STL-10, folders, npz → uint8 images.
- `augment`, `views`: image operations; recipes of them → positive pairs, on the device.
- `moments`: Γ, Σ and means, streamed over batches and devices.
- `eigen`: all eigenpairs in float64, or the top k of an operator that is never formed.
- `neural_tangents`, `kernels`: kernels of images and of infinitely wide networks; their matrices,
  tile by tile.
- `laws`: how modes grow under one loss, the contract `Law`: closed form, step time, stability
  limit; what a start is worth.
- `problem`: `Problem`, a spectrum γ with mode coordinates; from views, a kernel, a Gram matrix or
  its products.
- `losses`, `models`: what real networks descend, and the networks, as pure functions of their
  parameters.
- `methods`: one row a method: its loss, law, views, small start and schedule.
- `trajectory`: eigenvalues and loss along training, what every solver and every run returns.
- `dynamics`: closed form, adaptive flow and gradient descent of the theory.
- `probes`: kNN and linear read-out; `staircase`: modes learned, alone, and when; `attributes`: what
  a direction sees.
- `entk`: the empirical NTK of any network: exact, estimated or by its products; what it predicts,
  scored.
- `training`: real networks on random views, with checkpoints and a log; runs by configuration.
- `subject`: a run to be looked at: fresh views, its embedding along training, its kernels.
- `spectra`: eigenvalues, step times, subspace alignment, rank, of theory and experiment alike.
- `validity`: before running, where the small-start theory will hold and how far it will be off.
- `compare`: theory against experiment → gaps with numbers.
- `plotting`: drawing trajectories; the only importer of matplotlib.
- `record`: what a computation leaves behind; `cli`: the command line.

Import modules, not names: `from stepwise import problem, dynamics`.
"""

from typing import Any

from stepwise import _moved

_moved.install()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # slow to import, and seldom asked for

        return version("stepwise")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
