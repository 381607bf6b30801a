"""Training runs by their configuration: a run is cached in runs/HASH-OF-CONFIG and never trained
twice.
"""

import json
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from stepwise import _check, _files, data, losses, methods, models, probes, views
from stepwise.data import Images
from stepwise.training import loop
from stepwise.training.config import Config as Config
from stepwise.training.loop import Trained
from stepwise.training.optimiser import as_matrices, is_matrix
from stepwise.training.plan import Plan
from stepwise.types import Whole

LOG = logging.getLogger(__name__)
ELSEWHERE = ("data", "data_dir", "split", *data.OPTIONS)
"""Fields that say where the images are and how they are read. They do not enter the hash of a run,
because the pixels do.
"""
SETTLED = 100
"""Number of batches after which running statistics no longer depend on their initial values. Each
batch enters with weight 0.1.
"""


def __getattr__(name: str) -> Any:
    if name == "OBJECTIVES":
        message = (
            "runs.OBJECTIVES is now methods.METHODS[name].objective; "
            "the former name works until version 0.3"
        )
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return {row.name: row.objective for row in methods.METHODS.values()}
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def train(
    config: Config,
    *,
    root: str | os.PathLike[str] = "runs",
    progress: bool | None = None,
    callbacks: Sequence[Any] = (),
    until: Whole | None = None,
) -> Trained:
    """Train, resume or load the run of a configuration.

    A finished run is loaded, an interrupted one is resumed, and otherwise a new one is started. A
    run that another version of the code trained is used too, with a warning.

    Args:
        config: all settings of the run.
        root: folder of all runs; this run has the folder root/HASH (`folder`).
        progress: whether to show a progress bar; by default, if stderr is a terminal.
        callbacks: functions that are called after each measured sample, as in `training.train`.
            They do not enter the hash of the run.
        until: step at which to stop, unfinished; a later call goes on to the same bits.

    Returns:
        The run, as `training.train` returns it.

    Raises:
        ValueError: if the data set has fewer than `n_images` images, or as in `training.train`.
        callbacks.CallbackError: if a callback fails; the run is saved and can be resumed.
        OSError: if a checkpoint could not be written.
    """
    images = load(config)
    own, predictor = objective(config), None
    if own.predictor:
        predictor = _predictor(config)
    run_folder = folder(config, images, root)
    trained = loop.train(
        encoder(config, images.pixels.shape[-1]),
        images.pixels,
        own,
        plan(config),
        predictor=predictor,
        folder=run_folder,
        metadata=json.loads(json.dumps(_fingerprint(config))),
        progress=progress,
        callbacks=callbacks,
        until=until,
    )
    record = run_folder / "config.json"
    if not record.is_file():
        settings = asdict(_copy_method_file(config, run_folder))
        _files.write_json(record, settings | {"code": _code()})
    elif json.loads(record.read_text()).get("code") != _code():
        message = "%s: trained by another version of the code; delete this folder to train again"
        LOG.warning(message, run_folder)
    return trained


def objective(config: Config) -> methods.Objective:
    """Return the objective of a run: that of its method, with the run's form and arguments of the
    loss and the run's decay rate of the target network.

    Args:
        config: all settings of the run.
    """
    row = methods.find(config.method)
    own = row.objective
    if config.loss == "law":
        assert row.law_loss is not None
        own = replace(own, loss=row.law_loss, state=None, parameters=None, project=None)
    given = {} if config.temperature is None else {"temperature": config.temperature}
    given |= config.loss_options
    if given:
        own = replace(own, loss=partial(own.loss, **given))
    if config.center:
        own = replace(own, loss=partial(losses.centred, own.loss))
    return own if config.decay is None else replace(own, decay=config.decay)


def _predictor(config: Config) -> models.Head:
    """Build the predictor of a run, with its starting weights."""
    d, linear = config.prototypes or config.head[-1], config.predictor_start > 0
    rngs = nnx.Rngs(config.seed + 1)
    predictor = models.Head(d, (*config.predictor, d), bias=not linear, rngs=rngs)
    if linear:
        predictor.layers[0].kernel[...] = config.predictor_start * jnp.eye(d)
    return predictor


def _copy_method_file(config: Config, run_folder: Path) -> Config:
    """Copy the method's file, if it has one, into the run's folder.

    Return the configuration with the full path of the original file.
    """
    if config.method in methods.METHODS:
        return config
    file, _, variable = config.method.rpartition(":")
    with _files.replacing(run_folder / "method.py") as temporary:
        temporary.write_bytes(Path(file).read_bytes())
    return replace(config, method=f"{Path(file).resolve()}:{variable}")


def _code() -> str:
    """Return a hash of the source of this module and of all project modules that it imports."""
    return _files.code_digest(Path(__file__), Path(__file__).parents[2])


def settle_statistics(encoder: models.Encoder, pixels: np.ndarray) -> models.Encoder:
    """Set the encoder's running batch statistics to those of these images, in place.

    The parameters stay as they are.

    Args:
        encoder: the network; it is returned in evaluation mode.
        pixels: uint8 [n, h, w, c].
    """
    forward, params, stats = models.stateful(encoder)
    settle = jax.jit(
        lambda stats, batch: forward(
            params, stats, batch.astype(jnp.float32) / 255, True, dropout=False
        )[2]
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
    """Compute the nearest-neighbour accuracy of a trained encoder's backbone on the test split.

    The neighbours are the images of the run (`probes.knn_accuracy`). For comparison, the accuracy
    is also computed for two representations that learned nothing: the raw pixels, and the network
    at its start with the batch statistics of these images. The result is cached in the folder of
    the run, separately for each set of parameters.

    Args:
        config: all settings of the run.
        trained: its encoder.
        root: folder of all runs.
        n_test: number of test images.
        k: number of neighbours.

    Returns:
        Accuracies in [0, 1] by the names "pixels", "untrained" and "trained"; None if the images
        have no labels.

    Raises:
        ValueError: if there is no test split (a folder needs sub-folders train/ and test/), or as
            in `probes.knn_accuracy`.
    """
    images = load(config)
    if images.labels is None:
        return None
    parameters = _files.digest(*jax.tree.leaves(nnx.state(trained, nnx.Param)), length=8)
    cache = folder(config, images, root) / f"knn-{n_test}-{k}-{parameters}-names.json"
    if cache.is_file():
        accuracies: dict[str, float] = json.loads(cache.read_text())
        return accuracies
    test = load(replace(config, split="test", n_images=n_test))
    test_labels = data.align_labels(test, images)  # each split numbers its own classes
    untrained = settle_statistics(encoder(config, images.pixels.shape[-1]), images.pixels)
    representations: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "pixels": lambda pixels: pixels.reshape(len(pixels), -1) / 255.0,
        "untrained": lambda pixels: probes.features(untrained, pixels),
        "trained": lambda pixels: probes.features(trained, pixels),  # type: ignore[arg-type]
    }
    accuracies = {
        name: probes.knn_accuracy(
            represent(images.pixels), images.labels, represent(test.pixels), test_labels, k=k
        )
        for name, represent in representations.items()
    }
    _files.write_json(cache, accuracies)
    return accuracies


def folder(config: Config, images: Images, root: str | os.PathLike[str] = "runs") -> Path:
    """Return the folder of a run, root/HASH, with a hash of the configuration and the pixels.

    The hash does not depend on the path of the images.
    """
    text = json.dumps(_fingerprint(config) | {"images": digest(images)}, sort_keys=True)
    return Path(root) / _files.digest(text)


def _fingerprint(config: Config) -> dict[str, Any]:
    """Return the settings that identify a run, without the paths of its images and method."""
    settings = {k: value for k, value in config.identity().items() if k not in ELSEWHERE}
    return settings | {"method": methods.identity(config.method)}


def load(config: Config) -> Images:
    """Load the images of a run.

    Raises:
        ValueError: if the data set has fewer than `n_images` images, or as in `data.load`.
    """
    images = data.load(
        config.data,
        split=config.split,
        root=config.data_dir,
        limit=config.n_images,
        size=config.side,
        seed=config.seed,
        **{name: getattr(config, name) for name in data.OPTIONS},
    )
    available = len(images.pixels)
    expected = f"at least {config.n_images} images"
    received = f"{available}; pass --n-images {available}"
    _check.require(available >= config.n_images, config.data, expected, received)
    return images


def digest(images: Images) -> str:
    """Return a hash of the pixels."""
    return _files.digest(images.pixels)


def encoder(config: Config, channels: int = 3) -> models.Encoder:
    """Build the network of a run, with its starting weights, for images of `channels` channels."""
    rngs = nnx.Rngs(config.seed)
    dtype = jnp.bfloat16 if config.half else None
    backbone: models.ResNet | models.ViT
    if config.backbone == "vit":
        side = views.RECIPES[config.recipe].first.size(config.side, config.side)[0]
        width = 8 * config.width
        shape: dict[str, Any] = {"side": side, "patch": config.patch, "width": width}
        backbone = models.ViT(config.blocks, **shape, channels=channels, dtype=dtype, rngs=rngs)
    else:
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
    head: models.Head | models.PrototypeHead
    if config.prototypes:
        head = models.PrototypeHead(
            backbone.features, config.head, config.prototypes, dtype=dtype, rngs=rngs
        )
    else:
        options: dict[str, Any] = {"bias": False, "last_bias": config.offset > 0, "dtype": dtype}
        head = models.Head(backbone.features, config.head, **options, rngs=rngs)
    network = models.Encoder(backbone, head)
    if config.start_scale != 1:
        network = models.scale_start(network, config.start_scale, config.start_of)
    return models.offset_start(network, config.offset, rngs=rngs) if config.offset > 0 else network


def plan(config: Config) -> Plan:
    """Return the hyper-parameters of a run."""
    lr: Any = config.lr
    if config.warmup or config.cosine:
        decay_steps = max(1, config.steps - config.warmup)
        falling = optax.cosine_decay_schedule(config.lr, decay_steps, 1e-3)
        rest = falling if config.cosine else optax.constant_schedule(config.lr)
        first = config.lr / max(1, config.warmup)  # above 0, so that t = Σ lr grows at every step
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
        "muon": partial(
            optax.contrib.muon,
            beta=config.momentum,
            weight_decay=decay,
            muon_weight_dimension_numbers=as_matrices,
        ),
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
    """Return the steps whose networks are saved (`training.snapshots`).

    They are step 0 and a geometric grid of `config.snapshots` steps from a hundredth of the run to
    its end; none if `config.snapshots` is 0.
    """
    if config.snapshots == 0:
        return ()
    first = config.steps if config.snapshots == 1 else max(1, config.steps // 100)
    return tuple(
        sorted(
            {0, *np.geomspace(first, config.steps, config.snapshots).round().astype(int).tolist()}
        )
    )


def _matrices(params: Any) -> Any:
    """Select the weights that LARS and AdamW treat, without biases and normalisations."""
    return jax.tree_util.tree_map_with_path(is_matrix, params)
