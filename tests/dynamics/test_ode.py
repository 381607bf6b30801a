import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from stepwise.dynamics import closed_form, flow
from tests import problems

GAMMA = np.array([1.0, 0.7, 0.45, 0.3, 0.1, -0.4])
TIMES = np.linspace(0, 8, 9)
FINE = {"rtol": 1e-10, "atol": 1e-13, "reduce": False}


def integrate(gamma, A0, times):
    """Integrate the matrix flow by another solver; return eigenvalues and the last state."""
    d, r = A0.shape

    def field(t, flat):
        AD = flat.reshape(d, r) * gamma
        return (4 * (AD - AD @ flat.reshape(d, r).T @ AD)).ravel()

    solved = solve_ivp(
        field, (0, times[-1]), A0.ravel(), method="DOP853", rtol=1e-12, atol=1e-15, t_eval=times
    )
    states = solved.y.T.reshape(-1, d, r)
    return problems.spectrum(gamma, states), states[-1]


@pytest.mark.parametrize("scale", [0.5, 1e-2])
def test_it_agrees_with_another_solver_on_the_full_matrix(scale, x64):
    A0 = problems.gaussian((3, 6), scale)
    values, state = integrate(GAMMA, A0, TIMES)
    out = flow(problems.modes(GAMMA), A0, TIMES, **(FINE | {"rtol": 1e-11, "atol": 1e-14}))
    np.testing.assert_allclose(out.eigenvalues, values, atol=1e-9)
    np.testing.assert_allclose(out.snapshots[-1], state, atol=1e-9)
    np.testing.assert_allclose(out.loss, ((1 - values) ** 2).sum(1), atol=1e-8)


def test_from_an_aligned_start_it_is_the_closed_form(x64):
    A0, _ = problems.aligned(GAMMA, 3, 1e-2)
    p = problems.modes(GAMMA)
    out = flow(p, A0, TIMES, **(FINE | {"rtol": 1e-11, "atol": 1e-14}))
    np.testing.assert_allclose(out.eigenvalues, closed_form(p, A0, TIMES).eigenvalues, atol=1e-9)


def test_the_closed_form_becomes_exact_as_the_start_shrinks(x64):
    gamma = 0.6 ** np.arange(12.0)
    p, errors = problems.modes(gamma), []
    solve = jax.jit(
        jax.vmap(lambda A, times: flow(p, A, times, rtol=1e-9, atol=1e-12).eigenvalues, (0, None))
    )
    theory = jax.jit(jax.vmap(lambda A, times: closed_form(p, A, times).eigenvalues, (0, None)))
    for scale in (1e-2, 1e-3, 1e-5):
        A0 = problems.gaussian((6, 4, 12), scale)
        times = np.linspace(0, 1.4 * np.log(1 / scale**2) / (8 * gamma[3]), 60)
        errors.append(float(np.abs(solve(A0, times) - theory(A0, times)).mean()))
    # θ² = λ(0)^(1 − γ_k/γ_j) with 1 − γ_k/γ_j = 0.4, so the error falls as α^0.8/ln(1/α) or faster.
    assert errors[0] < 3e-2
    assert 0.4 < np.log10(errors[0] / errors[1]) < 2
    assert 0.8 < np.log10(errors[1] / errors[2]) < 4


@pytest.mark.parametrize(
    ("gamma", "d"), [((1.0, 0.5, -0.3), 3), ((1.0, 0.6), 4), ((2.0,), 1), ((-0.5, -1.0), 2)]
)
def test_the_final_rank_is_that_of_the_positive_modes(gamma, d, x64):
    A0 = problems.gaussian((d, len(gamma)), 0.1)
    out = flow(problems.modes(gamma), A0, [0.0, 40.0])
    rank = min(d, sum(g > 0 for g in gamma))
    np.testing.assert_allclose(
        out.eigenvalues[-1], np.r_[np.ones(rank), np.zeros(d - rank)], atol=2e-5
    )
    assert float(out.loss[-1]) == pytest.approx(d - rank, abs=1e-4)
    assert out.result.name == "converged"


def test_the_top_of_the_spectrum_is_learned_at_the_smallest_norm(x64):
    p, A0 = problems.modes(GAMMA), problems.gaussian((3, 6), 1e-7)
    A = np.asarray(flow(p, A0, [0.0, 40.0], rtol=1e-8).snapshots[-1])
    np.testing.assert_allclose(A.T @ A, np.pad(np.diag(1 / GAMMA[:3]), ((0, 3), (0, 3))), atol=2e-2)
    np.testing.assert_allclose(np.linalg.norm(A), np.linalg.norm(p.optimum(3)), rtol=1e-3)


def test_curves_are_invariant_under_rotations_of_the_embedding(x64):
    p, A0 = problems.modes(GAMMA), problems.gaussian((3, 6), 1e-2)
    one, two = (flow(p, A, TIMES, **FINE) for A in (A0, problems.rotation(3, 7) @ A0))
    np.testing.assert_allclose(one.eigenvalues, two.eigenvalues, atol=1e-8)
    np.testing.assert_allclose(
        problems.rotation(3, 7) @ one.snapshots[-1], two.snapshots[-1], atol=1e-7
    )


SLOW = np.r_[1.0, 0.8, 0.55, np.linspace(0.05, -0.05, 90)]


@pytest.mark.slow
@given(
    seed=st.integers(0, 2**16),
    scale=st.sampled_from([1e-1, 1e-2, 1e-3, 1e-6]),
    stretch=st.sampled_from([0.3, 1.0, 2.0]),
    kind=st.sampled_from(["slow", "close", "spread"]),
)
@settings(max_examples=4)
def test_fewer_modes_give_the_same_curves_to_within_the_bound(seed, scale, stretch, kind):
    noise = np.random.default_rng(seed).uniform(-1, 1, 93)
    gamma = {"slow": SLOW + 0.02 * noise, "close": 0.9 + 0.02 * noise, "spread": 0.5 + 0.5 * noise}[
        kind
    ]
    gamma = np.sort(gamma)[::-1]
    A0 = problems.gaussian((3, 93), scale / (3 if scale == 0.1 else 1), seed)
    until = stretch * np.log(1 / scale**2) / (8 * gamma[2])
    with jax.enable_x64(True):
        p, times = problems.modes(gamma), np.linspace(0, until, 7)
        whole = flow(p, A0, times, rtol=1e-9, atol=1e-12, reduce=False)
        few = flow(p, A0, times, rtol=1e-6, atol=1e-12)
    bound = float(few.stats["error_bound"])
    assert bound <= 1e-7
    assert np.abs(few.eigenvalues - whole.eigenvalues).max() <= bound + 2e-5
    if kind == "slow":
        assert int(few.stats["modes_kept"]) <= 30
    assert few.snapshots.shape == whole.snapshots.shape == (1, 3, 93)
    assert np.abs(few.snapshots[-1] - whole.snapshots[-1])[:, :3].max() < 1e-3


def test_the_skipped_linear_phase_is_right_at_early_times(x64):
    p, A0 = problems.modes(GAMMA), problems.gaussian((2, 6), 1e-6)
    times = np.array([0.0, 0.1, 1.0, 1.3, 1.6, 2.5, 4.0])
    skipped, whole = flow(p, A0, times), flow(p, A0, times, **FINE)
    np.testing.assert_allclose(skipped.eigenvalues, whole.eigenvalues, atol=2e-5)
    np.testing.assert_allclose(skipped.eigenvalues[:4], whole.eigenvalues[:4], atol=1.1e-7)


@pytest.mark.parametrize("reduce", [True, False])
@pytest.mark.parametrize(
    ("gamma", "A0", "times"),
    [
        ((1.0, 0.5, -1), np.zeros((2, 3)), [0, 5]),
        ((0, 0, 0), np.full((2, 3), 0.1), [0, 5]),
        ((-0.1, -0.5, -1), np.full((2, 3), 1e-3), [0, 5]),
        ((1.0, 1.0, 1.0), problems.gaussian((2, 3), 1e-2), [0, 5]),
        ((1.0, 0.5, -1), problems.gaussian((5, 3), 1e-2), [0, 5]),
        ((1.0, 0.5, 1e-30), problems.gaussian((2, 3), 1.5), [0, 5]),
        ((0.7,), np.array([[1e-4]]), [0, 5]),
        ((1.0, 0.5, -1), problems.gaussian((2, 3), 0.1), [0]),
        ((1.0, 0.5, -1), problems.gaussian((2, 3), 0.1), [3]),
    ],
    ids=[
        "A0=0",
        "gamma=0",
        "all negative",
        "degenerate",
        "d>r",
        "C(0)>I",
        "one mode",
        "t=0 alone",
        "one time",
    ],
)
def test_every_corner_case_agrees_with_another_solver(gamma, A0, times, reduce, x64):
    times = np.asarray(times, float)
    out = flow(problems.modes(gamma), A0, times, reduce=reduce)
    expected = (
        integrate(np.array(gamma), A0, times)[0]
        if times[-1] > 0
        else problems.spectrum(np.array(gamma), A0)
    )
    np.testing.assert_allclose(out.eigenvalues, expected.reshape(out.eigenvalues.shape), atol=3e-5)
    assert np.isfinite(out.snapshots).all()
    assert all(np.isfinite(value) for value in out.stats.values())


def test_a_divergence_is_a_result_that_names_time_and_cause(x64):
    out = flow(
        problems.modes([1.0, -3.0]),
        np.array([[2.0, 0.0], [1.0, 9.0]]),
        np.linspace(0, 5, 6),
        max_steps=60,
    )
    assert out.result.name == "diverged"
    assert 1 <= int(out.result.step) <= 5
    assert "stopped after max_steps = 60 steps; a negative mode can diverge" in str(out.result)


def test_it_maps_over_starts_and_compiles(x64):
    p, starts = problems.modes(GAMMA), problems.gaussian((3, 2, 6), 1e-2)
    mapped = jax.jit(jax.vmap(lambda A: flow(p, A, TIMES)))(starts)
    for i in range(3):
        np.testing.assert_allclose(
            mapped.eigenvalues[i], flow(p, starts[i], TIMES).eigenvalues, atol=2e-5
        )
    assert mapped.snapshots.shape == (3, 1, 2, 6)
    assert mapped.result.code.shape == (3,)


def test_derivatives_in_the_start_equal_differences(x64):
    p, A0, h = problems.modes(GAMMA[:4]), problems.gaussian((2, 4), 0.3), 1e-5
    direction = problems.gaussian((2, 4), 1.0, seed=3)

    def total(A):
        out = flow(p, A, TIMES[:3], rtol=1e-10, atol=1e-12, reduce=False, max_steps=512)
        return jnp.sum(out.eigenvalues[:, 0] * jnp.arange(3))

    slope = jax.jit(jax.grad(total))(A0)
    difference = (total(A0 + h * direction) - total(A0 - h * direction)) / (2 * h)
    assert float(jnp.sum(slope * direction)) == pytest.approx(float(difference), rel=1e-5)


def test_single_precision_stays_close_to_double(x64):
    A0 = problems.gaussian((3, 6), 1e-4)
    double = flow(problems.modes(GAMMA), A0, TIMES)
    narrow = flow(problems.modes(GAMMA, "float32"), A0.astype("float32"), TIMES.astype("float32"))
    for leaf in (narrow.times, narrow.eigenvalues, narrow.loss, narrow.snapshots):
        assert leaf.dtype == "float32"
    np.testing.assert_allclose(narrow.eigenvalues, double.eigenvalues, atol=3e-4)


def test_tolerances_must_be_positive(x64):
    with pytest.raises(
        ValueError, match=r"rtol, atol: expected positive tolerances, received 0.0, 1e-09"
    ):
        flow(problems.modes(GAMMA), np.ones((1, 6)), TIMES, rtol=0.0)


@pytest.mark.parametrize("until", [1e4, 1e6])
@pytest.mark.parametrize("rest", [True, False])
def test_a_long_rest_after_learning_is_not_a_divergence(until, rest, dtype):
    p = problems.modes(np.array([1.0, 0.5, 0.25, -0.1]), dtype)
    A0 = np.asarray(p.optimum(2)) if rest else problems.gaussian((2, 4), 1e-3)
    out = flow(p, A0.astype(dtype), np.array([0.0, 100.0, until], dtype))
    assert out.result.name == "converged"
    np.testing.assert_allclose(out.eigenvalues[1:], 1, atol=1e-3)


def test_a_solver_that_reaches_max_steps_names_only_that_cause(x64):
    p = problems.modes(GAMMA)
    out = flow(p, problems.gaussian((3, 6), 1e-3), TIMES, max_steps=3)
    assert "stopped after max_steps = 3 steps" in str(out.result)
    assert "C(0)" not in str(out.result)


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4, 1e8])
def test_the_units_of_gamma_do_not_matter(size, dtype):
    gamma = np.array([1.0, 0.3, 0.1, -0.4], dtype) * np.asarray(size, dtype)
    A0 = (
        1e-3
        * np.random.default_rng(0).normal(size=(2, 4)).astype(dtype)
        / np.sqrt(np.asarray(size, dtype))
    )
    times = np.linspace(0, 12, 30, dtype=dtype) / np.asarray(size, dtype)
    scaled = flow(problems.modes(gamma, dtype), A0, times)
    assert scaled.result.name == "converged" and int(scaled.stats["rejected"]) < 50
    plain = flow(problems.modes(gamma / gamma[0], dtype), A0 * np.sqrt(gamma[0]), times * gamma[0])
    np.testing.assert_allclose(scaled.eigenvalues, plain.eigenvalues, atol=2e-4)
