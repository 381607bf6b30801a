"""Two networks, one for pictures and one for captions, trained together by the loss of CLIP.

The network of pictures is a small ResNet, that of captions a perceptron on bags of words. Both end
in a linear head that starts small. Each step draws its pictures anew, as squares of a canvas with a
margin, so that sizes and offsets vary.
"""

import contextlib
import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array

from experiments.contract import Progress
from experiments.shared.network_laws import time_of_step
from stepwise import _files, _random, data, laws, losses, models, views
from stepwise.data import glyphs
from stepwise.data.captions import bag_of_words
from stepwise.training import ownership
from stepwise.training.checkpoints import Checkpoints

MARGIN = 8
"""The margin of a canvas on each side is the picture's side divided by this."""
AUGMENTATION = (0.6, 1.0)
"""Share of a canvas that a view shows."""
SCALE = 1.0
"""Factor on the products of embeddings, which are not normalised."""
PROBE = 1024
"""Number of pairs on which everything is measured."""
SAVED = 100
"""Number of steps between two checkpoints."""


@dataclass(frozen=True)
class Settings:
    """Settings of a run."""

    data: str = "glyphs"
    data_dir: str | None = None
    side: int = 16
    limit: int | None = None
    """Number of pictures to train on; None takes all."""
    least: int = 4
    """Number of captions in which a word must occur."""
    blocks: tuple[int, ...] = (1, 1)
    width: int = 16
    hidden: int = 128
    """Number of hidden units of the network of captions."""
    d: int = 16
    start_scale: float = 1e-4
    """Factor on the heads' weights at the start."""
    lr: float = 0.1
    momentum: float = 0.9
    steps: int = 1500
    batch_size: int = 256
    records: int = 120
    seed: int = 0


@dataclass(frozen=True)
class Part:
    """Pictures [n, s, s, c] with their captions, as texts and as words that they have [n, V]."""

    pixels: np.ndarray
    captions: tuple[str, ...]
    bags: np.ndarray

    def __len__(self) -> int:
        return len(self.captions)

    def rows(self, rows: np.ndarray) -> "Part":
        """Return some pairs."""
        captions = tuple(self.captions[i] for i in rows)
        return Part(self.pixels[rows], captions, self.bags[rows])

    def spaced(self, most: int) -> "Part":
        """Return `most` pairs or fewer, evenly spaced."""
        return self.rows(np.unique(np.linspace(0, len(self) - 1, min(most, len(self))).astype(int)))


@dataclass(frozen=True)
class Corpus:
    """Pairs to train on, to measure on, and held out, with the words that count."""

    train: Part
    probe: Part
    test: Part
    vocabulary: tuple[str, ...]


def corpus(settings: Settings) -> Corpus:
    """Load all parts. Held-out glyphs are characters that training shows in no face.

    Raises:
        ValueError: if the images have no captions.
    """
    options: dict[str, Any] = {"size": settings.side, "seed": settings.seed}
    if settings.data == "glyphs":
        train = glyphs.load("train", settings.limit, **options)
        probe = glyphs.load("train", None, **options, faces=glyphs.FACES[:1])
        test = glyphs.load("test", None, **options, faces=glyphs.FACES[:1])
    else:
        train = data.load(settings.data, root=settings.data_dir, limit=settings.limit, **options)
        probe = test = train
    for images in (train, probe, test):
        if not images.captions:
            raise ValueError(
                "data: expected images with captions (glyphs or pairs:PATH), "
                f"received {settings.data!r}"
            )
    vocabulary = bag_of_words(train.captions, least=settings.least)[1]
    parts = [
        Part(
            images.pixels,
            images.captions,
            bag_of_words(images.captions, vocabulary=vocabulary)[0],
        )
        for images in (train, probe, test)
    ]
    if settings.data != "glyphs":
        # by picture, because a picture may have several captions
        kinds, which = np.unique(glyphs.first_equal(train.pixels), return_inverse=True)
        held = (np.arange(len(kinds)) % glyphs.TEST == glyphs.TEST - 1)[which]
        parts = [parts[0].rows(np.flatnonzero(rows)) for rows in (~held, ~held, held)]
    # a caption without a frequent word says nothing
    parts = [part.rows(np.flatnonzero(part.bags.any(axis=1))) for part in parts]
    count, least = len(parts[0]), settings.batch_size
    if count < least or len(parts[2]) == 0:
        expected = f"at least {least} pairs to train on and one to hold out"
        raise ValueError(f"data: expected {expected}, received {count} and {len(parts[2])}")
    return Corpus(parts[0], parts[1].spaced(PROBE), parts[2].spaced(PROBE), vocabulary)


def digest(given: Corpus) -> str:
    """Return a hash of the pictures and captions of all parts."""
    every = (given.train, given.probe, given.test)
    texts = json.dumps([part.captions for part in every])
    return _files.digest(*(part.pixels for part in every), texts)


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        steps: the measured steps [T].
        probe, test: both towers' embeddings of the probe and of the held-out pairs [T, 2, n, d].
        first: the step at which the first mode reaches `level` by the law of the features at the
            start.
        level: half of the first mode's rest by this law.
    """

    steps: np.ndarray
    probe: np.ndarray
    test: np.ndarray
    first: float
    level: float


class Towers:
    """The compiled program of a run."""

    def __init__(self, settings: Settings, given: Corpus) -> None:
        self.settings, self.given = settings, given
        channels = given.train.pixels.shape[3]
        rngs = nnx.Rngs(settings.seed)
        resnet = models.ResNet(
            settings.blocks, width=settings.width, stem="small", channels=channels, rngs=rngs
        )
        words = models.Features(len(given.vocabulary), (settings.hidden,), rngs=rngs)
        towers = {
            name: models.scale_start(
                models.Encoder(
                    backbone,
                    models.Head(backbone.features, [settings.d], bias=False, rngs=rngs),
                    **scale,
                ),
                settings.start_scale,
            )
            for name, backbone, scale in (
                ("pictures", resnet, {}),
                ("captions", words, {"mean": (0.0,), "std": (1.0,)}),
            )
        }
        split = {name: models.stateful(tower) for name, tower in towers.items()}
        self.forward = {name: each[0] for name, each in split.items()}
        self.params = {name: each[1] for name, each in split.items()}
        self.stats = {name: each[2] for name, each in split.items()}
        self.optimiser = optax.sgd(settings.lr, momentum=settings.momentum)
        margin = settings.side // MARGIN
        crop = views.ResizedCrop(scale=AUGMENTATION, ratio=(1.0, 1.0), size=settings.side)
        self.view, self.margin = views.View(crop=crop), margin
        self.pixels, self.bags = jnp.asarray(given.train.pixels), jnp.asarray(given.train.bags)
        key = jax.random.fold_in(_random.key(settings.seed), 1)
        self.probes = [
            (self._draw(jnp.asarray(part.pixels), key), jnp.asarray(part.bags))
            for part in (given.probe, given.test)
        ]
        self._advance = jax.jit(self._take_step, donate_argnums=0)
        self._measure = jax.jit(self._embed)

    def start(self) -> Any:
        """Return the state before the first step."""
        state = {"params": self.params, "stats": self.stats}
        return jax.tree.map(jnp.array, state | {"optimiser": self.optimiser.init(self.params)})

    def advance(self, state: Any, step: int) -> Any:
        """Return the state after one more step."""
        epoch, batch = divmod(step, len(self.bags) // self.settings.batch_size)
        rng = np.random.default_rng((self.settings.seed, epoch))
        size = self.settings.batch_size
        rows = rng.permutation(len(self.bags))[batch * size : (batch + 1) * size]
        return self._advance(state, jnp.asarray(rows), jnp.asarray(step))

    def measure(self, state: Any) -> dict[str, np.ndarray]:
        """Return both towers' embeddings of the probe and of the held-out pairs."""
        measured = {}
        for name, (pictures, bags) in zip(("probe", "test"), self.probes, strict=True):
            measured[name] = np.stack(
                self._measure(state["params"], state["stats"], pictures, bags)[0]
            )
        return measured

    def law(self, state: Any) -> tuple[float, float]:
        """Return when the law of the features at the start puts the first mode, and at what level.

        The level is half of the mode's rest.
        """
        features, heads = [], []
        for name, x in zip(self.forward, self.probes[0], strict=True):
            hidden = self.forward[name](state["params"][name], state["stats"][name], x, True)[1]
            f = np.asarray(list(hidden.values())[-1], np.float64)
            features.append(f - f.mean(axis=0))
            kernel = state["params"][name]["head"]["layers"][0]["kernel"]
            heads.append(np.asarray(kernel, np.float64))
        U, g, Vt = np.linalg.svd(
            features[0].T @ features[1] / len(features[0]), full_matrices=False
        )
        rank = int(np.sum(g > 1e-6 * g[0]))
        bases = U[:, :rank], Vt[:rank].T
        sigma1, sigma2 = (
            np.mean((f @ basis) ** 2, 0) for f, basis in zip(features, bases, strict=True)
        )
        with jax.enable_x64(True):
            law = laws.CLIP(g[:rank], sigma1, sigma2, SCALE, d=self.settings.d)
            lam0 = law.generic_start((heads[0].T @ bases[0] + heads[1].T @ bases[1]) / 2)
            time, level = float(law.step_times(lam0)[0]), float(law.rest()[0]) / 2
            rate = float(law.growth()[0])
        return time / time_of_step(self.settings.lr, self.settings.momentum, rate), level

    def _draw(self, pixels: Array, key: Array) -> Array:
        margin = (self.margin, self.margin)
        canvas = jnp.pad(pixels, ((0, 0), margin, margin, (0, 0)))
        keys = jax.random.split(key, len(canvas))
        return jax.vmap(partial(views.draw, self.view))(canvas, keys)

    def _embed(self, params: Any, stats: Any, pictures: Array, bags: Array) -> tuple[Any, Any]:
        inputs, new = {"pictures": pictures, "captions": bags}, {}
        z = []
        for name, forward in self.forward.items():
            embedded, _, new[name] = forward(params[name], stats[name], inputs[name], True)
            z.append(embedded)
        return tuple(z), new

    def _take_step(self, state: Any, rows: Array, step: Array) -> Any:
        key = jax.random.fold_in(_random.key(self.settings.seed), 2)
        pictures = self._draw(self.pixels[rows], jax.random.fold_in(key, step))

        def objective(params: Any) -> tuple[Array, Any]:
            z, stats = self._embed(params, state["stats"], pictures, self.bags[rows])
            return losses.clip(*z, scale=SCALE, normalise=False), stats

        slope, stats = jax.grad(objective, has_aux=True)(state["params"])
        updates, optimiser = self.optimiser.update(slope, state["optimiser"])
        params = optax.apply_updates(state["params"], updates)
        return {"params": params, "stats": stats, "optimiser": optimiser}


def train(settings: Settings, given: Corpus, root: str, progress: Progress) -> Run:
    """Train both towers, or load or resume their run, to the same bits."""
    towers = Towers(settings, given)
    at = np.unique(np.linspace(0, settings.steps, settings.records).round().astype(int))
    identity = {name: value for name, value in asdict(settings).items() if name != "data_dir"}
    constants = [MARGIN, *AUGMENTATION, SCALE, PROBE]
    about = {
        "settings": _files.jsonable(identity),
        "constants": constants,
        "images": digest(given),
    }
    folder = Path(root) / _files.digest(json.dumps(about, sort_keys=True))
    state = towers.start()
    first, level = towers.law(state)
    log = {
        name: np.zeros((len(at), *z.shape), z.dtype) for name, z in towers.measure(state).items()
    }
    with (
        ownership.alone(folder),
        contextlib.closing(Checkpoints(folder / "checkpoints", about)) as store,
    ):
        begin, restored = 0, store.restore({"state": state, "log": log})
        if restored is not None:
            begin, saved = restored
            state, log = saved["state"], jax.tree.map(np.array, saved["log"])
        for step in range(begin, settings.steps + 1):
            if step in at:
                for name, z in towers.measure(state).items():
                    log[name][np.searchsorted(at, step)] = z
            if step % SAVED == 0 or step == settings.steps:
                store.save(step, {"state": state, "log": log})
                progress(f"two networks, step {step} of {settings.steps}")
            if step < settings.steps:
                state = towers.advance(state, step)
    return Run(at, log["probe"], log["test"], first, level)
