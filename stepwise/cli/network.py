"""The network that `stepwise entk` and `stepwise align` analyse: a run's, or one of your own."""

import runpy
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from stepwise import _check, _random, entk, methods, record, subject, views
from stepwise._user import run_user_code
from stepwise.cli.commands import NetworkOptions
from stepwise.cli.data import load, say_if_fewer
from stepwise.training import runs
from stepwise.training.loop import Trained


def open_network(options: NetworkOptions, out: Path) -> "Network":
    """Open the network that the options name, with its views and kernels.

    Args:
        out: folder for the partial kernel of a network of one's own.

    Raises:
        ValueError: if the options name no network or two, or if the network is missing or invalid.
    """
    record.require_writable("--out", out)
    one = (options.run_dir is None) != (options.network is None)
    _check.require(
        one, "--run-dir, --network", "exactly one", "both" if options.network else "none"
    )
    _check.require(
        options.n_pairs >= 1, "--n-pairs", "a positive number of images", options.n_pairs
    )
    _check.require(
        options.recipe in views.RECIPES,
        "--recipe",
        f"one of {', '.join(views.RECIPES)}",
        repr(options.recipe),
    )
    return (
        _open_run(options, options.run_dir)
        if options.run_dir is not None
        else _open_file(options, str(options.network), out)
    )


@dataclass(frozen=True)
class Network:
    """A network with 2n views, its embedding of them, and kernels of the same views.

    Attributes:
        name: title of the network in text and figures.
        x: the views, X stacked on X' [2n, h, w, c].
        z: the embedding on its d leading principal directions [2n, d].
        kernel: computes the network's eNTK [2n, 2n]; a function without arguments.
        nulls: kernels to compare with, by name; functions like `kernel`.
    """

    name: str
    x: np.ndarray
    z: np.ndarray
    kernel: Any
    nulls: dict[str, Any]


def _configuration(options: NetworkOptions, folder: Path) -> runs.Config:
    """Return the configuration of a run, with the images that the options name."""
    for name in ("side", "recipe", "seed"):
        value, default = getattr(options, name), getattr(NetworkOptions, name)
        expected = "no value with --run-dir, whose run sets it"
        _check.require(value == default, f"--{name}", expected, value)
    return configuration(options, folder)


def configuration(options: Any, folder: Path) -> runs.Config:
    """Return the configuration of a run; its images are elsewhere if the options say so."""
    config = subject.configuration(folder)
    for name in runs.ELSEWHERE:
        default = getattr(NetworkOptions, name)
        value = getattr(options, name, default)
        if value != default:
            config = replace(config, **{name: value})
    return config


def open_finished(config: runs.Config, folder: Path) -> Trained:
    """Load the finished run of a folder.

    Raises:
        ValueError: if the run is not finished, or the folder has another name than its settings
            and images give.
    """
    names = [path.name.removeprefix("step_") for path in folder.glob("checkpoints/step_*")]
    # a run that was killed may leave a temporary folder, whose name has more than digits
    reached = max((int(name) for name in names if name.isdecimal()), default=0)
    _check.require(
        reached == config.steps,
        str(folder),
        f"a finished run of {config.steps} steps",
        f"one that ended at step {reached}",
    )
    name = runs.folder(config, runs.load(config), folder.parent).name
    _check.require(
        name == folder.name,
        str(folder),
        f"a folder named {name}, after its configuration and the images of {config.data}",
        "another name: the folder was renamed, its config.json or its method's file was edited, or "
        "the images differ",
    )
    return runs.train(config, root=folder.parent)


def _open_run(options: NetworkOptions, folder: Path) -> Network:
    folder = folder.resolve()  # "." has no name, and its parent is itself
    config = _configuration(options, folder)
    steps = sorted({0, config.steps, *runs.snapshot_steps(config)})
    step = config.steps if options.step is None else options.step
    saved = ", ".join(map(str, steps))
    _check.require(step in steps, "--step", f"a step that the run saved, one of {saved}", step)
    trained = open_finished(config, folder)
    run = subject.from_run(config, trained, options.n_pairs, root=folder.parent)
    say_if_fewer(len(run.images), options.n_pairs)
    nulls = {
        "eNTK, at the start": lambda: run.kernel(0),
        "pixel kernel": lambda: run.pixel_kernel,
    }
    z = np.asarray(jax.jit(run.apply)(subject.leaves(run.network(step)), run.x), np.float64)
    learned = sum(time <= step for time in run.numbers["step_times"])
    d = options.d if options.d is not None else max(1, learned)
    return Network(
        f"{methods.find(config.method).title}, step {step}",
        run.x,
        _project(z, d),
        lambda: run.kernel(step),
        nulls,
    )


def _open_file(options: NetworkOptions, network: str, out: Path) -> Network:
    file, _, name = network.rpartition(":")
    _check.require(bool(file) and bool(name), "--network", "FILE.py:NAME", repr(network))
    _check.require(
        Path(file).is_file(), "--network", "an existing file in FILE.py:NAME", repr(network)
    )
    _check.require(options.step is None, "--step", "no value with --network", options.step)
    # the file may import modules beside it, as it may under `python FILE.py`
    sys.path.insert(0, str(Path(file).resolve().parent))
    build = run_user_code(
        network, "a file that runs without error", lambda: runpy.run_path(file)
    ).get(name)
    _check.require(
        callable(build), "--network", f"a function {name} in {file}", "no function of that name"
    )
    result = run_user_code(network, "(apply, params) from a call without arguments", build)
    two = isinstance(result, tuple) and len(result) == 2
    _check.require(
        two, network, "a function that returns (apply, params)", f"{type(result).__name__}"
    )
    apply, params = result
    _check.require(
        callable(apply),
        network,
        "(apply, params), where apply is a function",
        f"{type(apply).__name__} as apply",
    )
    images = load(options, options.n_pairs, options.seed)
    pair = views.positive_pairs(images.pixels, _random.key(options.seed + 1), options.recipe)
    x = np.concatenate([np.asarray(view, np.float32) for view in pair])
    z = run_user_code(
        network,
        f"apply(params, x {list(x.shape)})",
        lambda: np.asarray(apply(params, x), np.float64),
    )
    fits = z.ndim == 2 and len(z) == len(x)
    _check.require(fits, network, f"embeddings [{len(x)}, d], one row a view", f"{list(z.shape)}")
    bad = int(z.size - np.isfinite(z).sum())
    _check.require(bad == 0, network, "finite embeddings", f"{bad} of {z.size} entries not finite")
    flat = np.asarray(x.reshape(len(x), -1), np.float64)

    def kernel() -> np.ndarray:
        out.mkdir(parents=True, exist_ok=True)
        # a partial kernel of another network or of other views is replaced
        K = run_user_code(
            network,
            "a pure JAX function apply(params, x) of one view or more",
            lambda: entk.gram(apply, params, x, path=out / "kernel.npz", anew=True),
            passed_on=(ValueError, OSError),
        )
        return np.asarray(K, np.float64)

    return Network(
        network, x, _project(z, options.d), kernel, {"pixel kernel": lambda: flat @ flat.T}
    )


def _project(z: np.ndarray, d: int | None) -> np.ndarray:
    """Centre the embedding and project it on its d leading principal directions, or on all."""
    fits = d is None or 1 <= d <= z.shape[1]
    expected = f"a whole number in 1 ... {z.shape[1]}, the dimension of the embedding"
    _check.require(fits, "--d", expected, d)
    z = z - z.mean(axis=0)
    _, sizes, directions = np.linalg.svd(z, full_matrices=False)
    rank = int(np.sum(sizes > 1e-6 * sizes[0]))
    _check.require(
        rank > 0,
        "the embedding",
        "vectors that differ between views",
        "one vector for all views: it has collapsed",
    )
    return z @ directions[: min(d or rank, rank)].T
