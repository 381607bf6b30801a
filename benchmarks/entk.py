"""Empirical NTK of a ResNet-18: alternatives, growth with size, the largest case, and estimates."""

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
from benchmarks.child import Outcome, measure
from benchmarks.report import Row
from benchmarks.training import TORCH
from experiments.contract import silent
from experiments.shared import inspected
from stepwise import entk, models, plotting, spectra
from stepwise.entk.kernel import Kernel
from stepwise.methods import DEFAULT

FOLDER = Path("results/bench")
AGREE = 1e-4
"""Largest difference of float32 kernels, relative to the largest entry, at which they agree."""
BUDGET = 2**31
"""Memory budget in bytes."""
LARGE = 2**33
"""Memory budget in bytes of the largest case."""


def rows(quick: bool) -> Iterator[Row]:
    """Measure peers at one size, growth with N and O, N = 2000 with O = 50, and estimates."""
    n, width, side, outputs = (4, 2, 16, 3) if quick else (256, 16, 32, 10)
    rate = float(child.run("entk:matrix_product", 512 if quick else 4096).arrays["rate"])
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
    sizes = [n, width, side, outputs]
    case = _case(*sizes)
    ours = child.run("entk:ours", *sizes)
    start = child.run("entk:network", *sizes)
    np.savez(file, **start.arrays)  # type: ignore[arg-type]
    blocks = {
        block: child.run("entk:reference", 4 * block, width, side, outputs, block).seconds
        / (4 * block) ** 2
        for block in ([1] if quick else [8, 16, 32])
    }
    best = min(blocks, key=lambda block: blocks[block])
    by_block = ", ".join(f"{block}: {1e3 * each:.3g}" for block, each in blocks.items())
    peers: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
        f"nt.batch, b = {best}": ("entk:reference", [*sizes, best], {"limit": 1800}),
        "torch.func, Jacobian contraction": (
            "torch_entk:contract",
            [str(file), 16],
            {"python": TORCH},
        ),
    }
    for name, (peer, arguments, options) in peers.items():
        note = (
            f"{_speed(ours, rate)}; ms per pair by block {by_block}" if "nt.batch" in name else ""
        )
        try:
            theirs = child.run(peer, *arguments, **options)
        except (RuntimeError, OSError) as error:
            yield _row(
                "entk", case, name, ours, None, 0, f"no peer: {str(error).strip().splitlines()[-1]}"
            )
            continue
        if not theirs.late:
            off = _off(theirs.arrays["K"], ours.arrays["K"])
            if off > AGREE:
                raise RuntimeError(
                    f"{name}: expected the same kernel to {AGREE:.0e} of its largest entry, "
                    f"received a difference of {off:.1e}"
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
            f"{ours.seconds / first.seconds:.3g} times the time of N = {sizes[0][0]}; "
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
    """Measure estimates on fig3's Barlow Twins run, which is trained first if there is none."""
    preset = inspected.Config.smoke() if quick else inspected.Config.laptop()
    subject = inspected.subject(preset, DEFAULT, silent)
    network = models.evaluation(subject.run.encoder)
    K, exact = _time_second_call(lambda: entk.gram(*network, subject.x))
    prediction = entk.predict(K, subject.d)
    ways: list[dict[str, int]] = [{"probes": r} for r in ([] if quick else [4, 6, 8])]
    ways += [{"sketch": s} for s in ([4] if quick else [8, 16, 32, 64])]
    points: dict[str, list[tuple[float, ...]]] = {"probes": [], "sketch": []}
    for way in ways:
        ((name, value),) = way.items()
        estimate, spent = _time_second_call(
            lambda way=way: entk.estimate(*network, subject.x, **way)
        )
        off = 1 - spectra.subspace_alignment(entk.predict(estimate.K, subject.d), prediction)
        stated = estimate.subspace_error(subject.d)
        points[name].append((value, spent, off, stated))
        note = (
            f"1 − alignment with the exact prediction {off:.2g}, stated {stated:.2g}; K off by "
            f"{_off(estimate.K, K):.2g}"
        )
        case = (
            f"{len(subject.x)} views, "
            f"{f'{value} probes of 10' if name == 'probes' else f'sketches of {value}'}"
        )
        yield Row("entk estimate", case, "exact", spent, 0, 0, exact, 0, 0, note=note)
    _draw(points, exact, subject.d)


def _time_second_call(call: Any) -> tuple[Any, float]:
    """Return the result and the time of a second call, which does not compile."""
    call()
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def _draw(points: dict[str, list[tuple[float, ...]]], exact: float, d: int) -> None:
    """Draw the error of estimates against their time, and save the figure."""
    with plotting.style():
        fig = plotting.figure(6.4, 4.4)
        ax = fig.subplots()
        for (name, curve), colour in zip(
            points.items(), (plotting.BLUE, plotting.ORANGE), strict=True
        ):
            if not curve:
                continue
            size, cost, off, stated = np.array(curve).T
            label = {
                "probes": "number of probes, of 10 outputs",
                "sketch": "dimension of the layers' sketches",
            }[name]
            ax.plot(cost, off, "o-", color=colour, label=label)
            ax.plot(cost, stated, "x", color=colour, ls=":", label="error stated by the estimate")
            for each, x, y in zip(size, cost, off, strict=True):
                ax.annotate(
                    f"{each:.0f}",
                    (x, y),
                    (-7, -8),
                    textcoords="offset points",
                    ha="right",
                    color=colour,
                )
        ax.axvline(exact, color=plotting.INK, ls=(0, (4, 2)), label="time of the exact kernel")
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
    seconds = None if theirs is None else theirs.seconds
    size = 0.0 if theirs is None else theirs.megabytes
    late = theirs is not None and theirs.late
    return Row(
        name, case, peer, ours.seconds, ours.compile, ours.megabytes, seconds, size, aim, late, note
    )


def _speed(ours: Outcome, rate: float) -> str:
    reached = float(ours.arrays["flops"]) / ours.seconds
    return (
        f"{reached / 1e9:.3g} GF/s, {100 * reached / rate:.0f}% of a matrix product's "
        f"{rate / 1e9:.3g}"
    )


def _off(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


def matrix_product(size: int) -> Outcome:
    """Measure the rate of a float32 matrix product in flops per second."""
    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision=jax.lax.Precision.HIGHEST))
    outcome = measure(lambda: {"corner": product(a)[:1, :1]}, repeats=4)
    return Outcome(outcome.seconds, arrays={"rate": np.asarray(2 * size**3 / outcome.seconds)})


def ours(n: int, width: int, side: int, outputs: int) -> Outcome:
    """Measure the exact `entk.gram`."""
    apply, params, x = _network(n, width, side, outputs)
    arrays: dict[str, Any] = {}

    def call() -> dict[str, Any]:
        arrays["K"] = entk.gram(apply, params, x, budget=BUDGET)
        return arrays

    outcome = measure(call, repeats=3, budget=60.0)
    flops = Kernel(apply, params, x, budget=BUDGET).work(np.eye(outputs)).plan.flops
    return Outcome(
        outcome.seconds,
        outcome.compile,
        outcome.megabytes,
        arrays={**arrays, "flops": np.asarray(flops)},
    )


def once(n: int, width: int, side: int, outputs: int, probes: int | None) -> Outcome:
    """Measure one call of `entk.gram` with its compilation, with all outputs or with probes."""
    apply, params, x = _network(n, width, side, outputs)
    outcome = measure(
        lambda: {"K": entk.gram(apply, params, x, budget=LARGE, probes=probes)},
        repeats=1,
    )
    flops = Kernel(apply, params, x, budget=LARGE).work(np.eye(outputs)[:probes]).plan.flops
    return Outcome(outcome.seconds, 0.0, outcome.megabytes, arrays={"flops": np.asarray(flops)})


def reference(n: int, width: int, side: int, outputs: int, block: int) -> Outcome:
    """Measure `nt.batch` of neural-tangents' Jacobian contraction.

    A call on one block compiles it before it is timed.
    """
    from stepwise.neural_tangents import nt

    apply, params, x = _network(n, width, side, outputs)
    how = nt.NtkImplementation.JACOBIAN_CONTRACTION
    kernel = nt.empirical_ntk_fn(apply, trace_axes=(-1,), vmap_axes=0, implementation=how)
    batched = nt.batch(kernel, batch_size=block, store_on_device=False)
    before = time.perf_counter()
    batched(x[: 2 * block], None, params)
    first = time.perf_counter() - before
    outcome = measure(lambda: {"K": batched(x, None, params)}, repeats=1)
    return Outcome(outcome.seconds, first, outcome.megabytes, arrays=outcome.arrays)


def network(n: int, width: int, side: int, outputs: int) -> Outcome:
    """Return the weights and images for a peer in another environment."""
    _, params, x = _network(n, width, side, outputs)
    arrays = {"images": x, "threads": np.asarray(_cores())}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = "weights/" + jax.tree_util.keystr(path, simple=True, separator=".")
        arrays[name] = np.asarray(leaf)
    return Outcome(0.0, arrays=arrays)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _network(n: int, width: int, side: int, outputs: int) -> tuple[Any, Any, np.ndarray]:
    jax.config.update("jax_platforms", "cpu")  # the peers run on the CPU
    return *_resnet18(width, outputs), crops(n, side)[0].reshape(n, side, side, 3)


@lru_cache
def _resnet18(width: int, outputs: int) -> tuple[Any, Any]:
    """Return (apply, params) of an untrained ResNet-18.

    `apply` is cached, so that sides in one process share its compiled programs.
    """
    backbone = models.ResNet.standard("resnet18", width=width, stem="small", rngs=nnx.Rngs(0))
    return models.evaluation(
        models.Encoder(backbone, models.Head(backbone.features, [outputs], rngs=nnx.Rngs(1)))
    )
