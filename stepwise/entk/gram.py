"""The eNTK averaged over outputs, of any pure function, in bounded memory and resumable."""

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

from stepwise import _check, _npz, _terminal
from stepwise.entk import reference
from stepwise.entk.kernel import Kernel, Only, Work
from stepwise.entk.parameters import Apply, split
from stepwise.entk.verify import ROWS, verify, verify_pair
from stepwise.types import Numbers, Whole

LARGE = 1e12
"""Number of operations beyond which the kernel of two inputs is verified first."""
KIND = "eNTK in the making"
"""Kind of the file: a part of the file format, so it cannot change."""


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
    """Compute K_ij = (1/O) Σ_o ⟨∂f_o(x_i)/∂θ, ∂f_o(x'_j)/∂θ⟩ [n, n'], the mean over O outputs.

    The result is exact up to rounding. The function is traced at one sample, and split into the
    operations in which parameters and data come together (`entk.graph`). One forward pass, and one
    backward pass for each output, yield the inputs and cotangents of all these operations. Each
    parameter array then uses the cheapest algorithm (`entk.plan`): for dense layers, convolutions
    and embeddings, products of activations and of cotangents, or products of gradients; for all
    other operations, gradients by the operation's own derivative.

    Whole-network gradients are never stored. Passes are repeated only if the budget cannot hold
    what is stored of all samples. Only half of a symmetric K is computed. Products are in the
    network's dtype at full precision; their sum over layers and outputs is in float64. A few
    entries are compared with plain backward passes.

    Args:
        apply: a pure function (params, inputs [k, ...]) -> outputs [k, ...]. Samples must be
            independent, as with batch norm in evaluation mode. The function, its compiled code and
            the arrays that it closes over stay in memory for later calls with the same function and
            shapes.
        params: a tree of arrays. Those that are not floating or complex are constants.
        x, x2: inputs [n, ...] and [n', ...]; without x2, K is symmetric. Whole numbers, such as
            tokens, are not converted.
        probes: number of directions, from a random orthonormal basis of the outputs, to average
            over instead of all O outputs. With O probes the result is exact. See `entk.estimate`
            for its error.
        only: the parameters to include: those whose path starts with this string
            ("backbone.stages.3"), or for whose path this function returns true. The kernel is the
            sum of the kernels of its parameter arrays.
        seed: seed of the probes.
        budget: bytes for what is stored of all samples and computed at once. The network, its
            inputs and K are not included.
        path: a file (.npz) for the sum so far, and finally for K, under "K". An interrupted call
            resumes after its last complete unit of work, to the same bits. The file is matched by
            the traced function, its parameters, its inputs and the budget; a change of the Python
            code behind a `jax.pure_callback` is not recognised.
        anew: replace a file that holds another kernel, or cannot be read, instead of raising an
            error.
        devices: the devices that compute; by default all devices of this process.
        progress: whether to show a progress bar; by default if stderr is a terminal.
        backend: "exact", or "neural_tangents" for a reference by Jacobian contraction, which
            accepts none of the other options.

    Returns:
        K in the network's dtype.

    Raises:
        ValueError: if there is no output, or not one row of outputs per sample; samples depend on
            one another; a gradient is not finite (the message names the parameter); no parameter
            matches; the result disagrees with plain backward passes; or the file holds another
            kernel (unless `anew`).
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
        unsupported = [name for name, value in options.items() if value is not None]
        _check.require(
            not unsupported,
            "backend",
            "'exact' with these options",
            f"{backend!r} and {', '.join(unsupported)}",
        )
        split(apply, params, statistics=False)  # which checks them
        return reference.gram(apply, params, x, x2)
    kernel = Kernel(apply, params, x, x2, only=only, budget=budget, devices=devices)
    work = kernel.work(directions(kernel.outputs, probes, seed))
    if work.plan.flops > LARGE or len(work.V) > ROWS:
        verify_pair(kernel)
    done, K, digest = 0, np.zeros(kernel.shape), ""
    if path is not None:
        file = Path(path)
        fits = file.parent.is_dir() and not file.is_dir()
        _check.require(fits, "path", "a file in an existing folder", repr(str(path)))
        digest = _digest(kernel, work)
        try:
            done, K = _read_sum(file, digest, K, len(work.plan.units))
        except ValueError:
            if not anew:
                raise
    with _terminal.bar(
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
                stored = kernel.complete(K) if done == len(work.plan.units) else K
                _npz.write(path, KIND, {"K": stored}, {"done": done, "of": digest})
    if len(work.V) <= ROWS:
        verify(kernel, work.V, K)
    return kernel.complete(K)


def directions(outputs: int, probes: Whole | None, seed: Whole) -> np.ndarray:
    """Return the rows v_r of V [R, O] with K = Σ_r ⟨∂(v_r·f)(x)/∂θ, ∂(v_r·f)(x')/∂θ⟩.

    They are e_r/√O for all R = O outputs, or R = probes rows of a random orthonormal basis, over
    √R.

    Args:
        outputs: number of outputs O.
        probes: number of rows, or None for all outputs.
        seed: seed of the basis.

    Raises:
        ValueError: if there are fewer outputs than probes.
    """
    if probes is None:
        return np.eye(outputs) / np.sqrt(outputs)
    _check.whole("probes", probes, 1, outputs, " (the number of outputs)")
    _check.whole("seed", seed, 0)
    basis, triangle = np.linalg.qr(np.random.default_rng(seed).normal(size=(outputs, outputs)))
    return (basis * np.sign(np.diag(triangle))).T[:probes] / np.sqrt(probes)


def _digest(kernel: Kernel, work: Work) -> str:
    """Return a digest of the function, its parameters, the inputs and the division into units."""
    digest = hashlib.sha256()
    # The jaxpr with derivatives is used: a custom derivative rule is not in the function's jaxpr.
    traced = [
        jax.make_jaxpr(partial(kernel.engine.sample_parts, pieces))(
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
    digest.update(
        repr((nodes, units, kernel.names, kernel.n, kernel.symmetric, str(kernel.dtype))).encode()
    )
    for array in [
        *kernel.leaves,
        kernel.x,
        work.V,
        *(const for each in traced for const in each.consts),
    ]:
        is_key = hasattr(array, "dtype") and jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
        digest.update(
            np.ascontiguousarray(jax.random.key_data(array) if is_key else array).tobytes()
        )
    return digest.hexdigest()


def _read_sum(path: Path, digest: str, zeros: np.ndarray, units: int) -> tuple[int, np.ndarray]:
    """Return the number of units computed so far and the sum of their terms, from a file.

    Args:
        path: the file; if absent, the result is 0 and `zeros`.
        digest: the digest that the file must have.
        zeros: an array of the shape of the sum.
        units: the total number of units.

    Raises:
        ValueError: if the file belongs to another kernel, or is not valid.
    """
    if not path.exists():
        return 0, zeros
    arrays, about = _npz.read(path, KIND, ("K",))
    fits = about.get("of") == digest and arrays["K"].shape == zeros.shape
    _check.require(
        fits,
        str(path),
        "a partial result of this kernel",
        "one of another function, or of other parameters, inputs or budget; remove it, or use "
        "anew=True",
    )
    done = about.get("done")
    fits = isinstance(done, int) and 0 <= done <= units and bool(np.isfinite(arrays["K"]).all())
    _check.require(
        fits,
        str(path),
        f"a finite kernel and 0 ... {units} computed units",
        f"{done!r} units, or a kernel that is not finite",
    )
    return int(done), arrays["K"]  # type: ignore[arg-type]
