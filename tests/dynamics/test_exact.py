import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import laws
from stepwise.dynamics import closed_form, flow
from tests import problems

GAMMA = np.array([1.0, 0.7, 0.45, 0.3, 0.1, -0.4])
TIMES = np.linspace(0, 12, 25)


def test_from_an_aligned_start_it_is_the_law_of_each_mode(x64):
    A0, s = problems.aligned(GAMMA, 3, 1e-3)
    out = closed_form(problems.modes(GAMMA), A0, TIMES)
    each = laws.BarlowTwins(GAMMA).eigenvalues(TIMES, GAMMA[:3] * s**2)
    np.testing.assert_allclose(out.eigenvalues, np.sort(each, 1)[:, ::-1], rtol=1e-11)
    np.testing.assert_allclose(
        out.loss, laws.BarlowTwins(GAMMA).loss(TIMES, GAMMA[:3] * s**2), rtol=1e-12
    )
    assert (out.source, out.result.name) == ("closed form", "converged")


def test_its_snapshot_is_the_state_of_the_flow(x64):
    A0, _ = problems.aligned(GAMMA, 3, 1e-2)
    for end in (0.0, 2.0, 12.0):
        state = closed_form(problems.modes(GAMMA), A0, [end]).snapshots[-1]
        np.testing.assert_allclose(
            state,
            flow(problems.modes(GAMMA), A0, [end], rtol=1e-9, atol=1e-12, reduce=False).snapshots[
                -1
            ],
            atol=1e-7,
        )


def test_a_generic_start_acts_as_its_effective_aligned_one(x64):
    A0 = problems.gaussian((3, 6), 1e-3)
    s0 = np.asarray(laws.effective_start(A0))
    aligned = np.pad(np.diag(s0), ((0, 0), (0, 3)))
    p = problems.modes(GAMMA)
    whole = closed_form(p, A0, TIMES)
    np.testing.assert_allclose(
        whole.eigenvalues, closed_form(p, aligned, TIMES).eigenvalues, rtol=1e-12
    )
    turned = closed_form(p, problems.rotation(3, 5) @ A0, TIMES)
    np.testing.assert_allclose(whole.eigenvalues, turned.eigenvalues, rtol=1e-9)


def test_eigenvalues_are_sorted_if_a_later_mode_starts_ahead(x64):
    A0 = np.diag([1e-4, 0.1, 0.1, 0.1, 0.1, 0.1])[:2]
    out = closed_form(problems.modes(GAMMA), A0, TIMES)
    assert (np.diff(out.eigenvalues, axis=1) <= 0).all()
    assert out.eigenvalues[0, 0] == pytest.approx(0.7 * 0.01)


@pytest.mark.parametrize(
    ("gamma", "d"), [((1.0, 0.5), 4), ((1.0,), 1), ((1.0, 0.5, -0.3), 3), ((-0.5, -1.0), 1)]
)
def test_each_dimension_that_cannot_be_learned_leaves_one_in_the_loss(gamma, d, dtype):
    A0 = problems.gaussian((d, len(gamma)), 1e-2).astype(dtype)
    out = closed_form(problems.modes(gamma, dtype), A0, np.array([0, 1e3], dtype))
    missing = d - sum(g > 0 for g in gamma)
    assert out.loss[-1] == pytest.approx(missing, abs=1e-6)
    assert out.result.name == "converged"
    assert out.eigenvalues.dtype == out.loss.dtype == out.snapshots.dtype == dtype


def test_a_start_at_zero_stays_there(dtype):
    out = closed_form(problems.modes(GAMMA, dtype), np.zeros((2, 6), dtype), TIMES.astype(dtype))
    np.testing.assert_array_equal(out.eigenvalues, 0)
    assert out.result.name == "stopped"


def test_it_maps_over_starts_compiles_and_differentiates(x64):
    p = problems.modes(GAMMA)
    starts = problems.gaussian((4, 2, 6), 1e-2)
    mapped = jax.jit(jax.vmap(lambda A: closed_form(p, A, TIMES)))(starts)
    for i in range(4):
        np.testing.assert_allclose(
            mapped.eigenvalues[i], closed_form(p, starts[i], TIMES).eigenvalues, rtol=1e-12
        )

    def total(A, scale):
        moved = jax.tree.map(lambda leaf: leaf * scale, p)
        return jnp.sum(
            jnp.sin(jnp.arange(50.0).reshape(25, 2)) * closed_form(moved, A, TIMES).eigenvalues
        )

    slope, by_scale = jax.jit(jax.grad(total, argnums=(0, 1)))(starts[0], 1.0)
    direction, h = problems.gaussian((2, 6), 1e-2, seed=9), 1e-5
    difference = (total(starts[0] + h * direction, 1.0) - total(starts[0] - h * direction, 1.0)) / (
        2 * h
    )
    assert float(jnp.sum(slope * direction)) == pytest.approx(float(difference), rel=1e-6)
    by_difference = (total(starts[0], 1 + h) - total(starts[0], 1 - h)) / (2 * h)
    assert float(by_scale) == pytest.approx(float(by_difference), rel=1e-6)


@pytest.mark.parametrize(
    ("A0", "times", "message"),
    [
        (
            np.ones((2, 5)),
            TIMES,
            r"A0: expected 6 columns, one for each mode of the problem, received float64 \[2, 5\]",
        ),
        (np.ones(6), TIMES, "A0: expected an array of rank 2"),
        (np.full((2, 6), np.nan), TIMES, "A0: expected finite entries, received 12 of 12"),
        (np.ones((2, 6)), [1.0, 1.0], "times: expected increasing numbers, none below 0"),
        (np.ones((2, 6)), [-1.0, 1.0], "times: expected increasing numbers, none below 0"),
        (np.ones((2, 6)), [], "times: expected at least one time"),
        (np.ones((2, 6)), [0.0, np.inf], "times: expected finite entries"),
    ],
)
def test_bad_starts_and_times_are_rejected_by_name(A0, times, message, x64):
    for solve in (closed_form, flow):
        with pytest.raises(ValueError, match=message):
            solve(problems.modes(GAMMA), A0, times)
