"""The empirical NTK of a ResNet-18: against `nt.batch` and torch.func, growth, the largest case,
and estimates.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import child
from benchmarks.case import crops
from benchmarks.child import Outcome, measured
from benchmarks.report import Row
from benchmarks.training import TORCH
from experiments.contract import silent
from experiments.shared import inspected
from stepwise import entk, models, plotting, spectra
from stepwise.entk.kernel import Kernel
from stepwise.methods import DEFAULT

FOLDER = Path("results/bench")
AGREE = 1e-4
"""Largest difference of float32 kernels, relative to the largest entry: a peer beyond it gets no
ratio.
"""
BUDGET = 2**31
LARGE = 2**33
"""Budget of the largest case."""


def rows(quick: bool) -> Iterator[Row]:
    """Peers at one size; N and O alone; N = 2000, O = 50; and the subspaces that estimates
    predict."""
    n, width, side, outputs = (4, 2, 16, 3) if quick else (256, 16, 32, 10)
    rate = float(child.run("entk:multiplied", 512 if quick else 4096).arrays["rate"])
    with tempfile.TemporaryDirectory() as folder:
        yield from _against_peers(
            n, width, side, outputs, rate, Path(folder) / "network.npz", quick
        )
    yield from _growth(n, width, side, outputs, rate, quick)
    yield from _largest(width, side, rate, quick)
    yield from _estimates(quick)


def _against_peers(
    n: int, width: int, side: int, outputs: int, rate: float, file: Path, quick: bool
) -> Iterator[Row]:
    of = [n, width, side, outputs]
    case = _case(*of)
    ours = child.run("entk:ours", *of)
    start = child.run("entk:network", *of)
    np.savez(file, **start.arrays)  # type: ignore[arg-type]
    blocks = {
        block: child.run("entk:reference", 4 * block, width, side, outputs, block).seconds
        / (4 * block) ** 2
        for block in ([1] if quick else [8, 16, 32])
    }
    best = min(blocks, key=lambda block: blocks[block])
    tried = ", ".join(f"{block}: {1e3 * each:.3g}" for block, each in blocks.items())
    peers: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
        f"nt.batch, b = {best}": ("entk:reference", [*of, best], {"limit": 1800}),
        "torch.func, Jacobian contraction": (
            "torch_entk:contracted",
            [str(file), 16],
            {"python": TORCH},
        ),
    }
    for name, (which, arguments, how) in peers.items():
        note = f"{_speed(ours, rate)}; ms a pair by block {tried}" if "nt.batch" in name else ""
        try:
            theirs = child.run(which, *arguments, **how)
        except (RuntimeError, OSError) as error:
            yield _row(
                "entk", case, name, ours, None, 0, f"no peer: {str(error).strip().splitlines()[-1]}"
            )
            continue
        if not theirs.late:
            off = _off(theirs.arrays["K"], ours.arrays["K"])
            if off > AGREE:
                raise RuntimeError(
                    f"{name}: not the same kernel, off by {off:.1e} of its largest entry"
                )
            note = f"kernels agree to {off:.0e}; {note}".strip("; ")
        yield _row("entk", case, name, ours, theirs, 40 if "nt.batch" in name else 0, note)


def _growth(n: int, width: int, side: int, outputs: int, rate: float, quick: bool) -> Iterator[Row]:
    sizes = [(k, outputs) for k in ([n] if quick else [64, 128, 256, 512, 1024])]
    sizes += [(n, o) for o in ([] if quick else [1, 3, 30])]
    first = None
    for samples, count in sizes:
        ours = child.run("entk:ours", samples, width, side, count, limit=1800)
        first = first or ours
        note = (
            f"{ours.seconds / first.seconds:.3g} times N = {sizes[0][0]}'s time; "
            f"{_speed(ours, rate)}"
        )
        yield _row("entk growth", _case(samples, width, side, count), "", ours, None, 0, note)


def _largest(width: int, side: int, rate: float, quick: bool) -> Iterator[Row]:
    n, outputs = (4, 3) if quick else (2000, 50)
    for count, label in ((None, "exact"),) if quick else ((5, "5 probes"), (None, "exact")):
        ours = child.run("entk:once", n, width, side, outputs, count, limit=7200)
        late = "stopped at its limit; " if ours.late else ""
        speed = "" if ours.late else _speed(ours, rate)
        yield _row(
            "entk large",
            f"{_case(n, width, side, outputs)}, {label}",
            "",
            ours,
            None,
            0,
            late + speed,
        )


def _estimates(quick: bool) -> Iterator[Row]:
    """On fig3's Barlow Twins run, which is trained if it is not there."""
    preset = inspected.Config.smoke() if quick else inspected.Config.laptop()
    of = inspected.subject(preset, DEFAULT, silent)
    network = models.evaluation(of.run.encoder)
    K, whole = _timed(lambda: entk.gram(*network, of.x))
    wanted = entk.predict(K, of.d)
    ways: list[dict[str, int]] = [{"probes": r} for r in ([] if quick else [4, 6, 8])]
    ways += [{"sketch": s} for s in ([4] if quick else [8, 16, 32, 64])]
    found: dict[str, list[tuple[float, ...]]] = {"probes": [], "sketch": []}
    for way in ways:
        ((name, value),) = way.items()
        made, spent = _timed(lambda way=way: entk.estimate(*network, of.x, **way))
        off, said = (
            1 - spectra.subspace_alignment(entk.predict(made.K, of.d), wanted),
            made.subspace_error(of.d),
        )
        found[name].append((value, spent, off, said))
        note = (
            f"1 − alignment with the exact prediction {off:.2g}, stated {said:.2g}; K off by "
            f"{_off(made.K, K):.2g}"
        )
        case = (
            f"{len(of.x)} views, "
            f"{f'{value} probes of 10' if name == 'probes' else f'sketches of {value}'}"
        )
        yield Row("entk estimate", case, "exact", spent, 0, 0, whole, 0, 0, note=note)
    _draw(found, whole, of.d)


def _timed(call: Any) -> tuple[Any, float]:
    """The second call's time: compiled."""
    call()
    start = time.perf_counter()
    made = call()
    return made, time.perf_counter() - start


def _draw(found: dict[str, list[tuple[float, ...]]], whole: float, d: int) -> None:
    with plotting.style():
        fig = plotting.figure(6.4, 4.4)
        ax = fig.subplots()
        for (name, points), colour in zip(
            found.items(), (plotting.BLUE, plotting.ORANGE), strict=True
        ):
            if not points:
                continue
            size, cost, off, said = np.array(points).T
            label = {
                "probes": "probes, of 10 outputs",
                "sketch": "sketches of every layer, dimensions",
            }[name]
            ax.plot(cost, off, "o-", color=colour, label=label)
            ax.plot(cost, said, "x", color=colour, ls=":", label="error that it states itself")
            for each, x, y in zip(size, cost, off, strict=True):
                ax.annotate(
                    f"{each:.0f}",
                    (x, y),
                    (-7, -8),
                    textcoords="offset points",
                    ha="right",
                    color=colour,
                )
        ax.axvline(whole, color=plotting.INK, ls=(0, (4, 2)), label="exact kernel's time")
        ax.set(
            yscale="log",
            xlabel="time (s)",
            ylabel=f"1 − alignment of top-{d} subspaces",
            xlim=(0, None),
        )
        ax.set_title("Predicted subspace of a trained ResNet: error against cost")
        ax.legend(loc="upper left")
        FOLDER.mkdir(parents=True, exist_ok=True)
        plotting.save(fig, FOLDER, "entk")


def _case(n: int, width: int, side: int, outputs: int) -> str:
    return f"ResNet-18, width {width}, {side} px, N = {n}, O = {outputs}"


def _row(
    name: str, case: str, peer: str, ours: Outcome, theirs: Outcome | None, aim: float, note: str
) -> Row:
    time_of = None if theirs is None else theirs.seconds
    size = 0.0 if theirs is None else theirs.megabytes
    late = theirs is not None and theirs.late
    return Row(
        name, case, peer, ours.seconds, ours.compile, ours.megabytes, time_of, size, aim, late, note
    )


def _speed(ours: Outcome, rate: float) -> str:
    reached = float(ours.arrays["flops"]) / ours.seconds
    return (
        f"{reached / 1e9:.3g} GF/s, {100 * reached / rate:.0f}% of a matrix product's "
        f"{rate / 1e9:.3g}"
    )


def _off(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


def multiplied(size: int) -> Outcome:
    """The rate of a float32 matrix product, flops a second."""
    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision=jax.lax.Precision.HIGHEST))
    outcome = measured(lambda: {"corner": product(a)[:1, :1]}, repeats=4)
    return Outcome(outcome.seconds, arrays={"rate": np.asarray(2 * size**3 / outcome.seconds)})


def ours(n: int, width: int, side: int, outputs: int) -> Outcome:
    """`entk.gram`, exact."""
    apply, params, x = _network(n, width, side, outputs)
    kept: dict[str, Any] = {}

    def call() -> dict[str, Any]:
        kept["K"] = entk.gram(apply, params, x, budget=BUDGET)
        return kept

    outcome = measured(call, repeats=3, budget=60.0)
    flops = Kernel(apply, params, x, budget=BUDGET).work(np.eye(outputs)).plan.flops
    return Outcome(
        outcome.seconds,
        outcome.compile,
        outcome.megabytes,
        arrays={**kept, "flops": np.asarray(flops)},
    )


def once(n: int, width: int, side: int, outputs: int, probes: int | None) -> Outcome:
    """The same in one call that compiles too, of all outputs or of probes."""
    apply, params, x = _network(n, width, side, outputs)
    outcome = measured(
        lambda: {"K": entk.gram(apply, params, x, budget=LARGE, probes=probes)},
        repeats=1,
    )
    flops = Kernel(apply, params, x, budget=LARGE).work(np.eye(outputs)[:probes]).plan.flops
    return Outcome(outcome.seconds, 0.0, outcome.megabytes, arrays={"flops": np.asarray(flops)})


def reference(n: int, width: int, side: int, outputs: int, block: int) -> Outcome:
    """`nt.batch` of neural-tangents' Jacobian contraction: compiled by a call on one block, then
    timed.
    """
    from stepwise.neural_tangents import nt

    apply, params, x = _network(n, width, side, outputs)
    how = nt.NtkImplementation.JACOBIAN_CONTRACTION
    kernel = nt.empirical_ntk_fn(apply, trace_axes=(-1,), vmap_axes=0, implementation=how)
    batched = nt.batch(kernel, batch_size=block, store_on_device=False)
    before = time.perf_counter()
    batched(x[: 2 * block], None, params)
    first = time.perf_counter() - before
    outcome = measured(lambda: {"K": batched(x, None, params)}, repeats=1)
    return Outcome(outcome.seconds, first, outcome.megabytes, arrays=outcome.arrays)


def network(n: int, width: int, side: int, outputs: int) -> Outcome:
    """Weights and images for a peer in another environment."""
    _, params, x = _network(n, width, side, outputs)
    found = {"images": x, "threads": np.asarray(_cores())}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        found["weights/" + jax.tree_util.keystr(path, simple=True, separator=".")] = np.asarray(
            leaf
        )
    return Outcome(0.0, arrays=found)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _network(n: int, width: int, side: int, outputs: int) -> tuple[Any, Any, np.ndarray]:
    jax.config.update("jax_platforms", "cpu")  # as the peers
    return *_resnet18(width, outputs), crops(n, side)[0].reshape(n, side, side, 3)


@lru_cache
def _resnet18(width: int, outputs: int) -> tuple[Any, Any]:
    """At its start; one function, so that sides that share a process share what is compiled."""
    backbone = models.ResNet.standard("resnet18", width=width, stem="small", rngs=nnx.Rngs(0))
    return models.evaluation(
        models.Encoder(backbone, models.Head(backbone.features, [outputs], rngs=nnx.Rngs(1)))
    )
