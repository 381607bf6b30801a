"""neural-tangents on the installed JAX, compared with closed forms and finite differences."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import kernels
from stepwise.neural_tangents import nt

stax = nt.stax
SHAPE = (6, 5)
X = np.random.default_rng(0).normal(size=SHAPE)
Y = np.random.default_rng(1).normal(size=(4, 5))


def relu_net(x, y, depth, w2=1.0, b2=0.0):
    """Return NNGP and NTK of `depth` ReLU layers, by the arc-cosine kernels of Cho and Saul."""

    def dense(k):
        return w2 * k + b2

    xx, yy, xy = (x**2).sum(1) / x.shape[1], (y**2).sum(1) / x.shape[1], x @ y.T / x.shape[1]
    nngp, xx, yy = dense(xy), dense(xx), dense(yy)
    ntk = nngp
    for _ in range(depth):
        size = np.sqrt(xx[:, None] * yy)
        cosine = np.clip(nngp / size, -1, 1)
        angle = np.arccos(cosine)
        slope = (np.pi - angle) / (2 * np.pi)  # E[1(u > 0) 1(v > 0)]
        value = (
            size * (np.sin(angle) + (np.pi - angle) * cosine) / (2 * np.pi)
        )  # E[max(u, 0) max(v, 0)]
        nngp, xx, yy = dense(value), dense(xx / 2), dense(yy / 2)
        ntk = nngp + w2 * slope * ntk
    return nngp, ntk


def stack(depth, w=1.0, b=0.0):
    hidden = [stax.Dense(64, W_std=w, b_std=b), stax.Relu()] * depth
    return [*hidden, stax.Dense(1, W_std=w, b_std=b)]


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(("w", "b"), [(1.0, 0.0), (1.5, 0.3)])
def test_relu_networks_have_the_arc_cosine_kernels(depth, w, b, x64):
    nngp, ntk = relu_net(X, Y, depth, w**2, b**2)
    layers = stack(depth, w, b)
    # At equal inputs the arc cosine loses half of its digits to rounding; all inputs here differ.
    np.testing.assert_allclose(kernels.infinite_width(layers, "nngp")(X, Y), nngp, rtol=1e-12)
    np.testing.assert_allclose(kernels.infinite_width(layers)(X, Y), ntk, rtol=1e-12)


def test_a_linear_network_has_the_linear_kernel(x64):
    k = kernels.infinite_width([stax.Dense(8), stax.Dense(1)])
    np.testing.assert_allclose(k(X, Y), 2 * X @ Y.T / 5, rtol=1e-12)


def test_erf_networks_have_the_kernel_of_williams(x64):
    layers = [stax.Dense(8), stax.Erf(), stax.Dense(1)]
    xx, yy, xy = (X**2).sum(1) / 5, (Y**2).sum(1) / 5, X @ Y.T / 5
    nngp = 2 / np.pi * np.arcsin(2 * xy / np.sqrt((1 + 2 * xx)[:, None] * (1 + 2 * yy)))
    np.testing.assert_allclose(kernels.infinite_width(layers, "nngp")(X, Y), nngp, rtol=1e-12)
    slope = 4 / np.pi / np.sqrt((1 + 2 * xx)[:, None] * (1 + 2 * yy) - 4 * xy**2)
    np.testing.assert_allclose(kernels.infinite_width(layers)(X, Y), nngp + slope * xy, rtol=1e-12)


def test_batches_do_not_change_the_kernel(x64):
    k = kernels.infinite_width(stack(2)).kernel_fn
    np.testing.assert_allclose(nt.batch(k, batch_size=2)(X, Y, "ntk"), k(X, Y, "ntk"), rtol=1e-12)


def network(depth=1, width=7, outputs=3):
    hidden = [stax.Dense(width), stax.Erf()] * depth
    init, apply, _ = stax.serial(*hidden, stax.Dense(outputs))
    return apply, init(jax.random.key(0), (-1, 5))[1]


def finite_difference_ntk(apply, params, x, y):
    """Return (1/O) Σ_o ⟨∂f_o(x)/∂θ, ∂f_o(y)/∂θ⟩ by central differences of sixth order."""
    flat, rebuild = jax.flatten_util.ravel_pytree(params)
    weights, h = {1: 45 / 60, 2: -9 / 60, 3: 1 / 60}, 2e-3

    def derivatives(inputs):
        columns = []
        for p in range(flat.size):
            step = jnp.zeros_like(flat).at[p].set(h)
            ends = [
                w
                * (
                    apply(rebuild(flat + k * step), inputs)
                    - apply(rebuild(flat - k * step), inputs)
                )
                for k, w in weights.items()
            ]
            columns.append(np.asarray(sum(ends)) / h)
        return np.stack(columns, axis=-1)

    return np.einsum("nop,mop->nm", derivatives(x), derivatives(y)) / 3


@pytest.mark.filterwarnings("ignore:size requires ndarray:DeprecationWarning")
@pytest.mark.parametrize("implementation", ["JACOBIAN_CONTRACTION", "NTK_VECTOR_PRODUCTS"])
def test_empirical_kernels_are_those_of_finite_differences(implementation, x64):
    apply, params = network()
    fn = nt.empirical_ntk_fn(apply, implementation=getattr(nt.NtkImplementation, implementation))
    np.testing.assert_allclose(
        fn(X, Y, params), finite_difference_ntk(apply, params, X, Y), rtol=1e-10, atol=1e-11
    )


def test_predict_solves_the_gradient_flow_of_least_squares(x64):
    k = np.asarray(kernels.infinite_width(stack(1))(X, X))
    targets = X[:, :1]
    predicted = nt.predict.gradient_descent_mse(jnp.asarray(k), jnp.asarray(targets))(3.0)
    values, vectors = np.linalg.eigh(k)
    exact = vectors @ ((1 - np.exp(-values * 3.0 / len(X)))[:, None] * (vectors.T @ targets))
    np.testing.assert_allclose(predicted, exact, rtol=1e-8, atol=1e-10)


def _python(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=300
    )


def test_the_plain_import_then_works_without_tensorflow_and_jax_is_unchanged():
    done = _python(
        "import jax, sys\n"
        "before = {m: set(vars(sys.modules[m])) for m in ('jax', 'jax.core', "
        "'jax.interpreters.ad')}\n"
        "import stepwise.neural_tangents\n"
        "import neural_tangents as nt\n"
        "assert nt is stepwise.neural_tangents.nt\n"
        "assert not [m for m in sys.modules if m.partition('.')[0] in ('tensorflow', 'tf2jax')]\n"
        "for name, names in before.items():\n"
        "    new = set(vars(sys.modules[name])) - names\n"
        "    assert all(name + '.' + each in sys.modules for each in new), new\n"
    )
    assert done.returncode == 0, done.stderr


def test_an_import_error_names_the_jax_version_and_the_fix():
    done = _python(
        "import jax.experimental\n"
        "import sys\n"
        "sys.modules['jax.experimental.ode'] = None\n"
        "import stepwise.neural_tangents\n"
    )
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert "ImportError: neural-tangents cannot be imported with JAX" in message
    assert "known to work with JAX" in message and "stepwise/neural_tangents.py" in message
