"""The law of DINO, against descent of its loss on Gaussian data."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import laws, losses
from stepwise.laws import softmax
from stepwise.laws.dino import DINO
from tests import problems
from tests.laws import distillation

SPECTRA = [(0.6, 1.0, 1.0), (0.5, 0.7, 0.3), (0.9, 1.2, 4.0)]
"""γ, σ and ema of one mode."""


def gaussian_pairs(gamma, sigma, spacing=0.5):
    """Return two views [n] of one Gaussian mode with these moments, on a grid, and weights [n]."""
    g = np.arange(-4.5, 4.51, spacing)
    a, b = (part.ravel() for part in np.meshgrid(g, g))
    weights = np.exp(-(a**2 + b**2) / 2)
    same, other = np.sqrt((sigma + gamma) / 2) * a, np.sqrt((sigma - gamma) / 2) * b
    return same + other, same - other, weights / weights.sum()


def loss(W, V, x, x2, weights, student=0.1, teacher=0.04):
    """Return the loss of a linear model on weighted pairs [n, r]."""

    def each(s1, s2, t1, t2):
        rows = (part[None] for part in (s1, s2, t1, t2))
        return losses.dino(
            *rows, jnp.zeros(len(W)), student_temperature=student, teacher_temperature=teacher
        )

    return weights @ jax.vmap(each)(x @ W.T, x2 @ W.T, x @ V.T, x2 @ V.T)


@partial(jax.jit, static_argnames="steps")
def curve(W, x, x2, weights, sigma, lr, ema, steps):
    """Run descent, Euler's method of the flow. Return σ ‖W_j‖² [steps, r] and losses."""
    slope = jax.value_and_grad(loss)

    def step(state):
        W, V, _ = state
        value, by_W = slope(W, V, x, x2, weights)
        return W - lr * by_W, V + lr * ema * (W - V), value

    start = (W, W, jnp.zeros(()))
    return distillation.descend(
        step, start, steps, lambda state: (sigma * jnp.sum(state[0] ** 2, axis=0), state[2])
    )[1]


@pytest.mark.parametrize("prototypes", [2, 5])
def test_descent_grows_steps_and_rests_as_the_law_says(prototypes, x64):
    for gamma, sigma, ema in SPECTRA:
        gamma, sigma = np.array([gamma]), np.array([sigma])
        law = DINO(gamma, sigma, prototypes, ema=ema)
        growth, lam0 = np.asarray(law.growth()), np.array([1e-8])
        lr = 0.02 / max(float(growth[0]), ema)
        x, x2, weights = gaussian_pairs(gamma, sigma)
        steps = int(1.3 * float(law.step_times(lam0, 0.98)[0]) / lr)
        values, loss_values = curve(
            law.aligned_start(lam0), x[:, None], x2[:, None], weights, sigma, lr, ema, steps
        )
        rest, expected = np.asarray(law.rest()), distillation.discrete(growth, lr)
        measured = distillation.rates(values, lr, 1e-7, 1e-6)
        np.testing.assert_allclose(measured, expected, rtol=0.01)
        found = distillation.crossings(values, rest / 2, lr) * expected / growth
        time = law.step_times(lam0)
        np.testing.assert_allclose(found, time, rtol=0.01)
        np.testing.assert_allclose(law.eigenvalues(time, lam0)[0], rest / 2, rtol=1e-6)
        np.testing.assert_allclose(values[-1], rest, rtol=0.01)
        ends = law.loss(np.array([0.0, lr * steps]), lam0)
        np.testing.assert_allclose(loss_values[0], np.log(prototypes), rtol=1e-6)
        np.testing.assert_allclose(loss_values[np.array([0, -1])], ends, rtol=1e-3)


@pytest.mark.parametrize("prototypes", [2, 5])
def test_small_weights_follow_the_law_on_any_data(prototypes, x64):
    gamma, sigma = distillation.spectrum(0)
    gamma[2] = 0.35 * sigma[2]  # below τt/τs = 0.4
    x, x2 = distillation.pairs(gamma, sigma)
    law = DINO(gamma, sigma, prototypes, 0.1, 0.04, 0.6)
    np.testing.assert_array_equal(law.grows(), [True, True, False])
    weights, zero = np.full(len(x), 1 / len(x)), np.zeros((prototypes, 3))
    W, V = problems.gaussian((2, prototypes, 3), 1e-7)
    slope = jax.grad(loss)(W, V, x, x2, weights)
    center = np.eye(prototypes) - 1 / prototypes
    expected = center @ (W * sigma / 0.1 - V * gamma / 0.04) / (prototypes * 0.1)
    np.testing.assert_allclose(slope, expected, rtol=0, atol=1e-5 * np.abs(expected).max())

    def drive(V):  # the derivative of the teacher's softmax, whose gradient the loss stops
        return jax.grad(loss)(zero, V, x, x2, weights)

    pull = jax.jacfwd(lambda W: jax.grad(loss)(W, jnp.asarray(zero), x, x2, weights))(zero)
    pull = -np.asarray(pull).reshape(zero.size, zero.size)
    eps = 1e-6
    push = np.stack(
        [
            -(np.asarray(drive(zero + step) - drive(zero - step)) / (2 * eps)).ravel()
            for step in eps * np.eye(zero.size).reshape(-1, prototypes, 3)
        ],
        axis=1,
    )
    unit = 0.6 * np.eye(zero.size)
    values = np.linalg.eigvals(np.block([[pull, push], [unit, -unit]])).real
    for rate in np.asarray(law.growth()) / 2:
        assert np.abs(values - rate).min() < 1e-5 * np.abs(rate)
    assert np.isclose(values.max(), float(law.growth().max()) / 2, rtol=1e-5)


@pytest.mark.parametrize("prototypes", [2, 3, 6])
def test_the_next_mode_grows_at_a_rest_as_the_law_says(prototypes, x64):
    """Linearise the flow of mode 2, whose second moments enter alone, at the rest of mode 1."""
    across = np.linalg.svd(np.ones((1, prototypes)))[2][1:].T  # W along 1 never moves
    for gamma, ema in (([0.6, 0.5], None), ([0.6, 0.95], 2.0), ([0.8, 0.81], 0.5)):
        law = DINO(gamma, np.ones(2), prototypes, ema=ema)
        x, x2, weights = gaussian_pairs(gamma[0], 1.0, 0.25)
        w = np.asarray(law.aligned_start(law.rest()[:1], [0]))[:, 0]
        moments = []
        for temperature in (0.1, 0.04):
            p = np.asarray(jax.nn.softmax(x[:, None] * w / temperature))
            outer = np.einsum("n,na,nb->ab", weights, p, p)
            moment = (np.diag(weights @ p) - outer) / (0.1 * temperature)
            moments.append(across.T @ moment @ across)
        pull, push = moments[0], gamma[1] * moments[1]
        unit = np.eye(prototypes - 1) * (1 if ema is None else ema)
        matrix = push - pull if ema is None else np.block([[-pull, push], [unit, -unit]])
        values = np.linalg.eigvals(matrix).real
        np.testing.assert_allclose(law.next_growth([0]), 2 * values.max(), rtol=1e-4, atol=1e-6)
        assert np.abs(2 * values - float(law.takeover(0, 1))).min() < 1e-4
        assert (float(law.takeover(0, 1)) > 0) == (gamma[1] > gamma[0])
        # the rest is one: the flow of mode 1 vanishes
        teacher = np.asarray(jax.nn.softmax(x2[:, None] * w / 0.04))
        student = np.asarray(jax.nn.softmax(x[:, None] * w / 0.1))
        np.testing.assert_allclose((teacher - student).T @ (weights * x), 0, atol=1e-5)


def test_averages_of_the_softmax_are_exact(x64):
    g = np.linspace(-9, 9, 20_001)
    density = np.exp(-(g**2) / 2) / np.exp(-(g**2) / 2).sum()
    for prototypes in (2, 3, 64):
        for size in (0.0, 0.5, 7.0, 40.0):
            logits = np.zeros((len(g), prototypes))
            logits[:, 0], logits[:, -1] = -size * g / np.sqrt(2), size * g / np.sqrt(2)
            p = np.asarray(jax.nn.softmax(logits))
            J = np.diag(density @ p) - np.einsum("n,na,nb->ab", density, p, p)
            found = softmax.curvatures(size, prototypes)
            expected = sorted(np.linalg.eigvalsh(J))
            count = np.array([1, 1, prototypes - 3][: min(prototypes - 1, 3)])
            ours = np.repeat(np.array([float(part) for part in found])[: len(count)], count)
            np.testing.assert_allclose(sorted([0, *ours]), expected, atol=1e-12)
            partition = density @ np.asarray(jax.nn.logsumexp(logits, axis=1))
            found = softmax.log_partition(jnp.asarray(size), prototypes)
            np.testing.assert_allclose(found, partition, rtol=1e-7)


@pytest.mark.parametrize("ema", [None, 0.3, 5.0])
def test_the_center_must_be_fast_enough(ema, x64):
    law = DINO([0.5], [1.0], 8, 0.1, 0.04, ema)
    A, B = 0.7 / (8 * 0.1**2), 0.7 / (8 * 0.1 * 0.04)

    def decays(rate):
        # student, teacher and centre along the mean; the teacher is the student without a lag
        matrix = [[-A, B, -B], [ema or 0, -(ema or 0), 0], [0, rate, -rate]]
        if ema is None:
            matrix = [[B - A, -B], [rate, -rate]]
        return np.linalg.eigvals(matrix).real.max() < 0

    slow, fast = 1e-3, 1e3
    assert decays(fast) and not decays(slow)
    for _ in range(40):
        middle = np.sqrt(slow * fast)
        slow, fast = (slow, middle) if decays(middle) else (middle, fast)
    assert bool(law.center_is_stable(0.7, 1.001 * fast))
    assert not bool(law.center_is_stable(0.7, 0.999 * fast))


def test_what_the_law_cannot_answer_is_refused():
    law = DINO([0.5, 0.3, 0.2], np.ones(3), 4)
    lam0 = np.full(2, 1e-6)
    cases = {
        "eigenvalues": ([1.0], lam0),
        "step_times": (lam0,),
        "loss": ([1.0], lam0),
        "next_growth": ([0, 1],),
        "rhs": (np.ones((4, 3)),),
        "objective": (np.ones((4, 3)),),
        "max_stable_lr": (),
    }
    for name, arguments in cases.items():
        with pytest.raises(laws.NotKnownError, match=f"{name}: .*received DINO"):
            getattr(law, name)(*arguments)
    assert not law.grows()[1] and law.rest()[1] == 0
    with pytest.raises(ValueError, match="prototypes: expected a whole number from 2"):
        DINO([0.5], [1.0], 1)
    with pytest.raises(ValueError, match="sigma: expected variances, none negative"):
        DINO([0.5, 0.3], [1.0, -0.2], 4)
