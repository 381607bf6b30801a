"""Modes counted on curves whose steps are known."""

import jax.numpy as jnp
import numpy as np

from stepwise import staircase
from stepwise.trajectory import Result, Trajectory


def run(eigenvalues, code=0, cause="", loss=None):
    T = len(eigenvalues)
    steps = np.arange(T) * 10.0
    stats = {
        "step": steps,
        "train_loss": np.ones(T),
        "rankme": np.linspace(1, 2, T),
        "stages/stage1": np.ones((T, 3)),
    }
    return Trajectory(
        0.1 * steps,
        jnp.asarray(eigenvalues),
        jnp.ones(T) if loss is None else loss,
        Result(code, -1, cause),
        covariance_eigenvalues=jnp.asarray(eigenvalues),
        stats=stats,
    )


def sigmoids(*centres, T=101):
    return 1 / (1 + np.exp(-(np.arange(T)[:, None] - np.array(centres))))


def test_modes_far_apart_are_learned_alone_at_their_steps():
    found = staircase.numbers(run(sigmoids(20, 50, 80)))
    assert (found["crossed"], found["alone"]) == (3, 3)
    np.testing.assert_allclose(found["step_times"], [200, 500, 800], rtol=1e-3)
    assert found["result"] == "converged"


def test_modes_side_by_side_are_learned_but_not_alone_and_an_absent_one_is_neither():
    values = np.column_stack([sigmoids(20, 50, 50.5), np.full(101, 1e-6)])
    found = staircase.numbers(run(values))
    assert (found["crossed"], found["alone"]) == (3, 2)
    assert not np.isfinite(found["step_times"][3])


def test_a_run_that_diverged_has_learned_nothing_and_keeps_what_is_finite():
    values = sigmoids(20, 50)
    values[60:] = np.nan
    loss = jnp.where(jnp.arange(101) < 60, 1.0, jnp.nan)
    diverged = run(values, code=2, cause="the learning rate", loss=loss)
    found = staircase.numbers(diverged)
    assert (found["crossed"], found["alone"]) == (0, 0)
    assert found["result"].startswith("diverged")
    kept = staircase.curves(diverged)
    assert all(len(values) == 60 and np.isfinite(values).all() for values in kept.values())
    assert {
        "times",
        "steps",
        "loss",
        "train_loss",
        "eigenvalues",
        "covariance",
        "rankme",
        "stage1",
    } == kept.keys()


def test_a_collapsed_run_has_learned_nothing():
    found = staircase.numbers(run(np.zeros((10, 3))))
    assert (found["crossed"], found["alone"]) == (0, 0)
