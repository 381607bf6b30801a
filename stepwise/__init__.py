"""How self-supervised learning learns, step by step: exact laws, fast solvers, and the gap to experiment.

The modules, in the order in which data flow through them:

- `types`: the symbols of the theory, their names, shapes and equations.
- `data`: photographs (embedded), CIFAR-10, STL-10, folders, npz → uint8 images.
- `augment`, `views`: image operations; recipes of them → positive pairs, on the device.
- `moments`: Γ, Σ and means, streamed over batches and devices.
- `eigen`: all eigenpairs in float64, or the top k of an operator that is never formed.
- `problem`: `Problem`, a spectrum γ with mode coordinates; from views, from a kernel, from a Gram matrix.
- `laws`: how one mode grows: closed form, step time, stability limit; what a start is worth.
- `dynamics`: closed form, adaptive flow, gradient descent → `Trajectory`.
- `validity`: before running, where the small-start theory will hold and how far it will be off.
- `spectra`: eigenvalues, step times, subspace alignment, rank, of theory and experiment alike.
- `compare`: theory against experiment → gaps with numbers.
- `plotting`: drawing trajectories; the only importer of matplotlib.

Import modules, not names: `from stepwise import problem, dynamics`.
"""

__version__ = "0.1.0"
