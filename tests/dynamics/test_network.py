"""Full-batch descent of networks: a linear network follows the linear problem, and a linearised one
follows its own kernel.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stepwise import entk, losses, models
from stepwise.dynamics import descent, full_batch, output_descent
from stepwise.neural_tangents import nt
from stepwise.problem import from_views

RNG = np.random.default_rng(0)
X = RNG.normal(size=(10, 6)) * np.array([3, 2, 1, 0.7, 0.5, 0.3])
X2 = X + 0.2 * RNG.normal(size=X.shape)


def linear(params, x):
    return x @ params["W"].T


def test_a_linear_network_follows_the_linear_problem(x64):
    p = from_views(X, X2, center="none")
    W = 0.05 * RNG.normal(size=(3, 6))
    lr = 0.1 * float(p.max_stable_lr())
    run, last = full_batch(linear, {"W": jnp.asarray(W)}, X, X2, lr, 300, record_every=10)
    modes = descent(p, p.coordinates(W), lr, 300, record_every=10)
    np.testing.assert_allclose(run.eigenvalues, modes.eigenvalues, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        last["W"], p.weights(modes.snapshots[-1]) + (W - p.weights(p.coordinates(W))), atol=1e-9
    )


def test_a_linearised_network_follows_its_full_kernel(x64):
    apply, params = models.functional(models.MLP(6, [20], 2, rngs=nnx.Rngs(0)))
    apply_linear = nt.linearize(apply, params)
    both = jnp.concatenate([jnp.asarray(X), jnp.asarray(X2)])
    run, _ = full_batch(apply_linear, params, X, X2, 0.003, 200, record_every=20)
    predicted = output_descent(
        entk.full_kernel(apply, params, both), apply(params, both), 0.003, 200, record_every=20
    )
    np.testing.assert_allclose(run.eigenvalues, predicted.eigenvalues, rtol=1e-8, atol=1e-10)


def test_a_network_that_diverges_names_the_step(x64):
    run, _ = full_batch(linear, {"W": jnp.ones((3, 6))}, X, X2, 10.0, 50, record_every=1)
    assert run.result.name == "diverged" and 0 < int(run.result.step) < 20


def test_inputs_and_outputs_that_do_not_fit_are_rejected(x64):
    W = {"W": jnp.ones((3, 6))}
    with pytest.raises(ValueError, match=r"x2: expected shape \[10, 6\] as x"):
        full_batch(linear, W, X, X2[:4], 0.1, 5)
    with pytest.raises(ValueError, match=r"apply: expected outputs \[10, d\], received \[10\]"):
        full_batch(lambda p, x: x @ p["W"][0], W, X, X2, 0.1, 5)
    with pytest.raises(ValueError, match="lr: expected a positive learning rate"):
        full_batch(linear, W, X, X2, 0.0, 5)


def test_the_same_function_is_compiled_once(x64):
    calls = []

    def counted(params, x):
        calls.append(1)
        return linear(params, x)

    for _ in range(3):
        full_batch(counted, {"W": jnp.ones((3, 6))}, X, X2, 0.01, 10)
    traced = len(calls)
    full_batch(counted, {"W": jax.numpy.zeros((3, 6)) + 0.1}, X, X2, 0.02, 10)
    # Each call evaluates the shape of the outputs once; the loop is not compiled again.
    assert len(calls) <= traced + 1


def test_another_loss_of_the_outputs_is_descended(x64):
    p = from_views(X, X2, center="none")
    W = 0.3 * RNG.normal(size=(3, 6))
    run, _ = full_batch(linear, {"W": jnp.asarray(W)}, X, X2, 1e-3, 50, loss=losses.vicreg)
    modes = descent(p, p.coordinates(W), 1e-3, 50, loss=losses.vicreg)
    np.testing.assert_allclose(run.loss, modes.loss, rtol=1e-9)
    np.testing.assert_allclose(run.eigenvalues, modes.eigenvalues, rtol=1e-8, atol=1e-12)
