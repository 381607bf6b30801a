"""A shallow MLP learns in steps, which its initial kernel predicts in the lazy regime only.

Claim          An MLP of one hidden layer learns one dimension at a time. From small weights (the
               rich regime) its initial kernel does not predict the steps. A doubled network (the
               lazy regime) has eigenvalues that follow its NTK.
Paper          Simon et al. (2023), the figure of the shallow MLP: one hidden layer, 50 fixed pairs,
               full batch, small weights
Command        make fig5 (PRESET=smoke|laptop|paper, DATA=..., DATA_DIR=...)
Time, 2 cores  smoke 15 s, laptop 80 s
Expected       rich: at least 4 of 5 eigenvalues cross a half one after another, 3 of them while the
               next is below a tenth; lazy: rms difference of eigenvalues below 0.02 from the
               network's own kernel, and below 0.1 from the kernel of infinite width
"""

from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np

from experiments.contract import Check, Progress, Result, silent
from experiments.shared import mlps
from stepwise import dynamics, entk, plotting, spectra
from stepwise.compare import compare
from stepwise.plotting import Figure

SECONDS = {"smoke": 15, "laptop": 80}
"""About what it takes on two cores, for the time left of `make figures`."""


@dataclass(frozen=True)
class Config:
    """Settings of the figure."""

    data: str = "photos"
    """Images: photos, glyphs, cifar10, stl10, folder:PATH, pairs:PATH or npz:PATH."""
    data_dir: str | None = None
    """Folder that contains cifar10 or stl10."""
    side: int = 32
    """Side in pixels to which images are resized before they are cropped."""
    crop: int = 20
    n_pairs: int = 50
    d: int = 5
    rich_width: int = 256
    rich_scale: float = 0.2
    """Standard deviation of the rich network's weights, where NTK parametrisation has 1."""
    rich_lr: float = 0.1
    rich_steps: int = 20_000
    lazy_width: int = 1024
    lazy_scale: float = 1e-2
    """Standard deviation of the noise that separates the lazy network's two copies at the start."""
    lazy_lr_gamma: float = 0.1
    until: float = 1.5
    records: int = 400
    seed: int = 0
    x64: bool = False

    @classmethod
    def smoke(cls) -> "Config":
        """Return a configuration that runs in seconds: narrow networks on tiny crops."""
        return cls(
            side=12,
            crop=6,
            n_pairs=20,
            d=3,
            rich_width=64,
            rich_scale=0.3,
            rich_steps=6000,
            lazy_width=512,
            records=200,
        )

    @classmethod
    def laptop(cls) -> "Config":
        """Return the paper's 50 pairs, of the photographs of scikit-learn."""
        return cls()

    @classmethod
    def paper(cls) -> "Config":
        """Return ten modes, wider networks and CIFAR-10; needs an accelerator."""
        return cls(data="cifar10", d=10, lazy_width=8192, rich_width=1024, rich_steps=100_000)


def run(config: Config, progress: Progress = silent) -> Result:
    """Train the rich and the lazy network, and predict both from their kernels."""
    x, x2 = mlps.normalised_views(config)
    both = np.concatenate([x, x2])
    progress(f"rich: {config.rich_steps} steps from weights of {config.rich_scale}")
    apply, params = mlps.mlp(x[0].size, config.rich_width, config.d, config.seed, "relu")
    small = jax.tree.map(lambda leaf: config.rich_scale * leaf, params)
    rich_grid = np.unique(np.geomspace(1, config.rich_steps, config.records).astype(int))
    rich, _ = dynamics.full_batch(
        apply, small, x, x2, config.rich_lr, config.rich_steps, record_at=rich_grid
    )
    theta, z0 = entk.full_kernel(apply, small, both), apply(small, both)
    progress("rich: prediction of the initial kernel")
    prediction = dynamics.output_descent(
        theta, z0, config.rich_lr, config.rich_steps, record_at=rich_grid
    )

    limit = mlps.limit_problem(mlps.mlp_kernel("relu"), x, x2, config.d)
    lr = config.lazy_lr_gamma / float(limit.gamma[0])
    steps = mlps.grid(limit, config.d, config.lazy_scale, lr, config.until, config.records)
    progress(f"lazy: {steps[-1]} steps of a doubled network of width {config.lazy_width}")
    lazy = mlps.lazy_run(
        x,
        x2,
        limit,
        activation="relu",
        width=config.lazy_width,
        d=config.d,
        scale=config.lazy_scale,
        lr=lr,
        record_at=steps,
        seed=config.seed,
    )
    arrays = {
        "rich_times": rich.times,
        "rich_eigenvalues": rich.eigenvalues,
        "rich_loss": rich.loss,
        "rich_told": prediction.eigenvalues,
        "rich_told_loss": prediction.loss,
        "lazy_times": lazy["run"].times,
        "lazy_eigenvalues": lazy["run"].eigenvalues,
        "lazy_loss": lazy["run"].loss,
        "lazy_infinite": lazy["infinite"].eigenvalues,
        "lazy_infinite_loss": lazy["infinite"].loss,
        "lazy_own": lazy["own"].eigenvalues,
        "lazy_own_loss": lazy["own"].loss,
        "gamma": limit.gamma[: config.d + 1],
    }
    gap = compare(prediction, rich)
    crossed, alone = spectra.steps_alone(rich.times, rich.eigenvalues, learned=0.5)
    numbers = {
        "rich_crossed": crossed,
        "rich_alone": alone,
        "rich_start": float(rich.eigenvalues[0, 0]),
        "rich_against_kernel": gap.summary(),
        "rich_median_error": float(np.median(gap.step_time_error)),
        "lazy_start": float(lazy["run"].eigenvalues[0, 0]),
        "lazy_against_own": compare(lazy["own"], lazy["run"]).summary(),
        "lazy_against_infinite": compare(lazy["infinite"], lazy["run"]).summary(),
        "lazy_drift": lazy["drift"],
        "results": {"rich": str(rich.result), "lazy": str(lazy["run"].result)},
        "lr": lr,
        "steps": int(steps[-1]),
        "n_positive": limit.n_positive,
        "config": asdict(config),
    }
    return Result({name: np.asarray(array) for name, array in arrays.items()}, numbers)


def check(result: Result) -> list[Check]:
    """Check the steps of the rich network, and the kernel's curves of the lazy one."""
    numbers = result.numbers
    d = numbers["config"]["d"]
    return [
        Check("number of positive modes", numbers["n_positive"], d, ">=", premise=True),
        Check(
            "rich: largest eigenvalue at the start", numbers["rich_start"], 0.05, "<=", premise=True
        ),
        Check(
            "lazy: largest eigenvalue at the start", numbers["lazy_start"], 0.01, "<=", premise=True
        ),
        Check("rich: modes learned", numbers["rich_crossed"], d - 1, ">="),
        Check(
            "rich: modes learned one at a time (next below 1/10)",
            numbers["rich_alone"],
            d - 2,
            ">=",
        ),
        Check(
            "rich: median relative error of the kernel's step times",
            numbers["rich_median_error"],
            0.15,
            ">=",
        ),
        Check("lazy: relative change of the kernel", numbers["lazy_drift"], 0.1, "<="),
        Check(
            "lazy: rms eigenvalue error of the network's own kernel",
            numbers["lazy_against_own"]["eigenvalue_rms"],
            0.02,
            "<=",
        ),
        Check(
            "lazy: rms eigenvalue error of the infinite-width kernel",
            numbers["lazy_against_infinite"]["eigenvalue_rms"],
            0.1,
            "<=",
        ),
    ]


def plot(result: Result) -> Figure:
    """Draw loss above and eigenvalues below, rich on the left and lazy on the right."""
    a, numbers = result.arrays, result.numbers
    config = numbers["config"]
    fig = plotting.figure(11, 7)
    axes: Any = fig.subplots(2, 2)
    rich = (a["rich_times"], a["rich_eigenvalues"], a["rich_loss"])
    lazy = (a["lazy_times"], a["lazy_eigenvalues"], a["lazy_loss"])
    for column, curves in ((0, rich), (1, lazy)):
        plotting.loss(axes[0, column], curves)
        plotting.eigenvalues(axes[1, column], curves)
    _plot_theory(
        axes[:, 0], a["rich_times"], a["rich_told_loss"], a["rich_told"], "own initial NTK"
    )
    _plot_theory(
        axes[:, 1],
        a["lazy_times"],
        a["lazy_infinite_loss"],
        a["lazy_infinite"],
        "infinite-width NTK",
    )
    _plot_theory(axes[:, 1], a["lazy_times"], a["lazy_own_loss"], a["lazy_own"], "own initial NTK")
    axes[0, 0].set_title(
        f"Rich: {config['rich_width']} units, initial weights times {config['rich_scale']:g}"
    )
    axes[0, 1].set_title(f"Lazy: doubled, {config['lazy_width']} units")
    axes[1, 0].set_title("Steps at other times than its initial NTK predicts")
    axes[1, 1].set_title("Steps at the times that its initial NTK predicts")
    fig.suptitle(
        f"One hidden layer, {config['n_pairs']} fixed pairs, d = {config['d']}, full-batch "
        f"gradient descent",
        fontsize=12,
    )
    return fig


def _plot_theory(
    axes: Any, times: np.ndarray, loss: np.ndarray, eigenvalues: np.ndarray, label: str
) -> None:
    """Draw one prediction into the two panels of a network."""
    own = label.startswith("own")
    style: dict[str, Any] = {
        "color": plotting.ORANGE if own else plotting.INK,
        "lw": 1.8 if own else 1.1,
    }
    dashes = (0, (1, 1.6)) if own else (0, (4, 2))
    for ax, curves, place in zip(
        axes, (loss[:, None], eigenvalues), ("lower left", "upper left"), strict=True
    ):
        lines = ax.plot(times, curves, ls=dashes, **style)
        lines[0].set_label(label)
        ax.legend(loc=place)
