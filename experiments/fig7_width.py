"""Width: a finite network approaches the kernel of its infinite width as 1/√N, and its own kernel as 1/N.

Claim          Barlow Twins leaves the NTK of a wide network constant, so that kernel theory predicts real networks: the
               error against the infinite width falls as N^(−1/2) (fluctuation of the kernel at the start), that
               against the network's own kernel at the start as N^(−1) (its drift in training).
Paper          beyond the source (its section 5 assumes it); the limit is that of Fleissner et al., arXiv 2411.11176.
Command        make fig7            (PRESET=smoke|laptop|paper, DATA=..., DATA_DIR=...)
Time, 2 cores  see the README's table of figures
Expected       slopes −1/2 and −1 within their 95% intervals, which are no wider than ±0.15

One hidden ReLU layer of N = 64 ... 4096 units in NTK parametrisation, doubled so that it starts near zero with its
kernel unchanged, trained by full-batch gradient descent; five seeds. Beside it what depth, convolution and pooling
change: the spectra and predicted step times of infinitely wide networks on the default images.
"""

from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from experiments import networks
from experiments.contract import Check, Progress, Result, silent
from stepwise import kernels, laws, plotting, problem
from stepwise.compare import compare
from stepwise.neural_tangents import nt

NAMES = {"linear": "linear", "mlp": "MLP", "cnn": "CNN, flattened", "pooled": "CNN, pooled"}


@dataclass(frozen=True)
class Config:
    """Every knob of the figure."""

    data: str = "photos"
    """photos, cifar10, stl10, folder:PATH or npz:PATH."""
    data_dir: str | None = None
    """Where cifar10 or stl10 lie."""
    side: int = 12
    """Images are brought to this side before they are cropped."""
    crop: int = 8
    n_pairs: int = 25
    d: int = 3
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096)
    seeds: int = 5
    scale: float = 1e-2
    """Noise between the two copies at the start."""
    lr_gamma: float = 0.05
    until: float = 1.5
    records: int = 400
    spectrum_pairs: int = 64
    """Pairs for the spectra of infinitely wide networks: pooling costs (2n)² crop⁴ numbers."""
    spectrum_side: int = 20
    spectrum_crop: int = 16
    spectrum_modes: int = 30
    depth: int = 3
    """Hidden layers of those networks."""
    seed: int = 0
    x64: bool = True

    @classmethod
    def smoke(cls) -> "Config":
        """Seconds: narrow networks, tiny images."""
        return cls(
            widths=(64, 256, 1024), seeds=3, n_pairs=12, d=2, spectrum_pairs=10, spectrum_side=8, spectrum_crop=6,
            spectrum_modes=8,
        )  # fmt: skip

    @classmethod
    def laptop(cls) -> "Config":
        """Widths to 4096 on the embedded photographs."""
        return cls()

    @classmethod
    def paper(cls) -> "Config":
        """CIFAR-10, more pairs and modes, widths to 16384; wants an accelerator."""
        widths = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
        return cls(data="cifar10", side=32, crop=20, n_pairs=50, d=5, widths=widths, seeds=10)


def run(config: Config, progress: Progress = silent) -> Result:
    """Train every width from every seed beside its two predictions; then the spectra of infinite width."""
    x, x2 = networks.normalised_views(config)
    limit = networks.limit_problem(networks.mlp_kernel(), x, x2, config.d)
    lr = config.lr_gamma / float(limit.gamma[0])
    at = networks.grid(limit, config.d, config.scale, lr, config.until, config.records)
    errors = np.zeros((2, len(config.widths), config.seeds))
    drift = np.zeros((len(config.widths), config.seeds))
    curves: dict[str, np.ndarray] = {"times": lr * at}
    results = []
    for i, width in enumerate(config.widths):
        progress(f"width {width}, {at[-1]} steps from {config.seeds} seeds")
        for seed in range(config.seeds):
            found = networks.lazy_run(
                x, x2, limit, width=width, d=config.d, scale=config.scale, lr=lr, at=at, seed=config.seed + seed
            )
            for k, name in enumerate(("infinite", "own")):
                errors[k, i, seed] = compare(found[name], found["run"]).eigenvalue_rms
            drift[i, seed] = found["drift"]
            results.append(str(found["run"].result))
            if seed == 0 and width in (config.widths[0], config.widths[-1]):
                end = "narrow" if width == config.widths[0] else "wide"
                curves |= {f"{end}_{name}": found[name].eigenvalues for name in ("run", "own", "infinite")}
        jax.clear_caches()  # every network is a program of its own
    progress("spectra of infinitely wide networks")
    spectra = _spectra(config)
    slopes = [_slope(np.asarray(config.widths), error) for error in (*errors, drift)]
    numbers = {
        "slopes": dict(zip(("infinite", "own", "drift"), slopes, strict=True)),
        "errors": {"infinite": errors[0].tolist(), "own": errors[1].tolist()},
        "results": results,
        "lr": lr,
        "steps": int(at[-1]),
        "gamma": np.asarray(limit.gamma[: config.d + 1]).tolist(),
        "n_positive": limit.n_positive,
        "config": asdict(config),
    }
    arrays = {"widths": config.widths, "errors": errors, "drift": drift, **curves, **spectra}
    return Result({name: np.asarray(array) for name, array in arrays.items()}, numbers)


def _slope(widths: np.ndarray, errors: np.ndarray) -> dict[str, float]:
    """d ln(error)/d ln(width): a line through each seed's errors [widths, seeds], mean and 95% interval over seeds."""
    each = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    half = float(stats.t.ppf(0.975, len(each) - 1) * each.std(ddof=1) / np.sqrt(len(each)))
    return {"mean": float(each.mean()), "half_width": half, "low": float(each.mean()) - half,
            "high": float(each.mean()) + half}  # fmt: skip


def _spectra(config: Config) -> dict[str, np.ndarray]:
    """γ of four kernels on the same pairs, each with its mean diagonal brought to 1, and their expected step times."""
    spectrum = Config(
        data=config.data, data_dir=config.data_dir, side=config.spectrum_side, crop=config.spectrum_crop,
        n_pairs=config.spectrum_pairs, seed=config.seed,
    )  # fmt: skip
    x, x2 = networks.normalised_views(spectrum)
    both = np.concatenate([x, x2])
    stax = nt.stax
    block = {"W_std": networks.GAIN, "b_std": None}
    dense = [stax.Flatten(), *[stax.Dense(1, **block), stax.Relu()] * config.depth, stax.Dense(1, **block)]
    conv = [stax.Conv(1, (3, 3), padding="SAME", **block), stax.Relu()] * config.depth
    found: dict[str, kernels.Kernel] = {
        "linear": kernels.linear(),
        "mlp": kernels.infinite_width(dense),
        "cnn": kernels.infinite_width([*conv, stax.Flatten(), stax.Dense(1, **block)]),
        "pooled": kernels.infinite_width([*conv, stax.GlobalAvgPool(), stax.Dense(1, **block)]),
    }
    out: dict[str, Any] = {}
    for name, kernel in found.items():
        K = kernels.gram(kernel, both, tile=16 if name == "pooled" else 64)
        p = problem.from_gram(K / np.mean(np.diag(K)), center="pooled")
        out[f"spectrum_{name}"] = p.gamma[: config.spectrum_modes]
        gamma = p.gamma[: min(p.n_positive, config.spectrum_modes)]
        mean, _ = laws.expected_start(len(gamma))
        lam0 = gamma * 1e-6**2 * np.exp(np.asarray(mean))
        out[f"steps_{name}"] = laws.BarlowTwins(gamma).step_times(lam0)
    return {name: np.asarray(array) for name, array in out.items()}


def check(result: Result) -> list[Check]:
    """The two slopes, with intervals that could have missed."""
    numbers = result.numbers
    config, slopes = numbers["config"], numbers["slopes"]
    diverged = sum(said.startswith("diverged") for said in numbers["results"])
    checks = [
        Check("positive modes", numbers["n_positive"], config["d"], ">=", premise=True),
        Check("diverged runs", diverged, 0, "==", premise=True),
        Check("widest over narrowest", config["widths"][-1] / config["widths"][0], 16, ">=", premise=True),
    ]
    for name, slope in (("infinite", -0.5), ("own", -1.0)):
        found = slopes[name]
        checks += [
            Check(
                f"{name} kernel: slope's 95% interval, half its width", found["half_width"], 0.15, "<=", premise=True
            ),
            Check(f"{name} kernel: slope's distance from {slope:g}", abs(found["mean"] - slope), _reach(found), "<="),
        ]
    return checks


def _reach(found: dict[str, float]) -> float:
    """The interval's half-width, but at least 0.05: five seeds can agree by chance better than a straight line fits."""
    return max(found["half_width"], 0.05)


def plot(result: Result) -> Figure:
    """Errors against width; a narrow and a wide network on the theory's curves; spectra and step times."""
    a, numbers = result.arrays, result.numbers
    fig = plotting.figure(11, 8)
    rows: Any = fig.subfigures(2, 1)
    top, bottom = rows
    axes: Any = top.subplots(1, 3)
    _plot_errors(axes[0], result)
    for ax, end, width in ((axes[1], "narrow", a["widths"][0]), (axes[2], "wide", a["widths"][-1])):
        d = a[f"{end}_run"].shape[1]
        plotting.eigenvalues(ax, (a["times"], a[f"{end}_run"]), (a["times"], a[f"{end}_infinite"]))
        ax.set_title(f"Width {width}")
        ax.set_ylabel("eigenvalues of C")
    lower: Any = bottom.subplots(1, 2)
    styles = {"linear": ("o", plotting.INK), "mlp": ("s", plotting.BLUE), "cnn": ("D", plotting.ORANGE),
              "pooled": ("^", plotting.GREEN)}  # fmt: skip
    for name, (mark, colour) in styles.items():
        gamma, steps = a[f"spectrum_{name}"], a[f"steps_{name}"]
        positive = gamma > 0
        modes = np.arange(1, len(gamma) + 1)
        style = {"ms": 4, "color": colour, "lw": 1.0, "label": NAMES[name]}
        lower[0].loglog(modes[positive], gamma[positive], f"{mark}-", **style)
        lower[1].loglog(np.arange(1, len(steps) + 1), steps, f"{mark}-", **style)
    lower[0].set(xlabel="mode j", ylabel="γⱼ  (mean of K's diagonal = 1)")
    lower[0].set_title("Infinite width: what is there to learn")
    lower[1].set(xlabel="mode j", ylabel="step time τⱼ, start scale 1e-6")
    lower[1].set_title("... and when it is learned")
    lower[0].legend()
    top.suptitle(
        f"Doubled networks of one hidden layer, d = {d}, {numbers['config']['n_pairs']} pairs, "
        f"{numbers['config']['seeds']} seeds",
        fontsize=12,
    )
    return fig


def _plot_errors(ax: Any, result: Result) -> None:
    a, slopes = result.arrays, result.numbers["slopes"]
    widths = a["widths"].astype(float)
    lines = (
        ("infinite", "infinite width's kernel", plotting.BLUE, "o"),
        ("own", "own kernel at the start", plotting.ORANGE, "s"),
    )
    for k, (name, label, colour, mark) in enumerate(lines):
        found = slopes[name]
        middle = np.exp(np.log(a["errors"][k]).mean(axis=1))
        ax.loglog(np.repeat(widths, a["errors"].shape[2]), a["errors"][k].ravel(), ".", ms=3, color=colour, alpha=0.5)
        said = f"{label}: {found['mean']:.2f} ± {found['half_width']:.2f}"
        ax.loglog(widths, middle, mark, ms=5, color=colour, label=said)
        expected = -0.5 if name == "infinite" else -1.0
        centre = np.exp(np.log(middle).mean() - expected * np.log(widths).mean())
        ax.loglog(widths, centre * widths**expected, color=colour, ls=(0, (4, 2)), lw=1.2)
    ax.plot([], [], color=plotting.INK, ls=(0, (4, 2)), lw=1.2, label="slopes −1/2 and −1")
    ax.set(xlabel="width N", ylabel="eigenvalue rms, network − theory")
    ax.set_ylim(top=ax.get_ylim()[1] * 8)
    ax.set_title("Wider, closer")
    ax.legend(loc="upper right")
