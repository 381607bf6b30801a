"""Two towers, one for pictures and one for their names, learn one pair of directions at a time.

Claim          Linear towers under the loss of CLIP learn the singular pairs of the cross moment of
               pictures and words, one after another, when the law says. Two networks do so too: the
               loss waits at ln n, then falls in steps, and with each step more captions are
               retrieved. A mode is a contrast of shapes on one side and of words on the other.
Paper          beyond the paper, which names CLIP among the systems that work; the law is that of
               `laws.CLIP`
Command        make clip (PRESET=smoke|laptop|paper, DATA=pairs:PATH)
Time, 2 cores  smoke 40 s, laptop 12 min
Expected       linear towers, for each start: half heights of the first two modes within 1% of the
               law, take-offs (a tenth of the rest) of the first five within 5%, which modes 4 and 5
               miss from some starts; networks: at least five modes learned one at a time

The pictures are the glyphs of the DejaVu fonts and the words those of their Unicode names. Linear
towers see DejaVu Sans; they descend on all pairs at once, without normalisation, at a constant
scale of 1. Step times are compared after a correction for the lateness of descent,
lr g/ln(1 + lr g). The inputs are not Gaussian, and their moments are not diagonal in the singular
pairs, as the law assumes: modes rest higher than it says, and half heights from the third mode on
are late. The networks are a small ResNet and a perceptron on bags of words, trained by SGD on all
four faces at random sizes and places, with the same loss. They are measured on characters of the
training split, and retrieval also on characters that they never see.
"""

from collections.abc import Generator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.contract import Check, Progress, Result, silent
from experiments.shared import images, tower_networks, tower_scores, towers
from stepwise import _files, data, laws, losses, plotting, spectra
from stepwise.data import glyphs
from stepwise.data.captions import bag_of_words
from stepwise.plotting import Figure

__all__ = ["Config", "check", "digest", "plot", "run"]

SECONDS = {"smoke": 40, "laptop": 720}
"""About what it takes on two cores, for the time left of `make figures`."""

HALF, TAKE_OFF = 0.01, 0.05
"""Bounds: relative error of half heights, and of take-offs."""
TENTH = 0.1
"""Height of a take-off, in units of the rest."""
SHOWN = 5
"""Modes whose take-offs are compared, and which are drawn as words and pictures."""


@dataclass(frozen=True)
class Config:
    """Settings of the figure."""

    data: str = "glyphs"
    """Pictures with captions: glyphs or pairs:PATH."""
    data_dir: str | None = None
    """Folder in which a relative PATH starts."""
    side: int = 16
    n_pairs: int = 2000
    least: int = 4
    """Number of captions in which a word must occur."""
    d: int = 16
    start_scale: float = 1e-4
    """Standard deviation of the starting weights of both towers."""
    starts: int = 3
    lr: float = 0.4
    steps: int = 500
    pictures: int | None = None
    """Number of pictures on which the networks train; by default all of the training split."""
    network_start_scale: float = 1e-4
    """Factor on the starting weights of the networks' heads."""
    network_lr: float = 0.3
    network_steps: int = 2500
    width: int = 16
    """Number of channels in the first stage of the network of pictures."""
    seed: int = 0
    runs_dir: str = "runs"
    """Folder of the training runs, shared by all figures."""

    @classmethod
    def smoke(cls) -> "Config":
        """Return few pairs, one start, and networks that learn one mode: seconds."""
        small: dict[str, Any] = {"pictures": 1000, "network_start_scale": 0.1, "width": 4}
        return cls(n_pairs=300, starts=1, d=8, steps=300, network_steps=60, **small)

    @classmethod
    def laptop(cls) -> "Config":
        """Return 2,000 pairs and three starts; networks of two blocks on all glyphs."""
        return cls()

    @classmethod
    def paper(cls) -> "Config":
        """Return 8,000 pairs and a standard width, for an accelerator."""
        return cls(n_pairs=8000, width=64)

    def __post_init__(self) -> None:
        """Reject numbers that are not positive before any image is loaded."""
        for name in ("n_pairs", "d", "starts", "steps", "network_steps", "lr", "network_lr"):
            if not getattr(self, name) > 0:
                expected = f"{name}: expected a positive number"
                raise ValueError(f"{expected}, received {getattr(self, name)!r}")

    def networks(self) -> towers.Settings:
        """Return the settings of the networks' run."""
        same = {name: getattr(self, name) for name in ("data", "data_dir", "side", "least", "d")}
        own = {name: getattr(self, f"network_{name}") for name in ("start_scale", "lr", "steps")}
        shape: dict[str, Any] = {"width": self.width, "limit": self.pictures, "seed": self.seed}
        return towers.Settings(**same, **own, **shape)


@dataclass(frozen=True)
class Pairs:
    """Centred pictures and words, and the singular pairs of their cross moment.

    Attributes:
        x1, x2: the two inputs [n, m1], [n, m2], centred.
        U, V: singular vectors as columns [m1, r], [m2, r].
        g: singular values [r].
        vocabulary: the words.
    """

    x1: np.ndarray
    x2: np.ndarray
    U: np.ndarray
    V: np.ndarray
    g: np.ndarray
    vocabulary: tuple[str, ...]

    def law(self, d: int) -> laws.CLIP:
        """Return the law at scale 1, with the variances of the inputs along the singular pairs."""
        sigma1, sigma2 = (
            np.mean((x @ vectors) ** 2, axis=0)
            for x, vectors in ((self.x1, self.U), (self.x2, self.V))
        )
        return laws.CLIP(self.g, sigma1, sigma2, 1.0, d=d)


def pairs(config: Config) -> Pairs:
    """Load pictures with captions, and leave out those without a frequent word.

    Raises:
        ValueError: if the images have no captions.
    """
    chosen: dict[str, Any] = {"limit": config.n_pairs, "size": config.side, "seed": config.seed}
    if config.data == "glyphs":
        loaded = glyphs.load("train", **chosen, faces=glyphs.FACES[:1])
    else:
        loaded = data.load(config.data, root=config.data_dir, **chosen)
    if not loaded.captions:
        raise ValueError(
            f"data: expected images with captions (glyphs or pairs:PATH), received {config.data!r}"
        )
    bags, vocabulary = bag_of_words(loaded.captions, least=config.least)
    used = bags.any(axis=1)
    x1 = loaded.pixels[used].reshape(int(used.sum()), -1) / 255.0
    x1, x2 = x1 - x1.mean(axis=0), bags[used] - bags[used].mean(axis=0, dtype=np.float64)
    U, g, Vt = np.linalg.svd(x1.T @ x2 / len(x1), full_matrices=False)
    rank = int(np.sum(g > 1e-6 * g[0]))
    return Pairs(x1, x2, U[:, :rank], Vt[:rank].T, g[:rank], vocabulary)


def digest(config: Config) -> str:
    """Return a hash of the pictures and captions of both parts."""
    given = pairs(config)
    return _files.digest(given.x1, given.x2, towers.digest(towers.corpus(config.networks())))


def run(config: Config, progress: Progress = silent) -> Generator[Result, None, Result]:
    """Train linear towers and compare them with the law; then train networks."""
    result = linear(config, progress)
    yield result
    arrays, numbers = tower_networks.compute(config.networks(), config.runs_dir, progress)
    return Result(result.arrays | arrays, result.numbers | {"networks": numbers})


def linear(config: Config, progress: Progress = silent) -> Result:
    """Train linear towers from each start, and compare them with the law."""
    given = pairs(config)
    modes, waits = min(SHOWN, config.d), []
    times = config.lr * np.arange(config.steps + 1)
    arrays: dict[str, np.ndarray] = {"times": times}
    with jax.enable_x64(True):
        law = given.law(config.d)
        rest = np.asarray(law.rest())[:modes]
    for i in range(config.starts):
        progress(f"linear towers of {len(given.x1)} pairs, start {i + 1} of {config.starts}")
        rng = np.random.default_rng((config.seed, i))
        W1, W2 = (
            config.start_scale * rng.normal(size=(config.d, x.shape[1]))
            for x in (given.x1, given.x2)
        )
        curves, loss, (W1_end, W2_end) = descend(given, W1, W2, config)
        with jax.enable_x64(True):
            lam0 = np.asarray(law.generic_start((W1 @ given.U + W2 @ given.V) / 2))
            theory = np.asarray(law.eigenvalues(times, lam0))
            late = config.lr * given.g[:modes] / np.log1p(config.lr * given.g[:modes])
            wait = {}
            for name, level in (("half", 0.5), ("take_off", TENTH)):
                tau = np.asarray(law.step_times(lam0, level=level))[:modes] * late
                own = spectra.step_times(times, curves[:, :modes] / (2 * level * rest))
                wait[name] = (np.asarray(own) / tau).tolist()
        waits.append(wait)
        arrays |= {f"curves_{i}": curves, f"theory_{i}": theory, f"loss_{i}": loss}
    embedded = np.stack([given.x1 @ W1_end.T, given.x2 @ W2_end.T])
    arrays |= {"words": given.V[:, :modes].T, "shapes": given.U[:, :modes].T}
    numbers = {
        "pairs": len(given.x1),
        "words": [given.vocabulary[j] for j in range(len(given.vocabulary))],
        "g": given.g[:modes].tolist(),
        "waits": waits,
        "retrieval": tower_scores.retrieval(embedded, given.x2, given.x1),
        "config": asdict(config),
    }
    return Result(arrays, numbers)


def descend(
    given: Pairs, W1: np.ndarray, W2: np.ndarray, config: Config
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Train both towers by gradient descent on all pairs at once, in float32.

    Returns:
        The singular values of Σ1^{1/2} W1ᵀ W2 Σ2^{1/2} before each step and after the last
        [steps + 1, d], the loss likewise, and the final towers.
    """
    with jax.enable_x64(False):
        x1, x2 = jnp.asarray(given.x1, jnp.float32), jnp.asarray(given.x2, jnp.float32)
        start = {"W1": jnp.asarray(W1, jnp.float32), "W2": jnp.asarray(W2, jnp.float32)}
        end, (losses_, S1, S2) = _descend(start, x1, x2, config.lr, config.steps)
    products = np.asarray(S1, np.float64) @ np.asarray(S2, np.float64)
    squares = np.sort(np.linalg.eigvals(products).real, axis=1)[:, ::-1]
    towers = np.asarray(end["W1"]), np.asarray(end["W2"])
    return np.sqrt(np.maximum(squares, 0)), np.asarray(losses_), towers


@partial(jax.jit, static_argnames="steps")
def _descend(start: Any, x1: Array, x2: Array, lr: float, steps: int) -> Any:
    def loss(W: Any) -> Array:
        return losses.clip(x1 @ W["W1"].T, x2 @ W["W2"].T, scale=1.0, normalise=False)

    def measure(W: Any, value: Array) -> tuple[Array, Array, Array]:
        z1, z2 = x1 @ W["W1"].T, x2 @ W["W2"].T
        return value, z1.T @ z1 / len(x1), z2.T @ z2 / len(x2)

    def step(W: Any, _: None) -> tuple[Any, Any]:
        value, slope = jax.value_and_grad(loss)(W)
        return jax.tree.map(lambda w, s: w - lr * s, W, slope), measure(W, value)

    end, path = jax.lax.scan(step, start, None, length=steps)
    last = measure(end, loss(end))
    return end, jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), path, last)


def check(result: Result) -> list[Check]:
    """Check half heights and take-offs of every start, and the networks."""
    waits = result.numbers["waits"]
    half, take_off = (np.array([wait[name] for wait in waits]) for name in ("half", "take_off"))
    accuracy = result.numbers["retrieval"]
    checks = [
        Check("half heights of modes 1 and 2, largest error", _error(half[:, :2]), HALF, "<="),
        Check(
            f"take-offs of modes 1 to {take_off.shape[1]}, largest error",
            _error(take_off),
            TAKE_OFF,
            "<=",
        ),
        Check("retrieval over chance", accuracy["accuracy"] / accuracy["chance"], 10, ">="),
    ]
    networks, d = result.numbers.get("networks"), result.numbers["config"]["d"]
    return checks + (tower_networks.check(networks, d) if networks else [])


def _error(ratios: np.ndarray) -> float:
    return float(np.abs(ratios - 1).max())


def plot(result: Result) -> Figure:
    """Draw the first start's curves, all ratios to the law, and modes as words and pictures."""
    a, numbers = result.arrays, result.numbers
    config, modes = numbers["config"], len(numbers["g"])
    networks = numbers.get("networks")
    heights = [1.5, 1.0, 1.4, 0.7] if networks else [1.5, 1.0]
    fig = plotting.figure(11, 3 * sum(heights))
    parts: Any = fig.subfigures(len(heights), 1, height_ratios=heights)
    axes: Any = parts[0].subplots(1, 3)
    times = a["times"]
    colours = plotting.mode_colours(modes)
    axes[0].plot(times, a["loss_0"], color=plotting.BLUE)
    axes[0].set(xlabel="time t = learning rate × step", ylabel="loss")
    axes[0].set_title("A  The loss falls from ln n in steps")
    for j in range(modes):
        label = {"label": "towers"} if j == 0 else {}
        axes[1].plot(times, a["curves_0"][:, j], color=colours[j], **label)
    theory = np.moveaxis(
        np.stack([np.broadcast_to(times[:, None], a["theory_0"][:, :modes].shape),
                  a["theory_0"][:, :modes]]), 2, 0)  # fmt: skip
    plotting.dashes(axes[1], theory, "law")
    axes[1].set(xlabel="time t = learning rate × step", ylim=(0, 1.25 * a["curves_0"].max()))
    axes[1].set_ylabel(r"singular values of $\Sigma_1^{1/2} W_1^T W_2 \Sigma_2^{1/2}$")
    axes[1].set_title("B  One pair of directions at a time")
    axes[1].legend(loc="upper left")
    _draw_ratios(axes[2], numbers["waits"])
    _draw_modes(parts[1], result, colours)
    if networks:
        _draw_networks(parts[2:], a, networks)
    shown = images.title(config["data"])
    text = f"Linear towers (A to D): {numbers['pairs']} pairs of {shown} and names, "
    text += f"d = {config['d']}; {_right(numbers['retrieval'])}"
    if networks:
        own = {"accuracy": networks["retrieved"]["probe"], "chance": networks["chance"]["probe"]}
        text += f"\nnetworks (E to H): {networks['pairs']} pairs in four faces; {_right(own)}"
    fig.suptitle(text, fontsize=11)
    return fig


def _right(retrieval: dict[str, float]) -> str:
    accuracy, chance = retrieval["accuracy"], retrieval["chance"]
    return f"nearest caption right: {accuracy:.1%} (chance {chance:.1%})"


def _draw_ratios(ax: Any, waits: list[dict[str, list[float]]]) -> None:
    for (name, label), marker in zip(
        (("half", "half of the rest"), ("take_off", "a tenth of the rest")), "os", strict=True
    ):
        for i, wait in enumerate(waits):
            ratios = wait[name]
            style: dict[str, Any] = {"color": plotting.BLUE if name == "half" else plotting.ORANGE}
            shown = {"label": label} if i == 0 else {}
            ax.plot(np.arange(1, len(ratios) + 1), ratios, marker, mfc="none", **style, **shown)
    ax.axhline(1, color=plotting.INK, lw=0.8)
    ax.set(xlabel="mode", ylabel="step time / law")
    ax.set_xticks(range(1, len(waits[0]["half"]) + 1))
    ax.legend(loc="upper left")
    ax.set_title("C  When, against the law")


def _draw_networks(parts: Any, a: dict[str, np.ndarray], numbers: dict[str, Any]) -> None:
    panels: Any = parts[0].subplots(1, 3)
    tower_networks.draw_curves(panels, a, numbers)
    titles = (
        "E  Two networks: the loss falls in steps",
        "F  One pair of directions at a time",
        "G  Later steps retrieve more captions",
    )
    for ax, title in zip(panels, titles, strict=True):
        ax.set_title(title)
    tower_networks.draw_modes(parts[1], a, numbers)
    title = "H  What the networks' modes contrast, when each is learned"
    parts[1].suptitle(title, fontsize=10.5, x=0.01, ha="left")


def _draw_modes(part: Any, result: Result, colours: np.ndarray) -> None:
    """Draw each mode's shape, with the words of either sign below it."""
    words, shapes = result.arrays["words"], result.arrays["shapes"]
    side = result.numbers["config"]["side"]
    panels: Any = part.subplots(1, len(words))
    channels = shapes.shape[1] // side**2
    pictures = shapes.reshape(len(shapes), side, side, channels).mean(axis=3, keepdims=True)
    titles = [f"mode {j + 1}" for j in range(len(words))]
    plotting.pictures(list(panels), pictures, titles, colours)
    for ax, weights in zip(panels, words, strict=True):
        order, vocabulary = np.argsort(weights), result.numbers["words"]
        named = [vocabulary[j] for j in order[::-1][:4]], [vocabulary[j] for j in order[:4]]
        text = f"white: {', '.join(named[0])}\nblack: {', '.join(named[1])}"
        ax.set_xlabel(text, fontsize=8)
    part.suptitle("D  What the modes contrast: shapes and words", fontsize=10.5, x=0.01, ha="left")
