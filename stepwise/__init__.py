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
- `dynamics`: closed form, adaptive flow, gradient descent, training of networks → `Trajectory`.
- `checkpoints`, `runlog`: what a training run leaves behind: all that it needs to go on, and its
  log.
- `probes`: kNN and linear read-out; `staircase`: modes learned, alone, and when; `attributes`: what
  a direction sees.
- `runs`: training runs by their configuration, shared by all who ask for the same.
- `entk`: the empirical NTK of any network: exact, estimated or by its products; what it predicts,
  scored.
- `subject`: a run to be looked at: fresh views, its embedding along training, its kernels.
- `spectra`: eigenvalues, step times, subspace alignment, rank, of theory and experiment alike.
- `validity`: before running, where the small-start theory will hold and how far it will be off.
- `compare`: theory against experiment → gaps with numbers.
- `plotting`: drawing trajectories; the only importer of matplotlib.
- `record`: what a computation leaves behind; `cli`: the command line.

Import modules, not names: `from stepwise import problem, dynamics`.
"""

from importlib.metadata import version as _version

from stepwise import _moved

__version__ = _version("stepwise")
"""The version of the installed package."""

_moved.install()
