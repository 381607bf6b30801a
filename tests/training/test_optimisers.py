"""Any optax transformation trains a network, and resumes to the same bits."""

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from stepwise import losses, models, training, views
from stepwise.methods import Objective
from stepwise.training import runs
from stepwise.training.optimiser import Optimiser
from stepwise.training.plan import Plan
from tests.training import small

RECIPE = views.Recipe(*[views.View(views.Crop(6), flip=0.5)] * 2)


def noisy(lr):
    return optax.noisy_sgd(lr, key=jax.random.key(3, impl="rbg"))


def plateau(lr):
    return optax.chain(optax.sgd(lr), optax.contrib.reduce_on_plateau(patience=1, cooldown=1))


def search(lr):
    return optax.chain(optax.sgd(lr), optax.scale_by_backtracking_linesearch(3, store_grad=True))


OPTIMISERS = {
    "made already": optax.sgd(0.01, momentum=0.9),
    "with a key": noisy,
    "with value=": plateau,
    "with value_fn=": search,
    "of convolutions": runs.plan(runs.Config(optimiser="muon")).optimiser,
}


def train(optimiser, folder, steps=6):
    backbone = models.ResNet((1,), width=4, stem="small", rngs=nnx.Rngs(0))
    encoder = models.Encoder(backbone, models.Head(backbone.features, [3], rngs=nnx.Rngs(1)))
    plan = Plan(steps, 8, 0.01, optimiser, RECIPE, probe=8, records=5, checkpoint_every=2)
    objective = Objective(losses.barlow_twins_unnormalised)
    return training.train(encoder, small.PIXELS, objective, plan, folder=folder)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_run_resumes_to_the_same_bits(name, tmp_path, monkeypatch):
    whole = small.numbers(train(OPTIMISERS[name], tmp_path / "whole"))
    run = partial(train, OPTIMISERS[name], tmp_path / "resumed")
    small.interrupt(run, monkeypatch, after=3)
    resumed = small.numbers(run())
    for key, value in whole.items():
        np.testing.assert_array_equal(value, resumed[key], err_msg=key)
    assert np.isfinite(whole["loss"]).all()


def test_the_value_of_the_batch_reaches_the_optimiser():
    """reduce_on_plateau averages the values that it receives."""
    params = {"w": jnp.ones(3)}
    optimiser = Optimiser(Plan(1, 1, 0.1, plateau, RECIPE))
    state = optimiser.init(params)
    gradient = {"w": jnp.ones(3)}
    _, state = optimiser.update(gradient, state, params, lambda p: p["w"].sum(), jnp.asarray(5.0))
    assert float(state[1].best_value) == 5.0


def test_a_random_key_is_stored_as_numbers():
    params, value = {"w": jnp.ones(3)}, jnp.asarray(1.0)
    optimiser = Optimiser(Plan(1, 1, 0.1, noisy, RECIPE))
    first = optimiser.init(params)
    leaves = jax.tree.leaves(first)
    assert not any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves)
    update = partial(optimiser.update, params, params=params, value_fn=lambda p: value, value=value)
    (one, _), (same, _), (other, _) = update(first), update(first), update(update(first)[1])
    np.testing.assert_array_equal(one["w"], same["w"])
    assert (one["w"] != other["w"]).all()


@pytest.mark.parametrize("wrong", [lambda lr: lr, lambda lr: optax.sgd])
def test_what_is_no_optimiser_is_refused(wrong, tmp_path):
    with pytest.raises(ValueError, match=r"Plan\.optimiser: expected an optax transformation"):
        train(wrong, tmp_path)


def test_the_fingerprint_of_an_optimiser_is_the_same_in_every_process():
    """adamw's mask is a function, whose text would hold an address in memory."""
    code = (
        "from stepwise.training import ownership, runs\n"
        "for name in ('sgd', 'lars', 'adam', 'adamw'):\n"
        "    plan = runs.plan(runs.Config(optimiser=name))\n"
        "    print(ownership._describe_function(plan.optimiser))"
    )
    command = [sys.executable, "-c", code]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)
    )
    assert first == second and "adamw" in first and "0x" not in first
