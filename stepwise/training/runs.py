"""Training runs by their configuration, kept under runs/HASH-OF-CONFIG: who asks for the same
training shares it.
"""

import json
import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from stepwise import _check, _files, data, methods, models, probes, views
from stepwise.data import Images
from stepwise.training import loop
from stepwise.training.config import Config as Config
from stepwise.training.loop import Trained
from stepwise.training.plan import Plan

LOG = logging.getLogger(__name__)
ELSEWHERE = ("data", "data_dir", "split")
"""Fields that say where images lie; which images they are is said by their pixels."""
SETTLED = 100
"""Batches after which running statistics, a tenth of a batch each, have forgotten where they began.
"""


def __getattr__(name: str) -> Any:
    if name == "OBJECTIVES":
        message = (
            "runs.OBJECTIVES is now methods.METHODS[name].objective; it works until version 0.3"
        )
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return {row.name: row.objective for row in methods.METHODS.values()}
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def train(
    config: Config, *, root: str | os.PathLike[str] = "runs", progress: bool | None = None
) -> Trained:
    """The run of a configuration: read if it is finished, gone on with if it was stopped, begun
    otherwise.

    One that another version of the code trained is used too, with a warning.

    Raises:
        ValueError: a field is out of range, there are too few images, or as `loop.train`.
    """
    images = load(config)
    objective = methods.find(config.method).objective
    predictor = None
    if objective.predictor:
        d = config.head[-1]
        predictor = models.Head(d, (*config.predictor, d), rngs=nnx.Rngs(config.seed + 1))
    if config.temperature is not None:
        loss = partial(objective.loss, temperature=config.temperature)
        objective = replace(objective, loss=loss)
    where = folder(config, images, root)
    about = _known(config)
    trained = loop.train(
        encoder(config, images.pixels.shape[-1]),
        images.pixels,
        objective,
        plan(config),
        predictor=predictor,
        folder=where,
        metadata=json.loads(json.dumps(about)),
        progress=progress,
    )
    made = where / "config.json"
    if not made.is_file():
        _files.write_json(made, asdict(_with_its_file(config, where)) | {"code": _code()})
    elif json.loads(made.read_text()).get("code") != _code():
        LOG.warning("%s: trained by another version of the code; delete it to train anew", where)
    return trained


def _with_its_file(config: Config, where: Path) -> Config:
    """The configuration with the full path of its method's file, of which the run keeps a copy."""
    if config.method in methods.METHODS:
        return config
    file, _, variable = config.method.rpartition(":")
    with _files.replacing(where / "method.py") as temporary:
        temporary.write_bytes(Path(file).read_bytes())
    return replace(config, method=f"{Path(file).resolve()}:{variable}")


def _code() -> str:
    """A hash of this module and of all modules of the package that it imports: whatever a run's
    numbers depend on.
    """
    return _files.code_digest(Path(__file__), Path(__file__).parents[2])


def settle_statistics(encoder: models.Encoder, pixels: np.ndarray) -> models.Encoder:
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
    models.restore(encoder, params, stats)
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
    which = _files.digest(*jax.tree.leaves(nnx.state(trained, nnx.Param)), length=8)
    kept = folder(config, images, root) / f"knn-{n_test}-{k}-{which}.json"
    if kept.is_file():
        found: dict[str, float] = json.loads(kept.read_text())
        return found
    test = load(replace(config, split="test", n_images=n_test))
    untrained = settle_statistics(encoder(config, images.pixels.shape[-1]), images.pixels)
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
    _files.write_json(kept, found)
    return found


def folder(config: Config, images: Images, root: str | os.PathLike[str] = "runs") -> Path:
    """root/HASH of the configuration and its images, whatever path they came from."""
    text = json.dumps(_known(config) | {"images": digest(images)}, sort_keys=True)
    return Path(root) / _files.digest(text)


def _known(config: Config) -> dict[str, Any]:
    """What tells a run from others: its configuration, but not where its images and its method's
    file lie.
    """
    known = {name: value for name, value in asdict(config).items() if name not in ELSEWHERE}
    return known | {"method": methods.identity(config.method)}


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
    return _files.digest(images.pixels)


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
