"""Symmetry breaking: one fixed point with supervision, a choice of sign without it.

Claim          Supervised singular values relax exponentially to one fixed point. Self-supervised
               ones leave s = 0, which is unstable, for +s* or −s* according to their initial sign:
               every mode has a pitchfork.
Paper          Simon et al. (2023), section 4 and the slides: s' = γ(s* − s) against
               s' = γ s (1 − s²), in units of s*
Command        make fig2 (PRESET=smoke|laptop|paper, DATA=..., DATA_DIR=...)
Time, 2 cores  smoke 4 s, laptop 7 s
Expected       every mode of every start ends within 1% of s* (self-supervised: of ±s* with its
               initial sign); all curves stay within 0.02 s* of the laws

Both models are linear, train on the same views, and have the same solution W*. The supervised model
descends ½ E‖W x − W* x‖² with the targets W* x; the self-supervised model descends ‖C − I‖². Each
mode's time is in units of its own rate.
"""

from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.contract import Check, Progress, Result, silent
from experiments.shared.images import crops
from stepwise import _random, dynamics, eigen, laws, plotting, problem
from stepwise.moments import Center
from stepwise.plotting import Figure
from stepwise.problem import Problem

SECONDS = {"smoke": 4, "laptop": 7}
"""About what it takes on two cores, for the time left of `make figures`."""

PREFIX = {"supervised": "told", "self-supervised": "self"}
"""Prefix of each model's arrays in arrays.npz."""


@dataclass(frozen=True)
class Config:
    """Settings of the figure."""

    data: str = "photos"
    """Images: photos, glyphs, cifar10, stl10, folder:PATH, pairs:PATH or npz:PATH."""
    data_dir: str | None = None
    """Folder that contains cifar10 or stl10."""
    side: int = 32
    n_pairs: int = 500
    center: Center = "pooled"
    angles: int = 16
    """Number of starts, spread over a circle in the plane of the first two modes."""
    radius: float = 0.05
    """Radius of the circle of self-supervised starts, in units of s*."""
    told_radius: float = 1.2
    """Radius of the circle of supervised starts, in units of s*; any radius has the same limit."""
    noise: float = 1e-4
    """Root mean square of all other entries of a start in units of s*: no start is aligned."""
    lr_gamma: float = 0.0025
    """Learning rate times γ_1 (self-supervised), and times σ_1/8 (supervised)."""
    records: int = 400
    seed: int = 0
    x64: bool = True

    @classmethod
    def smoke(cls) -> "Config":
        """Return a configuration that runs in seconds."""
        return cls(n_pairs=100, angles=8, records=150)

    @classmethod
    def laptop(cls) -> "Config":
        """Return the paper's sizes, on the photographs of scikit-learn."""
        return cls()

    @classmethod
    def paper(cls) -> "Config":
        """Return the paper's sizes and images."""
        return cls(data="cifar10")


def run(config: Config, progress: Progress = silent) -> Result:
    """Descend both losses from starts of all signs in two modes, and evaluate both laws."""
    progress("views and the spectrum of Γ")
    model = problem.from_views(*crops(config), center=config.center)
    if model.n_positive < 2:
        raise ValueError(
            f"data: expected images with at least 2 positive modes of Γ, received {config.data} "
            f"with {model.n_positive}"
        )
    gamma = model.gamma[:2]
    progress(f"self-supervised descent from {config.angles} starts")
    self_supervised = _self_supervised(model, _starts(config.radius, config), config)
    progress(f"supervised descent from {config.angles} starts")
    supervised = _supervised(model, _starts(config.told_radius, config), config)
    numbers = {
        "gamma": np.asarray(gamma).tolist(),
        "sigma": np.asarray(supervised.pop("sigma")).tolist(),
        "config": asdict(config),
    }
    arrays = {**self_supervised, **supervised}
    return Result({name: np.asarray(array) for name, array in arrays.items()}, numbers)


def _starts(radius: float, config: Config) -> np.ndarray:
    """Return points (s_1, s_2)/s* [starts, 2] on a circle, none of them on an axis."""
    angles = 2 * np.pi * (np.arange(config.angles) + 0.5) / config.angles
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _self_supervised(model: Problem, starts: np.ndarray, config: Config) -> dict[str, Any]:
    """Descend ‖C − I‖² from diag(s) plus noise in every mode.

    Returns the times [T], s_j/s* along descent and by the law [starts, T, 2], and the starts.
    """
    gamma = model.gamma[:2]
    unit = gamma**-0.5
    A0 = _noisy(starts * unit[None], config.noise * float(unit[0]), model.gamma.size, config)
    lr = config.lr_gamma / float(gamma[0])
    law = laws.law_of(None, laws.Modes(gamma), 2)
    last = float(jnp.max(law.step_times(jnp.min(jnp.abs(jnp.asarray(starts)), axis=0) ** 2)))
    steps = _steps_to_record(int(2 * last / lr), config)
    descend = jax.vmap(
        lambda A: dynamics.descent(model, A, lr, int(steps[-1]), record_at=steps, snapshots=True)
    )
    states = jax.jit(descend)(A0).snapshots
    times = lr * jnp.asarray(steps)
    curves = [start * np.asarray(law.amplitude(times, start**2)) for start in starts]
    return {
        "self_times": times,
        "self_path": _diagonal(states) / unit[None, None],
        "self_law": curves,
        "self_starts": starts,
    }


def _supervised(model: Problem, starts: np.ndarray, config: Config) -> dict[str, Any]:
    """Descend ½ E‖W x − W* x‖², where W* projects on the top two modes of Σ.

    Returns the times [T], s_j/s* along descent and by the law [starts, T, 2], the starts, and the
    top two eigenvalues of Σ.
    """
    moment = model.features.T @ model.features / len(model.features)
    sigma = jnp.maximum(
        jnp.asarray(eigen.eigh_descending(np.asarray(moment))[0], model.gamma.dtype), 0
    )
    lr = 8 * config.lr_gamma / float(sigma[0])
    steps = _steps_to_record(int(8 / (lr * float(sigma[1]))), config)
    W0 = _noisy(starts, config.noise, sigma.size, config)
    solution = jnp.eye(2, sigma.size)

    def segment(W: jax.Array, length: jax.Array) -> tuple[jax.Array, jax.Array]:
        W = jax.lax.fori_loop(0, length, lambda _, W: W - lr * (W - solution) * sigma[None], W)
        return W, W

    lengths = jnp.diff(jnp.asarray(steps), prepend=0)
    states = jax.jit(jax.vmap(lambda W: jax.lax.scan(segment, W, lengths)[1]))(W0)
    times = lr * jnp.asarray(steps)
    law = laws.Supervised(sigma[:2], jnp.ones(2))
    curves = [law.singular_values(times, start) for start in starts]
    return {
        "told_times": times,
        "told_path": _diagonal(states),
        "told_law": curves,
        "told_starts": starts,
        "sigma": sigma[:2],
    }


def _noisy(leading: Any, noise: float, modes: int, config: Config) -> jax.Array:
    """Return starts [starts, 2, modes] with `leading` on the diagonal and noise elsewhere."""
    leading = jnp.asarray(leading)
    W = noise * jax.random.normal(_random.key(config.seed), (len(leading), 2, modes), leading.dtype)
    return W.at[:, jnp.arange(2), jnp.arange(2)].set(leading)


def _steps_to_record(steps: int, config: Config) -> np.ndarray:
    return np.unique(np.linspace(1, steps, config.records).astype(int))


def _diagonal(states: jax.Array) -> jax.Array:
    return jnp.diagonal(states[..., :2], axis1=-2, axis2=-1)


def check(result: Result) -> list[Check]:
    """Check the claim of the header and its premises."""
    a = result.arrays
    signs = np.sign(a["self_starts"])
    ends = np.stack([a["self_path"][:, -1] * signs, a["told_path"][:, -1]])
    corners = len({tuple(sign) for sign in signs})
    return [
        Check("sign patterns among the starts", corners, 4, "==", premise=True),
        Check(
            "self-supervised: largest start, units of s*",
            float(np.abs(a["self_starts"]).max()),
            0.1,
            "<=",
            premise=True,
        ),
        Check(
            "self-supervised: final distance from s* of the initial sign",
            _largest(ends[0] - 1),
            0.01,
            "<=",
        ),
        Check("supervised: final distance from +s*", _largest(ends[1] - 1), 0.01, "<="),
        Check(
            "self-supervised: largest distance from the law",
            _largest(a["self_path"] - a["self_law"]),
            0.02,
            "<=",
        ),
        Check(
            "supervised: largest distance from the law",
            _largest(a["told_path"] - a["told_law"]),
            0.02,
            "<=",
        ),
    ]


def _largest(values: np.ndarray) -> float:
    return float(np.max(np.abs(values)))


def plot(result: Result) -> Figure:
    """Draw the supervised model above the self-supervised one.

    The left panels show one mode in time, the right ones two modes in their plane.
    """
    fig = plotting.figure(10, 9)
    axes: Any = fig.subplots(2, 2)
    modes = laws.Modes(np.asarray(result.numbers["gamma"]))
    rows = [
        ("supervised", np.asarray(result.numbers["sigma"])),
        ("self-supervised", np.asarray(laws.law_of(None, modes, 2).growth())),
    ]
    for (left, right), (kind, rates) in zip(axes, rows, strict=True):
        _plot_time(left, result, kind, rates[0])
        _plot_plane(right, result, kind, rates)
    axes[0, 0].set_title("Supervised: one fixed point for both signs")
    axes[1, 0].set_title("Self-supervised: s = 0 is unstable, the sign stays")
    axes[0, 1].set_title("Two modes: one solution")
    axes[1, 1].set_title("Two modes: four stable solutions (±s*, ±s*)")
    axes[0, 0].set_xlabel("time  σ₁ t")
    axes[1, 0].set_xlabel("time  8 γ₁ t")
    return fig


def _velocity(kind: str, s: np.ndarray, rate: Any) -> np.ndarray:
    """Return ds/dt in units of s*: σ (1 − s) supervised, (g/2) s (1 − s²) with g = 8γ otherwise."""
    return rate * (1 - s) if kind == "supervised" else rate / 2 * s * (1 - s**2)


def _plot_time(ax: Any, result: Result, kind: str, rate: float) -> None:
    a, prefix = result.arrays, PREFIX[kind]
    t = a[f"{prefix}_times"] * rate
    end = min(t[-1], 8.0 if kind == "supervised" else 22.0)
    grid_t, grid_s = np.meshgrid(np.linspace(0, end, 24), np.linspace(-1.4, 1.4, 21))
    slope = _velocity(kind, grid_s, 1.0)
    style = {"color": "0.78", "width": 0.0022, "angles": "xy", "headwidth": 4}
    aspect = end / 2.8
    size = np.hypot(1, slope * aspect)
    ax.quiver(grid_t, grid_s, 1 / size, slope / size, pivot="mid", scale=38 / 1.0, **style)
    inside = t <= end
    for start, path, law in zip(
        a[f"{prefix}_starts"], a[f"{prefix}_path"], a[f"{prefix}_law"], strict=True
    ):
        colour = plotting.BLUE if start[0] > 0 else plotting.ORANGE
        ax.plot(t[inside], path[inside, 0], color=colour, lw=1.6)
        ax.plot(t[inside], law[inside, 0], color=plotting.INK, lw=0.9, ls=(0, (4, 2)))
    handles = [
        *ax.plot([], [], color=plotting.BLUE, label="experiment, s(0) > 0"),
        *ax.plot([], [], color=plotting.ORANGE, label="experiment, s(0) < 0"),
        *ax.plot([], [], color=plotting.INK, lw=0.9, ls=(0, (4, 2)), label="theory"),
    ]
    ax.set(xlim=(0, end), ylim=(-1.45, 1.45), ylabel="singular value  s₁ / s*")
    opaque = {"frameon": True, "framealpha": 0.95, "edgecolor": "none"}
    place = "lower right" if kind == "supervised" else "upper left"
    ax.legend(handles=handles, loc=place, **opaque)


def _plot_plane(ax: Any, result: Result, kind: str, rates: np.ndarray) -> None:
    a, prefix = result.arrays, PREFIX[kind]
    line = np.linspace(-1.4, 1.4, 41)
    s1, s2 = np.meshgrid(line, line)
    field = _velocity(kind, s1, rates[0]), _velocity(kind, s2, rates[1])
    ax.streamplot(line, line, *field, color="0.8", linewidth=0.8, arrowsize=0.8, density=1.1)
    for start, path in zip(a[f"{prefix}_starts"], a[f"{prefix}_path"], strict=True):
        path = np.concatenate([start[None], path])
        ax.plot(
            path[:, 0], path[:, 1], color=plotting.BLUE if start[0] > 0 else plotting.ORANGE, lw=1.5
        )
    marks = (
        np.array([[1.0, 1.0]])
        if kind == "supervised"
        else np.array([(p, q) for p in (-1, 0, 1) for q in (-1, 0, 1)])
    )
    stable = np.abs(marks).sum(axis=1) == 2
    ring = {"ls": "", "marker": "o", "mec": plotting.INK, "ms": 8, "zorder": 5}
    ax.plot(*marks[stable].T, mfc=plotting.INK, label="stable", **ring)
    if not stable.all():
        ax.plot(*marks[~stable].T, mfc="white", label="unstable", **ring)
    ax.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal", xlabel="s₁ / s*", ylabel="s₂ / s*")
    ax.legend(loc="lower right", frameon=True, framealpha=0.95, edgecolor="none")
