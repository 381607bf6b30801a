"""Trajectories: storage, results in words, batches, and the checks of their inputs."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import trajectory
from stepwise.dynamics import Result, Trajectory, closed_form, descent
from tests import problems

GAMMA = np.array([1.0, 0.5, -0.3])


def run(dtype="float64"):
    A0 = problems.gaussian((2, 3), 0.1).astype(dtype)
    return descent(problems.modes(GAMMA, dtype), A0, np.asarray(0.05, dtype), 12, record_every=4)


def test_a_saved_trajectory_is_loaded_bit_for_bit(dtype, tmp_path):
    for out in (
        run(dtype),
        replace(run(dtype), snapshots=None, snapshot_times=None),
        replace(run(dtype), stats={}),
    ):
        out.save(tmp_path / "run.npz")
        again = Trajectory.load(tmp_path / "run.npz")
        for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(again), strict=True):
            assert np.asarray(a).dtype == np.asarray(b).dtype
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
        assert jax.tree.structure(out) == jax.tree.structure(again)
        assert str(out.result) == str(again.result)


def test_a_file_that_is_no_trajectory_is_rejected_by_name(tmp_path):
    problems.modes(GAMMA).save(tmp_path / "p.npz")
    with pytest.raises(
        ValueError,
        match=r"p\.npz: expected a saved stepwise.Trajectory, received a stepwise.Problem",
    ):
        Trajectory.load(tmp_path / "p.npz")
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(
        ValueError,
        match=r"x\.npz: expected a saved stepwise.Trajectory \(.npz\), received something",
    ):
        Trajectory.load(tmp_path / "x.npz")


def test_a_trajectory_is_a_tree_of_its_arrays(x64):
    out = replace(run(), snapshots=None, snapshot_times=None)
    doubled = jax.tree.map(lambda leaf: leaf * 2, out)
    np.testing.assert_array_equal(doubled.loss, 2 * out.loss)
    assert doubled.covariance_eigenvalues is None
    assert doubled.source == "gradient descent"
    back = jax.tree.unflatten(jax.tree.structure(out), jax.tree.leaves(out))
    np.testing.assert_array_equal(back.eigenvalues, out.eigenvalues)


def test_a_result_reads_as_a_sentence():
    assert str(Result(0, -1)) == "converged"
    assert str(Result(1, -1, "never shown")) == "stopped"
    assert str(Result(2, 7, "too fast")) == "diverged by step 7: too fast"


def test_a_run_without_a_law_finishes_and_one_with_a_law_stops_before_it_converges(x64):
    p = problems.modes(GAMMA)
    early = closed_form(p, problems.gaussian((2, 3), 1e-3), [0.0, 0.1])
    assert repr(early) == "Trajectory(closed form: eigenvalues [2, 2], stopped)"
    training = replace(early, rest=None, source="training")
    assert repr(training) == "Trajectory(training: eigenvalues [2, 2], finished)"
    diverged = replace(training, result=Result(2, 7, "too fast"))
    assert "diverged by step 7: too fast" in repr(diverged)


def test_matrices_that_are_not_finite_have_no_eigenvalues(x64):
    C = np.stack([np.diag([1.0, 3.0]), np.array([[np.inf, 0], [0, 1]]), np.full((2, 2), np.nan)])
    np.testing.assert_array_equal(
        trajectory.descending(jnp.asarray(C)), [[3, 1], [np.nan, np.nan], [np.nan, np.nan]]
    )


def test_converged_means_the_lowest_loss_that_the_positive_modes_allow(x64):
    p = problems.modes([1.0, -0.3])
    A0 = problems.gaussian((3, 2), 1e-3)
    assert closed_form(p, A0, [0.0, 100.0]).result.name == "converged"
    assert closed_form(p, A0, [0.0, 0.1]).result.name == "stopped"


def test_precision_is_the_widest_of_the_inputs(x64):
    narrow, times, A0 = (
        problems.modes(GAMMA, "float32"),
        np.float32([0, 1]),
        np.ones((2, 3), "float32"),
    )
    assert closed_form(narrow, A0, times).eigenvalues.dtype == "float32"
    assert closed_form(narrow, A0, times.astype(float)).eigenvalues.dtype == "float64"
    assert closed_form(narrow, A0.astype(int), times).eigenvalues.dtype == "float64"


def test_a_batch_is_split_and_reports_its_results(x64):
    p = problems.modes([1.0, 0.5, -0.1])
    starts = jnp.stack([p.start(jax.random.key(i), 2, 1e-3) for i in range(3)])
    batch = jax.vmap(lambda A: descent(p, A, 0.05, 400))(starts)
    parts = batch.unbatch()
    assert str(batch.result) == "3 converged" and "3 converged" in repr(batch)
    for A, part in zip(starts, parts, strict=True):
        alone = descent(p, A, 0.05, 400)
        np.testing.assert_allclose(part.eigenvalues, alone.eigenvalues, rtol=1e-12, atol=1e-14)
        assert str(part.result) == "converged"
    with pytest.raises(
        ValueError, match=r"trajectory: expected a batch, .* received float64 \[401\]"
    ):
        parts[0].unbatch()
    texts = []
    jax.jit(lambda A: texts.append(repr(closed_form(p, A, jnp.arange(1.0, 3)))) or A)(starts[0])
    assert texts == ["Trajectory(closed form: eigenvalues [2, 2], traced)"]
