"""The stepwise learning of self-supervised methods: exact laws, fast solvers, real networks.

The modules, in the order of the data flow:

- `types`: the symbols of the theory, their names, shapes and equations.
- `data`: loads uint8 images: two photographs and glyphs with captions (built in), CIFAR-10, STL-10,
  folders, npz archives.
- `augment`, `recipes`, `views`: image operations, recipes of them, and positive pairs drawn on the
  device.
- `moments`: Γ, Σ and means, streamed over batches and devices.
- `eigen`: all eigenpairs in float64, or the top k of an operator that is never formed.
- `neural_tangents`, `kernels`: kernels of images and of infinitely wide networks, and their
  matrices, computed tile by tile.
- `laws`: how modes grow under one loss (the contract `Law`): closed form, step times, stability
  limit, and the effective size of a start.
- `problem`: `Problem`, a spectrum γ with mode coordinates, from views, a kernel, a Gram matrix or
  its products.
- `growth`: growth rates and directions of any loss, by linearising its gradient flow.
- `updates`: update rules, each a law for every mode and an optax transformation.
- `losses`, `models`: losses of real networks, and the networks as pure functions of their
  parameters.
- `methods`: one row for each method, with its loss, law, views, small start and schedule.
- `trajectory`: eigenvalues and loss along training, returned by every solver and every run.
- `dynamics`: closed form, adaptive flow and gradient descent of the theory.
- `probes`: kNN and linear read-out.
- `staircase`: how many modes a run learned, and at which steps.
- `attributes`: correlations of embedding directions with brightness, contrast, colour and class.
- `entk`: the empirical NTK of any network (exact, estimated or as products), its prediction of the
  embedding, and a score of that prediction.
- `training`: training of real networks on random views, with checkpoints, a log and stored runs.
- `subject`: analysis of a stored run: fresh views, embeddings along training, kernels.
- `spectra`: eigenvalues, step times, subspace alignment and rank, for theory and experiment.
- `validity`: where the small-start theory will hold, and its expected error, before any run.
- `compare`: the gaps between theory and experiment, as numbers.
- `plotting`: drawings of trajectories; the only module that imports matplotlib.
- `forecast`: when a network in training learns its next mode, from one snapshot; a monitor for any
  trainer.
- `record`: the files of a result.
- `cli`: the command line.

Import modules, not names: `from stepwise import problem, dynamics`.
"""

from typing import Any

from stepwise import _moved

_moved.install()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # slow to import, and seldom needed

        return version("stepwise")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
