"""Scores of forecasts, the sensitivity of a linear backbone, and the directions of modes."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import forecast
from stepwise.forecast import history, saved, scores
from stepwise.forecast.answer import Forecast
from stepwise.forecast.history import Entry
from stepwise.training import runs
from stepwise.trajectory import Result, Trajectory


def said(step, low, high, reason=""):
    coming = np.isfinite(step)
    direction = np.zeros(2) if coming else None
    return Forecast(1, 0.01, 0.1, step, low, high, direction, direction, reason)


def test_scores_are_those_of_the_definitions():
    inf = np.inf
    entries = [
        Entry(100, said(200, 150, 300), 150.0, 300.0, 0.8, 0.1),  # factor 2, covered
        Entry(100, said(150, 140, 160), 200.0, 150.0, 0.6, 0.3),  # factor 2, not covered
        Entry(100, said(110, 105, 120), 104.0, 110.0, 0.1, 0.9),  # too near to count
        Entry(100, said(inf, inf, inf, "none"), 300.0, 200.0, np.nan, np.nan),  # refusal: factor 2
        Entry(100, said(90, 80, 99), 200.0, 90.0, 0.5, 0.5),  # not later: infinite factor
        Entry(400, said(inf, inf, inf, "none"), inf, inf, np.nan, np.nan),
        Entry(450, said(600, 500, 700), inf, 500.0, np.nan, np.nan),
    ]
    numbers = scores.summarise(entries)
    assert numbers["counted"] == 4 and len(numbers["forecasts"]) == 7
    assert numbers["median_factor"] == pytest.approx(2)
    assert numbers["within_1_5"] == 0
    assert numbers["median_relative_error"] == pytest.approx(1 / 3)
    assert numbers["coverage"] == 0.25 and numbers["refusals"] == 0.25
    assert numbers["extrapolation_median_factor"] == pytest.approx(3)
    assert numbers["none_after_last"] == 0.5
    assert numbers["direction"] == 0.6 and numbers["direction_null"] == 0.3
    assert numbers["forecasts"][3]["predicted"] is None


def test_without_steps_there_is_no_score():
    numbers = scores.summarise([Entry(1, said(9, 8, 10), np.inf, 9.0, np.nan, np.nan)])
    assert numbers["counted"] == 0 and numbers["median_factor"] is None


def test_a_crossing_is_the_next_one_after_the_snapshot():
    steps, curve = np.array([0, 10, 20, 30, 40]), np.array([0.1, 0.7, 0.3, 0.4, 0.6])
    assert history.next_crossing(steps, curve, 0) == pytest.approx(10 * 0.4 / 0.6)
    assert history.next_crossing(steps, curve, 8) == pytest.approx(35)
    assert np.isinf(history.next_crossing(steps, curve, 36))


def test_the_sensitivity_of_a_linear_backbone():
    """φ = B x has γ = wᵀBΓBᵀw, whose gradient is 2 w (ΓBᵀw)ᵀ."""
    rng = np.random.default_rng(0)
    x, x2 = rng.normal(size=(2, 50, 4))
    x2 = x + 0.3 * x2
    x, x2 = (x - x.mean(axis=0), x2 - x2.mean(axis=0))
    B, w = rng.normal(size=(3, 4)), np.array([0.6, 0.8, 0.0])
    gamma = (x.T @ x2 + x2.T @ x) / 100
    pulled = gamma @ B.T @ w
    expected = pulled @ pulled / (w @ B @ pulled) ** 2
    features = lambda B: (x @ B.T, x2 @ B.T)  # noqa: E731
    assert forecast.sensitivity(features, jnp.asarray(B), 5 * w) == pytest.approx(
        float(expected), rel=1e-4
    )
    rows = rng.normal(size=(1, 3))
    deflated = forecast.sensitivity(features, jnp.asarray(B), w, rows)
    padded = np.concatenate([rows, np.zeros((2, 3))])
    assert forecast.sensitivity(features, jnp.asarray(B), w, padded) == pytest.approx(deflated)
    assert deflated != pytest.approx(float(expected), rel=1e-2)


def test_a_direction_is_compared_outside_the_modes_learned_before():
    rng = np.random.default_rng(0)
    n = 200
    scores_ = np.linalg.qr(rng.normal(size=(n, 3)))[0]
    scores_ = scores_ - scores_.mean(axis=0)
    both = np.concatenate([scores_, scores_]) * np.sqrt(2 * n)
    features = both * np.array([1.0, 0.5, 2.0])
    z = both[:, :1] @ np.ones((1, 2))
    later = both[:, :2]
    first, null = history.directions(np.array([0.3, 1.0, 0.0]), z, features, later, 1)
    assert first == pytest.approx(1, abs=1e-2)  # the learned mode's share does not count
    assert null < 0.05  # the largest direction is the third, which was not learned
    wrong, _ = history.directions(np.array([0.0, 0.0, 1.0]), z, features, later, 1)
    assert wrong < 0.05


def run_of(curves, steps):
    t = np.array(steps, float)
    return Trajectory(t, np.array(curves), t, Result(0, -1), stats={"step": t})


def test_growth_is_read_off_the_path_and_the_curve():
    steps = np.arange(0, 201, 10)
    curve = 1e-4 * np.exp(0.02 * steps)
    trajectory = run_of(np.stack([np.ones(21), curve], axis=1), steps)
    path = np.stack([np.arange(100, 151), 1e-4 * np.exp(0.03 * np.arange(51))])
    forecast = replace(said(160, 150, 170), path=path)
    short = replace(forecast, path=path[:, :20])
    entries = [Entry(100, f, 160.0, 170.0, 0.5, 0.1) for f in (forecast, short)]
    entries.append(Entry(190, forecast, 160.0, 170.0, 0.5, 0.1))  # beyond the run
    pairs = history.growth(entries, trajectory)
    np.testing.assert_allclose(pairs, [[0.03 * 30, 0.02 * 30]])
    scored = scores.growth(np.array([[1, 2], [2, 3], [3, 5]]))
    assert scored["growth_correlation"] > 0.9 and scored["growth_median_error"] == 1
    assert scores.growth(pairs)["growth_correlation"] is None


def test_levels_are_half_of_the_final_values_where_there_is_no_theory():
    curves = [[0.0, 0.0, 0.0]] * 3 + [[2.0, 0.8, 0.001]] * 3
    trajectory = run_of(curves, range(6))
    plain = runs.Config(method="simclr")
    np.testing.assert_allclose(saved.levels(plain, trajectory), [1.0, 0.4, 0.05])
    theory = runs.Config()
    np.testing.assert_allclose(saved.levels(theory, trajectory), 0.5)


def test_forecasts_to_draw_are_those_before_a_take_off():
    path = np.array([[0.0, 10.0, 20.0], [1e-3, 0.1, 0.5]])
    early = replace(said(20, 15, 30), path=path)
    late = replace(early, amplitude=0.3)
    long = replace(early, path=np.concatenate([path, path[:, -1:]], axis=1))
    entries = [Entry(0, f, 20.0, 20.0, 0.5, 0.1) for f in (early, late, long)]
    rows, paths = history.drawn(entries)
    assert rows.tolist() == 2 * [[0, 0.01, 0.5, 15, 30]]
    assert paths.shape == (2, 2, 4) and np.isnan(paths[0, :, 3]).all()
    rows, paths = history.drawn([])
    assert rows.shape == (0, 5) and paths.shape == (0, 2, 0)
