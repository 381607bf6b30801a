"""`stepwise entk` and `stepwise align`: a trained network's kernel, and what it predicts of the
network's embedding.
"""

import runpy
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from stepwise import _check, entk, plotting, problem, record, subject, views
from stepwise.cli.images import Source, say_if_fewer
from stepwise.training import runs

SHOWN = 8


@dataclass(frozen=True)
class _Network(Source):
    """Which network, and the views that it is looked at with."""

    run_dir: Path | None = None
    """The folder of a run of `stepwise train` or of a figure, runs/HASH, with its own images and
    recipe. --data, --data-dir and --split only say where the images lie now, if not where they
    lay."""
    network: str | None = None
    """Instead of a run FILE.py:NAME of your own, where NAME() -> (apply, params), and apply(params,
    x) -> [n, d] of views x float32 [n, h, w, c] in [0, 1]."""
    n_pairs: int = 256
    """Images, two fresh views of each; all, where there are fewer."""
    recipe: str = "small"
    """Of the views of your own network's images, a name in `views.RECIPES`: small, crop20, simclr,
    byol, ...
    """
    step: int | None = None
    """Of a run: look at the network after so many steps, one of those that it kept; by default the
    last.
    """
    d: int | None = None
    """Leading principal directions of the embedding; by default the modes that a run learned, and
    all of your own's.
    """
    seed: int = 0
    """Of your own network's choice of images and of their views."""

    def looked_at(self, out: Path) -> "Looked":
        """The network, its views, and its kernels; out is where that of one's own is kept while it
        is being made.

        Raises:
            ValueError: none or both were named, or what was named is not there or not what it
                should be.
        """
        record.require_writable("--out", out)
        one = (self.run_dir is None) != (self.network is None)
        _check.require(
            one, "--run-dir, --network", "one of them", "both" if self.network else "none"
        )
        _check.require(self.n_pairs >= 1, "--n-pairs", "a positive number of images", self.n_pairs)
        _check.require(
            self.recipe in views.RECIPES,
            "--recipe",
            f"one of {sorted(views.RECIPES)}",
            repr(self.recipe),
        )
        return (
            _of_run(self, self.run_dir)
            if self.run_dir is not None
            else _of_file(self, str(self.network), out)
        )


@dataclass(frozen=True)
class Looked:
    """A network with views x [2n, ...], its embedding z [2n, d] of them, and its kernels by
    name."""

    name: str
    x: np.ndarray
    z: np.ndarray
    kernel: Any
    """A function of nothing: the eNTK asked for."""
    others: dict[str, Any]
    """The nulls: functions of nothing, to kernels of the same views."""


def _of_run(options: _Network, folder: Path) -> Looked:
    folder = folder.resolve()  # "." has no name, and its parent is itself
    config = subject.configuration(folder)
    for name in ("side", "recipe", "seed"):
        given, default = getattr(options, name), getattr(_Network, name)
        _check.require(
            given == default, f"--{name}", "none with --run-dir, which has its own", given
        )
    for name in ("data", "data_dir", "split"):
        if getattr(options, name) != getattr(_Network, name):
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
        "another name: it was renamed, its config.json edited, or the images are others",
    )
    of = subject.of(
        config, runs.train(config, root=folder.parent), options.n_pairs, root=folder.parent
    )
    say_if_fewer(len(of.images), options.n_pairs)
    bar = sys.stderr.isatty()
    others = {
        "eNTK, at the start": lambda: of.kernel(0, progress=bar),
        "pixel kernel": lambda: of.pixel_kernel,
    }
    z = np.asarray(jax.jit(of.apply)(subject.leaves(of.network(step)), of.x), np.float64)
    learned = sum(time <= step for time in of.numbers["step_times"])
    d = options.d if options.d is not None else max(1, learned)
    return Looked(
        f"{config.method}, step {step}",
        of.x,
        _leading(z, d),
        lambda: of.kernel(step, progress=bar),
        others,
    )


def _of_file(options: _Network, network: str, out: Path) -> Looked:
    file, _, name = network.rpartition(":")
    _check.require(bool(file) and bool(name), "--network", "FILE.py:NAME", repr(network))
    _check.require(
        Path(file).is_file(), "--network", "FILE.py:NAME with a file that is there", repr(network)
    )
    _check.require(options.step is None, "--step", "none with --network", options.step)
    sys.path.insert(
        0, str(Path(file).resolve().parent)
    )  # as `python FILE.py` does: it may import what lies beside it
    made = _asked(network, "a file that runs", lambda: runpy.run_path(file)).get(name)
    _check.require(
        callable(made),
        "--network",
        f"a function {name} in {file}",
        "nothing of that name that is one",
    )
    found = _asked(network, "(apply, params) from a call without arguments", made)
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
    images = options.load(options.n_pairs, options.seed)
    pair = views.positive_pairs(images.pixels, jax.random.key(options.seed + 1), options.recipe)
    x = np.concatenate([np.asarray(view, np.float32) for view in pair])
    z = _asked(
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
        bar = sys.stderr.isatty()
        # anew: another network's, or one of other views, is worth no more than its time
        K = _asked(
            network,
            "a pure JAX function apply(params, x) of one view or more",
            lambda: entk.gram(apply, params, x, path=out / "kernel.npz", anew=True, progress=bar),
            own=(ValueError, OSError),
        )
        return np.asarray(K, np.float64)

    return Looked(
        network, x, _leading(z, options.d), kernel, {"pixel kernel": lambda: flat @ flat.T}
    )


def _asked(
    network: str, expected: str, call: Callable[[], Any], own: tuple[type[Exception], ...] = ()
) -> Any:
    """What code of the user's own returns; whatever it raises is said in one line with its place,
    but for our own.
    """
    try:
        return call()
    except own:
        raise
    except (Exception, SystemExit) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        file = str(Path(network.rpartition(":")[0]).resolve())
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if str(Path(frame.filename).resolve()) == file]
        where = f" (line {lines[-1]})" if lines else ""
        raise ValueError(
            f"{network}: expected {expected}, received {type(error).__name__}: {first}{where}"
        ) from error


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


@dataclass(frozen=True)
class Entk(_Network):
    """Work out the empirical NTK of a trained network on fresh views, and the spectrum that it
    predicts with.

    K is kept with the run (or, of your own network, in OUT) while it is being made: a call that was
    killed goes on.
    """

    out: Path = Path("results/entk")
    """Folder of summary.json, arrays.npz with K, config.json and the figure; the next call writes
    over them.
    """

    def run(self) -> int:
        """Print the kernel's leading modes and write its files."""
        began = time.perf_counter()
        of = self.looked_at(self.out)
        K = of.kernel()
        p = problem.from_gram(K, center="pooled", cutoff=1e-6)
        gamma = np.asarray(p.gamma)
        arrays = {"K": K, "gamma": gamma, "views": of.x, "embedding": of.z}
        arrays["predicted"] = np.asarray(p.predict(min(of.z.shape[1], int((gamma > 0).sum()))))
        print(
            f"{of.name}: eNTK of {len(of.x)} views, trace {np.trace(K):.6g}, "
            f"{int((gamma > 0).sum())} positive modes"
        )
        print(f"γ = {', '.join(f'{value:.4g}' for value in gamma[:SHOWN])}, ...")
        numbers = {
            "network": of.name,
            "views": len(of.x),
            "trace": float(np.trace(K)),
            "gamma": gamma,
        }
        with plotting.style():
            fig = plotting.figure(11, 4.6)
            left, right = fig.subplots(1, 2)
            fig.colorbar(
                left.imshow(K, cmap="cividis"), ax=left, label="K(x, x'), mean over outputs"
            )
            left.set(
                title="A  K: views, then the same images' other views", xlabel="view", ylabel="view"
            )
            positive = gamma > 0
            rank = np.arange(1, gamma.size + 1)[positive]
            right.plot(rank, gamma[positive], "o-", ms=3, color=plotting.BLUE)
            right.set(
                xscale="log",
                yscale="log",
                xlabel="mode",
                ylabel="γ",
                title="B  What it predicts with",
            )
            fig.suptitle(plotting.plain(of.name), fontsize=12)
            config = asdict(self) | {"command": "entk"}
            seconds = time.perf_counter() - began
            written = record.write(
                self.out,
                "eNTK",
                arrays=arrays,
                numbers=numbers,
                config=config,
                seconds=seconds,
                figure=fig,
            )
        print(written)
        return 0


@dataclass(frozen=True)
class Align(_Network):
    """Say how near a network's embedding is to the subspace that its own kernel predicts.

    Beside it what the kernel at the start (of a run) and the pixels alone predict, and chance.
    """

    resamples: int = 200
    """Random halves of the pairs, for the 95% intervals."""
    out: Path = Path("results/align")
    """Folder of summary.json, arrays.npz, config.json and the figure; the next call writes over
    them.
    """

    def run(self) -> int:
        """Print a line a kernel and write the files."""
        began = time.perf_counter()
        _check.require(self.resamples >= 0, "--resamples", "a whole number from 0", self.resamples)
        of = self.looked_at(self.out)
        rows, d = of.z.shape
        most = (
            rows - 1 if self.resamples == 0 else 2 * (rows // 4) - 1
        )  # of centred views; of half of them
        other = "--resamples 0, --d or --n-pairs otherwise"
        _check.require(d <= most, "--d", f"at most {most} on {rows} views, or {other}", d)
        scores: dict[str, entk.Score] = {}
        for name, kernel in {"its eNTK": of.kernel, **of.others}.items():
            scores[name] = entk.score(kernel(), of.z, resamples=self.resamples)
            found = scores[name]
            low, high = found.interval
            print(
                f"{name:<20} {found.alignment:.3f}  [{low:.3f}, {high:.3f}]  p = "
                f"{found.p_value:.3g}",
                flush=True,
            )
        print(
            f"{'random subspaces':<20} {found.random:.3f}     {len(of.x)} views, d = "
            f"{of.z.shape[1]}, {of.name}"
        )
        numbers = {"network": of.name, "views": len(of.x), "d": of.z.shape[1]}
        numbers |= {"scores": {name: score.summary() for name, score in scores.items()}}
        arrays = {"embedding": of.z, "views": of.x}
        with plotting.style():
            config = asdict(self) | {"command": "align"}
            figure = _bars(scores, of.name)
            seconds = time.perf_counter() - began
            written = record.write(
                self.out,
                "alignment",
                arrays=arrays,
                numbers=numbers,
                config=config,
                seconds=seconds,
                figure=figure,
            )
        print(written)
        return 0


def _bars(scores: dict[str, entk.Score], title: str) -> plotting.Figure:
    fig = plotting.figure(6.4, 4.4)
    ax: Any = fig.subplots()
    for i, (score, colour) in enumerate(
        zip(scores.values(), (plotting.BLUE, plotting.ORANGE, plotting.GREEN), strict=False)
    ):
        low, high = score.interval
        off = [[score.alignment - low], [high - score.alignment]]
        ax.bar(i, score.alignment, 0.6, color=colour)
        ax.errorbar(i, score.alignment, off, color=plotting.INK, capsize=4)
    ax.axhline(score.random, color=plotting.INK, ls=":", label="random subspaces")
    ax.set_xticks(range(len(scores)), list(scores))
    ax.set(
        ylim=(0, 1.1),
        ylabel="alignment of predicted and real subspace",
        xlabel="kernel that predicts",
    )
    ax.set_title("What the kernel says of the embedding")
    ax.legend(loc="upper right")
    fig.suptitle(plotting.plain(title), fontsize=12)
    return fig
