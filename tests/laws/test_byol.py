"""The law of BYOL and SimSiam, against descent of their losses with a linear predictor."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import laws, losses
from stepwise.laws.byol import BYOL
from tests import problems
from tests.laws import distillation

LOSSES = {4: losses.byol, 1: losses.simsiam}
SPECTRA = [distillation.spectrum(seed) for seed in range(3)]


def loss(weights, target, x, x2, factor):
    """Return the loss of a linear model, and of its target's weights."""
    W, P = weights
    predictions, projections = [v @ W.T @ P.T for v in (x, x2)], [v @ target.T for v in (x, x2)]
    return LOSSES[factor](*predictions, *projections, normalise=False)


def flow(law, x, x2, tree):
    """Return minus the gradient of the loss, with the predictor's rate and the target's lag."""
    target = tree["encoder"] if law.ema is None else tree["target"]
    weights = (tree["encoder"], tree["predictor"])
    by_W, by_P = jax.grad(loss)(weights, target, x, x2, law.factor)
    lag = -by_W if law.ema is None else law.ema * (tree["encoder"] - target)
    return {"encoder": -by_W, "predictor": -law.alpha * by_P, "target": lag}


@partial(jax.jit, static_argnames=("factor", "ema", "steps"))
def curves(W, p0, x, x2, sigma, lr, alpha, factor, ema, steps):
    """Run descent, Euler's method of the flow. Return σ ‖W_j‖² [steps, r] of each mode."""
    slope = jax.grad(loss)

    def step(state):
        W, P, target = state
        by_W, by_P = slope((W, P), W if ema is None else target, x, x2, factor)
        moved = target + (0 if ema is None else lr * ema) * (W - target)
        return W - lr * by_W, P - lr * alpha * by_P, moved

    start = (W, p0 * jnp.eye(len(W)), W)
    return distillation.descend(
        step, start, steps, lambda state: sigma * jnp.sum(state[0] ** 2, axis=0)
    )


@pytest.mark.parametrize(("factor", "ema", "alpha"), [(4, None, 1.5), (1, None, 1), (4, 1.0, 0.8)])
def test_descent_grows_steps_and_rests_as_the_law_says(factor, ema, alpha, x64):
    scale, p0, lr = 1e-4, 0.3, 0.01 * 4 / factor
    for seed, (gamma, sigma) in enumerate(SPECTRA):
        law = BYOL(gamma, sigma, p0, alpha, ema, factor)
        x, x2 = distillation.pairs(gamma, sigma, seed=seed)
        start = np.zeros((3, 3))
        start[:, np.asarray(law.order)] = problems.rotation(3, seed) * scale
        lam0 = np.full(3, scale**2) * sigma[law.order]
        last, values = curves(start, p0, x, x2, sigma, lr, alpha, factor, ema, 12_000)
        values = np.asarray(values)[:, law.order]
        growth, rest = np.asarray(law.growth())[law.order], np.asarray(law.rest())[law.order]
        expected = distillation.discrete(growth, lr)
        measured = distillation.rates(values, lr, 10 * lam0.max(), 1e3 * lam0.max())
        np.testing.assert_allclose(measured, expected, rtol=2e-3)
        np.testing.assert_allclose(values[-1], rest, rtol=2e-3)
        late = distillation.crossings(values, rest / 2, lr) * expected / growth
        np.testing.assert_allclose(late, law.step_times(lam0), rtol=5e-3)
        diagonal = np.diag(law.eigenvalues(law.step_times(lam0), lam0))
        np.testing.assert_allclose(diagonal, rest / 2, rtol=1e-6)
        np.testing.assert_allclose(
            np.sort(np.linalg.eigvalsh(last[1])), np.sort(gamma / sigma), rtol=1e-3
        )


def test_a_generic_small_start_acts_as_its_aligned_one(x64):
    gamma, sigma = SPECTRA[0]
    law = BYOL(gamma, sigma, 0.3)
    x, x2 = distillation.pairs(gamma, sigma)
    start, lr = problems.gaussian((3, 3), 1e-6), 0.01
    lam0 = sigma[law.order] * laws.effective_start(start, law) ** 2
    values = curves(start, 0.3, x, x2, sigma, lr, 1, 4, None, 12_000)[1]
    values, growth = np.asarray(values)[:, law.order], np.asarray(law.growth())[law.order]
    measured = distillation.crossings(values, np.asarray(law.rest())[law.order] / 2, lr)
    late = measured * distillation.discrete(growth, lr) / growth
    np.testing.assert_allclose(late, law.step_times(lam0), rtol=0.02)


@pytest.mark.parametrize("ema", [None, 0.7])
@pytest.mark.parametrize("factor", [4, 1])
def test_the_flow_and_the_loss_of_three_matrices_are_exact(factor, ema, x64):
    gamma, sigma = SPECTRA[1]
    law = BYOL(gamma, sigma, 0.3, 1.7, ema, factor)
    x, x2 = distillation.pairs(gamma, sigma)
    W, T = problems.gaussian((2, 2, 3), 1.0)
    tree = {"encoder": W, "predictor": problems.gaussian((2, 2), 1.0, 1), "target": T}
    actual, expected = law.rhs_tree(tree), flow(law, x, x2, jax.tree.map(jnp.asarray, tree))
    for name in tree:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-10, atol=1e-12)
    value = loss((W, tree["predictor"]), W if ema is None else T, x, x2, factor)
    np.testing.assert_allclose(law.objective_tree(tree), value, rtol=1e-12)
    # the conserved matrix W Wᵀ − Pᵀ P/alpha, for any target
    change = expected["encoder"] @ W.T - expected["predictor"].T @ tree["predictor"] / law.alpha
    np.testing.assert_allclose(change + change.T, 0, atol=1e-12)


@pytest.mark.parametrize("ema", [None, 0.7])
def test_curves_conserve_kappa_and_follow_the_loss(ema, x64):
    gamma, sigma = SPECTRA[2]
    law = BYOL(gamma, sigma, [0.2, 0.3, 0.4], 1.3, ema)
    lam0, times = np.array([1e-3, 1e-4, 1e-5]), np.linspace(30, 0, 16)
    w, p, v = law.states(times, lam0)
    p0, scale = law.predictor[law.order], sigma[law.order]
    kappa = np.broadcast_to(lam0 / scale - p0**2 / 1.3, w.shape)
    np.testing.assert_allclose(w**2 - p**2 / 1.3, kappa, rtol=1e-6)
    np.testing.assert_allclose(law.eigenvalues(times, lam0), scale * w**2)
    start = np.zeros((3, 3))
    start[np.arange(3), law.order] = np.asarray(w[3])
    target = np.zeros((3, 3))
    target[np.arange(3), law.order] = np.asarray(v[3])
    tree = {"encoder": start, "predictor": np.diag(p[3]), "target": target}
    np.testing.assert_allclose(law.loss(times, lam0)[3], law.objective_tree(tree), rtol=1e-10)


def test_a_small_balanced_predictor_waits_for_a_power_of_the_start(x64):
    gamma, sigma, alpha = np.array([0.5]), np.array([0.8]), 2.0
    for p0 in (1e-2, 1e-4):
        law = BYOL(gamma, sigma, p0, alpha)
        lam0 = sigma * p0**2 / alpha

        def clock(p):
            return (-1 / (gamma * p) + sigma / gamma**2 * np.log(p / (gamma - sigma * p))) / 4

        end = np.sqrt(0.5 * (gamma / sigma) ** 2 - 0.5 * p0**2)
        time = law.step_times(lam0)
        np.testing.assert_allclose(time, clock(end) - clock(p0), rtol=1e-6)
        np.testing.assert_allclose(time, 1 / (4 * gamma * p0), rtol=40 * p0)


@pytest.mark.parametrize("ema", [None, 0.7])
def test_a_large_predictor_lets_modes_collapse(ema, x64):
    gamma, sigma = np.array([0.5, 0.5]), np.array([1.0, 0.8])
    law = BYOL(gamma, sigma, 0.56, ema=ema)  # between ρ = 0.5 and 0.625
    np.testing.assert_array_equal(law.grows(), [False, True])
    np.testing.assert_allclose(law.rest(), [0, 0.8 * (0.625**2 - 0.56**2)])
    lam0 = np.array([1e-6, 1e-6])
    np.testing.assert_array_equal(law.order, [1, 0])
    last = law.states([4000.0], lam0)
    np.testing.assert_allclose(last.predictor[0], [0.625, 0.56], rtol=1e-5)
    assert law.step_times(lam0)[1] == np.inf and last.encoder[0, 1] < 1e-10
    # a mode whose views disagree grows under a negative predictor
    mirror = BYOL(-gamma, sigma, -0.56, ema=ema)
    np.testing.assert_allclose(mirror.step_times(lam0), law.step_times(lam0), rtol=1e-10)


@pytest.mark.parametrize("ema", [None, 0.7])
def test_takeover_and_stability_are_those_of_the_matrix_flow(ema, x64):
    gamma, sigma = np.array([0.5, 0.45]), np.array([1.0, 0.6])
    law = BYOL(gamma, sigma, 0.2, 1.5, ema)
    w = np.sqrt(np.asarray(law.rest()) / sigma)
    for modes in ([0], [1], [0, 1, None]):
        W, P = np.zeros((len(modes), 2)), 0.2 * np.eye(len(modes))
        for row, mode in enumerate(modes):
            if mode is not None:
                W[row, mode], P[row, row] = w[mode], gamma[mode] / sigma[mode]
        tree = jax.tree.map(jnp.asarray, {"encoder": W, "predictor": P, "target": W})
        # the flow of the losses, as the test above shows; their own targets stop derivatives
        matrix = distillation.jacobian(law.rhs_tree, tree)
        if ema is None:  # the target is the encoder: leave out its copy
            matrix = matrix[: -W.size, : -W.size]
        values = np.linalg.eigvals(matrix).real
        if len(modes) == 1:
            rate = float(law.takeover(modes[0], 1 - modes[0])) / 2
            assert np.abs(values - rate).min() < 1e-6 and (rate > 0) == (modes[0] == 0)
        else:
            np.testing.assert_allclose(law.max_stable_lr(), -2 / values.min(), rtol=1e-6)
    np.testing.assert_allclose(law.next_growth([0]), law.growth()[1])


def test_what_the_law_cannot_answer_is_refused():
    law = BYOL([0.5, 0.3], [1.0, 0.5], 0.2)
    A = np.ones((1, 2))
    for name, arguments in {"rhs": (A,), "objective": (A,), "has_converged": (0.1, 1)}.items():
        with pytest.raises(laws.NotKnownError, match=f"{name}: .*received BYOL"):
            getattr(law, name)(*arguments)
    with pytest.raises(ValueError, match="predictor: expected one number if Σ is not diagonal"):
        BYOL([0.5, 0.3], [[1.0, 0.1], [0.1, 0.5]], [0.2, 0.1])
    with pytest.raises(ValueError, match="predictor: expected eigenvalues other than 0"):
        BYOL([0.5], [1.0], 0.0)
    with pytest.raises(ValueError, match="ema: expected None or a positive number"):
        BYOL([0.5], [1.0], 0.2, ema=0.0)
    with pytest.raises(ValueError, match="invariant under rotations"):
        laws.effective_start(np.eye(2), BYOL([0.5, 0.3], [1.0, 0.5], [0.2, 0.1]))
