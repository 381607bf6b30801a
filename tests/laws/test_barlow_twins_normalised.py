"""The law of the official Barlow Twins loss, against the flow of the loss."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import dynamics, laws, losses
from stepwise.laws import BarlowTwinsNormalised, Law, NotKnownError
from tests import problems
from tests.laws import pairs


def make_views(gamma, sigma, seed=0):
    """Return two views [24, r] with every pair in both orders."""
    return pairs.both_orders(*pairs.pairs(gamma, sigma, 12, seed))


def make_slope(x, x2, off_diagonal=0.0051, eps=1e-5):
    """Return A ↦ −∂L/∂A of `losses.barlow_twins`."""

    def loss(A):
        return losses.barlow_twins(x @ A.T, x2 @ A.T, off_diagonal=off_diagonal, eps=eps)

    return lambda A: -jax.grad(loss)(A)


@partial(jax.jit, static_argnames=("steps", "observe"))
def _flow(views, weights, A0, lr, steps, observe):
    slope = make_slope(*views, **weights)

    def middle(A):
        first = slope(A)
        second = slope(A + lr / 2 * first)
        third = slope(A + lr / 2 * second)
        return (first + 2 * second + 2 * third + slope(A + lr * third)) / 6

    def step(A, _):
        return A + lr * middle(A), observe(A, views[0], views[1], weights["eps"])

    return jax.lax.scan(step, A0, None, length=steps)


def flow(views, law, A0, lr, steps, observe):
    """Take Runge-Kutta steps of the flow of the loss; return observations and the last A."""
    weights = {"off_diagonal": jnp.asarray(law.off_diagonal), "eps": jnp.asarray(law.eps)}
    last, record = _flow(views, weights, jnp.asarray(A0), lr, steps, observe)
    return jax.tree.map(np.asarray, record), np.asarray(last)


def correlations(A, x, x2, eps):
    """Return the squares of A and the diagonal of the correlation matrix of the embeddings."""
    z, z2 = (view @ A.T / jnp.sqrt(jnp.mean((view @ A.T) ** 2, 0) + eps)[None] for view in (x, x2))
    return A**2, jnp.mean(z * z2, axis=0)


def fastest(views, law, A, k):
    """Return the growth rate of the variance of mode k beside the others, from the loss."""
    return 2 * np.linalg.eigvals(_column(views, law.off_diagonal, law.eps, A, k)).real.max()


@jax.jit
def _column(views, weight, eps, A, k):
    slope = make_slope(*views, weight, eps)
    return jax.jacfwd(lambda column: slope(A.at[:, k].set(column))[:, k])(A[:, k])


@pytest.mark.parametrize("weights", [{}, {"off_diagonal": 0.3, "eps": 1e-3}])
@pytest.mark.parametrize("scale", [1e-4, 3e-3, 0.9])
def test_loss_and_flow_are_those_of_barlow_twins_for_any_moments(scale, weights, x64):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(11, 4)) @ rng.normal(size=(4, 4)) + 1
    x, x2 = pairs.both_orders(x, x + rng.normal(size=(11, 4)))
    gamma, V = np.linalg.eigh(problems.cross_moment(x, x2, "pooled"))
    sigma = V.T @ problems.cross_moment(x, x, "pooled") @ V
    assert np.abs(sigma - np.diag(np.diag(sigma))).max() > 0.1
    law, A = BarlowTwinsNormalised(gamma, sigma, **weights), problems.gaussian((3, 4), scale)
    loss = losses.barlow_twins(x @ V @ A.T, x2 @ V @ A.T, **weights)
    np.testing.assert_allclose(law.objective(A), loss, rtol=1e-12)
    slope = make_slope(x @ V, x2 @ V, **weights)(jnp.asarray(A))
    np.testing.assert_allclose(law.rhs(A), slope, rtol=1e-10, atol=1e-10 * np.abs(slope).max())

    C, size = np.asarray(law.measure(A)), np.einsum("ij,jk,ik->i", A, sigma, A) + law.eps
    pull = np.diag(C) - np.diag(C) ** 2
    pull = pull - law.off_diagonal * (np.sum(C**2, axis=1) - np.diag(C) ** 2)
    change = 2 * np.sum(A * slope, axis=1)
    np.testing.assert_allclose(change, 8 * law.eps * pull / size, rtol=1e-7)


@pytest.mark.parametrize("seed", pairs.SEEDS)
def test_all_rows_take_their_first_step_to_the_mode_of_largest_gamma(seed, x64):
    gamma, sigma = pairs.spectra(seed)
    law, d, first = BarlowTwinsNormalised(gamma, sigma), 3, np.argmax(gamma)
    lr, A0 = 0.1 / float(law.growth().max()), problems.gaussian((3, 4), 1e-15, seed)
    views = make_views(gamma, sigma, seed)
    (squares, C), _ = flow(views, law, A0, lr, 900, correlations)
    small = np.argmax(squares[:, :, first].max(axis=1) * sigma[first] > 1e-10)
    rates = np.log(squares[small] / squares[5]) / (small - 5) / lr
    np.testing.assert_allclose(rates, np.tile(8 * gamma / 1e-5, (d, 1)), rtol=1e-4)
    np.testing.assert_allclose(law.growth(), 8 * gamma / 1e-5, rtol=1e-12)
    for i in range(d):
        tau = law.step_times(law.unit()[first][None] * A0[i, first] ** 2)
        seen = pairs.crossing(C[:, i], gamma[first] / sigma[first] / 2, lr)
        np.testing.assert_allclose(seen, tau[0], rtol=2e-3)
    shares = squares[-1] * sigma / np.sum(squares[-1] * sigma, axis=1, keepdims=True)
    assert (shares[:, first] > 0.9).all()


@pytest.mark.parametrize("seed", pairs.SEEDS)
def test_rows_along_different_modes_follow_the_curves(seed, x64):
    gamma, sigma = pairs.spectra(seed)
    law, lam0 = BarlowTwinsNormalised(gamma, sigma), np.array([1e-9, 1e-7, 1e-5])
    order, lr = np.asarray(law.order[:3]), 0.1 / float(law.growth().max())
    ends = gamma[order] / sigma[order]
    np.testing.assert_allclose(np.asarray(law.rest())[order], ends, rtol=1e-12)
    A0 = law.aligned_start(lam0)
    np.testing.assert_allclose(law.measure(A0), np.diag(lam0), rtol=1e-12)
    (squares, C), _ = flow(make_views(gamma, sigma, seed), law, A0, lr, 8000, correlations)
    times = np.append(lr * np.arange(0, 8000, 100), 10.0)
    curves = law.eigenvalues(times, lam0)
    np.testing.assert_allclose(C[::100], curves[:-1], rtol=1e-5)
    np.testing.assert_allclose(curves[-1], ends, rtol=1e-2)
    sizes = np.sqrt(squares.sum(axis=2))
    np.testing.assert_allclose(sizes[::100] / sizes[0], law.amplitude(times, lam0)[:-1], rtol=1e-5)
    loss = np.sum((1 - C[::100]) ** 2, axis=1)
    np.testing.assert_allclose(law.loss(times, lam0)[:-1], loss, rtol=1e-5)
    for level in (0.5, 0.9):
        seen = [pairs.crossing(C[:, i], level * ends[i], lr) for i in range(3)]
        np.testing.assert_allclose(seen, law.step_times(lam0, level), rtol=1e-3)


@pytest.mark.parametrize("seed", pairs.SEEDS)
@pytest.mark.parametrize("start", ["small", "large", "white"])
def test_one_row_rotates_to_the_mode_of_largest_agreement(seed, start, x64):
    gamma, sigma = pairs.spectra(seed)
    if start == "white":
        gamma, sigma = gamma / sigma, np.ones(4)
    eps, scale = (1.0, 1e-4) if start == "small" else (1e-5, 0.5)
    law, row = BarlowTwinsNormalised(gamma, sigma, eps=eps), problems.gaussian(4, scale, seed + 1)
    lr, steps = 0.02, 6000
    (squares, C), last = flow(
        make_views(gamma, sigma, seed), law, row[None], lr, steps, correlations
    )
    times = lr * np.arange(0, steps, 20)
    rows = law.row(times, row)
    np.testing.assert_allclose(rows**2, squares[::20, 0], rtol=1e-5, atol=1e-12)
    if start == "small":
        return
    np.testing.assert_allclose(C[-1], np.max(law.rest()), rtol=1e-2)
    np.testing.assert_allclose(np.linalg.norm(last), np.linalg.norm(row), rtol=1e-2)
    np.testing.assert_array_equal(law.final_modes(1), [np.argmax(gamma / sigma)])
    if start == "white":
        theta = np.linspace(0, 60, 20_001)
        shares = row**2 * np.exp(theta[:, None] * gamma)
        own = (shares @ gamma) / shares.sum(axis=1)
        slowness = np.sum(row**2) / 8 / (1 - own)
        t = np.concatenate([[0], np.cumsum((slowness[1:] + slowness[:-1]) / 2 * theta[1])])
        inside = times < t[-1]
        np.testing.assert_allclose(C[::20, 0][inside], np.interp(times[inside], t, own), rtol=1e-3)


@pytest.mark.parametrize("seed", pairs.SEEDS)
def test_an_unlearned_mode_grows_beside_rows_that_mix_the_others(seed, x64):
    gamma, sigma = pairs.spectra(seed)
    gamma = gamma * [1, 1, 1, -1]
    law = BarlowTwinsNormalised(gamma, sigma, [0.1, 0.3, 1.0][seed], eps=1e-2)
    views = make_views(gamma, sigma, seed)
    for k in range(4):
        A = jnp.asarray(problems.gaussian((3, 4), 0.5, seed)).at[:, k].set(0)
        np.testing.assert_allclose(law.next_growth(A), fastest(views, law, A, k), rtol=1e-7)
    assert law.next_growth([]) == law.growth().max()


@pytest.mark.parametrize("seed", pairs.SEEDS)
@pytest.mark.parametrize("d", [1, 5])
def test_modes_leave_a_collapsed_state_above_their_threshold(seed, d, x64):
    gamma, sigma = pairs.spectra(seed)
    gamma[[3, 1, 1][seed]] *= -0.5
    first = int(np.argmax(gamma / sigma))
    thresholds = BarlowTwinsNormalised(gamma, sigma).threshold(d, first)
    assert (np.delete(thresholds, first) > 0).all()
    assert thresholds[first] == np.inf and (d > 1 or (thresholds == np.inf).all())
    views = make_views(gamma, sigma, seed)
    A = jnp.zeros((d, 4)).at[:, first].set(1.3 * np.where(np.arange(d) % 2, -1, 1))
    for k in set(range(4)) - {first}:
        for factor, sign in [(0.99, -1), (1.01, 1)]:
            weight = factor * float(thresholds[k]) if d > 1 else factor
            law = BarlowTwinsNormalised(gamma, sigma, weight, norm=1.3)
            rate = fastest(views, law, A, k)
            assert np.sign(rate) == (sign if d > 1 else -1)
            alone = [first, k]
            own = BarlowTwinsNormalised(gamma[alone], sigma[alone], weight, norm=1.3)
            np.testing.assert_allclose(own.next_growth([0] * d), rate, rtol=1e-6)
            if d == 1:
                np.testing.assert_allclose(own.takeover(0, 1), rate, rtol=1e-9)
                np.testing.assert_allclose(Law.takeover(own, 0, 1), rate, rtol=1e-9)


@pytest.mark.parametrize("seed", pairs.SEEDS)
def test_the_second_mode_grows_at_its_rate_from_rows_that_share_the_first(seed, x64):
    gamma, sigma = (part[:3] for part in pairs.spectra(seed))
    first = int(np.argmax(gamma / sigma))
    law = BarlowTwinsNormalised(gamma, sigma, [0.1, 0.2, 0.3][seed])
    A0 = problems.gaussian((4, 3), 1e-9, seed)
    A0[:, first] = [1, -1, 1, 1]
    (squares, _), _ = flow(make_views(gamma, sigma, seed), law, A0, 0.02, 2000, correlations)
    total = squares.sum(axis=1)
    small = np.argmax(np.delete(total, first, axis=1).max(axis=1) > 1e-8)
    k = np.argmax(np.where(np.arange(3) == first, 0, total[small]))
    rate = np.log(total[small, k] / total[small - 50, k]) / (50 * 0.02)
    np.testing.assert_allclose(law.next_growth([first] * 4), rate, rtol=1e-2)


def test_the_official_weight_is_the_threshold_of_ten_rows(x64):
    law = BarlowTwinsNormalised([0.9, 0.5], [1.0, 1.0])
    np.testing.assert_allclose(law.threshold(10)[1], 0.1 * 0.4 / (0.9 * 8.6), rtol=1e-12)
    np.testing.assert_array_equal(law.threshold(10, 1), [0, np.inf])


def test_solvers_follow_the_law_and_its_functions_can_be_transformed(x64):
    p = problems.modes([1.0, 0.6, 0.3])
    A0, times = problems.gaussian((2, 3), 0.3), np.linspace(0, 1, 3)

    def build(problem, d):
        return BarlowTwinsNormalised(problem.gamma, np.diag([1.2, 1.0, 0.9]) + 0.1)

    run = dynamics.flow(p, A0, times, law=build)
    law = build(p, 2)
    np.testing.assert_allclose(run.loss[0], law.objective(A0), rtol=1e-12)
    np.testing.assert_allclose(
        run.eigenvalues[-1][::-1], np.linalg.eigvalsh(law.measure(run.snapshots[-1])), rtol=1e-9
    )
    assert laws.law_of(BarlowTwinsNormalised, p, 2).off_diagonal == 0.0051

    def half(gamma):
        return BarlowTwinsNormalised(gamma, jnp.ones(2)).step_times(jnp.array([1e-6]))[0]

    gamma, h = jnp.array([0.7, 0.2]), jnp.array([1e-5, 0])
    slope = (half(gamma + h) - half(gamma - h)) / 2e-5
    np.testing.assert_allclose(jax.jit(jax.grad(half))(gamma)[0], slope, rtol=1e-6)


def test_special_starts(x64):
    law = BarlowTwinsNormalised([0.6, 0.0, -0.2], [1.0, 1.0, 1.0], norm=2.0)
    np.testing.assert_array_equal(law.rest(), [0.6, 0, 0])
    np.testing.assert_array_equal(law.aligned_start([0.6]), [[2, 0, 0]])
    np.testing.assert_array_equal(law.step_times([0.4]), [np.inf])
    curves = np.asarray(law.eigenvalues([1e-6, 1.0], [0.6, 0.0, -1e-6]))
    np.testing.assert_array_equal(curves[:, :2], [[0.6, 0.0]] * 2)
    np.testing.assert_allclose(curves[:, 2], [-1e-6 * np.exp(-0.16), 0], rtol=1e-5, atol=1e-15)


def test_what_is_not_known_and_what_is_wrong():
    shared = BarlowTwinsNormalised(np.ones(2) / 2, np.eye(2) + 0.1, rows=3)
    np.testing.assert_allclose(shared.rest(), 3 * 0.5 / 1.1, rtol=1e-6)
    with pytest.raises(NotKnownError, match="because all rows learn one mode first"):
        shared.step_times(np.full(2, 1e-6))
    law = BarlowTwinsNormalised(np.ones(2) / 2, np.ones(2))
    for name, arguments in [("final_modes", (2,)), ("max_stable_lr", ())]:
        with pytest.raises(NotKnownError, match=r"expected a law with .*Normalised"):
            getattr(law, name)(*arguments)
    with pytest.raises(ValueError, match="off_diagonal: expected a number that is not negative"):
        BarlowTwinsNormalised(np.ones(2), np.ones(2), -1.0)
    with pytest.raises(ValueError, match="eps: expected a positive number"):
        BarlowTwinsNormalised(np.ones(2), np.ones(2), eps=0.0)
    with pytest.raises(ValueError, match="sigma: expected positive variances"):
        BarlowTwinsNormalised(np.ones(2), np.zeros(2))
    with pytest.raises(ValueError, match=r"start: expected shape \[2\]"):
        law.row([1.0], np.ones(3))
    with pytest.raises(ValueError, match="learned: expected a state with a mode that is not"):
        law.next_growth([0, 1])


def test_the_first_step_of_several_rows_from_a_generic_start(x64):
    gamma, sigma = np.array([0.7, 0.3, 0.2]), np.array([1.0, 0.8, 0.5])
    x, x2 = make_views(gamma, sigma)
    law = BarlowTwinsNormalised.from_problem(laws.Modes(gamma, sigma), 5)
    A0 = problems.gaussian((5, 3), 1e-8, seed=2)
    lam0 = law.generic_start(A0)
    np.testing.assert_allclose(lam0, 5 * 0.7 * np.median(A0[:, 0] ** 2) / 1e-5)
    tau = float(law.step_times(lam0)[0])
    lr = 0.05 / float(law.growth().max())

    def top(A):
        return jnp.linalg.eigvalsh(law.measure(A))[-1:]

    curves, _ = pairs.descend(make_slope(x, x2), jnp.asarray(A0), lr, int(1.5 * tau / lr), top)
    assert pairs.crossing(curves[:, 0], float(law.rest()[0]) / 2, lr) == pytest.approx(
        tau, rel=0.03
    )
    again = law.aligned_start(lam0)
    np.testing.assert_allclose(law.generic_start(again), lam0, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.eigvalsh(law.measure(again))[-1], lam0[0], rtol=1e-6)
    starts = [law.generic_start(problems.gaussian((5, 3), 1.0, seed=s))[0] for s in range(400)]
    mean, deviation = law.expected_start(5)
    assert np.mean(np.log(starts)) == pytest.approx(float(mean[0]), abs=0.2)
    assert np.std(np.log(starts)) == pytest.approx(float(deviation[0]), rel=0.15)
