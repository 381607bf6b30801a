"""The law of word embeddings, symmetric and asymmetric, against descent of the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import laws, losses
from stepwise.laws.word2vec import Word2Vec
from tests import problems
from tests.laws import pairs


def target(seed):
    """Return eigenvalues m [6], some negative, and M [6, 6] in another basis."""
    rng = np.random.default_rng(seed)
    m = rng.permutation([3.0, 2.0, 1.2, 0.5, -0.7, -2.5]) * rng.uniform(0.9, 1.1, 6)
    V = problems.rotation(6, seed)
    return m, V, (V * m) @ V.T


@pytest.mark.parametrize("seed", pairs.SEEDS)
def test_descent_of_qwem_follows_the_law(seed, x64):
    m, V, M = target(seed)
    law, lam0 = Word2Vec(m, d=3), np.array([1e-9, 3e-9, 1e-8])
    order = np.asarray(law.order[:3])

    def slope(A):
        return -jax.grad(lambda A: losses.qwem(V @ A.T, M))(A)

    lr = 0.03 / m.max()
    A0 = pairs.rotated_start(law, lam0, seed)
    record, last = pairs.descend(slope, A0, lr, 3000, pairs.variances(law.unit()))
    rates = [pairs.growth(record[:, j], lr) for j in order]
    np.testing.assert_allclose(rates, law.growth()[order], rtol=1e-3)
    tau = np.asarray(law.step_times(lam0) * (1 + law.descent_delay(lr, lam0)))
    seen = [pairs.crossing(record[:, j], m[j] / 2, lr) for j in order]
    np.testing.assert_allclose(seen, tau, rtol=1e-3)
    np.testing.assert_allclose(record[-1, order], law.rest()[order], rtol=1e-6)
    np.testing.assert_allclose(record[-1, order], np.sort(m)[::-1][:3], rtol=1e-6)
    assert losses.qwem(V @ last.T, M) == pytest.approx(float(law.lowest_loss(3)), rel=1e-6)


def test_loss_and_flow_are_those_of_qwem(x64):
    m, V, M = target(3)
    law, A = Word2Vec(m), problems.gaussian((3, 6), 0.7)
    value, slope = jax.value_and_grad(lambda A: losses.qwem(V @ A.T, M))(A)
    np.testing.assert_allclose(law.objective(A), value, rtol=1e-12)
    np.testing.assert_allclose(law.rhs(A), -slope, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("m", "d"), [([1.0, 0.5, -3.0], 1), ([1.0, 0.5, -3.0], 3), ([2.0, 1], 2)])
def test_the_learning_rate_limit_is_sharp(m, d, x64):
    law = Word2Vec(m, d=d)
    A0 = np.asarray(law.aligned_start(np.full(min(d, len(m)), 1e-3))) + 1e-3
    limit = float(law.max_stable_lr())
    for factor, stable in [(0.98, True), (1.02, False)]:
        _, last = pairs.descend(law.rhs, A0, 0.1 * limit, 3000, jnp.max)
        last = last + 1e-9
        _, last = pairs.descend(law.rhs, last, factor * limit, 3000, jnp.max)
        near = np.linalg.norm(law.rhs(last)) < 1e-6
        assert near == stable


def asymmetric_slope(m):
    def loss(state):
        return jnp.sum((jnp.diag(m) - state[0].T @ state[1]) ** 2) / 4

    return lambda state: jax.tree.map(jnp.negative, jax.grad(loss)(state))


@pytest.mark.parametrize("seed", pairs.SEEDS)
def test_two_embeddings_learn_modes_in_the_order_of_their_size(seed, x64):
    m, _, _ = target(seed)
    law, d = Word2Vec(m, d=4, symmetric=False), 4
    A = problems.gaussian((d, 6), 1e-5, seed)
    A2 = problems.gaussian((d, 6), 1e-5, seed + 10)
    order = np.asarray(law.order[:d])
    np.testing.assert_array_equal(order, np.argsort(-np.abs(m))[:d])
    lam0 = np.asarray(laws.effective_start(law.balance(A, A2), law)) ** 2
    lr = 0.03 / np.abs(m).max()

    def products(state):
        return jnp.sum(state[0] * state[1], axis=0)

    record, last = pairs.descend(asymmetric_slope(m), (A, A2), lr, 4000, products)
    tau = np.asarray(law.step_times(lam0) * (1 + law.descent_delay(lr, lam0)))
    seen = [pairs.crossing(record[:, j] * np.sign(m[j]), abs(m[j]) / 2, lr) for j in order]
    # the start's own error; the law states 1–3% at scale 1e-2 and 1e-3 at 1e-4
    np.testing.assert_allclose(seen, tau, rtol=5e-3)
    np.testing.assert_allclose(record[-1, order], m[order], rtol=1e-3)
    W, W2 = last
    value = np.sum((np.diag(m) - W.T @ W2) ** 2) / 4
    np.testing.assert_allclose(value, law.lowest_loss(d), rtol=1e-3)


def test_products_of_unbalanced_rows_follow_the_closed_form(x64):
    m = np.array([1.5, -1.0, 0.3, 2.0, -0.5])
    law = Word2Vec(m, symmetric=False)
    modes = np.asarray(law.order)
    a0 = np.array([1e-3, 2e-4, 0.5, 1e-3, 2.0])
    b0 = np.array([3e-4, -1e-3, 0.0, -2e-3, 0.2])
    lr, steps = 1e-3, 12_000

    def midpoint(rows):
        def slope(rows):
            push = (m[modes] - rows[0] * rows[1]) / 2
            return jnp.stack([push * rows[1], push * rows[0]])

        return slope(rows + lr / 2 * slope(rows))

    rows0 = jnp.stack([jnp.asarray(a0), jnp.asarray(b0)])
    record, last = pairs.descend(midpoint, rows0, lr, steps, lambda rows: rows[0] * rows[1])
    times = lr * np.arange(steps)[::500]
    curves = law.products(times, a0, b0)
    np.testing.assert_allclose(curves, record[::500], rtol=2e-5, atol=1e-10)
    np.testing.assert_allclose(last[0] ** 2 - last[1] ** 2, a0**2 - b0**2, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(law.products([1e8], a0, b0)[0, [0, 2]], m[modes][[0, 2]])
    balanced = law.products(times, np.sqrt([1e-4, 1e-5]), np.sqrt([1e-4, 1e-5]) * [1, 1])
    expected = law.eigenvalues(times, [1e-4, 1e-5]) * np.sign(m[modes][:2])
    np.testing.assert_allclose(balanced, expected, rtol=1e-9)


def test_arguments_are_checked():
    law = Word2Vec(np.ones(3))
    with pytest.raises(laws.NotKnownError, match="products: expected a law with two embeddings"):
        law.products([1.0], [1.0], [1.0])
    with pytest.raises(laws.NotKnownError, match="balance: expected a law with two embeddings"):
        law.balance(np.ones((1, 3)), np.ones((1, 3)))
    with pytest.raises(ValueError, match="A2: expected shape"):
        Word2Vec(np.ones(3), symmetric=False).balance(np.ones((1, 3)), np.ones((2, 3)))
    with pytest.raises(ValueError, match="b0: expected shape"):
        Word2Vec(np.ones(3), symmetric=False).products([1.0], [1.0, 1.0], [1.0])
