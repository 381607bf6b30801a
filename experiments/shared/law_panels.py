"""Four predictions that a staircase does not show, each measured by descent of a loss.

DINO's growth changes sign at the ratio of the temperatures; BYOL waits for its predictor; VICReg
refuses modes of small agreement; a deep linear encoder waits for a power of its start.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.contract import Check
from experiments.shared import descents, law_cases
from stepwise import laws, methods, plotting

STEP = 0.02
"""Largest relative error of a time or of a final value, and of a rate in units of the largest."""

PROTOTYPES = 10
LAGS = {"without": None, "slow": 20.0}
"""Rates at which DINO's teacher follows its student."""

GAMMA, SIGMA = 0.7, 1.0
WEIGHTS = ((1.0, 1.0), (2.0, 1.0), (4.0, 1.0))
"""Weights a and b of VICReg's quadratic form: modes with ρ < 1 − b/a are refused."""

LAYERS = {1: (0.01, 0.5), 2: (0.03, 0.5), 3: (0.12, 0.5)}
"""Smallest and largest singular value of a layer at the start, by number of layers."""


def compute(points: int) -> dict[str, np.ndarray]:
    """Return the arrays of all four panels, with this number of points along each curve."""
    return {**_growth(points), **_waits(points), **_refused(points), **_powers(points)}


def _views(rho: Any, n: int = 16) -> tuple[Array, Array]:
    """Return pairs [k, 2n, 1] of one mode of variance 1 for each agreement, in both orders."""
    draws = np.random.default_rng(0).normal(size=(n, 2))
    a, b = (np.sqrt(n) * np.linalg.qr(draws - draws.mean(axis=0)[None])[0]).T
    same, apart = (
        np.sqrt((1 + sign * np.asarray(rho)[:, None]) / 2) * part[None]
        for sign, part in ((1, a), (-1, b))
    )
    x, x2 = same + apart, same - apart
    return (
        jnp.asarray(np.concatenate([x, x2], axis=1))[..., None],
        jnp.asarray(np.concatenate([x2, x], axis=1))[..., None],
    )


def _record(step: Any, start: Any, steps: int, observe: Any, every: int = 1) -> np.ndarray:
    """Return what `observe` returns of the start and after every `every` steps."""

    def sample(state: Any, _: Any) -> Any:
        return jax.lax.fori_loop(0, every, lambda _, s: step(s), state), observe(state)

    return np.asarray(
        jax.jit(lambda state: jax.lax.scan(sample, state, None, length=steps // every)[1])(start)
    )


def _growth(points: int) -> dict[str, np.ndarray]:
    """DINO: the growth rate of a small mode, of the loss and by the law."""
    row, rho = law_cases.row_of(laws.DINO), np.linspace(0.1, 0.9, points)
    loss, (x, x2) = descents.loss_of(row, PROTOTYPES), _views(rho)
    arrays = {"growth_rho": rho, "growth_grid": np.linspace(0.05, 0.95, 91)}
    for name, ema in LAGS.items():

        def law_at(values: np.ndarray, ema: float | None = ema) -> laws.DINO:
            return laws.DINO(values, np.ones_like(values), PROTOTYPES, ema=ema)

        expected = np.asarray(law_at(rho).growth())
        lr, steps = 0.05 / float(np.abs(expected).max()), 600

        def value(W: Array, V: Array, x: Array, x2: Array) -> Array:
            return loss(x @ W.T, x2 @ W.T, x @ V.T, x2 @ V.T)

        slopes = jax.vmap(jax.grad(value))

        def step(state: Any, lr: float = lr, ema: float | None = ema, slopes: Any = slopes) -> Any:
            W, V = state
            W = W - lr * slopes(W, V, x, x2)
            return W, (W if ema is None else V + lr * ema * (state[0] - V))

        start = np.zeros((points, PROTOTYPES, 1))
        start[:, 0], start[:, -1] = -1e-9, 1e-9
        sizes = _record(
            step, (jnp.asarray(start),) * 2, steps, lambda s: jnp.abs(s[0]).max(axis=(1, 2))
        )
        factor = np.log(sizes[-1] / sizes[-101]) / 100
        arrays[f"growth_{name}"] = 2 * np.expm1(factor) / lr
        arrays[f"growth_{name}_law"] = expected
        arrays[f"growth_{name}_grid"] = np.asarray(law_at(arrays["growth_grid"]).growth())
    return arrays


def _waits(points: int) -> dict[str, np.ndarray]:
    """BYOL: the step time from a small encoder, and from one as small as the predictor."""
    row, rho, lr = law_cases.row_of(laws.BYOL), GAMMA / SIGMA, 0.02
    loss, (x, x2) = descents.loss_of(row, 1), _views([rho])
    arrays: dict[str, np.ndarray] = {}
    for name, most in (("small", 0.93 * rho), ("balanced", 0.25 * rho)):
        p0 = np.append(np.geomspace(0.02, most, points), [1.1 * rho, 1.3 * rho])
        p0 = p0[:points] if name == "balanced" else p0
        lam0 = SIGMA * p0**2 if name == "balanced" else np.full(len(p0), 1e-8)
        each = [laws.BYOL(np.array([GAMMA]), np.array([SIGMA]), p) for p in p0]
        begin = [np.array([value]) for value in lam0]
        late = [float(law.descent_delay(lr, lam)[0]) for law, lam in zip(each, begin, strict=True)]
        tau = np.array(
            [float(law.step_times(lam)[0]) for law, lam in zip(each, begin, strict=True)]
        )
        tau = tau * (1 + np.array(late))
        goals = np.array([float(law.rest()[0]) for law in each]) / 2

        def value(state: Any) -> Array:
            z, z2 = x[0] * state[0], x2[0] * state[0]
            return loss(z * state[1], z2 * state[1], z, z2)

        slopes = jax.vmap(jax.grad(value))

        def step(state: Any, slopes: Any = slopes) -> Any:
            return jax.tree.map(lambda w, g: w - lr * g, state, slopes(state))

        every = 10
        start = (jnp.sqrt(jnp.asarray(lam0) / SIGMA), jnp.asarray(p0))
        steps = int(1.1 * tau[np.isfinite(tau)].max() / lr)
        curves = _record(step, start, steps, lambda s: SIGMA * s[0] ** 2, every)
        times = lr * every * np.arange(len(curves))
        goals = np.where(np.isfinite(tau), goals, 10 * lam0)
        seen = [descents.crossing(times, curves[:, i], goals[i]) for i in range(len(p0))]
        arrays |= {
            f"wait_{name}_start": p0,
            f"wait_{name}_law": tau,
            f"wait_{name}": np.array(seen),
        }
    grid = np.geomspace(0.015, 0.995 * rho, 60)
    each = [laws.BYOL(np.array([GAMMA]), np.array([SIGMA]), p) for p in grid]
    curve = [float(law.step_times(np.array([1e-8]))[0]) for law in each]
    return arrays | {"wait_grid": grid, "wait_curve": np.array(curve)}


def _refused(points: int) -> dict[str, np.ndarray]:
    """VICReg: the final variance of one mode in one row, of its quadratic form and official."""
    rho = np.linspace(0.06, 0.96, points)
    views, grid = _views(rho), np.linspace(0, 0.99, 100)
    arrays = {"refused_rho": rho, "refused_grid": grid}
    row = law_cases.row_of(laws.VICReg)
    losses = [law_cases.quadratic_loss(*weights) for weights in WEIGHTS] + [row.objective.loss]
    for i, loss in enumerate(losses):
        quadratic = i < len(WEIGHTS)
        lr, steps = (0.01, 8_000) if quadratic else (1e-4, 20_000)

        def law_at(values: np.ndarray, i: int = i, quadratic: bool = quadratic) -> laws.Law:
            ones = np.ones_like(values)
            if quadratic:
                return laws.QuadraticVICReg(values, ones, *WEIGHTS[i], d=1)
            return laws.VICReg(values, ones, 1, n=views[0].shape[1])

        def value(w: Array, x: Array, x2: Array, loss: Any = loss) -> Array:
            return loss(x * w, x2 * w)

        slopes = jax.vmap(jax.grad(value))

        def step(w: Array, lr: float = lr, slopes: Any = slopes) -> Array:
            return w - lr * slopes(w, *views)

        start = jnp.full(points, 1e-3)
        end = _record(step, start, steps, lambda w: w**2, every=steps // 100)[-1]
        arrays[f"refused_{i}"] = end * np.asarray(law_at(rho).unit())
        arrays[f"refused_{i}_law"] = np.asarray(law_at(rho).rest())
        arrays[f"refused_{i}_grid"] = np.asarray(law_at(grid).rest())
    return arrays


def _powers(points: int) -> dict[str, np.ndarray]:
    """Deep linear encoders: the step time against the singular value of a layer at the start."""
    loss, (x, x2) = methods.find(methods.DEFAULT).objective.loss, _views([GAMMA / SIGMA])
    arrays: dict[str, np.ndarray] = {}
    steps, every = 20_000, 10
    for L, ends in LAYERS.items():
        size = np.geomspace(*ends, points)
        law = laws.DeepLinear(np.array([GAMMA]), L)
        begin = [np.array([GAMMA * a ** (2 * L)]) for a in size]
        tau = np.array([float(law.step_times(lam)[0]) for lam in begin])
        lr = 1.15 * tau / steps
        late = [float(law.descent_delay(r, lam)[0]) for r, lam in zip(lr, begin, strict=True)]

        def value(layers: Array) -> Array:
            w = jnp.prod(layers)
            return loss(x[0] * w, x2[0] * w)

        slopes = jax.vmap(jax.grad(value))

        def step(layers: Array, lr: np.ndarray = lr, slopes: Any = slopes) -> Array:
            return layers - lr[:, None] * slopes(layers)

        start = jnp.asarray(np.repeat(size[:, None], L, axis=1))
        curves = _record(step, start, steps, lambda a: GAMMA * jnp.prod(a, axis=1) ** 2, every)
        times = every * np.arange(len(curves))
        seen = [lr[i] * descents.crossing(times, curves[:, i], 0.5) for i in range(points)]
        arrays |= {
            f"power_{L}_start": size,
            f"power_{L}": np.array(seen),
            f"power_{L}_law": tau * (1 + np.array(late)),
        }
    return arrays


def errors(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the number of each panel, the largest disagreement with its law."""
    growth = [
        np.abs(arrays[f"growth_{name}"] - arrays[f"growth_{name}_law"]).max()
        / np.abs(arrays[f"growth_{name}_law"]).max()
        for name in LAGS
    ]
    wait = []
    for name in ("small", "balanced"):
        tau, seen = arrays[f"wait_{name}_law"], arrays[f"wait_{name}"]
        steps = np.isfinite(tau)
        wait.append(np.abs(seen[steps] / tau[steps] - 1).max())
    refused = [
        np.abs(arrays[f"refused_{i}"] - arrays[f"refused_{i}_law"]).max()
        for i in range(len(WEIGHTS) + 1)
    ]
    power = [np.abs(arrays[f"power_{L}"] / arrays[f"power_{L}_law"] - 1).max() for L in LAYERS]
    return {
        "growth": float(max(growth)),
        "wait": float(max(wait)),
        "refused": float(max(refused)),
        "power": float(max(power)),
    }


def check(arrays: dict[str, np.ndarray]) -> list[Check]:
    """Check the four predictions."""
    number = {name: law_cases.finite(value) for name, value in errors(arrays).items()}
    zero = [
        float(np.interp(0, arrays[f"growth_{name}"], arrays["growth_rho"])) - 0.4 for name in LAGS
    ]
    never = arrays["wait_small"][~np.isfinite(arrays["wait_small_law"])]
    slopes = [
        np.polyfit(np.log(arrays[f"power_{L}_start"][:3]), np.log(arrays[f"power_{L}"][:3]), 1)[0]
        + 2 * L
        - 2
        for L in LAYERS
        if L > 1
    ]
    return [
        Check("DINO: error of the growth rates / largest rate", number["growth"], STEP, "<="),
        Check("DINO: agreement without growth, distance from 0.4", max(map(abs, zero)), 0.01, "<="),
        Check("BYOL: step times against the predictor's start", number["wait"], STEP, "<="),
        Check(
            "BYOL: modes that grow although the predictor starts above ρ",
            int(np.isfinite(never).sum()),
            0,
            "==",
        ),
        Check("VICReg: error of final variances against ρ", number["refused"], STEP, "<="),
        Check("deep linear: step times against the start", number["power"], STEP, "<="),
        Check(
            "deep linear: distance of the power from −2(L − 1)",
            max(map(abs, slopes)),
            0.15,
            "<=",
        ),
    ]


def percent(value: float) -> str:
    """Return a relative error as text, for instance <0.1% or 2.3%."""
    if not math.isfinite(value):
        return "∞"
    if value < 1e-3:
        return "<0.1%"
    return f"{value:.1%}" if value < 0.0995 else f"{value:.0%}"


DASHED: dict[str, Any] = {"color": plotting.INK, "ls": (0, (4, 2)), "lw": 1.2}


def draw(axes: Any, arrays: dict[str, np.ndarray]) -> None:
    """Draw the four panels: points measured, dashes the law."""
    number = errors(arrays)
    colours = plotting.PALETTE
    ax = axes[0]
    for name, colour, label in (
        ("without", colours[0], "teacher = student"),
        ("slow", colours[1], "teacher lags"),
    ):
        ax.plot(arrays["growth_grid"], arrays[f"growth_{name}_grid"], **DASHED)
        ax.plot(arrays["growth_rho"], arrays[f"growth_{name}"], "o", color=colour, label=label)
    ax.axhline(0, color="0.6", lw=0.8)
    ax.axvline(0.4, color="0.6", lw=0.8)
    ax.text(0.41, ax.get_ylim()[0] * 0.9, "τt/τs = 0.4", color="0.35", va="bottom")
    ax.set(xlabel="agreement ρ of the mode", ylabel="growth rate")
    ax.set_title("DINO grows above ρ = τt/τs")
    ax.legend(loc="upper left", title=f"error {percent(number['growth'])}", alignment="left")

    ax = axes[1]
    for name, colour, label in (
        ("small", colours[0], "encoder small"),
        ("balanced", colours[1], "w = p: a power law"),
    ):
        p0, tau, seen = (arrays[f"wait_{name}{part}"] for part in ("_start", "_law", ""))
        dashes = (arrays["wait_grid"], arrays["wait_curve"]) if name == "small" else (p0, tau)
        ax.plot(*dashes, **DASHED)
        ax.plot(p0, seen, "o", color=colour, label=label)
    ax.axvspan(GAMMA / SIGMA, 1.0, color="0.88", lw=0)
    ax.text(math.sqrt(GAMMA / SIGMA), 2.0, "never", color="0.35", ha="center", rotation=90)
    ax.set(xscale="log", yscale="log", xlim=(0.015, 1.0), ylim=(0.2, None))
    ax.set(xlabel="start p0 of the predictor", ylabel="step time t = lr × step")
    ax.set_title("BYOL waits for its predictor")
    ax.legend(loc="lower left", title=f"error {percent(number['wait'])}", alignment="left")

    ax = axes[2]
    names = [f"quadratic, a/b = {a / b:g}" for a, b in WEIGHTS] + ["official, one row"]
    for i, name in enumerate(names):
        ax.plot(arrays["refused_grid"], arrays[f"refused_{i}_grid"], **DASHED)
        ax.plot(arrays["refused_rho"], arrays[f"refused_{i}"], "o", color=colours[i], label=name)
    ax.set(xlabel="agreement ρ of the mode", ylabel="final variance", ylim=(-0.05, 1.75))
    ax.set_title("VICReg refuses modes of small ρ")
    ax.legend(loc="upper left", title=f"error {number['refused']:.3f}", alignment="left", ncols=1)

    ax = axes[3]
    for i, L in enumerate(LAYERS):
        ax.plot(arrays[f"power_{L}_start"], arrays[f"power_{L}_law"], **DASHED)
        label = "1 layer: logarithm" if L == 1 else f"{L} layers: power −{2 * L - 2}"
        ax.plot(
            arrays[f"power_{L}_start"], arrays[f"power_{L}"], "o", color=colours[i], label=label
        )
    ax.set(xscale="log", yscale="log")
    ax.set(xlabel="singular value of a layer at the start", ylabel="step time t = lr × step")
    ax.set_title("Deep linear: the wait is a power")
    ax.legend(loc="lower left", title=f"error {percent(number['power'])}", alignment="left")
    ax.set_ylim(0.01, None)
