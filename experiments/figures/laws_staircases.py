"""The laws of other losses are staircases too, and descent follows them.

Claim          Under every loss with a law, gradient descent of the linear model from a small start
               learns one mode after another, when the law says. On real images, whose moments have
               no common eigenbasis, the validity report names the steps that a law does not give.
Paper          beyond the paper, which has the law of one loss; the sources are in the docstrings of
               `stepwise.laws`
Command        make laws (PRESET=smoke|laptop|paper, DATA=..., DATA_DIR=...)
Time, 2 cores  smoke 40 s, laptop 5 min
Expected       shared eigenbasis: step times within 2% and final values within 1%, or the weaker
               bound that the law states (experiments/shared/law_cases.py has the reasons); images:
               no step that the report trusts is off by more than 10%, and it trusts at least half
               of the first three modes; DINO's growth changes sign at τt/τs; the wait of a deep
               encoder is a power of its start

Solid lines are descent, dashes are the law, later by the delay that the law gives to descent. A
number in a panel is the largest relative error of a step time, and of a final value.
"""

from dataclasses import asdict, dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.contract import Check, Progress, Result, silent
from experiments.shared import descents, images, law_cases, law_panels
from experiments.shared.images import digest
from experiments.shared.law_panels import percent
from stepwise import _random, laws, plotting, problem, validity
from stepwise.laws import Law
from stepwise.plotting import Figure
from stepwise.problem import Problem

__all__ = ["Config", "check", "digest", "plot", "run"]

SECONDS = {"smoke": 40, "laptop": 310}
"""About what it takes on two cores, for the time left of `make figures`."""

TOLERANCE = 0.1
"""Largest relative error of a step on real images that the report is asked about."""

FIRST = 3
"""Number of modes of each law among which the trusted ones are counted."""

SLOW = (laws.LeJEPA,)
"""Laws whose loss takes a hundred times as long: descent waits for the trusted modes alone."""


@dataclass(frozen=True)
class Config:
    """Settings of the figure."""

    data: str = "photos"
    """Images: photos, glyphs, cifar10, stl10, folder:PATH, pairs:PATH or npz:PATH."""
    data_dir: str | None = None
    """Folder that contains cifar10 or stl10."""
    side: int = 32
    n_pairs: int = 300
    d: int = 4
    start_scale: float = 1e-5
    """Standard deviation of W(0)'s entries on the images."""
    rate: float = 0.2
    """Learning rate times the largest growth rate, on the images."""
    made_up_pairs: int = 512
    """Number of pairs with a shared eigenbasis, a power of 2."""
    points: int = 9
    """Number of points along each curve of the last four panels."""
    every: int = 1
    """Compute one law in this many; 1 for all."""
    seed: int = 0
    x64: bool = True

    @classmethod
    def smoke(cls) -> "Config":
        """Return a configuration that runs in seconds: a seventh of the laws and fewer pairs."""
        return cls(n_pairs=40, made_up_pairs=256, points=5, every=7)

    @classmethod
    def laptop(cls) -> "Config":
        """Return all laws, on the photographs of scikit-learn."""
        return cls()

    @classmethod
    def paper(cls) -> "Config":
        """Return all laws, on the images of the paper."""
        return cls(data="cifar10")


def run(config: Config, progress: Progress = silent) -> Result:
    """Descend every loss on made-up pairs and on images, and compute the last four panels."""
    arrays: dict[str, np.ndarray] = {}
    shared, pictured = [], []
    cases = law_cases.shared_basis(config.made_up_pairs, config.seed)
    for i, case in enumerate(cases):
        if i % config.every == 0:
            progress(f"shared eigenbasis: {case.title}")
            stairs = case.train(config.seed)
            shared.append(_numbers(stairs) | {"title": case.title, "bound": list(case.bound)})
            arrays |= _arrays(f"shared_{len(shared) - 1}", stairs)
    progress("views and the spectrum of Γ")
    model = problem.from_views(*images.crops(config), center="pooled")
    for i, (title, law, trained) in enumerate(law_cases.on_images(model, config.d)):
        if i % config.every:
            continue
        progress(f"images: {title}")
        stairs, risk = _on_images(model, law, trained, config)
        pictured.append(_numbers(stairs) | {"title": title, "risk": risk})
        arrays |= _arrays(f"images_{len(pictured) - 1}", stairs)
    progress("DINO, BYOL, VICReg and deep encoders: one number against another")
    numbers = {"shared": shared, "images": pictured, "config": asdict(config)}
    return Result(arrays | law_panels.compute(config.points), numbers)


def _on_images(
    model: Problem, law: Law, loss: descents.Model, config: Config
) -> tuple[descents.Staircase, list[bool]]:
    """Descend a loss, and return which of its modes the report flags."""
    start = model.start(_random.key(config.seed), config.d, config.start_scale)
    if law.free_rows(config.d) < config.d:
        start = start.at[-1].set(0)  # an offset takes this dimension
    report = validity.report(model, config.d, law=law, A0=start, tolerance=TOLERANCE)
    risk = [bool(flag) for flag in report.at_risk]
    slow = isinstance(law, SLOW)
    x, x2 = jnp.split(jnp.asarray(model.features), 2)
    trained = descents.train(
        law,
        loss,
        start,
        law.generic_start(start),
        (x, x2),
        descents.learning_rate(law, config.rate),
        settled=0.9,
        modes=max(1, risk.count(False)) if slow else None,
    )
    return trained, risk


def _numbers(stairs: descents.Staircase) -> dict[str, Any]:
    """Return the errors of a staircase as JSON values."""
    return {
        "tau": stairs.tau.tolist(),
        "step_errors": stairs.step_errors.tolist(),
        "end_errors": stairs.end_errors.tolist(),
        "steps": stairs.steps,
    }


def _arrays(name: str, stairs: descents.Staircase) -> dict[str, np.ndarray]:
    return {
        f"{name}_times": stairs.times,
        f"{name}_curves": stairs.curves,
        f"{name}_theory": stairs.theory,
    }


def check(result: Result) -> list[Check]:
    """Check every law on made-up pairs, every trusted step on images, and the last four panels."""
    checks, pictured = [], result.numbers["images"]
    for each in result.numbers["shared"]:
        step, end, _ = each["bound"]
        worst = [law_cases.finite(max(each[name])) for name in ("step_errors", "end_errors")]
        checks += [
            Check(f"{each['title']}: error of step times", worst[0], step, "<="),
            Check(f"{each['title']}: error of final values", worst[1], end, "<="),
        ]
    for each in pictured:
        trusted = _trusted_errors(each)
        if trusted:
            name = f"images, {each['title']}: error of {len(trusted)} trusted step times"
            checks.append(Check(name, law_cases.finite(max(trusted)), TOLERANCE, "<="))
    flags = [flag for each in pictured for flag in each["risk"][:FIRST]]
    share = float(np.mean(np.logical_not(flags)))
    name = f"images: share of the first {FIRST} modes that the report trusts"
    return [*checks, Check(name, share, 0.5, ">="), *law_panels.check(result.arrays)]


def _trusted_errors(each: dict[str, Any]) -> list[float]:
    """Return the errors of the step times that the report does not flag."""
    pairs = zip(each["step_errors"], each["tau"], each["risk"], strict=False)
    return [error for error, tau, risk in pairs if not risk and np.isfinite(tau)]


def plot(result: Result) -> Figure:
    """Draw a staircase for every law, first of made-up pairs, then of images, and four panels."""
    shared, pictured = result.numbers["shared"], result.numbers["images"]
    columns = {"shared": 5, "images": 5}
    rows = [-(-len(result.numbers[name]) // count) for name, count in columns.items()]
    heights = [2.35 * count + 0.5 for count in rows] + [3.4]
    fig = plotting.figure(15, sum(heights))
    parts: Any = fig.subfigures(3, 1, height_ratios=heights)
    axes = _grid(parts[0], len(shared), columns["shared"])
    for i, (ax, each) in enumerate(zip(axes, shared, strict=True)):
        text = f"steps {percent(max(each['step_errors']))}\nends {percent(max(each['end_errors']))}"
        _stairs(ax, result.arrays, f"shared_{i}", each["title"], text, [])
    parts[0].suptitle(
        "A  Made-up pairs, one eigenbasis of Γ and Σ: descent (solid) and law (dashed). "
        "Numbers: largest relative error",
        fontsize=13,
    )
    axes = _grid(parts[1], len(pictured), columns["images"])
    for i, (ax, each) in enumerate(zip(axes, pictured, strict=True)):
        trusted = _trusted_errors(each)
        text = f"trusted: {len(trusted)}"
        text += f"\nsteps {percent(max(trusted))}" if trusted else ""
        _stairs(ax, result.arrays, f"images_{i}", each["title"], text, each["risk"])
    config = result.numbers["config"]
    parts[1].suptitle(
        f"B  {config['n_pairs']} pairs of {images.title(config['data'])}, no common eigenbasis. "
        "Thin grey: modes whose step the validity report does not trust within 10%",
        fontsize=13,
    )
    law_panels.draw(parts[2].subplots(1, 4), result.arrays)
    parts[2].suptitle(
        "C  What is special to four of them: descent (points) and law (dashed)", fontsize=13
    )
    return fig


def _grid(part: Any, count: int, columns: int) -> list[Any]:
    """Return `count` axes, in rows of `columns`."""
    shown = min(count, columns)
    grid = part.subplots(-(-count // shown), shown, squeeze=False).ravel()
    for ax in grid[count:]:
        ax.remove()
    return list(grid[:count])


def _stairs(
    ax: Any, arrays: dict[str, np.ndarray], name: str, title: str, text: str, risk: list[bool]
) -> None:
    """Draw one staircase; grey and thin where a mode is at risk."""
    times, curves, theory = (arrays[f"{name}_{part}"] for part in ("times", "curves", "theory"))
    known = theory.shape[1]
    for j, colour in enumerate(plotting.mode_colours(curves.shape[1])):
        flagged = risk[j] if risk else j >= known
        style: dict[str, Any] = {"color": "0.6", "lw": 1.0} if flagged else {"color": colour}
        ax.plot(times[1:], curves[1:, j], **{"lw": 3.0, **style})
        if j < known:
            dashes: dict[str, Any] = {"color": "0.35" if flagged else plotting.INK}
            ax.plot(times[1:], theory[1:, j], ls=(0, (3, 2)), lw=1.1, **dashes)
    begin = _takes_off(times, curves, theory)
    top = 1.45 * max(theory[-1].max(), curves[:, : max(known, 1)].max())
    ax.set(xscale="log", xlim=(begin, times[-1]), ylim=(-0.03 * top, top))
    ax.set_title(title, fontsize=9)
    text += "\nmode 1 alone" if known == 1 < curves.shape[1] else ""
    ax.text(0.03, 0.97, text, transform=ax.transAxes, va="top", fontsize=10)
    ax.set(xlabel="t = lr × steps", ylabel="eigenvalues")
    _label_times(ax, begin, float(times[-1]))


def _label_times(ax: Any, begin: float, end: float) -> None:
    """Label 1, 2 and 5 times each power of ten, or the powers alone on a long axis."""
    powers = 10.0 ** np.arange(np.floor(np.log10(begin)), np.ceil(np.log10(end)) + 1)
    multiples = (1, 2, 5) if end < 15 * begin else (1,)
    ticks = [k * power for power in powers for k in multiples if begin <= k * power <= end]
    ax.set_xticks(ticks, [f"{tick:.0e}" if tick < 1e-3 else f"{tick:g}" for tick in ticks])
    ax.minorticks_off()


def _takes_off(times: np.ndarray, curves: np.ndarray, theory: np.ndarray) -> float:
    """Return a time shortly before the first eigenvalue is seen to rise, for the left end."""
    rises = np.maximum(curves[:, 0], theory[:, 0]) > 0.01 * max(theory[-1].max(), 1e-300)
    first = times[int(np.argmax(rises))] if rises.any() else times[1]
    return float(max(first / 3, times[1]))
