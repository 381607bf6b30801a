"""Laws of update rules against descent under their transformations."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import dynamics, laws, updates
from stepwise.laws.numeric import geometric_mean
from tests import problems

D = 3


def spectrum(seed):
    """Draw five modes, one of them negative."""
    rng = np.random.default_rng(seed)
    return np.append(np.sort(rng.uniform(0.15, 1, 4))[::-1], -0.1)


def transformation(rule, gamma):
    needs = not isinstance(rule, updates.GradientDescent | updates.HeavyBall | updates.Muon)
    return rule.optax(gamma=jnp.asarray(gamma)) if needs else plain(rule)


@lru_cache
def plain(rule):
    return rule.optax()


def trajectory(rule, gamma, lam0, steps, d=D):
    """Return times and λ [T, d] of descent under a rule, recorded at every step."""
    p = problems.modes(gamma)
    A0 = laws.BarlowTwins(gamma).aligned_start(lam0)
    run = dynamics.descent(
        p, A0, rule.lr, steps, update=transformation(rule, gamma), record_every=1, snapshots=True
    )
    A = np.asarray(run.snapshots)
    return np.asarray(run.times), np.einsum("tir,r,tir->ti", A, gamma, A)


def crossings(times, curves, level=0.5):
    """Return when each curve first crosses the level, interpolated in ln λ."""
    after = np.argmax(curves > level, axis=0)
    i = np.arange(curves.shape[1])
    low, high = np.log(curves[after - 1, i]), np.log(curves[after, i])
    share = (np.log(level) - low) / (high - low)
    return times[after - 1] + share * (times[after] - times[after - 1])


RULES = {
    "descent": (updates.GradientDescent(5e-3), 1),
    "heavy ball": (updates.HeavyBall(1e-2, 0.9), 0),
    "heavy ball, fast": (updates.HeavyBall(0.1, 0.5), 0),
    "muon": (updates.Muon(2e-3), 0),
    "relative polar": (updates.RelativePolar(1e-2), 1),
    "square root": (updates.EmbeddingPower(1e-3, 0.5, 1e-2), 0),
    "inverse": (updates.EmbeddingPower(2e-4, 1.0, 1e-2), 0),
    "inputs": (updates.InputPower(2e-3, 0.5), 1),
}


def expected_times(rule, delayed, gamma, lam0):
    law = rule.law(gamma)
    late = np.asarray(law.descent_delay(rule.lr, lam0)) if delayed else 0
    return np.asarray(law.step_times(lam0)) * (1 + late)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_descent_under_a_rule_follows_its_law(name, seed, x64):
    rule, delayed = RULES[name]
    gamma, lam0 = spectrum(seed), np.array([2e-4, 1e-4, 4e-4])
    law = rule.law(gamma)
    expected = expected_times(rule, delayed, gamma, lam0)
    latest = max(expected_times(rule, delayed, spectrum(k), lam0).max() for k in (0, 1, 2))
    steps = int(1.3 * latest / rule.lr) + 20  # equal for all seeds, so that they share a program
    times, curves = trajectory(rule, gamma, lam0, steps)
    np.testing.assert_allclose(crossings(times, curves), expected, rtol=0.01)
    predicted = np.asarray(law.eigenvalues(times, lam0))
    np.testing.assert_allclose(curves, predicted, atol=0.04)
    level = np.asarray(law.step_times(lam0, 0.2))
    np.testing.assert_allclose(np.diagonal(law.eigenvalues(level, lam0)), 0.2, rtol=1e-3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_times_of_the_table_do_not_depend_on_the_start_or_the_condition(seed, x64):
    gamma, lam0 = spectrum(seed), np.full(D, 1e-10)
    tau = np.asarray(updates.EmbeddingPower(1e-3, 1.0, 0.0).law(gamma).step_times(lam0))
    np.testing.assert_allclose(tau, np.log(2) / (8 * gamma[:D]), rtol=1e-5)
    # ∫ λ^{-1/2}/(1 − λ) dλ from 0 to ½ is ln((1 + √½)/(1 − √½))
    half = np.asarray(updates.EmbeddingPower(1e-3, 0.5, 0.0).law(gamma).step_times(lam0))
    value = 2 * np.arctanh(np.sqrt(0.5)) / (8 * gamma[:D])
    np.testing.assert_allclose(half, value, rtol=1e-3)
    np.testing.assert_allclose(2 * np.arctanh(np.sqrt(0.5)) / (8 * 0.5), 0.4407, rtol=1e-3)
    polar = np.asarray(updates.RelativePolar(0.5).law(gamma).step_times(lam0))
    np.testing.assert_allclose(polar, np.log(1e10) / 2, rtol=1e-6)
    muon = np.asarray(updates.Muon(1e-3).law(gamma).step_times(lam0))
    np.testing.assert_allclose(muon, np.sqrt(0.5 / gamma[:D]), rtol=1e-4)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (updates.GradientDescent(1e-3), 5.28),
        (updates.EmbeddingPower(1e-3, 1.0, 1e-12), 0.173),
        (updates.EmbeddingPower(1e-3, 0.5, 1e-12), 0.4407),
        (updates.RelativePolar(0.5), 10.56),
    ],
)
def test_the_last_mode_reaches_one_half_at_the_time_of_the_table(rule, expected, x64):
    gamma = np.array([0.9, 0.7, 0.5, 0.2])
    law = rule.law(gamma)
    tau = np.asarray(law.step_times([6.7e-10] * 3))
    np.testing.assert_allclose(tau[2], expected, rtol=0.02)


def test_momentum_at_small_rates_is_descent_at_a_larger_one(x64):
    gamma = np.array([0.5, 0.2])
    slow, plain = updates.HeavyBall(1e-5, 0.9).law(gamma), laws.BarlowTwins(gamma)
    np.testing.assert_allclose(slow.growth(), 10 * plain.growth(), rtol=0.01)
    fast = updates.HeavyBall(0.01, 0.9).law([0.5]).growth() * 0.01 / 2
    np.testing.assert_allclose(1 / fast, 9.8, rtol=0.02)  # LAWS: 50 steps become 9.8


@pytest.mark.parametrize(
    "rule",
    [
        updates.GradientDescent(1.0),
        updates.HeavyBall(1.0, 0.9),
        updates.InputPower(1.0, 0.5),
        updates.EmbeddingPower(1.0, 0.5, 1.0),
    ],
)
@pytest.mark.parametrize("gamma", [[0.9, 0.6, 0.3], [0.3, 0.2, -0.8]])
def test_descent_is_stable_below_the_limit_only(rule, gamma, x64):
    gamma = np.array(gamma)
    limit = float(rule.law(gamma).max_stable_lr())
    p = problems.modes(gamma)
    # all modes are learned, or a row is spare and the negative mode must decay there
    rest = np.array(laws.BarlowTwins(gamma).aligned_start((gamma > 0).astype(float)))
    start = rest + problems.gaussian((3, 3), 1e-6)
    distances = []
    for share in (0.98, 1.02):
        scaled = type(rule)(**{**vars(rule), "lr": share * limit})
        run = dynamics.descent(p, start, 1.0, 2000, update=transformation(scaled, gamma))
        distances.append(np.linalg.norm(np.asarray(run.snapshots)[-1] ** 2 - rest**2))
    assert distances[0] < 1e-2 and not distances[1] <= 1e-2


def test_relative_polar_is_stable_below_a_rate_of_one(x64):
    gamma = np.array([0.9, 0.6, 0.3])
    start = np.array(laws.BarlowTwins(gamma).aligned_start(np.ones(3)))
    start = start + problems.gaussian((3, 3), 1e-6)
    assert float(updates.RelativePolar(0.5).law(gamma).max_stable_lr()) == 1
    losses = []
    for lr in (0.98, 1.02):
        update = transformation(updates.RelativePolar(lr), gamma)
        losses.append(
            dynamics.descent(problems.modes(gamma), start, 1.0, 1000, update=update).loss[-1]
        )
    assert losses[0] < 1e-20 and losses[1] > 1e-3


@pytest.mark.parametrize("name", ["descent", "muon", "relative polar", "square root"])
def test_rules_of_the_embeddings_side_learn_the_leading_modes_from_any_start(name, x64):
    rules = {
        "descent": updates.GradientDescent(0.1),
        "muon": updates.Muon(2e-3),
        "relative polar": updates.RelativePolar(0.5),
        "square root": updates.EmbeddingPower(0.02, 0.5, 1e-2),
    }
    gamma = np.array([0.9, 0.8, 0.2, 0.1])
    p, A0 = problems.modes(gamma), problems.gaussian((2, 4), 1e-4)
    run = dynamics.descent(p, A0, 1.0, 1500, update=transformation(rules[name], gamma))
    A = np.asarray(run.snapshots)[-1]
    assert np.linalg.norm(A[:, 2:]) < 0.05 * np.linalg.norm(A)


def test_relative_polar_solves_its_equation_and_is_done_in_thirty_steps(x64):
    gamma = np.geomspace(1, 1 / 8, 4)
    W = problems.gaussian((4, 4), 1e-4)
    H = W * gamma
    B = np.asarray(geometric_mean(jnp.asarray(W @ W.T), jnp.asarray(H @ H.T)))
    np.testing.assert_allclose(B @ (H @ H.T) @ B, W @ W.T, rtol=1e-6, atol=1e-14)
    assert (np.linalg.eigvalsh(B) > 0).all()
    p = problems.modes(gamma)
    rule = updates.RelativePolar(0.5)
    run = dynamics.descent(p, W, 1.0, 60, update=transformation(rule, gamma), record_every=1)
    done = np.argmax(np.asarray(run.loss) < 1e-6)
    assert 20 < done < 45


def test_moments_are_extra_arguments_or_bound(x64):
    gamma = np.array([0.9, 0.5, 0.2])
    V = problems.rotation(3)
    W, G = problems.gaussian((2, 3), 1.0), problems.gaussian((2, 3), 1.0, seed=1)
    moment = V @ np.diag(gamma) @ V.T
    for rule in (updates.RelativePolar(0.1), updates.EmbeddingPower(0.1), updates.InputPower(0.1)):
        tx = rule.optax()
        in_modes = tx.update(jnp.asarray(G @ V), tx.init(W), jnp.asarray(W @ V), gamma=gamma)[0]
        inputs = tx.update(jnp.asarray(G), tx.init(W), jnp.asarray(W), gamma=moment)[0]
        np.testing.assert_allclose(inputs @ V, in_modes, rtol=1e-9, atol=1e-12)
        bound = rule.optax(gamma=moment)
        np.testing.assert_array_equal(bound.update(G, bound.init(W), jnp.asarray(W))[0], inputs)
        with pytest.raises(
            ValueError, match=f"gamma: expected the moment Γ, which {type(rule).__name__}"
        ):
            tx.update(G, tx.init(W), W)
        with pytest.raises(ValueError, match="gamma: expected shape"):
            tx.update(G, tx.init(W), jnp.asarray(W), gamma=gamma[:2])
    C = W @ moment @ W.T
    tx = updates.EmbeddingPower(0.1).optax()
    given = tx.update(jnp.asarray(G), tx.init(W), jnp.asarray(W), C=C)[0]
    both = tx.update(jnp.asarray(G), tx.init(W), jnp.asarray(W), gamma=moment)[0]
    np.testing.assert_allclose(given, both, rtol=1e-9)


def test_the_polar_factor_ignores_directions_without_a_gradient(x64):
    G = np.diag([3.0, 1e-3, 0.0])
    np.testing.assert_allclose(updates.polar(G), np.diag([1.0, 1, 0]), atol=1e-12)
    np.testing.assert_array_equal(updates.polar(np.zeros((2, 3))), 0)
    with pytest.raises(ValueError, match="update: expected a gradient that is a matrix"):
        updates.polar(np.zeros(3))


def test_laws_can_be_jitted_and_keep_modes_that_do_not_grow(x64):
    gamma, lam0 = np.array([0.5, 0.0, -0.3]), np.array([1e-3, 0.0, -1e-3])
    for rule, _ in RULES.values():
        law = rule.law(gamma)
        curves = jax.jit(lambda law, lam0: law.eigenvalues(jnp.array([0.0, 1.0]), lam0))(law, lam0)
        assert np.isfinite(curves).all()
        np.testing.assert_allclose(curves[0], lam0, atol=1e-12)
        np.testing.assert_array_equal(curves[1, 1], 0)
        assert -1e-3 <= curves[1, 2] <= 1e-9
        assert np.isinf(law.step_times(lam0)[1:]).all()
        np.testing.assert_array_equal(law.rest(), [1, 0, 0])


def test_what_a_rule_lacks_is_refused(x64):
    with pytest.raises(laws.NotKnownError, match=r"growth: .* received MuonLaw"):
        updates.Muon(0.1).law([1.0]).growth()
    with pytest.raises(laws.NotKnownError, match=r"max_stable_lr: .* received MuonLaw"):
        updates.Muon(0.1).law([1.0]).max_stable_lr()
    with pytest.raises(laws.NotKnownError, match=r"growth: .* eps > 0"):
        updates.EmbeddingPower(0.1, 1.0, 0.0).law([1.0]).growth()
    with pytest.raises(laws.NotKnownError, match="rhs: "):
        updates.RelativePolar(0.1).law([1.0]).rhs(np.ones((1, 1)))
    with pytest.raises(ValueError, match="lam0: expected λ"):
        updates.EmbeddingPower(0.1).law([1.0]).eigenvalues([1.0], [2.0])
    for make in (lambda: updates.Muon(0), lambda: updates.HeavyBall(0.1, 1.0)):
        with pytest.raises(ValueError, match="expected a"):
            make()
    with pytest.raises(ValueError, match=r"power: expected a number in \[0, 1\]"):
        updates.InputPower(0.1, 2.0)


def test_the_relative_polar_rule_grows_faster_until_its_rows_have_turned(x64):
    """Its plateau is not linear, so that the QR factors of a random start are not its λ(0)."""
    gamma = np.array([1.0, 0.5, 0.3, 0.1, -0.05])
    law = updates.RelativePolar(0.01).law(gamma)
    aligned = 1e-6 * np.eye(2, 5)
    np.testing.assert_allclose(law.generic_start(aligned), 1e-12 * gamma[:2], rtol=1e-4)
    A0 = 1e-9 * np.random.default_rng(0).normal(size=(2, 5))
    run = dynamics.descent(
        problems.modes(gamma), A0, 0.01, 2400, update=updates.RelativePolar(0.01), record_every=2
    )
    seen = crossings(np.asarray(run.times), np.asarray(run.eigenvalues))
    tau = np.sort(law.step_times(law.generic_start(A0)))
    np.testing.assert_allclose(seen, tau, rtol=0.01)
    plain = np.sort(law.step_times(laws.BarlowTwins(gamma).generic_start(A0)))
    assert (plain > 1.03 * seen).any()
