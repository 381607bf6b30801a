"""Functions whose kernel is easily computed wrongly, and functions that must be refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stepwise import _npz, entk, models
from stepwise.entk.gram import KIND
from tests.entk.test_gram import close, kernel_by_definition

RNG = np.random.default_rng(0)
W, V = RNG.normal(size=(4, 4)), RNG.normal(size=(4, 3))
X = RNG.normal(size=(5, 4))
BOTH = {"W": W, "V": V}


def gated(params, x):
    return jnp.tanh(x @ (params["W"] * 0.0)) @ params["V"] + x @ params["V"]


def masked(params, x):
    return jnp.tanh(x @ (params["W"] * params["mask"])) @ params["V"]


def picked(params, x):
    return jnp.tanh(x @ params["W"][:, params["order"]]) @ params["V"]


def dropped(params, x):
    mask = jax.random.bernoulli(params["key"], 0.5, params["W"].shape)
    return jnp.tanh(x @ (params["W"] * mask)) @ params["V"]


def discarded(params, x):
    return (jnp.log(0 * x) @ params["W"], x @ params["V"])[1]


ODD = {
    "a gate of zero": (gated, BOTH),
    "a mask on the weights": (masked, BOTH | {"mask": W > 0}),
    "columns picked by a leaf": (picked, BOTH | {"order": np.array([2, 0, 3, 1])}),
    "a key among the leaves": (dropped, BOTH),
    "what is thrown away": (discarded, BOTH),
}


@pytest.mark.parametrize("name", ODD)
def test_the_kernel_agrees_with_the_definition(name, x64, tmp_path):
    apply, params = ODD[name]
    params = jax.tree.map(jnp.asarray, params)
    params |= {"key": jax.random.key(3)} if apply is dropped else {}
    path = tmp_path / "K.npz"
    expected = kernel_by_definition(apply, params, X)
    close(entk.gram(apply, params, X, path=path), expected, 1e-12)
    close(entk.gram(apply, params, X, path=path), expected, 1e-12)
    close(entk.products(apply, params, X)(np.eye(5)), expected, 1e-12)


# with 300 rows, XLA's emitters that `make test` selects let the index overflow; `verify` reports it
@pytest.mark.parametrize("rows", [255, 256, pytest.param(300, marks=pytest.mark.long)])
def test_tokens_may_be_bytes_if_the_table_has_more_rows(rows):
    table = jnp.asarray(RNG.normal(size=(rows, 4)), jnp.float32)
    apply = lambda params, x: jnp.tanh(jnp.take(params, x, axis=0)).mean(1)  # noqa: E731
    tokens = RNG.integers(0, 250, (4, 3))
    np.testing.assert_array_equal(
        entk.gram(apply, table, tokens.astype(np.uint8)),
        entk.gram(apply, table, tokens.astype(np.int32)),
    )


def test_weights_may_have_less_precision_than_activations():
    half = jnp.asarray(W, jnp.bfloat16)
    apply = lambda params, x: x @ jnp.tanh(params)  # noqa: E731
    with jax.numpy_dtype_promotion("standard"):
        K = entk.gram(apply, half, X.astype(np.float32))
    expected = entk.gram(apply, half.astype(jnp.float32), X.astype(np.float32))
    np.testing.assert_allclose(
        np.asarray(K, np.float32), expected, rtol=0.03, atol=0.03 * np.abs(expected).max()
    )


@pytest.mark.parametrize("scale", [1e-8, 1e-4, 1e-2])
def test_an_output_near_zero_is_not_mistaken_for_coupled_samples(scale):
    apply, params = models.functional(models.MLP(4, [16, 16], 3, rngs=nnx.Rngs(0)))
    start = models.antisymmetric_start(params, jax.random.key(0), scale)
    K = entk.gram(models.antisymmetric(apply), start, X.astype(np.float32))
    np.testing.assert_allclose(
        K, entk.gram(apply, params, X.astype(np.float32)), rtol=0.1, atol=0.05
    )


def normalised(params, x):
    mean, spread = x.mean(0, keepdims=True), x.std(0, keepdims=True)
    return (x - mean) / (spread + 1e-3) @ params


COUPLED = {
    "batch statistics": (normalised, V, X),
    "before a head of zeros": (normalised, 0 * V, X),
    "with equal inputs": (normalised, V, np.ones_like(X)),
    "with one input": (normalised, V, X[:1]),
    "an image of one row": (lambda p, x: normalised(p, x[:, 0, 0]), V, X[:1, None, None]),
    "a place in the batch": (lambda p, x: (x @ p) * jnp.arange(1, len(x) + 1)[:, None], V, X),
    "one mask a row": (
        lambda p, x: x * jax.random.bernoulli(jax.random.key(0), 0.5, x.shape) @ p,
        V,
        X,
    ),
    "from the third on": (
        lambda p, x: (x + (x[2:].mean(0, keepdims=True) if len(x) > 2 else 0)) @ p,
        V,
        X,
    ),
    "a thousandth": (lambda p, x: (x + 5e-4 * jnp.roll(x, 1, 0)) @ p, V, X),
}


@pytest.mark.parametrize("name", COUPLED)
def test_coupled_samples_are_refused(name):
    apply, params, x = COUPLED[name]
    with pytest.raises(ValueError, match="apply: expected independent samples"):
        entk.gram(apply, jnp.asarray(params, jnp.float32), x.astype(np.float32))


def ruled(factor):
    @jax.custom_vjp
    def f(x):
        return jnp.sin(x)

    f.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (factor * g * jnp.cos(x),))
    return lambda params, x: f(x @ params)


def test_a_file_of_a_function_with_another_derivative_rule_is_refused(tmp_path, x64):
    path = tmp_path / "K.npz"
    entk.gram(ruled(1.0), jnp.asarray(W), X, path=path)
    with pytest.raises(ValueError, match="expected a partial result of this kernel"):
        entk.gram(ruled(5.0), jnp.asarray(W), X, path=path)


def test_the_finished_file_holds_the_whole_kernel(tmp_path):
    x = RNG.normal(size=(300, 4)).astype(np.float32)
    apply, params = lambda p, x: jnp.tanh(x @ p), jnp.asarray(W, jnp.float32)
    K = entk.gram(apply, params, x, path=tmp_path / "K.npz")
    with np.load(tmp_path / "K.npz") as file:
        np.testing.assert_array_equal(file["K"], K)
    np.testing.assert_array_equal(entk.gram(apply, params, x, path=tmp_path / "K.npz"), K)
    _, about = _npz.read(tmp_path / "K.npz", KIND, ("K",))
    for done in (-1, None, "x", 99):
        _npz.write(tmp_path / "K.npz", KIND, {"K": K}, about | {"done": done})
        with pytest.raises(
            ValueError,
            match=r"K\.npz: expected a finite kernel and 0 \.\.\. 1 computed units, received",
        ):
            entk.gram(apply, params, x, path=tmp_path / "K.npz")


def test_other_bad_arguments_are_refused_by_name(tmp_path):
    apply, params, x = (
        lambda p, x: jnp.tanh(x @ p["W"]) @ p["V"],
        jax.tree.map(jnp.float32, BOTH),
        np.float32(X),
    )
    for options, message in (
        (
            {"backend": "neural_tangents", "budget": 2**20},
            "backend: expected 'exact' with these options",
        ),
        ({"budget": 0}, "budget: expected a positive number of bytes, received 0"),
        ({"probes": True}, "probes: expected a whole number in 1"),
        ({"path": tmp_path / "no" / "K.npz"}, "path: expected a file in an existing folder"),
        ({"path": tmp_path}, "path: expected a file in an existing folder"),
    ):
        with pytest.raises(ValueError, match=message):
            entk.gram(apply, params, x, **options)
    with pytest.raises(
        ValueError, match=r"x2: expected floating numbers, as x \(float32\), received int32"
    ):
        entk.gram(apply, params, x, np.ones((2, 4), np.int32))
    with pytest.raises(
        ValueError, match=r"only: expected parameters among \['V', 'W'\], received 'n'"
    ):
        entk.gram(lambda p, x: apply(p, x) * p["n"], params | {"n": jnp.int32(2)}, x, only="n")
    with pytest.raises(
        ValueError, match="apply: expected outputs that are real numbers, received int32"
    ):
        entk.gram(lambda p, x: apply(p, x).astype(jnp.int32), params, x)
    with pytest.raises(
        ValueError,
        match=r"apply: expected one array of outputs \[k, ...\] of k inputs, received \[\]",
    ):
        entk.gram(lambda p, x: (x @ p["V"][:, :1]).squeeze(), params, x)
    with pytest.raises(
        ValueError, match="W: expected finite gradients in this parameter, received"
    ):
        entk.products(lambda p, x: jnp.sqrt(jnp.abs(0 * x @ p["W"])) @ p["V"], params, x)(
            np.ones((5, 1))
        )


def test_an_estimate_with_a_sketch_larger_than_all_layers_has_no_error(x64):
    estimate = entk.estimate(
        lambda p, x: jnp.tanh(x @ p["W"]) @ p["V"], jax.tree.map(jnp.asarray, BOTH), X, sketch=64
    )
    assert estimate.error < 1e-12
    estimate = entk.estimate(lambda p, x: jnp.tanh(x @ p), jnp.asarray(W), X, sketch=64, probes=4)
    np.testing.assert_allclose(
        estimate.K, entk.gram(lambda p, x: jnp.tanh(x @ p), jnp.asarray(W), X), rtol=1e-12
    )
    assert estimate.error == 0
