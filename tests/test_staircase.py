"""Modes counted on curves whose steps are known."""

import jax.numpy as jnp
import numpy as np
import pytest

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


def test_modes_far_apart_are_learned_one_at_a_time():
    summary = staircase.numbers(run(sigmoids(20, 50, 80)))
    assert (summary["crossed"], summary["alone"]) == (3, 3)
    np.testing.assert_allclose(summary["step_times"], [200, 500, 800], rtol=1e-3)
    assert summary["result"] == "converged"


def test_a_training_to_its_last_step_is_finished():
    assert staircase.numbers(run(sigmoids(20), code=1))["result"] == "finished"


@pytest.mark.parametrize(
    ("crossed", "alone", "words"),
    [
        (0, 0, "no modes learned"),
        (1, 1, "1 mode learned"),
        (1, 0, "1 mode learned"),
        (2, 0, "2 modes learned, none on its own"),
        (3, 1, "3 modes learned, 1 on its own"),
        (5, 3, "5 modes learned, 3 one at a time"),
        (5, 5, "5 modes learned, all one at a time"),
    ],
)
def test_modes_are_counted_in_words(crossed, alone, words):
    assert staircase.describe({"crossed": crossed, "alone": alone}) == words


def test_modes_side_by_side_are_learned_together_and_an_absent_mode_is_not_learned():
    values = np.column_stack([sigmoids(20, 50, 50.5), np.full(101, 1e-6)])
    summary = staircase.numbers(run(values))
    assert (summary["crossed"], summary["alone"]) == (3, 2)
    assert not np.isfinite(summary["step_times"][3])


def test_a_run_that_diverged_has_learned_nothing_and_keeps_its_finite_samples():
    values = sigmoids(20, 50)
    values[60:] = np.nan
    loss = jnp.where(jnp.arange(101) < 60, 1.0, jnp.nan)
    diverged = run(values, code=2, cause="the learning rate", loss=loss)
    summary = staircase.numbers(diverged)
    assert (summary["crossed"], summary["alone"]) == (0, 0)
    assert summary["result"].startswith("diverged")
    curves = staircase.curves(diverged)
    assert all(len(values) == 60 and np.isfinite(values).all() for values in curves.values())
    assert {
        "times",
        "steps",
        "loss",
        "train_loss",
        "eigenvalues",
        "covariance",
        "rankme",
        "stage1",
    } == curves.keys()


def test_a_collapsed_run_has_learned_nothing():
    summary = staircase.numbers(run(np.zeros((10, 3))))
    assert (summary["crossed"], summary["alone"]) == (0, 0)


def test_relative_eigenvalues_do_not_depend_on_the_scale_of_the_embedding():
    curves = sigmoids(20, 50, 80)
    growth = np.exp(0.05 * np.arange(101))[:, None]
    plain, grown = staircase.relative(run(curves)), staircase.relative(run(curves * growth))
    np.testing.assert_allclose(plain.eigenvalues, grown.eigenvalues, rtol=1e-6)
    np.testing.assert_allclose(np.sum(plain.eigenvalues, axis=1), 1, rtol=1e-6)
    # the last mode rises from 0 to a third of the whole
    assert staircase.numbers(grown)["step_times"][2] == pytest.approx(798, rel=1e-2)
    assert staircase.numbers(run(curves * growth))["step_times"][2] > 850
