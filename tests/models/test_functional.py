import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stepwise import entk, models
from stepwise.neural_tangents import nt

X = np.random.default_rng(0).normal(size=(7, 2, 3))


def test_a_module_becomes_a_pure_function(dtype):
    module = models.MLP(6, [5, 4], 3, b_std=0.5, rngs=nnx.Rngs(0), dtype=dtype)
    apply, params = models.functional(module)
    out = apply(params, X.astype(dtype))
    assert out.shape == (7, 3) and out.dtype == dtype
    np.testing.assert_array_equal(out, module(X.astype(dtype)))
    moved = jax.tree.map(lambda leaf: 2 * leaf, params)
    assert not np.allclose(apply(moved, X.astype(dtype)), out)
    np.testing.assert_array_equal(apply(params, X.astype(dtype)), out)


def test_a_module_with_other_state_is_refused_by_name():
    with pytest.raises(
        ValueError, match=r"model: expected a module whose .* only, received also BatchStat"
    ):
        models.functional(nnx.BatchNorm(3, rngs=nnx.Rngs(0)))


def test_an_mlp_is_the_stax_network_of_the_same_weights(x64):
    stax = nt.stax
    module = models.MLP(6, [5], 3, w_std=1.3, b_std=0.4, rngs=nnx.Rngs(1))
    dense = [stax.Dense(5, 1.3, 0.4), stax.Relu(), stax.Dense(3, 1.3, 0.4)]
    weights = [(layer.kernel[...], layer.bias[...]) for layer in module.layers]
    flat = X.reshape(7, 6)
    expected = stax.serial(*dense)[1]([weights[0], (), weights[1]], flat)
    np.testing.assert_allclose(module(X), expected, rtol=1e-12)


def test_weights_have_unit_variance():
    module = models.MLP(300, [300], 3, rngs=nnx.Rngs(0))
    assert abs(float(module.layers[0].kernel[...].std()) - 1) < 0.02


def test_an_antisymmetric_network_starts_at_zero_and_keeps_the_kernel(x64):
    apply, params = models.functional(models.MLP(6, [50], 2, rngs=nnx.Rngs(0)))
    f = models.antisymmetric(apply)
    same = {"plus": params, "minus": params}
    np.testing.assert_array_equal(f(same, X), 0)
    np.testing.assert_allclose(
        entk.full_kernel(f, same, X), entk.full_kernel(apply, params, X), rtol=1e-10, atol=1e-12
    )


def test_an_antisymmetric_start_has_half_the_kernel_as_covariance(x64):
    apply, params = models.functional(models.MLP(6, [40], 1, rngs=nnx.Rngs(0)))
    f, scale = models.antisymmetric(apply), 1e-4
    outputs = jax.vmap(
        lambda key: f(models.antisymmetric_start(params, key, scale), jnp.asarray(X))[:, 0]
    )(jax.random.split(jax.random.key(3), 20_000))
    covariance = np.cov(np.asarray(outputs).T)
    expected = scale**2 / 2 * np.asarray(entk.full_kernel(apply, params, X))[:, 0, :, 0]
    np.testing.assert_allclose(covariance, expected, atol=0.05 * expected.max())


def test_bad_sizes_and_scales_are_refused():
    with pytest.raises(
        ValueError, match=r"sizes: expected positive numbers of units, received \[6, 0, 3\]"
    ):
        models.MLP(6, [0], 3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="scale: expected a positive number, received 0"):
        models.antisymmetric_start({}, jax.random.key(0), 0)
