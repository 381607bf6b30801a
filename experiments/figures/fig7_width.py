"""Width N: the error of infinite-width theory falls as 1/√N, that of the initial kernel as 1/N.

Claim          Barlow Twins leaves the NTK of a wide network constant, so that kernel theory
               predicts real networks. For a smooth activation, the error of the infinite-width
               kernel falls as N^(−1/2) (fluctuation of the initial kernel), and the error of the
               network's own initial kernel as N^(−1) (change of the kernel in training).
Paper          beyond the paper, whose section 5 assumes it; Fleissner et al., arXiv 2411.11176,
               have the limit
Command        make fig7 (PRESET=smoke|laptop|paper, DATA=..., DATA_DIR=...)
Time, 2 cores  smoke 20 s, laptop 5 min
Expected       slopes −1/2 and −1 within their 95% intervals, which are no wider than ±0.25; slope
               of the kernel's change −1, and −3/4 with ReLU

The networks have one hidden layer of N = 64 ... 4096 units in NTK parametrisation and ten seeds.
They are doubled, so that they start near zero with an unchanged kernel, and trained by full-batch
gradient descent. The slopes hold for small errors: the start must be large enough that the kernel's
fluctuation, N^(−1/2), does not lift a later mode before its time (N^(−1/2) well below √λ(0)).
The change of the kernel falls more slowly for an activation with a kink: about √N units cross their
kink, each with its own sign, which leaves N^(1/4)/N. Two more panels show how depth, convolution
and pooling change spectra and step times at infinite width.
"""

from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np
from scipy import stats

from experiments.contract import Check, Progress, Result, silent
from experiments.shared import mlps
from stepwise import kernels, laws, plotting, problem
from stepwise.compare import compare
from stepwise.neural_tangents import nt
from stepwise.plotting import Figure

SECONDS = {"smoke": 20, "laptop": 280}
"""About what it takes on two cores, for the time left of `make figures`."""

NAMES = {"linear": "linear", "mlp": "MLP", "cnn": "CNN, flattened", "pooled": "CNN, pooled"}
"""Labels of the kernels whose spectra are drawn."""
KERNELS = {"infinite": "infinite-width kernel", "own": "own initial kernel"}
"""Labels of the two kernels that predict a network's run."""


@dataclass(frozen=True)
class Config:
    """Settings of the figure."""

    data: str = "photos"
    """Images: photos, glyphs, cifar10, stl10, folder:PATH, pairs:PATH or npz:PATH."""
    data_dir: str | None = None
    """Folder that contains cifar10 or stl10."""
    side: int = 12
    """Side in pixels to which images are resized before they are cropped."""
    crop: int = 8
    n_pairs: int = 25
    d: int = 2
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096)
    seeds: int = 10
    starts: int = 1
    """Number of starts of each network, over which its errors are averaged."""
    scale: float = 0.3
    """Standard deviation of the noise that separates the two copies at the start."""
    kinked: tuple[int, ...] = (64, 128, 256, 512, 1024)
    """Widths at which the change of the kernel is also measured with ReLU."""
    lr_gamma: float = 0.05
    until: float = 2.0
    records: int = 200
    spectrum_pairs: int = 64
    """Pairs for the spectra of infinitely wide networks; pooling stores (2n)² crop⁴ numbers."""
    spectrum_side: int = 20
    spectrum_crop: int = 16
    spectrum_modes: int = 30
    depth: int = 2
    """Hidden layers of those networks."""
    interval: float = 0.25
    """Largest half-width of a slope's 95% interval at which the slope counts as measured."""
    seed: int = 0
    x64: bool = False

    @classmethod
    def smoke(cls) -> "Config":
        """Return a configuration that runs in seconds: narrow networks, tiny images."""
        return cls(
            widths=(64, 256, 1024),
            kinked=(64, 256),
            n_pairs=12,
            spectrum_pairs=8,
            spectrum_side=8,
            spectrum_crop=6,
            spectrum_modes=6,
            depth=2,
            records=60,
            seeds=5,
            interval=0.5,
        )

    @classmethod
    def laptop(cls) -> "Config":
        """Return widths up to 4096, on the photographs of scikit-learn."""
        return cls()

    @classmethod
    def paper(cls) -> "Config":
        """Return widths up to 16384, more pairs and modes, and CIFAR-10; needs an accelerator."""
        widths = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
        large = {"side": 32, "crop": 20, "n_pairs": 50, "d": 5, "depth": 3}
        return cls(data="cifar10", widths=widths, **large)  # type: ignore[arg-type]


def run(config: Config, progress: Progress = silent) -> Result:
    """Train and predict a network of every width and seed; compute spectra at infinite width."""
    x, x2 = mlps.normalised_views(config)
    limit = mlps.limit_problem(mlps.mlp_kernel("erf"), x, x2, config.d)
    kinked = mlps.limit_problem(mlps.mlp_kernel("relu"), x, x2, config.d)
    lr = config.lr_gamma / float(limit.gamma[0])
    grid = mlps.grid(limit, config.d, config.scale, lr, config.until, config.records)
    errors, drift = (
        np.zeros((2, len(config.widths), config.seeds)),
        np.zeros((len(config.widths), config.seeds)),
    )
    curves: dict[str, Any] = {"times": lr * grid}
    results = []
    seeds = range(config.seed, config.seed + config.seeds)
    shared: dict[str, Any] = {"d": config.d, "scale": config.scale}
    for i, width in enumerate(config.widths):
        progress(
            f"width {width}: {config.seeds} seeds, {config.starts} starts, {grid[-1]} steps each"
        )
        for seed in range(config.seeds):
            trained = [
                mlps.lazy_run(
                    x,
                    x2,
                    limit,
                    activation="erf",
                    width=width,
                    lr=lr,
                    record_at=grid,
                    seed=seeds[seed],
                    start=k,
                    **shared,
                )
                for k in range(config.starts)
            ]
            for k, name in enumerate(("infinite", "own")):
                squares = [compare(each[name], each["run"]).eigenvalue_rms ** 2 for each in trained]
                errors[k, i, seed] = np.sqrt(np.mean(squares))
            drift[i, seed] = np.sqrt(np.mean([each["drift"] ** 2 for each in trained]))
            results += [str(each["run"].result) for each in trained]
            if seed == 0 and width in (config.widths[0], config.widths[-1]):
                end = "narrow" if width == config.widths[0] else "wide"
                curves |= {
                    f"{end}_{name}": trained[0][name].eigenvalues
                    for name in ("run", "own", "infinite")
                }
        jax.clear_caches()  # no later width can use the programs compiled for this one
    progress("change of the kernel with ReLU")
    kink_lr = config.lr_gamma / float(kinked.gamma[0])
    kink_grid = mlps.grid(kinked, config.d, config.scale, kink_lr, config.until, config.records)
    kink_drift = [
        [
            mlps.lazy_run(
                x,
                x2,
                kinked,
                activation="relu",
                width=width,
                lr=kink_lr,
                record_at=kink_grid,
                seed=seeds[seed],
                **shared,
            )["drift"]
            for seed in range(config.seeds)
        ]
        for width in config.kinked
    ]
    jax.clear_caches()
    progress("spectra of infinitely wide networks")
    spectra = _spectra(config)
    measured = {"infinite": errors[0], "own": errors[1], "drift": drift}
    slopes = {name: _slope(np.asarray(config.widths), each) for name, each in measured.items()}
    slopes["drift_relu"] = _slope(np.asarray(config.kinked), np.asarray(kink_drift))
    numbers = {
        "slopes": slopes,
        "errors": {"infinite": errors[0].tolist(), "own": errors[1].tolist()},
        "results": results,
        "lr": lr,
        "steps": int(grid[-1]),
        "gamma": np.asarray(limit.gamma[: config.d + 1]).tolist(),
        "n_positive": limit.n_positive,
        "config": asdict(config),
    }
    arrays = {
        "widths": config.widths,
        "errors": errors,
        "drift": drift,
        "kink_drift": kink_drift,
        **curves,
        **spectra,
    }
    return Result({name: np.asarray(array) for name, array in arrays.items()}, numbers)


def _slope(widths: np.ndarray, errors: np.ndarray) -> dict[str, float]:
    """Fit d ln(error)/d ln(width) to all errors [widths, seeds], with its 95% interval.

    The scatter is assumed to be the same at every width. One line through all seeds is fitted
    because five or ten slopes of single seeds can agree by chance.
    """
    x = np.repeat(np.log(widths), errors.shape[1])
    line = stats.linregress(x, np.log(errors).ravel())
    half = float(stats.t.ppf(0.975, x.size - 2) * line.stderr)
    slope = float(line.slope)
    return {"mean": slope, "half_width": half, "low": slope - half, "high": slope + half}


def _spectra(config: Config) -> dict[str, np.ndarray]:
    """Compute γ of four kernels on the same pairs, and their expected step times.

    Each kernel is divided by the mean of its diagonal.
    """
    spectrum = Config(
        data=config.data,
        data_dir=config.data_dir,
        side=config.spectrum_side,
        crop=config.spectrum_crop,
        n_pairs=config.spectrum_pairs,
        seed=config.seed,
    )
    x, x2 = mlps.normalised_views(spectrum)
    both = np.concatenate([x, x2])
    stax = nt.stax
    block: dict[str, Any] = {"W_std": mlps.GAIN["relu"], "b_std": None}
    conv = [stax.Conv(1, (3, 3), padding="SAME", **block), stax.Relu()] * config.depth
    functions: dict[str, kernels.Kernel] = {
        "linear": kernels.linear(),
        "mlp": mlps.mlp_kernel("relu", config.depth),
        "cnn": kernels.infinite_width([*conv, stax.Flatten(), stax.Dense(1, **block)]),
        "pooled": kernels.infinite_width([*conv, stax.GlobalAvgPool(), stax.Dense(1, **block)]),
    }
    out: dict[str, Any] = {}
    for name, kernel in functions.items():
        K = kernels.gram(kernel, both, tile=16 if name == "pooled" else 64)
        p = problem.from_gram(K / np.mean(np.diag(K)), center="pooled")
        out[f"spectrum_{name}"] = p.gamma[: config.spectrum_modes]
        gamma = p.gamma[: min(p.n_positive, config.spectrum_modes)]
        mean, _ = laws.expected_start(len(gamma))
        law = laws.law_of(None, laws.Modes(gamma), len(gamma))
        out[f"steps_{name}"] = law.step_times(law.unit() * 1e-6**2 * np.exp(np.asarray(mean)))
    return {name: np.asarray(array) for name, array in out.items()}


def check(result: Result) -> list[Check]:
    """Check the slopes; a premise is that their intervals are narrow enough to mean something."""
    numbers = result.numbers
    config, slopes = numbers["config"], numbers["slopes"]
    diverged = sum(outcome.startswith("diverged") for outcome in numbers["results"])
    checks = [
        Check("number of positive modes", numbers["n_positive"], config["d"], ">=", premise=True),
        Check("number of diverged runs", diverged, 0, "==", premise=True),
        Check(
            "ratio of the largest width to the smallest",
            config["widths"][-1] / config["widths"][0],
            16,
            ">=",
            premise=True,
        ),
    ]
    for name, expected in (("infinite", -0.5), ("own", -1.0)):
        label, slope = KERNELS[name], slopes[name]
        checks += [
            Check(
                f"{label}: half-width of the slope's 95% interval",
                slope["half_width"],
                config["interval"],
                "<=",
                premise=True,
            ),
            Check(
                f"{label}: distance of the slope from {expected:g}",
                abs(slope["mean"] - expected),
                slope["half_width"],
                "<=",
            ),
        ]
    return [
        *checks,
        Check(
            "change of the kernel: distance of the slope from -1",
            abs(slopes["drift"]["mean"] + 1),
            0.15,
            "<=",
        ),
    ]


def plot(result: Result) -> Figure:
    """Draw errors against width, a narrow and a wide network, and spectra at infinite width."""
    a, numbers = result.arrays, result.numbers
    fig = plotting.figure(11, 8)
    rows: Any = fig.subfigures(2, 1)
    top, bottom = rows
    axes: Any = top.subplots(1, 3)
    lower: Any = bottom.subplots(1, 3)
    _plot_errors(axes[0], result)
    for ax, end, width in ((axes[1], "narrow", a["widths"][0]), (axes[2], "wide", a["widths"][-1])):
        plotting.eigenvalues(ax, (a["times"], a[f"{end}_run"]), (a["times"], a[f"{end}_infinite"]))
        ax.set(title=f"Width {width} and infinite width", ylim=(0, 1.3))
        ax.legend(loc="upper left", ncols=2)
    _plot_drift(lower[0], result)
    styles = {
        "linear": ("o", plotting.INK),
        "mlp": ("s", plotting.BLUE),
        "cnn": ("D", plotting.ORANGE),
        "pooled": ("^", plotting.GREEN),
    }
    for name, (mark, colour) in styles.items():
        gamma, steps = a[f"spectrum_{name}"], a[f"steps_{name}"]
        positive = gamma > 0
        modes = np.arange(1, len(gamma) + 1)
        style = {"ms": 4, "color": colour, "lw": 1.0, "label": NAMES[name]}
        lower[1].loglog(modes[positive], gamma[positive], f"{mark}-", **style)
        lower[2].loglog(np.arange(1, len(steps) + 1), steps, f"{mark}-", **style)
    lower[1].set(xlabel="mode j", ylabel="γⱼ  (mean of K's diagonal = 1)")
    lower[1].set_title("Infinite width: spectra of Γ")
    lower[2].set(xlabel="mode j", ylabel="step time τⱼ, start scale 10⁻⁶")
    lower[2].set_title("Infinite width: step times")
    lower[1].legend(loc="lower left")
    top.suptitle(
        f"Doubled networks with one hidden layer, d = {numbers['config']['d']}, "
        f"{numbers['config']['n_pairs']} pairs, "
        f"{numbers['config']['seeds']} seeds",
        fontsize=12,
    )
    return fig


def _plot_errors(ax: Any, result: Result) -> None:
    a, slopes = result.arrays, result.numbers["slopes"]
    widths = a["widths"].astype(float)
    lines = (("infinite", plotting.BLUE, "o"), ("own", plotting.ORANGE, "s"))
    for k, (name, colour, mark) in enumerate(lines):
        label = _label(KERNELS[name], slopes[name])
        middle = np.exp(np.log(a["errors"][k]).mean(axis=1))
        ax.loglog(
            np.repeat(widths, a["errors"].shape[2]),
            a["errors"][k].ravel(),
            ".",
            ms=3,
            color=colour,
            alpha=0.5,
        )
        ax.loglog(widths, middle, mark, ms=5, color=colour, label=label)
        expected = -0.5 if name == "infinite" else -1.0
        centre = np.exp(np.log(middle).mean() - expected * np.log(widths).mean())
        ax.loglog(widths, centre * widths**expected, color=colour, ls=(0, (4, 2)), lw=1.2)
    ax.plot([], [], color=plotting.INK, ls=(0, (4, 2)), lw=1.2, label="slopes −1/2 and −1")
    ax.set(xlabel="width N", ylabel="rms of eigenvalues, network − theory")
    ax.set_ylim(top=ax.get_ylim()[1] * 8)
    ax.set_title("The theory's error falls with width")
    ax.legend(loc="upper right")


def _label(label: str, slope: dict[str, float]) -> str:
    mean = f"{slope['mean']:.2f}".replace("-", "−")
    return f"{label}: {mean} ± {slope['half_width']:.2f}"


def _plot_drift(ax: Any, result: Result) -> None:
    a, slopes = result.arrays, result.numbers["slopes"]
    lines = (
        ("drift", a["widths"], a["drift"], "erf", plotting.GREEN, "o", -1.0),
        (
            "drift_relu",
            result.numbers["config"]["kinked"],
            a["kink_drift"],
            "ReLU",
            plotting.INK,
            "^",
            -0.75,
        ),
    )
    for name, widths, drift, label, colour, mark, expected in lines:
        widths = np.asarray(widths, float)
        middle = np.exp(np.log(drift).mean(axis=1))
        ax.loglog(widths, middle, mark, ms=5, color=colour, label=_label(label, slopes[name]))
        centre = np.exp(np.log(middle).mean() - expected * np.log(widths).mean())
        ax.loglog(widths, centre * widths**expected, color=colour, ls=(0, (4, 2)), lw=1.2)
    ax.plot([], [], color=plotting.INK, ls=(0, (4, 2)), lw=1.2, label="slopes −1 and −3/4")
    ax.set(xlabel="width N", ylabel="relative change of the kernel")
    ax.set_title("The kernel changes more with ReLU")
    ax.legend(loc="upper right")
