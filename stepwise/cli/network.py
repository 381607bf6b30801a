"""The network that `stepwise entk` and `stepwise align` look at: a run's, or one of your own."""

import runpy
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from stepwise import _check, entk, methods, record, subject, views
from stepwise._user import run_user_code
from stepwise.cli.commands import NetworkOptions
from stepwise.cli.data import load, say_if_fewer
from stepwise.training import runs


def open_network(options: NetworkOptions, out: Path) -> "Network":
    """The network, its views, and its kernels; out is where that of one's own is kept while it
    is being made.

    Raises:
        ValueError: none or both were named, or what was named is not there or not what it
            should be.
    """
    record.require_writable("--out", out)
    one = (options.run_dir is None) != (options.network is None)
    _check.require(
        one, "--run-dir, --network", "one of them", "both" if options.network else "none"
    )
    _check.require(
        options.n_pairs >= 1, "--n-pairs", "a positive number of images", options.n_pairs
    )
    _check.require(
        options.recipe in views.RECIPES,
        "--recipe",
        f"one of {sorted(views.RECIPES)}",
        repr(options.recipe),
    )
    return (
        _of_run(options, options.run_dir)
        if options.run_dir is not None
        else _of_file(options, str(options.network), out)
    )


@dataclass(frozen=True)
class Network:
    """A network with views x [2n, ...], its embedding z [2n, d] of them, and its kernels by
    name."""

    name: str
    x: np.ndarray
    z: np.ndarray
    kernel: Any
    """A function of nothing: the eNTK asked for."""
    nulls: dict[str, Any]
    """The nulls: functions of nothing, to kernels of the same views."""


def _of_run(options: NetworkOptions, folder: Path) -> Network:
    folder = folder.resolve()  # "." has no name, and its parent is itself
    config = subject.configuration(folder)
    for name in ("side", "recipe", "seed"):
        given, default = getattr(options, name), getattr(NetworkOptions, name)
        _check.require(
            given == default, f"--{name}", "none with --run-dir, which has its own", given
        )
    for name in ("data", "data_dir", "split"):
        if getattr(options, name) != getattr(NetworkOptions, name):
            config = replace(config, **{name: getattr(options, name)})
    steps = sorted({0, config.steps, *runs.snapshot_steps(config)})
    step = config.steps if options.step is None else options.step
    _check.require(step in steps, "--step", f"one of those that the run keeps, {steps}", step)
    kept = [path.name.removeprefix("step_") for path in folder.glob("checkpoints/step_*")]
    reached = max(
        (int(name) for name in kept if name.isdecimal()), default=0
    )  # a kill leaves half of one
    whole = reached == config.steps
    _check.require(
        whole,
        str(folder),
        f"a finished run of {config.steps} steps",
        f"one that ended at step {reached}",
    )
    where = runs.folder(config, runs.load(config), folder.parent)
    _check.require(
        where.name == folder.name,
        str(folder),
        f"a folder named {where.name}, after its configuration and the images of {config.data}",
        "another name: it was renamed, its config.json or its method's file was edited, or the "
        "images are others",
    )
    of = subject.from_run(
        config, runs.train(config, root=folder.parent), options.n_pairs, root=folder.parent
    )
    say_if_fewer(len(of.images), options.n_pairs)
    others = {
        "eNTK, at the start": lambda: of.kernel(0),
        "pixel kernel": lambda: of.pixel_kernel,
    }
    z = np.asarray(jax.jit(of.apply)(subject.leaves(of.network(step)), of.x), np.float64)
    learned = sum(time <= step for time in of.numbers["step_times"])
    d = options.d if options.d is not None else max(1, learned)
    return Network(
        f"{methods.find(config.method).title}, step {step}",
        of.x,
        _leading(z, d),
        lambda: of.kernel(step),
        others,
    )


def _of_file(options: NetworkOptions, network: str, out: Path) -> Network:
    file, _, name = network.rpartition(":")
    _check.require(bool(file) and bool(name), "--network", "FILE.py:NAME", repr(network))
    _check.require(
        Path(file).is_file(), "--network", "FILE.py:NAME with a file that is there", repr(network)
    )
    _check.require(options.step is None, "--step", "none with --network", options.step)
    sys.path.insert(
        0, str(Path(file).resolve().parent)
    )  # as `python FILE.py` does: it may import what lies beside it
    made = run_user_code(network, "a file that runs", lambda: runpy.run_path(file)).get(name)
    _check.require(
        callable(made),
        "--network",
        f"a function {name} in {file}",
        "nothing of that name that is one",
    )
    found = run_user_code(network, "(apply, params) from a call without arguments", made)
    two = isinstance(found, tuple) and len(found) == 2
    _check.require(
        two, network, "a function that returns (apply, params)", f"{type(found).__name__}"
    )
    apply, params = found
    _check.require(
        callable(apply),
        network,
        "(apply, params), the first a function",
        f"{type(apply).__name__} first",
    )
    images = load(options, options.n_pairs, options.seed)
    pair = views.positive_pairs(images.pixels, jax.random.key(options.seed + 1), options.recipe)
    x = np.concatenate([np.asarray(view, np.float32) for view in pair])
    z = run_user_code(
        network,
        f"apply(params, x {list(x.shape)})",
        lambda: np.asarray(apply(params, x), np.float64),
    )
    fits = z.ndim == 2 and len(z) == len(x)
    _check.require(fits, network, f"embeddings [{len(x)}, d] of as many views", f"{list(z.shape)}")
    bad = int(z.size - np.isfinite(z).sum())
    _check.require(
        bad == 0, network, "finite embeddings", f"{bad} of {z.size} numbers that are not"
    )
    flat = np.asarray(x.reshape(len(x), -1), np.float64)

    def kernel() -> np.ndarray:
        out.mkdir(parents=True, exist_ok=True)
        # anew: another network's, or one of other views, is worth no more than its time
        K = run_user_code(
            network,
            "a pure JAX function apply(params, x) of one view or more",
            lambda: entk.gram(apply, params, x, path=out / "kernel.npz", anew=True),
            passed_on=(ValueError, OSError),
        )
        return np.asarray(K, np.float64)

    return Network(
        network, x, _leading(z, options.d), kernel, {"pixel kernel": lambda: flat @ flat.T}
    )


def _leading(z: np.ndarray, d: int | None) -> np.ndarray:
    """On d leading principal directions, or on all that it has."""
    _check.require(
        d is None or 1 <= d <= z.shape[1],
        "--d",
        f"1 ... {z.shape[1]}, the embedding's dimensions",
        d,
    )
    z = z - z.mean(axis=0)
    _, sizes, directions = np.linalg.svd(z, full_matrices=False)
    rank = int(np.sum(sizes > 1e-6 * sizes[0]))
    _check.require(
        rank > 0,
        "the embedding",
        "views that differ in it",
        "one vector for all views: it has collapsed",
    )
    return z @ directions[: min(d or rank, rank)].T
