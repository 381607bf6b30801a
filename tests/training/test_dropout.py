"""Networks with random layers: evaluation needs no key, and training carries it in its state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stepwise import entk, losses, models, training
from stepwise.methods import Objective
from stepwise.training.step import Step
from tests.training import small


class Transformer(nnx.Module):
    """Attention over the rows of an image, with dropout in three places."""

    def __init__(self, rngs):
        self.embed = nnx.Linear(18, 8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, rngs=rngs, decode=False, dropout_rate=0.2)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        x = self.embed(x.reshape(len(x), x.shape[1], -1))
        x = self.dropout(x + self.attention(x))
        return self.head(self.norm(x.mean(axis=1)))


X = small.PIXELS[:6, :6, :6] / np.float32(255)


def train(folder, steps=12):
    plan = small.plan(steps=steps, checkpoint_every=4, records=6, dispatch=2)
    objective = Objective(losses.barlow_twins_unnormalised)
    return training.train(Transformer(nnx.Rngs(0)), small.PIXELS, objective, plan, folder=folder)


def test_evaluation_is_the_network_without_dropout():
    model = Transformer(nnx.Rngs(0))
    apply, params = models.evaluation(model)
    model.eval()
    np.testing.assert_array_equal(apply(params, X), model(X))
    np.testing.assert_array_equal(apply(params, X), apply(params, X))


def test_the_kernel_of_an_evaluated_network_is_that_of_its_jacobian():
    model = Transformer(nnx.Rngs(0))
    apply, params = models.evaluation(model)
    jacobian = jax.jacrev(apply)(params, X)
    flat = jnp.concatenate([leaf.reshape(18, -1) for leaf in jax.tree.leaves(jacobian)], axis=1)
    expected = (flat @ flat.T).reshape(6, 3, 6, 3)
    np.testing.assert_allclose(entk.full_kernel(apply, params, X), expected, rtol=2e-4, atol=1e-5)


def test_training_draws_new_masks_and_advances_the_counters():
    model = Transformer(nnx.Rngs(0))
    forward, params, stats = models.stateful(model)
    once, _, after = forward(params, stats, X, True)
    again, _, _ = forward(params, stats, X, True)
    then, _, _ = forward(params, after, X, True)
    np.testing.assert_array_equal(once, again)
    assert not np.allclose(once, then)
    assert after["dropout"]["rngs"]["count"] == stats["dropout"]["rngs"]["count"] + 1
    off, _, _ = forward(params, stats, X, True, dropout=False)
    off_again, _, _ = forward(params, after, X, True, dropout=False)
    np.testing.assert_array_equal(off, off_again)
    assert not np.allclose(off, once)


def test_a_run_with_dropout_resumes_to_the_same_bits(tmp_path, monkeypatch):
    whole = small.numbers(train(tmp_path / "whole"))
    small.interrupt(lambda: train(tmp_path / "resumed"), monkeypatch, after=7)
    resumed = small.numbers(train(tmp_path / "resumed"))
    for key, value in whole.items():
        np.testing.assert_array_equal(value, resumed[key], err_msg=key)


def test_the_probe_is_measured_without_dropout():
    objective = Objective(losses.barlow_twins_unnormalised)
    model = Transformer(nnx.Rngs(0))
    step = Step(model, small.PIXELS, objective, small.plan(), None, None)
    state = step.start()
    z, _, _, _ = step.evaluate_probe(state)
    model.train()
    model.set_attributes(deterministic=True, raise_if_not_found=False)
    stacked = jnp.stack(step.probe, axis=1).reshape(-1, *step.probe[0].shape[1:])
    np.testing.assert_allclose(z, model(stacked)[0::2], rtol=1e-5, atol=1e-6)


def test_a_pure_function_needs_evaluation_mode():
    class Plain(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(4, 3, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.linear(self.dropout(x))

    model = Plain(nnx.Rngs(0))
    expected = r"model: expected random layers in evaluation mode \(call model.eval\(\)\), "
    with pytest.raises(ValueError, match=expected + "received Dropout in training mode"):
        models.functional(model)
    model.eval()
    apply, params = models.functional(model)
    x = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(apply(params, x), model(x))


def test_other_state_is_refused_by_name():
    class Cache(nnx.Variable):
        pass

    class Remembering(nnx.Module):
        def __init__(self):
            self.memory = Cache(jnp.zeros(3))

        def __call__(self, x):
            return x + self.memory

    expected = "a module of parameters, batch statistics and random keys only, received also Cache"
    with pytest.raises(ValueError, match=expected):
        models.stateful(Remembering())
