"""Training runs by their configuration, kept under runs/HASH-OF-CONFIG: who asks for the same
training shares it.
"""

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from stepwise import _check, data, losses, models, probes, views
from stepwise.data import Images
from stepwise.dynamics import training
from stepwise.dynamics.plan import Objective, Plan
from stepwise.dynamics.training import Trained

Method = Literal[
    "barlow_twins_unnormalised",
    "barlow_twins",
    "simclr",
    "vicreg",
    "spectral_contrastive",
    "byol",
    "simsiam",
]
OBJECTIVES: dict[str, Objective] = {
    "barlow_twins_unnormalised": Objective(losses.barlow_twins_unnormalised),
    "barlow_twins": Objective(losses.barlow_twins),
    "simclr": Objective(losses.simclr),
    "vicreg": Objective(losses.vicreg),
    "spectral_contrastive": Objective(losses.spectral_contrastive),
    "byol": Objective(losses.byol, predictor=True, decay=0.996),
    "simsiam": Objective(losses.simsiam, predictor=True),
}


LOG = logging.getLogger(__name__)
ELSEWHERE = ("data", "data_dir", "split")
"""Fields that say where images lie; which images they are is said by their pixels."""
SETTLED = 100
"""Batches after which running statistics, a tenth of a batch each, have forgotten where they began.
"""


@dataclass(frozen=True)
class Config:
    """Every knob of a training run; the defaults are those of a small ResNet that two cores train
    in minutes.
    """

    data: str = "photos"
    """photos, cifar10, stl10, folder:PATH or npz:PATH."""
    data_dir: str | None = None
    """Where cifar10 or stl10 lie."""
    split: str = "train"
    n_images: int = 4096
    side: int = 32
    """Images are brought to this side before views are made of them."""
    recipe: str = "small"
    """Of the views, a name in `views.RECIPES`."""
    method: Method = "barlow_twins_unnormalised"
    """The loss, a function of `losses`."""
    temperature: float | None = None
    """Of SimCLR; None is the official one."""
    blocks: tuple[int, ...] = (1, 1, 1, 1)
    """Residual blocks of each stage."""
    bottleneck: bool = False
    width: int = 16
    """Channels of the first stage."""
    stem: Literal["small", "imagenet"] = "small"
    norm: Literal["batch", "group"] = "batch"
    head: tuple[int, ...] = (10,)
    """Layers from features to embedding; the last is d."""
    predictor: tuple[int, ...] = (512,)
    """Hidden layers of the predictor, where the method has one."""
    start_scale: float = 1e-3
    """Factor on the starting weights; 1 is a standard start."""
    start_of: Literal["head", "all"] = "head"
    """Which weights it shrinks: the head's last layer, or all."""
    offset: float = 0.0
    """Norm of the head's bias at the start, the small start of SimCLR (`models.offset_start`); 0:
    no bias.
    """
    optimiser: Literal["sgd", "lars", "adam", "adamw"] = "sgd"
    """lars leaves biases and normalisations alone, as does adamw's decay."""
    lr: float = 0.004
    momentum: float = 0.9
    """Of sgd and lars."""
    weight_decay: float = 0.0
    """Of all but adam."""
    warmup: int = 0
    """Steps of linear warm-up."""
    cosine: bool = False
    """Whether the rate then falls to a thousandth as a cosine."""
    batch_size: int = 64
    """Pairs a step."""
    steps: int = 2200
    probe: int = 256
    """Images on which all curves are measured."""
    records: int = 150
    """Samples of the curves, on a geometric grid of steps."""
    checkpoint_every: int = 200
    """Steps."""
    snapshots: int = 0
    """So many networks on the way are kept, on a geometric grid from a hundredth of the steps, and
    that at step 0.
    """
    half: bool = False
    """Compute in bfloat16; parameters stay in float32."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no run could use, before anything is loaded."""
        known = {
            "method": OBJECTIVES,
            "recipe": views.RECIPES,
            "optimiser": ("sgd", "lars", "adam", "adamw"),
        }
        for name, names in known.items():
            value = getattr(self, name)
            _check.require(value in names, name, f"one of {sorted(names)}", repr(value))
        for name in ("blocks", "head", "predictor"):
            value = getattr(self, name)
            fits = isinstance(value, tuple) and all(
                isinstance(each, int) and each > 0 for each in value
            )
            fits = fits and (len(value) > 0 or name == "predictor")
            _check.require(fits, name, "a tuple of positive whole numbers", repr(value))
        from_one, from_zero = (
            ("n_images", "side", "width", "steps"),
            ("warmup", "snapshots", "seed"),
        )
        for name in (*from_one, *from_zero):
            least = 1 if name in from_one else 0
            value = getattr(self, name)
            fits = isinstance(value, int) and not isinstance(value, bool) and value >= least
            _check.require(fits, name, f"a whole number from {least}", repr(value))
        for name, below in {"offset": np.inf, "weight_decay": np.inf, "momentum": 1.0}.items():
            value = getattr(self, name)
            _check.require(0 <= value < below, name, f"a number in [0, {below})", repr(value))
        for name in ("start_scale", "lr"):
            value = getattr(self, name)
            _check.require(0 < value < np.inf, name, "a positive number", repr(value))
        fits = self.temperature is None or self.method == "simclr"
        _check.require(fits, "temperature", "None but for simclr", self.temperature)


def train(
    config: Config, *, root: str | os.PathLike[str] = "runs", progress: bool = False
) -> Trained:
    """The run of a configuration: read if it is finished, gone on with if it was stopped, begun
    otherwise.

    One that another version of the code trained is used too, with a warning.

    Raises:
        ValueError: a field is out of range, there are too few images, or as `training.train`.
    """
    images = load(config)
    objective = OBJECTIVES[config.method]
    predictor = None
    if objective.predictor:
        d = config.head[-1]
        predictor = models.Head(d, (*config.predictor, d), rngs=nnx.Rngs(config.seed + 1))
    if config.temperature is not None:
        objective = replace(objective, loss=partial(losses.simclr, temperature=config.temperature))
    where = folder(config, images, root)
    about = {name: value for name, value in asdict(config).items() if name not in ELSEWHERE}
    trained = training.train(
        encoder(config, images.pixels.shape[-1]),
        images.pixels,
        objective,
        plan(config),
        predictor=predictor,
        folder=where,
        about=json.loads(json.dumps(about)),
        progress=progress,
    )
    made = where / "config.json"
    if not made.is_file():
        _write(made, asdict(config) | {"code": _code()})
    elif json.loads(made.read_text()).get("code") != _code():
        LOG.warning("%s: trained by another version of the code; delete it to train anew", where)
    return trained


def _code() -> str:
    """A hash of the modules that a run's numbers depend on."""
    here, found = Path(__file__).parent, hashlib.sha256()
    names = [
        "losses.py",
        "views.py",
        "augment.py",
        "models/*.py",
        "dynamics/plan.py",
        "dynamics/step.py",
    ]
    for path in sorted(
        path for name in [*names, "dynamics/training.py"] for path in here.glob(name)
    ):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def settled(encoder: models.Encoder, pixels: np.ndarray) -> models.Encoder:
    """The encoder with the running batch statistics of these images, in place, in evaluation
    mode."""
    forward, params, stats = models.stateful(encoder)
    settle = jax.jit(
        lambda stats, batch: forward(params, stats, batch.astype(jnp.float32) / 255, True)[2]
    )
    size = min(256, len(pixels))
    starts = range(0, len(pixels) - size + 1, size)
    for _ in range(-(-SETTLED // len(starts))):
        for i in starts:
            stats = settle(stats, pixels[i : i + size])
    models.restored(encoder, params, stats)
    return encoder


def knn(
    config: Config,
    trained: nnx.Module,
    *,
    root: str | os.PathLike[str] = "runs",
    n_test: int = 2000,
    k: int = 20,
) -> dict[str, float] | None:
    """Nearest-neighbour accuracy on the test split, of the run's own images as neighbours; None
    without labels.

    Of a trained encoder's backbone, beside two that learned nothing: the raw pixels, and the same
    network at its start with batch statistics of these images (`probes.knn_accuracy`). Kept with
    the run, for these parameters.

    Raises:
        ValueError: there is no test split (a folder has one where it is laid out as train/ and
            test/), or as `probes.knn_accuracy`.
    """
    images = load(config)
    if images.labels is None:
        return None
    params = [
        np.ascontiguousarray(leaf).tobytes()
        for leaf in jax.tree.leaves(nnx.state(trained, nnx.Param))
    ]
    which = hashlib.sha256(b"".join(params)).hexdigest()[:8]
    kept = folder(config, images, root) / f"knn-{n_test}-{k}-{which}.json"
    if kept.is_file():
        found: dict[str, float] = json.loads(kept.read_text())
        return found
    test = load(replace(config, split="test", n_images=n_test))
    untrained = settled(encoder(config, images.pixels.shape[-1]), images.pixels)
    seen: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "pixels": lambda pixels: pixels.reshape(len(pixels), -1) / 255.0,
        "untrained": lambda pixels: probes.features(untrained, pixels),
        "trained": lambda pixels: probes.features(trained, pixels),  # type: ignore[arg-type]
    }
    found = {
        name: probes.knn_accuracy(
            of(images.pixels), images.labels, of(test.pixels), test.labels, k=k
        )
        for name, of in seen.items()
    }
    _write(kept, found)
    return found


def folder(config: Config, images: Images, root: str | os.PathLike[str] = "runs") -> Path:
    """root/HASH of the configuration and its images, whatever path they came from."""
    known = {name: value for name, value in asdict(config).items() if name not in ELSEWHERE}
    text = json.dumps(known | {"images": digest(images)}, sort_keys=True)
    return Path(root) / hashlib.sha256(text.encode()).hexdigest()[:16]


def load(config: Config) -> Images:
    """The images of a run.

    Raises:
        ValueError: there are fewer than n_images.
    """
    images = data.load(
        config.data,
        split=config.split,
        root=config.data_dir,
        limit=config.n_images,
        size=config.side,
        seed=config.seed,
    )
    expected = f"at least {config.n_images} images (n_images)"
    _check.require(
        len(images.pixels) >= config.n_images, config.data, expected, f"{len(images.pixels)}"
    )
    return images


def digest(images: Images) -> str:
    """A hash of the pixels."""
    return hashlib.sha256(np.ascontiguousarray(images.pixels).tobytes()).hexdigest()[:16]


def encoder(config: Config, channels: int = 3) -> models.Encoder:
    """The network of a run, at its start."""
    rngs = nnx.Rngs(config.seed)
    dtype = jnp.bfloat16 if config.half else None
    backbone = models.ResNet(
        config.blocks,
        width=config.width,
        bottleneck=config.bottleneck,
        stem=config.stem,
        norm=config.norm,
        channels=channels,
        dtype=dtype,
        rngs=rngs,
    )
    options: dict[str, Any] = {"bias": False, "last_bias": config.offset > 0, "dtype": dtype}
    whole = models.Encoder(
        backbone, models.Head(backbone.features, config.head, **options, rngs=rngs)
    )
    if config.start_scale != 1:
        whole = models.scale_start(whole, config.start_scale, config.start_of)
    return models.offset_start(whole, config.offset, rngs=rngs) if config.offset > 0 else whole


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    new.write_text(json.dumps(content, indent=1) + "\n")
    new.replace(path)


def plan(config: Config) -> Plan:
    """How a run trains."""
    lr: Any = config.lr
    if config.warmup or config.cosine:
        after = optax.cosine_decay_schedule(config.lr, max(1, config.steps - config.warmup), 1e-3)
        rest = after if config.cosine else optax.constant_schedule(config.lr)
        first = config.lr / max(1, config.warmup)  # not 0: every step takes time
        rising = optax.linear_schedule(first, config.lr + first, config.warmup)
        lr = optax.join_schedules([rising, rest], [config.warmup])
    decay = config.weight_decay
    optimisers: dict[str, Any] = {
        "sgd": lambda lr: optax.chain(
            optax.add_decayed_weights(decay), optax.sgd(lr, momentum=config.momentum)
        ),
        "lars": lambda lr: optax.lars(
            lr,
            decay,
            weight_decay_mask=_matrices,
            trust_ratio_mask=_matrices,
            momentum=config.momentum,
        ),
        "adam": optax.adam,
        "adamw": partial(optax.adamw, weight_decay=decay, mask=_matrices),
    }
    return Plan(
        config.steps,
        config.batch_size,
        lr,
        optimisers[config.optimiser],
        views.RECIPES[config.recipe],
        seed=config.seed,
        probe=config.probe,
        records=config.records,
        checkpoint_every=config.checkpoint_every,
        snapshot_at=snapshot_steps(config),
    )


def snapshot_steps(config: Config) -> tuple[int, ...]:
    """The steps whose networks are kept (`dynamics.snapshots`)."""
    if config.snapshots == 0:
        return ()
    first = config.steps if config.snapshots == 1 else max(1, config.steps // 100)
    return tuple(
        sorted(
            {0, *np.geomspace(first, config.steps, config.snapshots).round().astype(int).tolist()}
        )
    )


def _matrices(params: Any) -> Any:
    """Weights, but not biases and scales of normalisations, which LARS and AdamW leave alone."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
