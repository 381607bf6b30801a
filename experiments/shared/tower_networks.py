"""The part of the figure of two towers that shows networks: what is computed, checked and drawn."""

from typing import Any

import jax
import numpy as np

from experiments.contract import Check, Progress
from experiments.shared import tower_scores, towers
from stepwise import losses, plotting, spectra

NAMED = 5
"""Modes that are shown as pictures and words, and which must be learned one at a time."""
EXTREMES, WORDS = 4, 3
"""Pictures and words at each end of a mode."""
LAST = 10
"""Number of measurements at the end over which retrieval is averaged."""
FACTOR, RETRIEVAL = 1.5, 10.0
"""Bounds: factor between the first step and its law, retrieval in units of chance."""


def compute(
    settings: towers.Settings, runs_dir: str, progress: Progress
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train both networks, and return the arrays and numbers of this part."""
    given = towers.corpus(settings)
    with jax.enable_x64(False):
        run = towers.train(settings, given, runs_dir, progress)
        loss = [losses.clip(*z, scale=towers.SCALE, normalise=False) for z in run.probe]
    values = np.stack([tower_scores.spectrum(z) for z in run.probe])
    # a mode goes on growing while others are learned; from 1 on its logits are large
    shares = np.minimum(values, 1)
    crossed, alone = spectra.steps_alone(run.steps, shares, learned=0.5)
    times = np.asarray(spectra.step_times(run.steps, shares))[:crossed]
    first = float(spectra.step_times(run.steps, values[:, :1] / (2 * run.level))[0])
    arrays: dict[str, np.ndarray] = {
        "network_steps": run.steps,
        "network_values": values,
        "network_loss": np.asarray(loss),
    }
    chance = {}
    for name, part, embedded in (
        ("probe", given.probe, run.probe),
        ("test", given.test, run.test),
    ):
        scores = [tower_scores.retrieval(z, part.bags, part.pixels) for z in embedded]
        arrays[f"network_retrieval_{name}"] = np.array([score["accuracy"] for score in scores])
        chance[name] = scores[0]["chance"]
    numbers = {
        "pairs": len(given.train),
        "crossed": crossed,
        "alone": alone,
        "step_times": times.tolist(),
        "first": {"network": first, "law": run.first},
        "final": values[-1].tolist(),
        "chance": chance,
        "retrieval": _around(run.steps, shares, arrays["network_retrieval_probe"], crossed),
        "retrieved": {
            name: float(arrays[f"network_retrieval_{name}"][-LAST:].mean()) for name in chance
        },
    }
    named = [_named(run, given, j, time) for j, time in enumerate(times[:NAMED])]
    numbers["words"] = [words for _, words in named]
    arrays["network_pictures"] = np.stack([pictures for pictures, _ in named] or [np.zeros(0)])
    return arrays, numbers


def _around(
    steps: np.ndarray, shares: np.ndarray, accuracy: np.ndarray, count: int
) -> list[dict[str, float]]:
    """Return the accuracy of retrieval when each mode is at a tenth, half and nine tenths of 1."""
    rows = []
    for j in range(count):
        levels = {"before": 0.1, "during": 0.5, "after": 0.9}
        at = {
            name: float(spectra.step_times(steps, shares[:, j : j + 1] / (2 * level))[0])
            for name, level in levels.items()
        }
        at = {name: step for name, step in at.items() if np.isfinite(step)}
        rows.append({name: float(np.interp(step, steps, accuracy)) for name, step in at.items()})
    return rows


def _named(
    run: towers.Run, given: towers.Corpus, mode: int, time: float
) -> tuple[np.ndarray, tuple[list[str], list[str]]]:
    """Return a mode's extreme pictures [2, k, s, s, c] and words, right after its step."""
    z = run.probe[np.searchsorted(run.steps, time)]
    pictures, captions = (scores[:, mode] for scores in tower_scores.directions(z))
    rows = tower_scores.extremes(pictures, given.probe.pixels, EXTREMES)
    high, low = (
        [given.vocabulary[i] for i in ends]
        for ends in tower_scores.words(captions, given.probe.bags, WORDS)
    )
    return given.probe.pixels[rows], (high, low)


def check(numbers: dict[str, Any], d: int) -> list[Check]:
    """Check the steps, their law, and retrieval."""
    wanted, retrieved, chance = min(NAMED, d - 1), numbers["retrieved"], numbers["chance"]
    off = float(np.exp(abs(np.log(numbers["first"]["network"] / numbers["first"]["law"]))))
    ratios = {name: retrieved[name] / chance[name] for name in retrieved}
    return [
        Check("networks: modes learned one at a time", numbers["alone"], wanted, ">="),
        Check("networks: first step over that of the law, factor", off, FACTOR, "<="),
        Check("networks: retrieval over chance", ratios["probe"], RETRIEVAL, ">="),
        Check(
            "networks: retrieval of unseen characters over chance",
            ratios["test"],
            RETRIEVAL,
            ">=",
        ),
    ]


def draw_curves(panels: Any, arrays: dict[str, np.ndarray], numbers: dict[str, Any]) -> None:
    """Draw loss, singular values and retrieval of the networks, with a line at each step."""
    steps, values = arrays["network_steps"], arrays["network_values"]
    colours = _colours(numbers)
    for ax in panels:
        for colour, time in zip(colours, numbers["step_times"], strict=False):
            ax.axvline(time, color=colour, lw=0.8, ls=(0, (1, 1.5)), zorder=0)
        ax.set(xlabel="training step", xlim=(0, steps[-1]))
    panels[0].plot(steps, arrays["network_loss"], color=plotting.BLUE)
    panels[0].set_ylabel("loss")
    for j in range(values.shape[1]):
        panels[1].plot(steps, values[:, j], color=colours[j] if j < len(colours) else "0.75")
    panels[1].set(yscale="log", ylim=(1e-4, 2 * values.max()))
    panels[1].axhline(0.5, color="0.6", lw=0.8, zorder=0)
    panels[1].axvline(numbers["first"]["law"], color=plotting.INK, lw=1, ls=(0, (4, 2)))
    panels[1].set_ylabel("singular values of the\ntowers' cross moment")
    for name, label, colour in (
        ("probe", "characters of training", plotting.BLUE),
        ("test", "unseen characters", plotting.ORANGE),
    ):
        accuracy = 100 * arrays[f"network_retrieval_{name}"]
        panels[2].plot(steps, accuracy, color=colour, label=label)
    panels[2].axhline(100 * numbers["chance"]["probe"], color="0.6", lw=0.8)
    panels[2].set_ylabel("nearest caption right, %")
    panels[2].legend(loc="upper left")


def draw_modes(part: Any, arrays: dict[str, np.ndarray], numbers: dict[str, Any]) -> None:
    """Draw the pictures at both ends of each mode, with the words of either side."""
    shown = len(numbers["words"])
    colours = _colours(numbers)
    panels: Any = part.subplots(1, max(1, shown), squeeze=False)[0]
    if shown == 0:
        panels[0].set_axis_off()
        panels[0].text(0.5, 0.5, "no mode is learned", ha="center")
    for j, (ax, (high, low)) in enumerate(zip(panels, numbers["words"], strict=False)):
        pictures = arrays["network_pictures"][j].mean(axis=-1)
        rows = [np.pad(row, ((0, 0), (1, 1), (1, 1)), constant_values=90) for row in pictures]
        ax.imshow(np.vstack([np.hstack(list(row)) for row in rows]), cmap="gray", vmin=0, vmax=255)
        ax.set_title(f"mode {j + 1}", fontsize=8.5, loc="center", fontweight="normal")
        ax.set(xticks=[], yticks=[])
        for spine in ax.spines.values():
            spine.set(visible=True, color=colours[j], linewidth=2.5)
        ax.set_xlabel(f"above: {', '.join(high)}\nbelow: {', '.join(low)}", fontsize=7.5)


def _colours(numbers: dict[str, Any]) -> np.ndarray:
    """Return the colours of the modes that are learned or shown."""
    return plotting.mode_colours(max(NAMED, numbers["crossed"]))
