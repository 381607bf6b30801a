"""Cases reported for other kernel libraries: selective derivative rules, unusual parameters."""

import subprocess
import sys
from functools import partial

import diffrax
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax.flatten_util import ravel_pytree

from stepwise import entk
from stepwise.entk.graph import Graph

X = np.random.default_rng(0).normal(size=(5, 4))
A = 0.4 * np.random.default_rng(1).normal(size=(4, 4))


def traced(apply, params, x):
    """Return the kernel averaged over outputs, by one plain Jacobian of all parameters."""
    flat, unravel = ravel_pytree(params)
    J = jax.jacrev(lambda flat: apply(unravel(flat), x))(flat)
    return np.einsum("iop,jop->ij", J, J) / J.shape[1]


def ode(params, x):
    def solve(y):
        term = diffrax.ODETerm(lambda t, y, A: jnp.tanh(A @ y))
        out = diffrax.diffeqsolve(term, diffrax.Tsit5(), 0.0, 1.0, 0.5, y, params["A"], max_steps=4)
        return out.ys[-1]

    return jax.vmap(solve)(x)


def loop(params, x):
    def solve(y):
        step = lambda c: (jnp.tanh(params["A"] @ c[0]), c[1] + 1)  # noqa: E731
        return eqxi.while_loop(lambda c: c[1] < 3, step, (y, 0), max_steps=8, kind="checkpointed")

    return jax.vmap(solve)(x)[0]


CHOOSING = {
    "neural ODE": ode,
    "neural ODE, linear head": lambda p, x: ode(p, x) @ p["head"],
    "checkpointed loop": loop,
    "layer before the loop": lambda p, x: loop(p, jnp.tanh(x @ p["head"] @ p["head"].T)),
}
LONG = [pytest.param(name, marks=pytest.mark.long) for name in list(CHOOSING)[:2]]
LOOPS = list(CHOOSING)[2:]


@pytest.mark.parametrize("name", [LONG[0], *list(CHOOSING)[1:]])
def test_a_rule_that_depends_on_perturbed_inputs_gives_the_plain_kernel(name, x64):
    apply, params = CHOOSING[name], {"A": A, "head": A[:, :2]}
    expected = traced(apply, params, X)
    assert np.trace(expected) > 1e-3
    np.testing.assert_allclose(entk.gram(apply, params, X), expected, atol=1e-9)


@pytest.mark.parametrize("name", [*LONG, *LOOPS])
def test_full_kernels_and_products_of_such_a_rule_are_plain_too(name, x64):
    apply, params = CHOOSING[name], {"A": A, "head": A[:, :2]}
    expected = traced(apply, params, X)
    full = np.einsum("iaja->ij", entk.full_kernel(apply, params, X))
    np.testing.assert_allclose(full / apply(params, X).shape[1], expected, atol=1e-9)
    np.testing.assert_allclose(entk.products(apply, params, X)(np.eye(5)), expected, atol=1e-9)


def test_a_kernel_that_disagrees_with_plain_backward_passes_is_refused(x64, monkeypatch):
    """If the rule is not given the perturbed inputs, the kernel of the loop is zero."""
    monkeypatch.setattr(Graph, "selective", False)
    own = lambda p, x: loop(p, x)  # noqa: E731  a function that is compiled here
    message = r"apply: expected a function whose kernel agrees with plain backward passes"
    for call in (
        lambda: entk.gram(own, {"A": A}, X),
        lambda: entk.products(own, {"A": A}, X),
        lambda: entk.estimate(own, {"A": A}, X, probes=4),
        lambda: entk.estimate(own, {"A": A}, X, sketch=4),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_both_parts_of_a_complex_parameter_are_counted(x64):
    """The kernel of a layer of Fourier coefficients is that of two real arrays."""
    w = np.random.default_rng(2).normal(size=(2, 4, 4))

    def apply(params, x):
        return jnp.fft.ifft(jnp.fft.fft(x @ params["V"]) @ params["w"]).real

    def parts(params, x):
        return apply({"w": params["re"] + 1j * params["im"], "V": params["V"]}, x)

    one = {"w": jnp.asarray(w[0] + 1j * w[1]), "V": A}
    two = {"re": jnp.asarray(w[0]), "im": jnp.asarray(w[1]), "V": A}
    expected = traced(parts, two, X)
    np.testing.assert_allclose(entk.gram(apply, one, X), expected, rtol=1e-9)
    part = entk.gram(apply, one, X, only="w")
    rest = entk.gram(apply, one, X, only="V")
    np.testing.assert_allclose(part + rest, expected, rtol=1e-9)
    with pytest.raises(ValueError, match=r"only: .*'w.real', 'w.imag'"):
        entk.gram(apply, one, X, only="z")


def test_parameters_that_do_not_reach_the_output_are_refused():
    """The function uses weights from its closure by mistake."""
    # a copy, because JAX 0.10 would keep its float32 form for later calls with jax_enable_x64 on
    inner = {"A": A.copy()}
    for call in (entk.gram, entk.estimate, entk.products):
        with pytest.raises(ValueError, match="apply: expected outputs that depend on these"):
            call(lambda p, x: x @ inner["A"], inner, X)
    with pytest.raises(ValueError, match="only: expected outputs that depend on these"):
        entk.gram(lambda p, x: x @ p["A"], {"A": A, "B": A}, X, only="B")


def test_an_equinox_model_is_a_tree_of_parameters_as_it_is():
    model = eqx.nn.MLP(4, 3, 8, 1, activation=jnp.sin, key=jax.random.key(0))
    weights, static = eqx.partition(model, eqx.is_inexact_array)
    K = entk.gram(lambda m, x: jax.vmap(m)(x), model, X.astype(np.float32))
    expected = entk.gram(
        lambda p, x: jax.vmap(eqx.combine(p, static))(x), weights, X.astype(np.float32)
    )
    np.testing.assert_allclose(K, expected, rtol=1e-5)


def test_leaves_that_are_no_parameters_are_constants(x64):
    """The tree has a random key, whole numbers, a function and a name beside the weights."""
    beside = {"key": jax.random.key(3), "n": jnp.arange(3), "act": jnp.tanh, "name": "net"}

    def apply(params, x):
        noise = jax.random.normal(params["key"], (4,), x.dtype)
        return params["act"]((x + noise[None]) @ params["A"]) * params["n"][2]

    expected = traced(lambda p, x: apply(beside | p, x), {"A": A}, X)
    np.testing.assert_allclose(entk.gram(apply, beside | {"A": A}, X), expected, rtol=1e-9)
    full = np.einsum("iaja->ij", entk.full_kernel(apply, beside | {"A": A}, X)) / 4
    np.testing.assert_allclose(full, expected, rtol=1e-9)


def test_batch_statistics_beside_the_weights_are_named():
    """Flax Linen stores both in one tree, and the statistics would count as parameters."""
    network = linen.Sequential([linen.Dense(3), linen.BatchNorm(use_running_average=True)])
    x = X.astype(np.float32)
    variables = network.init(jax.random.key(0), x)
    apply = lambda p, x: network.apply(p, x)  # noqa: E731
    with pytest.raises(ValueError, match=r'params: expected parameters alone, or only="params"'):
        entk.gram(apply, variables, x)
    K = entk.gram(apply, variables, x, only="params")
    fixed = lambda p, x: network.apply({**variables, "params": p}, x)  # noqa: E731
    np.testing.assert_allclose(K, entk.gram(fixed, variables["params"], x), rtol=1e-5)


def test_the_state_of_an_nnx_module_is_a_tree_of_parameters():
    module = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    graph, params = nnx.split(module)
    x = X.astype(np.float32)
    K = entk.gram(lambda p, x: nnx.merge(graph, p)(x), params, x)
    np.testing.assert_allclose(K, x @ x.T + 1, rtol=1e-5)


WRONG = {
    "a tuple of outputs": (
        lambda f, p, x: (lambda p, x: (f(p, x), x), p, x),
        "apply: expected .*outputs .* received tuple",
    ),
    "a dict of outputs": (
        lambda f, p, x: (lambda p, x: {"z": f(p, x)}, p, x),
        "apply: expected .*outputs .* received dict",
    ),
    "a dict of inputs": (
        lambda f, p, x: (f, p, {"image": x}),
        "x: expected an array of inputs as the third argument, received dict",
    ),
    "inputs and parameters swapped": (
        lambda f, p, x: (f, x, p),
        "x: expected an array of inputs as the third argument, received dict",
    ),
    "a tuple of inputs": (lambda f, p, x: (f, p, (x, x)), "x: expected an array .* received tuple"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("call", [entk.gram, entk.estimate, entk.products, entk.full_kernel])
def test_wrong_arguments_are_refused_in_one_short_line(call, name):
    arrange, message = WRONG[name]
    with pytest.raises(ValueError, match=message) as caught:
        call(*arrange(lambda p, x: x @ p["A"], {"A": A}, X))
    assert len(str(caught.value)) < 200 and "\n" not in str(caught.value)


def test_swapped_arguments_are_refused_in_one_short_line():
    """A separate process is used, because the test session checks argument types first."""
    code = """
import numpy as np
from stepwise import entk
for call in (entk.gram, entk.estimate, entk.products, entk.full_kernel):
    try:
        call({"A": np.eye(4)}, lambda p, x: x @ p["A"], np.ones((5, 4)))
    except ValueError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    line = (
        "apply: expected a function (params, inputs) -> outputs as the first argument, "
        "received dict\n"
    )
    assert done.stdout == 4 * line


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda K, z: entk.score(z, K), "K: expected"),
        (lambda K, z: entk.score({"K": K}, z), "K: expected"),
        (lambda K, z: entk.score(K, (z, z, "z")), "z: expected"),
        (lambda K, z: entk.predict(z, 2), "K: expected"),
        (lambda K, z: entk.drift(K, {"K": K}), "after: expected"),
        (lambda K, z: entk.drift(K, z), "after: expected"),
    ],
)
def test_wrong_kernels_are_refused_in_one_short_line(call, message):
    K, z = np.diag([4.0, 3, 2, 4, 3, 2]), np.random.default_rng(0).normal(size=(6, 2))
    with pytest.raises(ValueError, match=message) as caught:
        call(K, z)
    assert len(str(caught.value)) < 200 and "\n" not in str(caught.value)


class Normalised(nnx.Module):
    def __init__(self, rngs):
        self.layer, self.norm = nnx.Linear(4, 3, rngs=rngs), nnx.BatchNorm(3, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.layer(x))


@pytest.mark.parametrize("whole", [lambda module: module, nnx.state], ids=["module", "state"])
@pytest.mark.parametrize("call", [entk.gram, entk.full_kernel])
def test_batch_statistics_of_an_nnx_module_are_no_parameters(call, whole):
    module = Normalised(nnx.Rngs(0))
    module.eval()
    graph = nnx.split(module)[0]
    apply = lambda p, x: (p if isinstance(p, nnx.Module) else nnx.merge(graph, p))(x)  # noqa: E731
    with pytest.raises(ValueError, match=r"params: expected parameters alone.* also BatchStat"):
        call(apply, whole(module), X.astype(np.float32))


def test_statistics_are_named_by_every_way_to_a_kernel():
    variables = {"params": A, "buffers": {"scale": np.ones(4)}}
    apply = lambda p, x: x * p["buffers"]["scale"][None] @ p["params"]  # noqa: E731
    for call in (entk.gram, entk.full_kernel, partial(entk.gram, backend="neural_tangents")):
        with pytest.raises(ValueError, match=r"params: expected parameters alone.* also buffers"):
            call(apply, variables, X)


@pytest.mark.parametrize("call", [entk.gram, entk.full_kernel])
def test_arrays_in_another_byte_order_are_read(call):
    apply = lambda p, x: jnp.tanh(x @ p)  # noqa: E731
    swapped = call(apply, A.astype(">f8"), X.astype(">f8"))
    np.testing.assert_array_equal(swapped, call(apply, A, X))


@pytest.mark.parametrize("call", [entk.gram, entk.full_kernel])
def test_lists_of_tokens_stay_whole_numbers(call):
    tokens = np.array([[0, 3], [3, 1], [2, 2]])
    apply = lambda p, x: jnp.tanh(p[x].sum(1))  # noqa: E731
    np.testing.assert_array_equal(call(apply, A, tokens.tolist()), call(apply, A, tokens))


@pytest.mark.parametrize("call", [entk.gram, entk.full_kernel])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.array([2**32 + 1, 0]), r"fit into int32, or jax_enable_x64, received \[4294967297\]"),
        (np.array([1e200, 0]), r"fit into float32, or jax_enable_x64, received \[1e\+200\]"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), "without masked entries, received 1"),
    ],
    ids=["whole", "real", "masked"],
)
def test_inputs_that_would_become_other_numbers_are_refused(call, x, message):
    with pytest.raises(ValueError, match=f"x: expected .*{message}"):
        call(lambda p, x: x[:, None] * p[:1], A, x)


def test_weights_of_eight_bits_have_the_kernel_of_their_values():
    weights, x = jnp.asarray(A, jnp.float8_e4m3fn), X.astype(np.float32)
    K = entk.gram(lambda p, x: jnp.tanh(x @ p.astype(jnp.float32)), weights, x)
    expected = entk.gram(lambda p, x: jnp.tanh(x @ p), weights.astype(jnp.float32), x)
    np.testing.assert_allclose(K, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, x: jax.jit(lambda p: entk.gram(f, p, x))(A), "params and x: .* traced"),
        (lambda f, x: entk.gram(f, A, x, probes=1, seed=-1), "seed: expected a whole number"),
        (lambda f, x: entk.gram(lambda p, x: jnp.sqrt(0 * x @ p), A, x), "params: .* finite"),
    ],
    ids=["traced", "seed", "infinite"],
)
def test_other_arguments_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call(lambda p, x: jnp.tanh(x @ p), X.astype(np.float32))


def test_a_device_and_an_unknown_centre_are_refused_by_name():
    """A separate process is used, because the test session checks argument types first."""
    code = """
import jax
import numpy as np
from stepwise import entk
calls = (
    lambda: entk.gram(lambda p, x: x @ p, np.eye(4), np.ones((2, 4)), devices=jax.devices()[0]),
    lambda: entk.score(np.eye(4), np.ones((4, 1)), center="mean"),
)
for call in calls:
    try:
        call()
    except ValueError as error:
        print(str(error).partition(",")[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "devices: expected a list of devices\ncenter: expected one of ('pooled'\n"


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_the_drift_of_a_very_large_or_small_kernel_is_a_number(scaled, size):
    before, after = np.eye(4), np.diag([1.0, 1, 1, 0])
    assert entk.drift(size * before, size * after, scaled=scaled) == pytest.approx(0.5)
