# %% [hidden]
"""The tutorial, in full by `make tutorial` (DATA=folder:PATH for your own images), at smoke size in
the tests.
"""

import sys

SMOKE = "--smoke" in sys.argv
SOURCE = next((argument for argument in sys.argv[1:] if not argument.startswith("--")), "photos")

# %% [markdown]
# # Tutorial: from your images to what a network learned of them
#
# Five questions, in the order in which one meets them: what is in my images; what will be learned
# of them, and when; is that what happens; what does a real network learn; and could its kernel have
# told? All of it runs by `make tutorial`, or `make tutorial DATA=folder:PATH` on your own images.
#
# ## Your images
#
# A name says which: the two photographs that come with scikit-learn (cut into patches), `cifar10`,
# a folder of images (`folder:PATH`, one class a sub-folder or flat), or an archive of arrays
# (`npz:PATH`). Images are brought to one size.

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
# Two random crops of each image are a positive pair. All that a linear model's training depends on
# is the spectrum γ of their cross-view moment. The report says for each mode when it will be
# learned, how far that varies with the start (`spread`), how well it is separated from the next
# (`gap`, much above 1 is good), and by how much the closed form will typically be off (`error`).

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
# Gradient descent is the experiment, the closed form the theory. Both return the same `Trajectory`,
# and `compare` gives the gap in numbers: relative errors of the step times, and the root mean
# square error of the eigenvalues. How many steps it takes is what has just been predicted.

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
# A small ResNet with the same loss, from a small start: its head's weights are shrunk to a
# thousandth. The run is kept under `runs/`: stopped at any moment, it goes on when it is asked for
# again, and is only read when it is finished. `snapshots` keeps some networks on the way.

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
found = staircase.numbers(trained.trajectory)
print(
    f"{found['crossed']} of {d} modes learned, {found['alone']} of them alone, at steps",
    found["step_times"],
)

with plotting.style():
    figure = plotting.figure(10, 4)
    left, right = figure.subplots(1, 2)
    plotting.loss(left, trained.trajectory, label="loss on the probe")
    plotting.eigenvalues(right, trained.trajectory)
    plotting.save(figure, out, "network")

# %% [markdown]
# ## Could its kernel have told?
#
# The empirical NTK of the trained network, on fresh views of its images, predicts which subspace
# the embedding spans. The alignment is 1 for the same subspace and d/2n for random ones. Two nulls
# say what training added: the kernel at the start, and the pixels alone.

# %%
of = subject.from_run(config, trained, n_pairs=16 if SMOKE else 96)
for name, K in {
    "eNTK, trained": of.kernel(config.steps),
    "eNTK, at the start": of.kernel(0),
    "pixel kernel": of.pixel_kernel,
}.items():
    score = entk.score(K, of.embedding, resamples=50)
    print(
        f"{name:<20} {score.alignment:.2f}  {np.round(score.interval, 2)}  chance "
        f"{score.random:.3f}"
    )
print(
    "the kernel turned by", round(entk.drift(of.kernel(0), of.kernel(config.steps), scaled=True), 2)
)

# %% [markdown]
# ## And the embedding as it opens
#
# Rank by rank: RankMe, an effective number of dimensions, at the kept networks.

# %%
for step, z in zip(of.steps, of.embeddings_along, strict=True):
    print(f"step {step:>5}: RankMe {float(spectra.rankme(z - z.mean(axis=0))):.2f}")

# %% [markdown]
# The same from the command line: `stepwise predict --data folder:PATH`, `stepwise train --data
# folder:PATH`, then `stepwise align --run-dir runs/...` with the folder that the second names. For
# a network of your own, give `stepwise align --network FILE.py:NAME` a function that returns
# `(apply, params)`.
