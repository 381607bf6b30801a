"""The output-traced empirical NTK of any pure function: one pass, mixed per layer, bounded memory,
resumable.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from stepwise import _bars, _check, _npz
from stepwise.entk import reference
from stepwise.entk.kernel import Apply, Kernel, Only, Work
from stepwise.types import Numbers, Whole

KIND = "eNTK in the making"


def gram(
    apply: Apply,
    params: Any,
    x: Numbers,
    x2: Numbers | None = None,
    *,
    probes: Whole | None = None,
    only: Only = None,
    seed: Whole = 0,
    budget: Whole = 2**31,
    path: str | os.PathLike[str] | None = None,
    anew: bool = False,
    devices: Sequence[Any] | None = None,
    progress: bool | None = None,
    backend: Literal["exact", "neural_tangents"] = "exact",
) -> np.ndarray:
    """K_ij = (1/O) Σ_o ⟨∂f_o(x_i)/∂θ, ∂f_o(x'_j)/∂θ⟩ [n, n'], the mean over all O outputs.

    Exact: f is traced at one sample, and every place where a parameter meets data is taken on its
    own (`entk.graph`); one backward pass an output gives every sample's cotangents there. Dense
    layers, convolutions and embeddings never form what is dearer than its products (`entk.plan`);
    every other place goes through its own derivative. No gradient of a whole network is ever kept,
    none is worked out twice but where the budget is too small for all samples' at once, and of a
    symmetric K only one half is multiplied. Products are in the network's dtype at full precision,
    their sum over layers and outputs in float64.

    Args:
        apply: pure function (params, inputs [k, ...]) -> outputs [k, ...] whose samples do not see
            one another (batch norm in evaluation mode). Kept, with what was compiled and the arrays
            that it closes over, for the next call with the same function and shapes.
        params: a tree of arrays; those that are not floating count as constants.
        x, x2: inputs [n, ...] and [n', ...]; without x2 K is symmetric. Whole numbers, such as
            tokens, stay so.
        probes: instead of all O outputs, so many directions of a random orthonormal basis of them;
            exact at O. See `entk.estimate` for its error.
        only: of the parameters, those whose path starts with this ("backbone.stages.3") or for
            which it is true; the kernel is the sum of the parts.
        seed: of the probes.
        budget: bytes for what is kept of all samples and worked on, beside the network, its inputs
            and K.
        path: a file (.npz) that keeps the sum so far, and at the end "K". A call that was stopped,
            however, goes on there after its last whole unit of work, to the same bits. It is known
            by the traced function and all its numbers; what a `jax.pure_callback` calls is not
            among them.
        anew: a file that holds another kernel, or none that can be read, is written over instead of
            refused.
        devices: units of work are shared out over these; by default all of this process.
        progress: show a bar; by default if stderr is a terminal.
        backend: "neural_tangents" for the reference, by Jacobian contraction; it takes none of the
            other options.

    Returns:
        K in the network's dtype.

    Raises:
        ValueError: no output, or not one row a sample; samples are coupled; a gradient is not
            finite (names the parameter); no parameter matches; the file holds another kernel
            (unless `anew`).
    """
    _check.require(
        backend in ("exact", "neural_tangents"),
        "backend",
        "'exact' or 'neural_tangents'",
        repr(backend),
    )
    if backend == "neural_tangents":
        options = {
            "probes": probes,
            "only": only,
            "path": path,
            "devices": devices,
            "progress": progress or None,
        }
        options |= {
            "anew": anew or None,
            "seed": seed or None,
            "budget": None if budget == 2**31 else budget,
        }
        given = [name for name, value in options.items() if value is not None]
        _check.require(
            not given,
            "backend",
            "'exact' with these options",
            f"{backend!r} and {', '.join(given)}",
        )
        return reference.gram(apply, params, x, x2)
    kernel = Kernel(apply, params, x, x2, only=only, budget=budget, devices=devices)
    work = kernel.work(directions(kernel.outputs, probes, seed))
    done, K, of = 0, np.zeros(kernel.shape), ""
    if path is not None:
        place = Path(path)
        fits = place.parent.is_dir() and not place.is_dir()
        _check.require(fits, "path", "a file in a folder that is there", repr(str(path)))
        of = _digest(kernel, work)
        try:
            done, K = _read(place, of, K, len(work.plan.units))
        except ValueError:
            if not anew:
                raise
    with _bars.bar(
        total=len(work.plan.units),
        initial=done,
        desc="eNTK",
        unit="unit",
        progress=progress,
    ) as bar:
        for term in kernel.terms(work, done):
            K, done = K + term, done + 1
            bar.update()
            if path is not None:
                whole = done == len(work.plan.units)
                _npz.write(
                    path, KIND, {"K": kernel.whole(K) if whole else K}, {"done": done, "of": of}
                )
    return kernel.whole(K)


def directions(outputs: int, probes: Whole | None, seed: Whole) -> np.ndarray:
    """Rows V with K = Σ_r ⟨∂(v_r·f)(x)/∂θ, ∂(v_r·f)(x')/∂θ⟩: all outputs, or probes of a random
    orthonormal basis.

    Raises:
        ValueError: there are fewer outputs than probes.
    """
    if probes is None:
        return np.eye(outputs) / np.sqrt(outputs)
    _check.whole("probes", probes, 1, outputs, ", the outputs")
    basis, triangle = np.linalg.qr(np.random.default_rng(seed).normal(size=(outputs, outputs)))
    return (basis * np.sign(np.diag(triangle))).T[:probes] / np.sqrt(probes)


def _digest(kernel: Kernel, work: Work) -> str:
    """What a kernel in the making is of: function, numbers, inputs, and its division into units."""
    found = hashlib.sha256()
    # traced with its derivatives: a rule of one's own for them is not in the function's own jaxpr
    traced = [
        jax.make_jaxpr(partial(kernel.engine.parts_of, pieces))(
            kernel.leaves, kernel.x[0], work.V[:outputs], {}
        )
        for pieces, outputs in dict.fromkeys(
            (unit.pieces, unit.outputs) for unit in work.plan.units
        )
    ]
    nodes = [re.sub(" at 0x[0-9a-f]+", "", str(each.jaxpr)) for each in traced]
    units = [
        (
            unit.first,
            unit.outputs,
            [(piece.leaf, piece.form, piece.first, piece.last) for piece in unit.pieces],
        )
        for unit in work.plan.units
    ]
    found.update(
        repr((nodes, units, kernel.names, kernel.n, kernel.symmetric, str(kernel.dtype))).encode()
    )
    for array in [
        *kernel.leaves,
        kernel.x,
        work.V,
        *(const for each in traced for const in each.consts),
    ]:
        is_key = hasattr(array, "dtype") and jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
        found.update(
            np.ascontiguousarray(jax.random.key_data(array) if is_key else array).tobytes()
        )
    return found.hexdigest()


def _read(path: Path, of: str, zeros: np.ndarray, units: int) -> tuple[int, np.ndarray]:
    """How many units are in the file, and their sum."""
    if not path.exists():
        return 0, zeros
    arrays, about = _npz.read(path, KIND, ("K",))
    fits = about.get("of") == of and arrays["K"].shape == zeros.shape
    _check.require(
        fits,
        str(path),
        "this kernel in the making",
        "another function's, or of other inputs or a budget",
    )
    done = about.get("done")
    fits = isinstance(done, int) and 0 <= done <= units and bool(np.isfinite(arrays["K"]).all())
    _check.require(
        fits,
        str(path),
        f"a finite kernel and 0 ... {units} units of it",
        f"{done!r}, or one that is not",
    )
    return int(done), arrays["K"]  # type: ignore[arg-type]
