"""CLIP with two linear towers, against the flow of its loss on Gaussian pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.ode import odeint
from jax.flatten_util import ravel_pytree
from scipy.stats import norm, qmc

from stepwise import laws, losses
from stepwise.laws.clip import CLIP
from tests import problems

SCALE = 1.5


def moments(seed):
    """Draw g, σ1 and σ2 of two modes."""
    rng = np.random.default_rng(seed)
    g = np.array([1.0, 0.5]) * rng.uniform(0.6, 1.0, 2)
    return g, g * rng.uniform(1.4, 2.0, 2), g * rng.uniform(1.4, 2.0, 2)


def pairs(g, sigma1, sigma2, n=256):
    """Return nearly Gaussian inputs of two towers [n, 2] with exactly these moments."""
    points = norm.ppf(qmc.Sobol(4, seed=0).random(n))
    points -= points.mean(0)
    points = points @ np.linalg.inv(np.linalg.cholesky(points.T @ points / n)).T
    rho = g / np.sqrt(sigma1 * sigma2)
    second = rho * points[:, :2] + np.sqrt(1 - rho**2) * points[:, 2:]
    return points[:, :2] * np.sqrt(sigma1), second * np.sqrt(sigma2)


@pytest.mark.parametrize(("seed", "kappa"), [(0, 0.0), (1, 0.0), (2, 0.02)])
def test_curves_are_those_of_the_loss_on_gaussian_pairs(seed, kappa, x64):
    law, lam0 = CLIP(*moments(seed), SCALE), np.array([1e-3, 1e-3])
    x1, x2 = pairs(*moments(seed))
    square = lam0 / np.asarray(law.unit())
    b = np.sqrt((np.sqrt(kappa**2 + 4 * square**2) - kappa) / 2)
    start = jnp.stack([jnp.diag(np.sqrt(b**2 + kappa)), jnp.diag(b)])

    def loss(towers):
        z1, z2 = x1 @ towers[0].T, x2 @ towers[1].T
        return losses.clip(z1, z2, scale=SCALE, normalise=False)

    tau = np.asarray(law.step_times(lam0, kappa=kappa))
    times = jnp.linspace(0, 1.6 * tau.max(), 81)
    flow = jax.jit(
        lambda A: odeint(lambda A, t: -jax.grad(loss)(A), A, times, rtol=1e-6, atol=1e-8)
    )
    states = flow(start)
    curves = jax.vmap(lambda A: jnp.diagonal(law.measure({"W1": A[0], "W2": A[1]})))(states)
    expected = np.asarray(law.eigenvalues(times, lam0, kappa=kappa))
    # The rest of 256 pairs is off by sampling (0.6% to 5%; four times fewer at 1,024 pairs).
    np.testing.assert_allclose(curves, expected, atol=0.04)
    half = [np.interp(tau[j], times, curves[:, j]) for j in range(2)]
    np.testing.assert_allclose(half / np.asarray(law.rest()), 0.5, atol=0.006)
    early = (expected[:, 0] < 0.02) & (np.asarray(times) > 0)
    np.testing.assert_allclose(curves[early, 0], expected[early, 0], rtol=0.01)
    difference = jnp.sum(states[:, 0] ** 2, axis=2) - jnp.sum(states[:, 1] ** 2, axis=2)
    np.testing.assert_allclose(difference, kappa, atol=2e-3)


def test_small_towers_follow_the_formula_for_any_inputs_and_any_number_of_pairs(x64):
    x1, x2 = problems.gaussian((7, 4), 1.0, 1) + 2, problems.gaussian((7, 4), 1.0, 2) - 1
    G = (x1 - x1.mean(0)).T @ (x2 - x2.mean(0)) / 7
    U, g, V = np.linalg.svd(G)
    law = CLIP(g, np.ones(4), np.ones(4), SCALE)
    W1, W2 = problems.gaussian((2, 2, 4), 1e-5, 3)

    def loss(towers):
        z1, z2 = x1 @ U @ towers["W1"].T, x2 @ V.T @ towers["W2"].T
        return losses.clip(z1, z2, scale=SCALE, normalise=False)

    towers = {"W1": jnp.asarray(W1), "W2": jnp.asarray(W2)}
    measured, flow = jax.grad(loss)(towers), law.rhs(towers)
    for name in towers:
        np.testing.assert_allclose(-measured[name], flow[name], rtol=1e-4, atol=1e-10)
    np.testing.assert_allclose(law.growth(), 2 * SCALE * g)


def test_the_loss_is_that_of_many_gaussian_pairs(x64):
    law = CLIP(*moments(0), SCALE)
    x1, x2 = pairs(*moments(0), n=1024)
    W1, W2 = problems.gaussian((2, 2, 2), 0.4, 1)
    loss = losses.clip(x1 @ W1.T, x2 @ W2.T, scale=SCALE, normalise=False) - np.log(1024)
    np.testing.assert_allclose(law.objective({"W1": W1, "W2": W2}), loss, rtol=0.01)


def flat_loss(law):
    """Return the loss as a function of the flattened towers."""
    r = law.g.shape[0]
    _, unravel = ravel_pytree({"W1": jnp.zeros((2, r)), "W2": jnp.zeros((2, r))})
    return lambda v: law.objective(unravel(v))


def test_the_flow_is_the_gradient_of_the_loss(x64):
    g, sigma1, sigma2 = moments(1)
    law = CLIP(g, sigma1, sigma2, SCALE)
    towers = {"W1": problems.gaussian((2, 2), 0.5, 1), "W2": problems.gaussian((2, 2), 0.5, 2)}
    gradient = jax.grad(law.objective)(towers)
    for name, flow in law.rhs(towers).items():
        np.testing.assert_allclose(flow, -gradient[name], rtol=1e-12)
    A = law.aligned_start([0.1, 0.2])
    for flow in law.rhs({"W1": A, "W2": A}).values():
        np.testing.assert_allclose(flow, law.rhs(A), atol=1e-14)
    X = np.sqrt(sigma1)[:, None] * towers["W1"].T @ towers["W2"] * np.sqrt(sigma2)
    values = np.linalg.svd(SCALE * X, compute_uv=False)
    np.testing.assert_allclose(np.linalg.eigvalsh(law.measure(towers))[::-1], values, rtol=1e-9)


@pytest.mark.parametrize("kappa", [0.0, 1e-8, 0.1, -0.1, 50.0])
def test_closed_forms_solve_the_equations_of_both_towers(kappa, x64):
    g, sigma1, sigma2 = np.array([0.8, 0.0]), np.array([1.0, 2.0]), np.array([3.0, 1.0])
    law, lam0, t = CLIP(g, sigma1, sigma2, 2.0), np.array([0.01, 0.3]), np.array([0.1, 0.5, 1.0])
    kappas = np.array([kappa, kappa])
    c = np.asarray(law.eigenvalues(t, lam0, kappa=kappas))
    slope = (
        law.eigenvalues(t + 1e-5, lam0, kappa=kappas)
        - law.eigenvalues(t - 1e-5, lam0, kappa=kappas)
    ) / 2e-5
    # (ab)' = (a² + b²)(k g − k² σ1 σ2 a b), with a² + b² = √(κ² + 4a²b²)
    unit = 2.0 * np.sqrt(sigma1 * sigma2)
    product = c / unit
    drive = 2.0 * g - 4 * sigma1 * sigma2 * product
    expected = unit * np.sqrt(kappa**2 + 4 * product**2) * drive
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-9)
    late = law.eigenvalues([0.0, 1e300], lam0, kappa=kappas)
    np.testing.assert_allclose(late, [lam0, law.rest()], atol=1e-12)
    tau = law.step_times(lam0, 0.7, kappa=kappas)
    assert tau[1] == np.inf
    crossed = law.eigenvalues(tau[:1], lam0, kappa=kappas)[0, 0]
    np.testing.assert_allclose(crossed, 0.7 * law.rest()[0], rtol=1e-10)


def test_unbalanced_towers_grow_from_a_product_of_zero(x64):
    law = CLIP([0.5], [1.0], [1.0], 1.0)
    assert np.isfinite(law.step_times([0.0], kappa=1e-3)[0])
    assert law.step_times([0.0])[0] == np.inf
    np.testing.assert_array_equal(law.eigenvalues([3.0], [0.0]), [[0]])


def test_takeover_and_next_growth_are_those_of_the_linearised_flow(x64):
    g, sigma1, sigma2 = (
        np.array([0.9, 0.6, 0.3]),
        np.array([2.0, 0.9, 0.3]),
        np.array([1.0, 0.6, 0.8]),
    )
    law = CLIP(g, sigma1, sigma2, SCALE)
    loss = flat_loss(law)
    A = jnp.zeros((2, 3)).at[0].set(law.aligned_start(law.rest()[:1], [0])[0])
    v, _ = ravel_pytree({"W1": A, "W2": A})
    hessian = -jax.hessian(loss)(v)
    for k in (1, 2):
        rows = np.array([k, 6 + k])  # row 0, mode k in both towers
        values = np.linalg.eigvalsh(hessian[rows][:, rows])
        np.testing.assert_allclose(law.takeover(0, k), 2 * values[-1], rtol=1e-10)
        assert (law.takeover(0, k) > 0) == (law.rest()[k] > law.rest()[0])
    rows = np.array([3, 4, 5, 9, 10, 11])  # the row of zeros
    values = np.linalg.eigvalsh(hessian[rows][:, rows])
    np.testing.assert_allclose(law.next_growth([0]), 2 * values[-1], rtol=1e-10)
    even = CLIP(g, sigma1, 2 * sigma1, SCALE)
    root = np.sqrt(2) * sigma1[1]
    expected = 2 * SCALE * root * (even.rest()[1] - even.rest()[0])
    np.testing.assert_allclose(even.takeover(0, 1), expected)


@pytest.mark.parametrize(
    ("g", "sigma1", "sigma2"),
    [
        ([0.9, 0.6, 0.3], [2.0, 0.9, 0.5], [1.0, 0.6, 0.8]),  # a learned mode
        ([0.9, 0.6, 0.1], [1.0, 1.0, 9.0], [1.0, 1.0, 1.0]),  # an unlearned mode
        ([0.9, 0.3, 0.1], [1.0, 7.0, 0.1], [1.0, 0.1, 0.2]),  # two learned modes
    ],
)
def test_the_stable_learning_rate_is_two_over_the_largest_curvature(g, sigma1, sigma2, x64):
    law = CLIP(g, sigma1, sigma2, SCALE, d=2)
    loss = flat_loss(law)
    modes = law.final_modes(2)
    A = law.aligned_start(law.rest()[modes], modes)
    v, _ = ravel_pytree({"W1": A, "W2": A})
    curvature = np.linalg.eigvalsh(jax.hessian(loss)(v))[-1]
    np.testing.assert_allclose(law.max_stable_lr(), 2 / curvature, rtol=1e-10)


def test_a_small_start_of_two_towers_acts_as_the_aligned_one(x64):
    g, sigma1, sigma2 = (
        np.array([0.9, 0.5, 0.2]),
        np.array([1.2, 0.9, 0.6]),
        np.array([1.5, 0.8, 0.5]),
    )
    law = CLIP(g, sigma1, sigma2, SCALE)
    towers = {"W1": problems.gaussian((2, 3), 1e-5, 4), "W2": problems.gaussian((2, 3), 1e-5, 5)}
    s0 = laws.effective_start((towers["W1"] + towers["W2"]) / 2, law)
    tau = np.asarray(law.step_times(law.unit()[:2] * s0**2))
    times = jnp.linspace(0, 1.3 * tau.max(), 121)
    states = odeint(lambda A, t: law.rhs(A), jax.tree.map(jnp.asarray, towers), times)
    curves = np.linalg.eigvalsh(jax.vmap(law.measure)(states))[:, ::-1]
    measured = [np.interp(0.5 * law.rest()[j], curves[:, j], times) for j in range(2)]
    np.testing.assert_allclose(measured, tau, rtol=0.005)


def test_arguments_are_checked(x64):
    with pytest.raises(ValueError, match=r"g: expected singular values, none negative"):
        CLIP([0.5, -0.1], np.ones(2), np.ones(2), 1.0)
    with pytest.raises(ValueError, match=r"sigma2: expected a moment that is diagonal"):
        CLIP([0.5, 0.1], np.ones(2), np.array([[1.0, 0.2], [0.2, 1.0]]), 1.0)
    with pytest.raises(ValueError, match=r"sigma1: expected positive variances"):
        CLIP([0.5], [0.0], [1.0], 1.0)
    with pytest.raises(ValueError, match="scale: expected a positive number, received 0"):
        CLIP([0.5], [1.0], [1.0], 0.0)
    law = CLIP([0.5], np.eye(1), [1.0], 1.0)
    with pytest.raises(ValueError, match="lam0: expected singular values, none negative"):
        law.eigenvalues([1.0], [-0.1])
    with pytest.raises(ValueError, match="kappa: expected one number, or 1 as in lam0"):
        law.step_times([0.1], kappa=[0.1, 0.2])


def test_single_precision_and_jit_follow(dtype):
    g, sigma = np.array([0.9, 0.4], dtype), np.ones(2, dtype)

    @jax.jit
    def curves(g, sigma):
        law = CLIP(g, jnp.diag(sigma), sigma, 1.0)
        return law.eigenvalues(jnp.linspace(0, 20, 5, dtype=dtype), jnp.full(2, 1e-3, dtype))

    found = curves(g, sigma)
    assert found.dtype == dtype
    expected = g / (1 + (g / 1e-3 - 1) * np.exp(-2 * g * np.linspace(0, 20, 5)[:, None]))
    np.testing.assert_allclose(found, expected, rtol=2e-5)
