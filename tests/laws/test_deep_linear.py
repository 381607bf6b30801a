"""Deep linear encoders under Barlow Twins, against descent of the loss on their layers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.special import hyp2f1

from stepwise import laws, losses
from stepwise.laws.deep_linear import DeepLinear, _primitive, multiply
from tests import problems

CASES = [(2, 0), (3, 1), (4, 2)]  # layers, seed


def spectrum(seed):
    return np.sort(np.random.default_rng(seed).uniform(0.2, 1.0, 4))[::-1]


def descend(loss, layers, lr, steps, every):
    """Return layers after every `every` steps of descent, with a leading axis."""

    def step(_, layers):
        return jax.tree.map(lambda W, g: W - lr * g, layers, jax.grad(loss)(layers))

    def record(layers, _):
        layers = jax.lax.fori_loop(0, every, step, layers)
        return layers, layers

    return jax.jit(lambda start: jax.lax.scan(record, start, None, steps // every)[1])(layers)


@pytest.mark.parametrize(("L", "seed"), CASES)
def test_curves_and_step_times_are_those_of_descent_on_the_layers(L, seed, x64):
    gamma = spectrum(seed)
    law, lam0 = DeepLinear(gamma, L), np.array([1e-3, 2e-3])
    x, x2, V = problems.views(gamma, seed=seed)
    layers = law.factorise(law.aligned_start(lam0) @ V.T)

    def loss(layers):
        W = multiply(layers)
        return losses.barlow_twins_unnormalised(x @ W.T, x2 @ W.T)

    tau = np.asarray(law.step_times(lam0))
    steps = 4000
    lr = 1.3 * tau.max() / steps
    states = descend(loss, layers, lr, steps, 10)
    C = jax.vmap(lambda layers: law.measure(multiply(layers) @ V))(states)
    curves, times = np.diagonal(C, axis1=1, axis2=2), lr * np.arange(10, steps + 1, 10)
    measured = [np.interp(0.5, curves[:, j], times) for j in range(2)]
    late = 1 + np.asarray(law.descent_delay(lr, lam0))
    for j in range(2):
        expected = law.eigenvalues(times / late[j], lam0)[:, j]
        np.testing.assert_allclose(curves[:, j], expected, atol=0.01)
    np.testing.assert_allclose(measured / late, tau, rtol=2e-4)
    first = np.log(curves[0] / lam0) / times[0]
    np.testing.assert_allclose(first, law.rate(lam0), rtol=0.01)


def test_the_delay_of_descent_is_the_one_of_barlow_twins_for_one_layer(x64):
    gamma, lam0 = spectrum(0), np.array([1e-4, 1e-2])
    expected = laws.BarlowTwins(gamma).descent_delay(0.01, lam0, 0.7)
    np.testing.assert_allclose(DeepLinear(gamma, 1).descent_delay(0.01, lam0, 0.7), expected)


def test_one_layer_is_barlow_twins(x64):
    gamma = np.array([1.0, 0.5, -0.3])
    deep, plain = DeepLinear(gamma, 1), laws.BarlowTwins(gamma)
    times, lam0, A = np.linspace(0, 3, 5), [0.01, 0.02], problems.gaussian((2, 3), 1.0)
    for name, arguments in [
        ("growth", ()),
        ("rest", ()),
        ("grows", ()),
        ("eigenvalues", (times, lam0)),
        ("step_times", (lam0, 0.3)),
        ("rhs", (A,)),
        ("objective", (A,)),
        ("loss", (times, lam0)),
        ("max_stable_lr", ()),
        ("next_growth", ([0],)),
        ("takeover", (0, 1)),
    ]:
        expected = getattr(plain, name)(*arguments)
        np.testing.assert_allclose(getattr(deep, name)(*arguments), expected, rtol=1e-12)
    assert deep.rotates and not DeepLinear(gamma, 2).rotates
    np.testing.assert_allclose(deep.rate(lam0), 8 * gamma[:2] * (1 - np.array(lam0)))


@pytest.mark.parametrize("L", [2, 3, 4, 5])
def test_the_implicit_time_is_the_hypergeometric_function(L, x64):
    u = np.array([1e-3, 0.1, 0.5, 0.9, 0.999])
    expected = -(u ** (1 - L)) / (L - 1) + u * hyp2f1(1, 1 / L, 1 + 1 / L, u**L)
    np.testing.assert_allclose(_primitive(L, jnp.asarray(u), False), expected, rtol=1e-12)


@pytest.mark.parametrize("L", [2, 3, 5])
def test_curves_solve_their_equation_from_any_start_and_never_overflow(L, x64):
    gamma, lam0 = np.array([0.9, 0.5, 0.3, -0.4]), np.array([1e-3, 0.2, 1.7, -0.3])
    law = DeepLinear(gamma, L)
    t = np.array([0.1, 0.5, 1.0])
    lam = np.asarray(law.eigenvalues(t, lam0))
    slope = (law.eigenvalues(t + 1e-5, lam0) - law.eigenvalues(t - 1e-5, lam0)) / 2e-5
    rate = 8 * L * gamma * np.abs(lam / gamma) ** (1 - 1 / L)
    np.testing.assert_allclose(slope, rate * lam * (1 - lam), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(law.rate(lam[0]), rate[0] * (1 - lam[0]), rtol=1e-12)
    late = np.asarray(law.eigenvalues([0.0, 1e6, 1e300], lam0))
    np.testing.assert_allclose(late[0], lam0, rtol=1e-12)
    np.testing.assert_allclose(late[1:, :3], 1, rtol=1e-12)
    assert (np.abs(late[1:, 3]) < 1e-4).all()
    np.testing.assert_array_equal(law.eigenvalues([5.0], [0.0, 1.0]), [[0, 1]])
    assert np.isnan(law.eigenvalues([1.0], [-0.1])).all()


def test_a_small_mode_waits_as_a_power_of_its_layers(x64):
    gamma, a = np.array([0.7]), 0.02
    for L in (2, 3, 4):
        law = DeepLinear(gamma, L)
        wait = 1 / (8 * (L - 1) * gamma * a ** (2 * L - 2))
        np.testing.assert_allclose(law.step_times(gamma * a ** (2 * L)), wait, rtol=0.01)


def test_the_flow_of_a_product_is_the_flow_of_its_balanced_layers(x64):
    gamma, A = np.array([1.0, 0.6, 0.3, -0.2]), problems.gaussian((3, 4), 0.5)
    for L in (1, 2, 3, 4):
        law = DeepLinear(gamma, L)
        layers = law.factorise(A)
        np.testing.assert_allclose(multiply(layers), A, atol=1e-14)
        for lower, upper in itertools.pairwise(layers):
            np.testing.assert_allclose(upper.T @ upper, lower @ lower.T, atol=1e-14)
        product = jax.jvp(multiply, (layers,), (law.rhs(layers),))[1]
        np.testing.assert_allclose(law.rhs(A), product, atol=1e-13)
        np.testing.assert_allclose(law.objective(A), law.objective(layers))


@pytest.mark.parametrize("L", [2, 3])
def test_the_stable_learning_rate_is_two_over_the_largest_curvature(L, x64):
    gamma = np.array([1.0, 0.3, 0.05, 0.02, -0.3])
    law = DeepLinear(gamma, L, d=3)
    v, unravel = ravel_pytree(law.factorise(law.aligned_start(np.ones(3))))
    curvature = np.linalg.eigvalsh(jax.hessian(lambda v: law.objective(unravel(v)))(v))[-1]
    np.testing.assert_allclose(law.max_stable_lr(), 2 / curvature, rtol=1e-10)
    # it is less than 1/(4 L γ_1^{1/L}), the limit of one mode alone
    one = DeepLinear(gamma[:1], L).max_stable_lr()
    np.testing.assert_allclose(one, 1 / (4 * L * gamma[0] ** (1 / L)))
    assert law.max_stable_lr() < 0.8 * one


def test_an_exponential_rate_is_refused_and_other_arguments_are_checked(x64):
    law = DeepLinear([1.0, 0.5], 3)
    for name, arguments in [("growth", ()), ("next_growth", ([0],))]:
        with pytest.raises(laws.NotKnownError, match=r"DeepLinear with 3 layers; see `rate`"):
            getattr(law, name)(*arguments)
    np.testing.assert_array_equal(law.grows(), [True, True])
    with pytest.raises(ValueError, match="layers: expected a positive whole number, received 0"):
        DeepLinear([1.0], 0)


def test_derivatives_are_those_of_the_curves(x64):
    def end(gamma, lam0):
        return DeepLinear(gamma, 3).eigenvalues(jnp.array([2.0, 5.0]), lam0).sum()

    gamma, lam0, h = jnp.array([0.9, 0.5]), jnp.array([1e-2, 2e-2]), 1e-6
    for i, arguments in enumerate([(h, 0), (0, h)]):
        slope = jax.jit(jax.grad(end, argnums=i))(gamma, lam0).sum()
        shifted = [end(gamma + s * arguments[0], lam0 + s * arguments[1]) for s in (1, -1)]
        np.testing.assert_allclose(slope, (shifted[0] - shifted[1]) / (2 * h), rtol=1e-5)


def test_single_precision_follows_double(dtype):
    law = DeepLinear(np.array([0.9, 0.4], dtype), 2)
    times = np.linspace(0, 2, 3).astype(dtype)
    curves = law.eigenvalues(times, np.array([1e-3, 1e-2], dtype))
    assert curves.dtype == dtype
    u = np.array([1e-3, 1e-2]) ** 0.5
    end = np.asarray(curves[2], float) ** 0.5
    spent = [-1 / v + np.log((1 + v) / (1 - v)) / 2 for v in (end, u)]
    np.testing.assert_allclose((spent[0] - spent[1]) / (8 * np.sqrt([0.9, 0.4])), 2, rtol=1e-3)
