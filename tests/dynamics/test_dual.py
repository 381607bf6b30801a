"""Descent in dual coefficients and in outputs agrees with descent in mode coordinates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import kernels, losses
from stepwise.dynamics import descent, dual_descent, output_descent
from stepwise.problem import from_gram

RNG = np.random.default_rng(0)
N, D = 12, 3
X = RNG.normal(size=(N, 4)) * np.array([3, 2, 1, 0.5])
VIEWS = np.concatenate([X, X + 0.2 * RNG.normal(size=X.shape)])


def kernel():
    return np.asarray(kernels.rbf(3.0)(VIEWS, VIEWS))


def test_descent_is_the_same_in_all_coordinates(x64):
    K = kernel()
    p = from_gram(K)
    A0 = 0.05 * RNG.normal(size=(D, p.gamma.size))
    lr = 0.1 * float(p.max_stable_lr())
    modes = descent(p, A0, lr, 400, record_every=20)
    dual = dual_descent(K, A0 @ np.asarray(p.basis).T, lr, 400, record_every=20)
    theta = np.einsum("ij,ab->iajb", K, np.eye(D))
    outputs = output_descent(theta, np.asarray(p.features) @ A0.T, lr, 400, record_every=20)
    for other in (dual, outputs):
        np.testing.assert_array_equal(other.times, modes.times)
        np.testing.assert_allclose(other.eigenvalues, modes.eigenvalues, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(other.loss, modes.loss, rtol=1e-8)
        assert other.snapshots is None
    np.testing.assert_allclose(
        outputs.stats["outputs"], p.features @ modes.snapshots[-1].T, atol=1e-9
    )
    np.testing.assert_allclose(
        dual.stats["coefficients"] @ K, outputs.stats["outputs"].T, atol=1e-9
    )


def test_one_step_in_outputs_is_the_gradient_of_the_loss(x64):
    theta = RNG.normal(size=(2 * N * D, 2 * N * D))
    theta = (theta @ theta.T).reshape(2 * N, D, 2 * N, D)
    z = RNG.normal(size=(2 * N, D))

    def loss(z):
        one, two = z[:N], z[N:]
        C = (one.T @ two + two.T @ one) / (2 * N)
        return jnp.sum((C - jnp.eye(D)) ** 2)

    expected = z - 1e-3 * np.einsum("iajb,jb->ia", theta, jax.grad(loss)(jnp.asarray(z)))
    run = output_descent(theta, z, 1e-3, 1)
    np.testing.assert_allclose(run.stats["outputs"], expected, rtol=1e-10)
    np.testing.assert_allclose(run.loss[0], loss(jnp.asarray(z)), rtol=1e-12)


def test_a_rate_that_is_too_large_is_a_result_that_names_the_step(x64):
    K = kernel()
    run = dual_descent(K, 0.1 * RNG.normal(size=(D, 2 * N)), 100.0, 200)
    assert run.result.name == "diverged" and int(run.result.step) > 0
    assert "learning rate" in str(run.result)


def test_both_save_and_load(x64, tmp_path):
    run = dual_descent(kernel(), 0.1 * RNG.normal(size=(D, 2 * N)), 0.01, 20)
    run.save(tmp_path / "run.npz")
    back = type(run).load(tmp_path / "run.npz")
    np.testing.assert_array_equal(back.stats["coefficients"], run.stats["coefficients"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: dual_descent(np.eye(3), np.ones((1, 3)), 0.1, 5),
            r"K: expected a square matrix \[2n, 2n\]",
        ),
        (
            lambda: dual_descent(np.eye(4), np.ones((1, 3)), 0.1, 5),
            "c0: expected 4 columns, one for each view",
        ),
        (
            lambda: dual_descent(np.eye(4), np.ones((1, 4)), -0.1, 5),
            "lr: expected a positive learning rate",
        ),
        (
            lambda: dual_descent(np.eye(4), np.ones((1, 4)), 0.1, 0),
            "steps: expected a positive whole number",
        ),
        (
            lambda: output_descent(np.ones((4, 1, 4, 1)), np.ones((3, 1)), 0.1, 5),
            r"z0: expected \[2n, d\]",
        ),
        (
            lambda: output_descent(np.ones((4, 1, 4, 2)), np.ones((4, 1)), 0.1, 5),
            r"theta: expected shape \[4, 1, 4, 1\]",
        ),
    ],
)
def test_bad_arguments_are_rejected_by_name(call, message, x64):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_loss_of_the_outputs_is_differentiated(x64):
    K = kernel()
    p = from_gram(K)
    A0 = 0.05 * RNG.normal(size=(D, p.gamma.size))
    c0, theta = A0 @ np.asarray(p.basis).T, np.einsum("ij,ab->iajb", K, np.eye(D))
    z0 = np.asarray(p.features) @ A0.T

    def theory(z1, z2):
        return losses.barlow_twins_unnormalised(z1, z2, center="none")

    for plain, explicit in (
        (dual_descent(K, c0, 0.02, 200), dual_descent(K, c0, 0.02, 200, loss=theory)),
        (output_descent(theta, z0, 0.02, 200), output_descent(theta, z0, 0.02, 200, loss=theory)),
    ):
        np.testing.assert_allclose(explicit.eigenvalues, plain.eigenvalues, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(explicit.loss, plain.loss, rtol=1e-9)
        assert explicit.result.name == "stopped" and explicit.rest is None
    modes = descent(p, A0, 1e-3, 50, loss=losses.vicreg)
    dual = dual_descent(K, c0, 1e-3, 50, loss=losses.vicreg)
    np.testing.assert_allclose(dual.loss, modes.loss, rtol=1e-8)
