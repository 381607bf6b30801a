import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stepwise import entk, models
from stepwise.neural_tangents import nt

X = np.random.default_rng(0).normal(size=(5, 6))


def test_a_linear_model_has_the_linear_kernel(x64):
    def apply(params, x):
        return x @ params["W"].T + params["b"][None]

    theta = entk.full_kernel(apply, {"W": jnp.ones((3, 6)), "b": jnp.zeros(3)}, X)
    np.testing.assert_allclose(theta, np.einsum("ij,ab->iajb", X @ X.T + 1, np.eye(3)), rtol=1e-12)


@pytest.mark.parametrize("widths", [[], [8], [8, 7]])
def test_the_kernel_agrees_with_neural_tangents(widths, dtype):
    apply, params = models.functional(
        models.MLP(6, widths, 3, b_std=0.3, rngs=nnx.Rngs(0), dtype=dtype)
    )
    x = X.astype(dtype)
    theirs = np.asarray(nt.empirical_ntk_fn(apply, trace_axes=())(x, None, params)).transpose(
        0, 2, 1, 3
    )
    tolerance = {"float64": 1e-12, "float32": 2e-5}[dtype]
    np.testing.assert_allclose(
        entk.full_kernel(apply, params, x), theirs, rtol=tolerance, atol=tolerance * 10
    )


def test_its_trace_over_outputs_agrees_with_neural_tangents(x64):
    apply, params = models.functional(models.MLP(6, [20], 3, rngs=nnx.Rngs(0)))
    theta = np.asarray(entk.full_kernel(apply, params, X))
    np.testing.assert_allclose(
        np.einsum("iaja->ij", theta) / 3,
        nt.empirical_ntk_fn(apply)(X, None, params),
        rtol=1e-10,
        atol=1e-12,
    )
    flat = theta.reshape(15, 15)
    np.testing.assert_allclose(flat, flat.T, rtol=1e-12)
    assert np.linalg.eigvalsh(flat).min() > -1e-9


def test_gradients_that_are_not_finite_are_refused(x64):
    x = X.copy()
    x[0, 0] = 0
    with pytest.raises(
        ValueError,
        match="apply: expected finite gradients, received a kernel with 36 of 100 entries",
    ):
        entk.full_kernel(lambda p, x: p["a"] * x[:, :2] / x[:, :2], {"a": jnp.ones(())}, x)


def test_outputs_of_another_rank_are_refused(x64):
    with pytest.raises(ValueError, match=r"apply: expected outputs \[5, d\], received \[5\]"):
        entk.full_kernel(lambda p, x: x @ p, jnp.ones(6), X)
