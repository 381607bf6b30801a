"""A run does not depend on `jax_enable_x64`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stepwise import losses, models, training
from stepwise.methods import Objective
from stepwise.training import loop
from tests.training import small


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return small.numbers(small.run(tmp_path_factory.mktemp("reference"), steps=30))


def assert_same(numbers, reference):
    for key, value in reference.items():
        np.testing.assert_array_equal(value, numbers[key], err_msg=key)


def test_a_run_resumes_to_the_same_bits_under_the_other_setting(reference, tmp_path, monkeypatch):
    save = loop.Checkpoints.save

    def save_once(store, step, state):
        save(store, step, state)
        if step == 20:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, jax.enable_x64(True):
        patch.setattr(loop.Checkpoints, "save", save_once)
        with pytest.raises(KeyboardInterrupt):
            small.run(tmp_path, steps=30)
    assert_same(small.numbers(small.run(tmp_path, steps=30)), reference)


def test_a_finished_run_is_read_under_the_other_setting(reference, tmp_path):
    small.run(tmp_path, steps=30)
    with jax.enable_x64(True):
        assert_same(small.numbers(small.run(tmp_path, steps=30)), reference)


def test_a_network_in_float64_trains_in_float64(x64):
    encoder = small.encoder(dtype=jnp.float64, param_dtype=jnp.float64)
    predictor = models.Head(4, [6, 4], rngs=nnx.Rngs(1), dtype=jnp.float64, param_dtype=jnp.float64)
    objective = Objective(losses.byol, True, 0.9)
    training.train(encoder, small.PIXELS, objective, small.plan(steps=4), predictor=predictor)
    params = jax.tree.leaves(nnx.state(encoder, nnx.Param))
    assert {leaf.dtype.name for leaf in params} == {"float64"}
    assert encoder(jnp.zeros((2, 8, 8, 3))).dtype == jnp.float64
