# %% [hidden]
"""Tutorial, which `make tutorial` runs in full (DATA=folder:PATH for your own images) and the tests
run with `--smoke`.
"""

import sys

SMOKE = "--smoke" in sys.argv
SOURCE = next((argument for argument in sys.argv[1:] if not argument.startswith("--")), "photos")

# %% [markdown]
# # Tutorial: from your images to what a network learns from them
#
# This tutorial answers five questions. What will be learned from my images, and when? Is that what
# happens? What does a real network learn? Could its kernel have predicted it? How does the
# embedding open up? `make tutorial` runs all of it in about six minutes on two cores;
# `make tutorial DATA=folder:PATH` runs it on your own images.
#
# ## Your images
#
# Images are chosen by name: `photos` (two photographs that come with scikit-learn, cut into
# patches), `cifar10`, a folder (`folder:PATH`, with a sub-folder for each class, or flat), or an
# archive of arrays (`npz:PATH`). All images are resized to the same size.

# %%
from pathlib import Path

import jax
import numpy as np

from stepwise import (
    data,
    dynamics,
    entk,
    plotting,
    problem,
    spectra,
    staircase,
    subject,
    validity,
    views,
)
from stepwise.compare import compare
from stepwise.training import runs

images = data.load(SOURCE, limit=100 if SMOKE else 500, size=32)
print(images.source, images.pixels.shape)

# %% [markdown]
# ## What will be learned, and when
#
# Two random crops of each image form a positive pair. The training of a linear model depends only
# on the cross-view moment of these pairs. Its eigenvectors are the *modes*, the directions that can
# be learned, and its eigenvalues are the spectrum γ. The report has one line for each mode: when it
# will be learned (`step time`, in units of learning rate times steps), how much that varies with
# the random start (`spread over starts`), how well the mode is separated from the next (`gap to
# next`; much more than 1 is good), and the `typical error` of the closed form. The closed form
# solves gradient flow, the limit of gradient descent for small learning rates. `descent delay` is
# how much later gradient descent learns the mode, as a fraction of the step time.

# %%
x, x2 = views.positive_pairs(images.pixels, jax.random.key(0), "crop20")
p = problem.from_views(x, x2)
d = 3 if SMOKE else 6
A0 = p.start(jax.random.key(1), d=d, scale=1e-4)
lr = 0.02 * p.max_stable_lr()
print(p)
report = validity.report(p, d=d, A0=A0, lr=lr)
print(report)

# %% [markdown]
# ## Is that what happens?
#
# Gradient descent is the experiment, and the closed form is the theory. Both return a
# `Trajectory`, and `compare` prints the gap between them: the relative error of each step time, and
# the root mean square error of the eigenvalues. The step times of the report above determine how
# many steps to run.

# %%
last = max(time for time in report.step_times if np.isfinite(time))
steps = min(int(1.2 * last / lr) + 1, 2_000 if SMOKE else 200_000)
run = dynamics.descent(p, A0, lr, steps=steps)
theory = dynamics.closed_form(p, A0, run.times)
print(compare(theory, run))

out = Path("results/tutorial")
out.mkdir(parents=True, exist_ok=True)
with plotting.style():
    figure = plotting.figure(10, 4)
    left, right = figure.subplots(1, 2)
    plotting.loss(left, run, theory)
    plotting.eigenvalues(right, run, theory)
    plotting.save(figure, out, "linear")

# %% [markdown]
# ## A real network
#
# Now train a small ResNet with the same loss from a small start: the weights of the head's last
# layer are multiplied by 0.001. The run is stored under `runs/`. If it was interrupted, the same
# call resumes it; if it has finished, the same call loads it. `snapshots=4` also saves the network
# at four steps during training.

# %%
config = runs.Config(
    data=SOURCE,
    n_images=64 if SMOKE else 1024,
    side=16 if SMOKE else 32,
    blocks=(1, 1) if SMOKE else (1, 1, 1),
    width=8 if SMOKE else 16,
    head=(d,),
    batch_size=32 if SMOKE else 64,
    probe=64 if SMOKE else 256,
    lr=0.02 if SMOKE else 0.004,
    steps=60 if SMOKE else 1200,
    snapshots=4,
)
trained = runs.train(config)
numbers = staircase.numbers(trained.trajectory)
print(
    f"{numbers['crossed']} of {d} modes learned, {numbers['alone']} one at a time, at steps",
    numbers["step_times"],
)

with plotting.style():
    figure = plotting.figure(10, 4)
    left, right = figure.subplots(1, 2)
    plotting.loss(left, trained.trajectory, label="loss on the probe")
    plotting.eigenvalues(right, trained.trajectory)
    plotting.save(figure, out, "network")

# %% [markdown]
# ## Could its kernel have predicted it?
#
# The empirical neural tangent kernel (eNTK) of the trained network, on fresh views of its images,
# predicts the subspace that the embedding spans. The alignment of the predicted and the real
# subspace is 1 if they are equal. For random subspaces it is d/2n on average, where 2n is the
# number of views. Two other kernels show what training added: the network's kernel before training,
# and the pixel kernel. The last line printed is the angle between the network's kernels before and
# after training, as matrices: 0 degrees if they are proportional, 90 if they are orthogonal.

# %%
network = subject.from_run(config, trained, n_pairs=16 if SMOKE else 96)
for name, K in {
    "eNTK, trained": network.kernel(config.steps),
    "eNTK, at the start": network.kernel(0),
    "pixel kernel": network.pixel_kernel,
}.items():
    score = entk.score(K, network.embedding, resamples=50)
    print(
        f"{name:<20} {score.alignment:.2f}  {np.round(score.interval, 2)}  chance "
        f"{score.random:.3f}"
    )
sine = entk.drift(network.kernel(0), network.kernel(config.steps), scaled=True)
print(f"the kernel turned by {np.degrees(np.arcsin(min(1.0, sine))):.0f} degrees during training")

# %% [markdown]
# ## The embedding opens up
#
# RankMe is the effective number of dimensions of the embedding. It grows from snapshot to snapshot.

# %%
for step, z in zip(network.steps, network.embeddings_along, strict=True):
    print(f"step {step:>5}: RankMe {float(spectra.rankme(z - z.mean(axis=0))):.2f}")

# %% [markdown]
# The command line does all of this: `stepwise predict --data folder:PATH`, `stepwise train --data
# folder:PATH --n-images N`, then `stepwise align --run-dir runs/HASH` with the folder that `train`
# prints. For a network of your own, use `stepwise align --network FILE.py:NAME`, where NAME is a
# function that returns `(apply, params)`.
