"""`entk.gram` agrees with the definition for all networks, sizes, budgets and devices."""

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import _npz, entk
from stepwise.entk.graph import Graph
from stepwise.entk.kernel import Kernel
from stepwise.entk.plan import pieces
from stepwise.neural_tangents import nt
from tests.entk import networks


def kernel_by_definition(apply, params, x):
    """Return (1/O) Σ_o ⟨∂f_o(x_i)/∂θ, ∂f_o(x_j)/∂θ⟩ of floating parameters, sample by sample."""
    leaves, tree = jax.tree.flatten(params)
    real = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]

    @jax.jit
    def gradient(arrays, sample, direction):
        def output(arrays):
            every = list(leaves)
            for i, leaf in zip(real, arrays, strict=True):
                every[i] = leaf
            return apply(jax.tree.unflatten(tree, every), sample[None])[0].reshape(-1)

        (gradients,) = jax.vjp(output, arrays)[1](direction)
        return jnp.concatenate([each.reshape(-1) for each in gradients])

    arrays = [leaves[i] for i in real]
    size = int(np.prod(jax.eval_shape(apply, params, x[:1]).shape))
    outputs = np.eye(size, dtype=arrays[0].dtype)
    J = np.array([[gradient(arrays, sample, one) for one in outputs] for sample in jnp.asarray(x)])
    return np.einsum("iop,jop->ij", J, J) / size


@functools.cache
def reference(name):
    """Return a network's parameters in float64, as NumPy arrays, and its kernel by definition."""
    with jax.enable_x64(True):
        apply, params, x = networks.ALL[name]()
        params = networks.cast(params)
        return jax.tree.map(np.asarray, params), kernel_by_definition(apply, params, x)


def close(K, reference, relative):
    assert K.shape == reference.shape
    np.testing.assert_allclose(K, reference, atol=relative * np.abs(reference).max(), rtol=0)


@pytest.mark.xdist_group("entk")
@pytest.mark.parametrize("name", networks.ALL)
def test_the_kernel_agrees_with_the_definition(name, dtype):
    (apply, _, x), (params, expected) = networks.ALL[name](), reference(name)
    x = x.astype(dtype) if x.dtype.kind == "f" else x
    K = entk.gram(apply, networks.cast(params, dtype), x)
    assert K.dtype == dtype
    close(K, expected, {"float64": 1e-10, "float32": 1e-5}[dtype])
    np.testing.assert_array_equal(K, K.T)


@pytest.mark.parametrize("name", ["mlp", "shared", "looped"])
def test_rows_columns_and_the_budget_do_not_change_the_kernel(name, x64):
    apply, params, x = networks.ALL[name]()
    params = networks.cast(params)
    close(entk.gram(apply, params, x[:1], x[1:]), reference(name)[1][:1, 1:], 1e-10)
    close(entk.gram(apply, params, x[:1]), reference(name)[1][:1, :1], 1e-10)
    # Not all layers fit in this budget, so there are more units.
    numbers = sum(leaf.size for leaf in jax.tree.leaves(params))
    close(entk.gram(apply, params, x, budget=3 * numbers * 8 // 2), reference(name)[1], 1e-10)


@pytest.mark.filterwarnings("ignore:size requires ndarray:DeprecationWarning")
@pytest.mark.parametrize("name", ["mlp", "vit"])
def test_the_kernel_agrees_with_neural_tangents(name, x64):
    apply, params, x = networks.ALL[name]()
    params = networks.cast(params)
    theirs = nt.empirical_ntk_fn(apply, implementation=nt.NtkImplementation.JACOBIAN_CONTRACTION)(
        x, None, params
    )
    close(entk.gram(apply, params, x), np.asarray(theirs), 1e-10)


def test_the_networks_cover_every_form(x64):
    forms = set()
    for name in ("mlp", "shared", "looped"):
        apply, params, x = networks.ALL[name]()
        graph = Graph(apply, networks.cast(params), x[:1])
        forms |= {
            (piece.form, piece.layers[0].kind if piece.layers else "") for piece in pieces(graph)
        }
    kinds = {("outer", "dense"), ("outer", "convolution"), ("pulled", "dense"), ("direct", "")}
    assert kinds <= forms


def small():
    apply, params, _ = networks.mlp()
    return apply, params, np.random.default_rng(1).normal(size=(70, 6)).astype(np.float32)


def test_a_second_call_compiles_nothing(caplog):
    apply, params, x = small()
    own = lambda params, x: apply(params, x)  # noqa: E731  a function that no other test compiles
    compiled = []
    with jax.log_compiles():
        for _ in range(2):
            K = entk.gram(own, jax.tree.map(lambda leaf: leaf + 0, params), x.copy())
            compiled.append(
                [record.message for record in caplog.records if "XLA compilation" in record.message]
            )
            caplog.clear()
    np.testing.assert_array_equal(K, entk.gram(apply, params, x))
    assert any("_chunk" in message for message in compiled[0]) and not compiled[1]


def test_kernels_of_parts_of_the_parameters_add_up(x64):
    apply, params, x = networks.mlp()
    params = networks.cast(params)
    names = [
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, _ in jax.tree.leaves_with_path(params)
    ]
    parts = [entk.gram(apply, params, x, only=name) for name in names]
    close(sum(parts), entk.gram(apply, params, x), 1e-12)
    first = names[0].rsplit(".", 1)[0]
    layer = [part for name, part in zip(names, parts, strict=True) if name.startswith(f"{first}.")]
    assert 0 < len(layer) < len(parts)
    close(sum(layer), entk.gram(apply, params, x, only=first), 1e-12)
    close(
        sum(layer),
        entk.gram(apply, params, x, only=lambda name: name.startswith(f"{first}.")),
        1e-12,
    )


def test_all_probes_are_exact_and_fewer_are_unbiased(x64):
    apply, params, x = networks.mlp()
    params = networks.cast(params)
    K = entk.gram(apply, params, x)
    close(entk.gram(apply, params, x, probes=3, seed=5), K, 1e-12)
    estimates = [entk.gram(apply, params, x, probes=1, seed=seed) for seed in range(200)]
    spread = np.std(estimates, axis=0) / np.sqrt(len(estimates))
    assert (np.abs(np.mean(estimates, axis=0) - K) < 5 * spread + 1e-12).all() and (
        np.std(estimates, axis=0) > 0
    ).any()


class StoppedError(Exception):
    pass


def test_an_interrupted_call_resumes_to_the_same_bits(tmp_path, monkeypatch):
    apply, params, x = small()
    whole = entk.gram(apply, params, x, budget=20_000)
    write, left = _npz.write, [2]

    def failing(*args):
        write(*args)
        left[0] -= 1
        if left[0] == 0:
            raise StoppedError

    monkeypatch.setattr(_npz, "write", failing)
    with pytest.raises(StoppedError):
        entk.gram(apply, params, x, budget=20_000, path=tmp_path / "K.npz")
    assert _npz.read(tmp_path / "K.npz", "eNTK in the making", ("K",))[1]["done"] == 2
    np.testing.assert_array_equal(
        entk.gram(apply, params, x, budget=20_000, path=tmp_path / "K.npz"), whole
    )
    monkeypatch.setattr(Kernel, "_start_unit", None)  # a complete file is read
    np.testing.assert_array_equal(
        entk.gram(apply, params, x, budget=20_000, path=tmp_path / "K.npz"), whole
    )
    for other in (
        {"params": jax.tree.map(lambda a: 2 * a, params)},
        {"x": x + 1},
        {"probes": 2},
        {"only": "layers.0"},
    ):
        with pytest.raises(
            ValueError,
            match=r"K.npz: expected a partial result of this kernel, received one of another",
        ):
            entk.gram(
                apply,
                **(
                    {"params": params, "x": x, "budget": 20_000, "path": tmp_path / "K.npz"} | other
                ),
            )
    monkeypatch.undo()
    doubled = jax.tree.map(lambda a: 2 * a, params)
    K = entk.gram(apply, doubled, x, budget=20_000, path=tmp_path / "K.npz", anew=True)
    np.testing.assert_array_equal(K, entk.gram(apply, doubled, x, budget=20_000))
    np.testing.assert_array_equal(
        entk.gram(apply, doubled, x, budget=20_000, path=tmp_path / "K.npz"), K
    )


KILLED = """
import os, signal
from stepwise import _npz, entk
from tests.entk.test_gram import small
write, left = _npz.write, [2]
def dying(*args):
    write(*args)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
_npz.write = dying
apply, params, x = small()
entk.gram(apply, params, x, budget=20_000, path={path!r})
"""


@pytest.mark.slow
def test_a_killed_call_resumes_to_the_same_bits_and_eight_devices_agree(tmp_path):
    path = tmp_path / "K.npz"
    root = Path(__file__).resolve().parents[2]
    child = subprocess.run([sys.executable, "-c", KILLED.format(path=str(path))], cwd=root)
    assert child.returncode == -signal.SIGKILL
    apply, params, x = small()
    whole = entk.gram(apply, params, x, budget=20_000)
    np.testing.assert_array_equal(entk.gram(apply, params, x, budget=20_000, path=path), whole)
    np.save(tmp_path / "one.npy", whole)
    shared = (
        "import jax, numpy as np; from stepwise import entk; from tests.entk.test_gram import "
        "small\n"
        "assert len(jax.local_devices()) == 8\n"
        f"one = np.load({str(tmp_path / 'one.npy')!r})\n"
        "np.testing.assert_allclose(entk.gram(*small(), budget=20_000), one, rtol=1e-5)"
    )
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", shared],
        cwd=root,
        env=os.environ | flags,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def train_mode(params, x):
    h = x @ params["W"]
    mean, variance = h.mean(0, keepdims=True), h.var(0, keepdims=True)
    return (h - mean) / jnp.sqrt(variance + 1)


W = {"W": jnp.ones((6, 3))}
X = np.random.default_rng(2).normal(size=(4, 6)).astype(np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: entk.gram(train_mode, W, X),
            "independent samples .*, received an output that",
        ),
        (
            lambda: entk.gram(lambda p, x: x.sum(), W, X),
            r"one array of outputs \[k, ...\] of k "
            r"inputs, received \[\]",
        ),
        (
            lambda: entk.gram(lambda p, x: (x @ p["W"],) * 2, W, X),
            "one array of outputs .*, received tuple",
        ),
        (
            lambda: entk.gram(lambda p, x: jnp.sqrt(x * 0 @ p["W"]), W, X),
            "W: expected finite gradients in this",
        ),
        (
            lambda: entk.gram(lambda p, x: x @ p["W"], {"W": np.arange(18).reshape(6, 3)}, X),
            "params: expected a tree",
        ),
        (
            lambda: entk.gram(lambda p, x: x @ p["W"], W, X, X[:, :5]),
            r"x2: expected inputs \[6\] "
            r"as x",
        ),
        (lambda: entk.gram(lambda p, x: x @ p["W"], W, X[:0]), "x: expected at least one input"),
        (
            lambda: entk.gram(lambda p, x: x @ p["W"], W, X, probes=4),
            r"probes: expected a whole "
            r"number in 1 \.\.\. 3",
        ),
        (
            lambda: entk.gram(lambda p, x: x @ p["W"], W, X, only="V"),
            r"only: expected parameters among \['W'\]",
        ),
        (lambda: entk.gram(lambda p, x: x @ p["W"], W, X, budget=1), "budget: expected more than"),
    ],
)
def test_bad_arguments_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
