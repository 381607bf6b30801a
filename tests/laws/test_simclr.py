"""The laws of SimCLR, of dot products and of cosines, against descent of the loss."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import losses
from stepwise.laws import numeric
from stepwise.laws.simclr import CosineSimCLR, DotProductSimCLR, SimCLR
from stepwise.laws.spectral_contrastive import SpectralContrastive
from tests import problems
from tests.laws import pairs


def gaussian_loss(gamma, sigma, T):
    """Return the loss of dot products for Gaussian data and n → ∞, up to a constant."""

    def loss(A):
        S = (A * sigma) @ A.T
        return -2 * jnp.trace((A * gamma) @ A.T) / T + jnp.trace(S @ S) / T**2

    return loss


@pytest.mark.parametrize("seed", pairs.SEEDS)
def test_descent_of_dot_products_follows_the_law(seed, x64):
    gamma, sigma = pairs.spectra(seed)
    T = [1.0, 0.5, 0.2][seed]
    law, lam0 = SimCLR(gamma, sigma, T, d=4), T * np.array([1e-9, 3e-9, 1e-8, 1e-8])
    slope = jax.grad(gaussian_loss(gamma, sigma, T))
    lr = 0.02 / float(law.growth().max())
    steps = int(1.4 * law.step_times(lam0).max() / lr) + 500
    A0 = pairs.rotated_start(law, lam0, seed)
    record, _ = pairs.descend(lambda A: -slope(A), A0, lr, steps, pairs.variances(law.unit()))
    order = np.asarray(law.order)
    rates = [pairs.growth(record[:, j], lr, 1e-7 * T, 1e-4 * T) for j in order]
    np.testing.assert_allclose(rates, 8 * gamma[order] / T, rtol=5e-3)
    np.testing.assert_allclose(rates, law.growth()[order], rtol=5e-3)
    tau = np.asarray(law.step_times(lam0) * (1 + law.descent_delay(lr, lam0)))
    seen = [pairs.crossing(record[:, j], law.rest()[j] / 2, lr) for j in order]
    np.testing.assert_allclose(seen, tau, rtol=5e-3)
    np.testing.assert_allclose(record[-1, order], (T * gamma / sigma)[order], rtol=1e-2)
    np.testing.assert_allclose(law.rest(), T * gamma / sigma, rtol=1e-12)


def test_descent_of_the_loss_on_pairs_follows_the_law(x64):
    gamma, sigma = np.array([0.5, 0.24]), np.array([1.0, 0.6])
    T, n = 0.5, 400
    x, x2 = pairs.pairs(gamma, sigma, n)
    law, lam0 = SimCLR(gamma, sigma, T, n=n, d=2), np.array([1e-6, 1e-6])

    def slope(A):
        return -jax.grad(
            lambda A: losses.simclr(x @ A.T, x2 @ A.T, temperature=T, normalise=False)
        )(A)

    lr = 0.1 / float(law.growth().max())
    A0 = pairs.rotated_start(law, lam0)
    record, _ = pairs.descend(slope, A0, lr, 500, pairs.variances(law.unit()))
    rates = [pairs.growth(record[:, j], lr, 1e-5, 1e-4) for j in range(2)]
    np.testing.assert_allclose(rates, law.growth(), rtol=1e-2)
    tau = np.asarray(law.step_times(lam0) * (1 + law.descent_delay(lr, lam0)))
    seen = [pairs.crossing(record[:, j], law.rest()[j] / 2, lr) for j in range(2)]
    np.testing.assert_allclose(seen, tau, rtol=3e-2)
    # finite n: 5.1% at n = 200 and 1.6% at n = 800
    np.testing.assert_allclose(record[-1], law.rest(), rtol=6e-2)


@pytest.mark.parametrize("n", [8, 30])
def test_growth_is_exact_at_any_number_of_pairs(n, x64):
    gamma, sigma = np.array([0.5, 0.2, -0.1]), np.array([1.0, 0.6, 0.4])
    x, x2 = (view + 3.0 for view in pairs.pairs(gamma, sigma, n))
    A = problems.gaussian((2, 3), 1e-6)
    slope = jax.grad(lambda A: losses.simclr(x @ A.T, x2 @ A.T, temperature=0.3, normalise=False))
    law = SimCLR(gamma, sigma, 0.3, n=n)
    np.testing.assert_allclose(-slope(A), A * np.asarray(law.growth()) / 2, rtol=1e-4, atol=1e-10)
    np.testing.assert_allclose(law.rhs(A), A * np.asarray(law.growth()) / 2, rtol=1e-6)
    scaled = SimCLR(gamma, sigma, 0.3, offset=2.0, n=n)
    np.testing.assert_allclose(scaled.growth(), law.growth() / 4, rtol=1e-12)
    # the start of the official loss around an offset of norm 2, and what stays perpendicular to it
    b, A = np.array([0.0, 0, 2.0]), np.pad(A, ((0, 1), (0, 0)))
    centred, centred2 = x - 3.0, x2 - 3.0

    def official(A):
        return losses.simclr(centred @ A.T + b, centred2 @ A.T + b, temperature=0.3)

    np.testing.assert_allclose(
        -jax.grad(official)(A)[:2], A[:2] * np.asarray(scaled.growth()) / 2, rtol=1e-4, atol=1e-10
    )


@pytest.mark.parametrize("seed", pairs.SEEDS)
def test_descent_of_cosines_around_an_offset_follows_the_law(seed, x64):
    rng = np.random.default_rng(seed)
    sigma = np.array([1.0, 0.8]) * rng.uniform(0.9, 1.1, 2)
    gamma = sigma * np.array([0.6, 0.4]) * rng.uniform(0.95, 1.05, 2)
    T, beta, n = 0.02, [1.0, 2.0, 0.7][seed], 300
    x, x2 = pairs.pairs(gamma, sigma, n, seed)
    law, lam0 = SimCLR(gamma, sigma, T, offset=beta, n=n), np.array([1e-6, 1e-6])
    x, x2 = (np.pad(view, ((0, 0), (0, 1)), constant_values=1.0) for view in (x, x2))

    def slope(A):  # the last column is the offset
        return -jax.grad(lambda A: losses.simclr(x @ A.T, x2 @ A.T, temperature=T))(A)

    def spread(A):
        z = jnp.concatenate([x @ A.T, x2 @ A.T])
        u = z / jnp.linalg.norm(z, axis=1, keepdims=True)
        return jnp.linalg.eigvalsh(jnp.cov(u.T, ddof=0))[:0:-1] / T

    turn = problems.rotation(3, seed)
    A0 = turn @ np.pad(np.asarray(law.aligned_start(lam0)), ((0, 1), (0, 1)))
    A0[:, 2] = beta * turn[:, 2]
    lr = 0.1 / float(law.growth().max())
    steps = int(1.6 * law.step_times(lam0).max() / lr)
    record, last = pairs.descend(slope, A0, lr, steps, spread)
    tau = np.asarray(law.step_times(lam0) * (1 + law.descent_delay(lr, lam0)))
    seen = [pairs.crossing(record[:, j], law.rest()[j] / 2, lr) for j in range(2)]
    # the law is that of T → 0: half times within 2%, and curves within 2%, at T = 0.02; finite n
    np.testing.assert_allclose(seen, tau, rtol=4e-2)
    np.testing.assert_allclose(record[-1], law.rest(), rtol=6e-2)
    np.testing.assert_allclose(np.sum(last**2), np.sum(A0**2), rtol=1e-2)


GAMMA, SIGMA = np.array([0.6, 0.3, 0.08, -0.1]), np.array([1.0, 0.6, 0.5, 0.3])
LAM0 = np.array([1e-6, 1e-7, 1e-5, 1e-3])


def test_the_closed_form_solves_the_flow(x64):
    law = SimCLR(GAMMA, SIGMA, 0.05, offset=2.0, n=100)
    A = problems.gaussian((3, 4), 0.5)
    np.testing.assert_allclose(law.rhs(A), -jax.grad(law.objective)(A), rtol=1e-12, atol=1e-13)
    times = np.linspace(0, 5, 11)
    curves = law.eigenvalues(times, LAM0)
    flow = numeric.integrate(law, jnp.asarray(times), jnp.asarray(LAM0))
    np.testing.assert_allclose(curves, flow, rtol=1e-6, atol=1e-12)
    falling = law.eigenvalues(times, [2.0, 1.0])
    flow = numeric.integrate(law, jnp.asarray(times), jnp.asarray([2.0, 1.0]))
    np.testing.assert_allclose(falling, flow, rtol=1e-7)
    np.testing.assert_allclose(law.eigenvalues([1e12], LAM0)[0], law.rest(), rtol=1e-9, atol=1e-300)
    tau = law.step_times(LAM0, 0.3)
    assert tau[3] == np.inf
    at_level = np.diagonal(law.eigenvalues(tau[:3], LAM0)[:, :3])
    np.testing.assert_allclose(at_level, 0.3 * law.rest()[:3], rtol=1e-9)


def test_the_closed_form_can_be_jitted_and_differentiated(x64):
    law = SimCLR(GAMMA, SIGMA, 0.05, offset=2.0)

    def value(start):
        return law.eigenvalues(jnp.array([0.7]), jnp.stack([start]))[0, 0]

    slope = jax.jit(jax.grad(value))(1e-6)
    np.testing.assert_allclose(slope, (value(1.001e-6) - value(0.999e-6)) / 2e-9, rtol=1e-4)


@pytest.mark.parametrize("sigma", [SIGMA, SIGMA * [0.2, 1, 1, 40]])
@pytest.mark.parametrize("d", [2, 3, 6])
def test_the_learning_rate_limit_is_the_largest_curvature(d, sigma, x64):
    gamma = GAMMA / SIGMA * sigma
    law = SimCLR(gamma, sigma, 0.05, offset=2.0, d=d)
    modes = law.final_modes(d)
    A = jnp.asarray(law.aligned_start(law.rest()[modes], modes))
    A = jnp.pad(A, ((0, d - 1 - A.shape[0]), (0, 0)))
    J = jax.jacfwd(lambda v: law.rhs(v.reshape(A.shape)).ravel())(A.ravel())
    largest = -np.linalg.eigvals(np.asarray(J)).real.min()
    np.testing.assert_allclose(law.max_stable_lr(), 2 / largest, rtol=1e-6)


def test_a_mode_of_larger_agreement_replaces_a_learned_one(x64):
    law = SimCLR([0.4, 0.3], [1.0, 0.4], 0.05, offset=2.0)
    rate = 8 * 0.4 / (0.05 * 4) * (0.75 - 0.4)
    np.testing.assert_allclose(law.takeover(0, 1), rate, rtol=1e-9)
    np.testing.assert_array_equal(law.order, [0, 1])
    np.testing.assert_array_equal(law.final_modes(2), [1])


def test_the_offset_chooses_the_law():
    dot, cosine = SimCLR(GAMMA, SIGMA, 0.5), SimCLR(GAMMA, SIGMA, 0.5, 2.0)
    assert type(dot) is DotProductSimCLR and type(cosine) is CosineSimCLR
    assert isinstance(dot, SimCLR) and dot.observable == "covariance"
    assert cosine.observable == "covariance / T"
    assert type(pickle.loads(pickle.dumps(cosine))) is CosineSimCLR
    assert jax.tree.map(lambda x: x, cosine).offset == 2.0
    dense = SpectralContrastive(GAMMA, np.diag(SIGMA) + 0.05).basis
    np.testing.assert_allclose(SimCLR(GAMMA, np.diag(SIGMA) + 0.05, 0.5).basis, dense, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature: expected a positive number"),
        ({"offset": -1.0}, "offset: expected a positive number"),
        ({"n": 0}, "n: expected a positive whole number"),
        ({"offset": 1.0, "gamma": SIGMA}, r"gamma: expected γ/σ \+ 1/\(2n − 1\) < 1"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        SimCLR(**{"gamma": GAMMA, "sigma": SIGMA, "temperature": 0.5} | arguments)
    with pytest.raises(ValueError, match="offset: expected the norm of the offset"):
        CosineSimCLR(GAMMA, SIGMA, 0.5)


def test_the_error_of_a_high_temperature_is_what_the_law_says_it_neglects(x64):
    gamma, sigma, T, n = np.array([0.8, 0.3]), np.array([1.0, 0.6]), 0.05, 150
    law = SimCLR(gamma, sigma, T, offset=3.0, n=n)
    x, x2 = pairs.pairs(gamma, sigma, n)
    lam0 = np.full(2, 1e-6)
    tau = np.asarray(law.step_times(lam0))
    b = jnp.zeros(3).at[-1].set(3.0)

    def slope(A):
        loss = jax.grad(
            lambda A: losses.simclr(x @ A.T + b[None], x2 @ A.T + b[None], temperature=T)
        )
        return -loss(A)

    def along_modes(A):
        z = np.concatenate([x, x2]) @ A.T + b[None]
        u = z / jnp.linalg.norm(z, axis=1, keepdims=True)
        return jnp.var(u[:, :2], axis=0) / T

    lr = 0.1 / float(law.growth().max())
    A0 = np.pad(law.aligned_start(lam0), ((0, 1), (0, 0)))
    curves, _ = pairs.descend(slope, A0, lr, int(1.3 * tau.max() / lr), along_modes)
    measured = [pairs.crossing(curves[:, j], float(law.rest()[j]) / 2, lr) for j in range(2)]
    error, estimate = np.abs(measured / tau - 1), law.neglected(tau, 3)
    assert (error > 0.02).all()
    assert (error < 1.1 * estimate).all() and (estimate < 8 * error).all()
    warm = SimCLR(gamma, sigma, 1.0, offset=3.0, n=n)
    assert (warm.neglected(warm.step_times(lam0), 3) == np.inf).all()
