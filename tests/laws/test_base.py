"""Properties of every law: growth, rest and step times agree with the law's own flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import laws, moments, problem, spectra, validity
from stepwise.compare import compare
from stepwise.dynamics import closed_form, descent, flow
from stepwise.laws import BarlowTwins, Law, NotKnownError, Supervised
from tests import problems
from tests.laws.examples import Half, HalfKnown, Pencil

GAMMA = np.array([1.0, 0.5, 0.2, -0.3])
SIGMA = np.array([1.2, 2.5, 0.3, 0.5])
LAM0 = np.array([1e-6, 1e-4])
LAWS = {
    "Barlow Twins": lambda: BarlowTwins(GAMMA),
    "half": lambda: Half(jnp.asarray(GAMMA)),
    "half, known": lambda: HalfKnown(jnp.asarray(GAMMA)),
    "pencil": lambda: Pencil(jnp.asarray(GAMMA), jnp.asarray(SIGMA), 0.5),
}
WITH_REST = LAWS | {"supervised": lambda: Supervised(np.maximum(GAMMA, 0), np.ones(4))}


@pytest.fixture(params=LAWS)
def law(request, x64):
    return LAWS[request.param]()


@pytest.fixture(params=WITH_REST)
def any_law(request, x64):
    return WITH_REST[request.param]()


def test_the_flow_is_minus_the_gradient_of_the_objective(any_law):
    A = jnp.asarray(problems.gaussian((3, 4), 0.7))
    np.testing.assert_allclose(any_law.rhs(A), -jax.grad(any_law.objective)(A), atol=1e-12)


def test_growth_is_the_rate_of_a_variance_near_the_small_start(law):
    h, first = 1e-3, law.order[:2]
    curves = np.log(law.eigenvalues([0.0, h], [1e-12, 1e-12]))
    np.testing.assert_allclose((curves[1] - curves[0]) / h, law.growth()[first], rtol=1e-6)
    np.testing.assert_array_equal(law.grows(), law.growth() > 0)
    assert (np.diff(law.growth()[law.order]) <= 0).all()


def test_curves_end_at_the_rest_of_the_law(any_law):
    ends = any_law.eigenvalues([60.0], LAM0)[0]
    np.testing.assert_allclose(ends, any_law.rest()[any_law.order[:2]], rtol=1e-6)


def test_curves_are_the_matrix_flow_of_an_aligned_start(any_law):
    times = np.linspace(0, 3, 5)
    whole = any_law.aligned_start(LAM0)
    fine = Law.eigenvalues(any_law, times, LAM0)
    np.testing.assert_allclose(fine, any_law.eigenvalues(times, LAM0), rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(np.diagonal(any_law.measure(whole)), LAM0, rtol=1e-12)


@pytest.mark.parametrize("level", [0.1, 0.5])
def test_step_times_are_where_curves_cross(any_law, level):
    tau = any_law.step_times(LAM0, level)
    values = np.diagonal(any_law.eigenvalues(tau, LAM0))
    np.testing.assert_allclose(values, level * any_law.rest()[any_law.order[:2]], rtol=1e-6)


def test_the_loss_is_the_objective_along_the_curves(any_law):
    times = np.array([0.0, 0.7, 50.0])
    states = [any_law.aligned_start(lam) for lam in any_law.eigenvalues(times, LAM0)]
    expected = [float(any_law.objective(A)) for A in states]
    np.testing.assert_allclose(any_law.loss(times, LAM0), expected, rtol=1e-6, atol=1e-12)
    modes = any_law.final_modes(2)
    A = any_law.aligned_start(any_law.rest()[modes], modes)
    np.testing.assert_allclose(any_law.lowest_loss(2), any_law.objective(A), atol=1e-12)
    np.testing.assert_allclose(any_law.rhs(A), 0, atol=1e-10)


def test_laws_are_pytrees_that_compile_map_and_differentiate(law):
    jitted = jax.jit(lambda law: law.eigenvalues(jnp.array([0.3]), jnp.asarray(LAM0)))(law)
    np.testing.assert_allclose(jitted, law.eigenvalues([0.3], LAM0), rtol=1e-6)
    pair = jax.tree.map(lambda leaf: jnp.stack([jnp.asarray(leaf)] * 2), law)
    np.testing.assert_array_equal(jax.vmap(lambda law: law.growth())(pair)[1], law.growth())
    axes = jax.tree.map(lambda _: 0, law)
    mapped = jax.vmap(lambda law: law.rest(), in_axes=(axes,))(pair)
    np.testing.assert_array_equal(mapped[0], law.rest())

    def first_step(size):
        return law.step_times(jnp.asarray(LAM0) * size)[0]

    slope = jax.grad(first_step)(1.0)
    difference = (first_step(1 + 1e-3) - first_step(1 - 1e-3)) / 2e-3
    np.testing.assert_allclose(slope, difference, rtol=1e-3)


def test_step_times_of_modes_that_never_cross_are_infinite(law):
    at_rest = law.rest()[law.order[0]]
    for start in ([0.0], [0.9 * float(at_rest)]):
        assert law.step_times(start)[0] == np.inf


def test_a_mode_of_larger_rest_takes_over_and_the_rest_deflates(x64):
    law = LAWS["pencil"]()
    drive, sigma = np.asarray(law.drive), np.asarray(law.sigma)
    np.testing.assert_array_equal(law.order[:2], [1, 0])
    np.testing.assert_array_equal(law.final_modes(2), [0, 2])  # ρ decides in the end, not the rate
    expected = 8 * sigma[0] * (drive[0] / sigma[0] - drive[1] / sigma[1])
    np.testing.assert_allclose(law.takeover(1, 0), expected, rtol=1e-10)
    np.testing.assert_allclose(law.next_growth([1]), 8 * drive[0], rtol=1e-10)
    np.testing.assert_allclose(law.next_growth([]), 8 * drive[1], rtol=1e-10)
    rows = law.aligned_start(law.rest()[:1], np.array([0]))
    np.testing.assert_allclose(law.next_growth(rows), law.next_growth([0]), rtol=1e-12)
    assert BarlowTwins(GAMMA).takeover(0, 1) == Law.takeover(BarlowTwins(GAMMA), 0, 1) == 0


def two_moments():
    """Return a problem whose Γ and Σ share a basis, and a law of it with another order."""
    p = problems.modes(GAMMA)
    scale = np.sqrt(SIGMA / np.diagonal(p.sigma))
    p = jax.tree.map(lambda leaf: leaf, p)
    object.__setattr__(p, "features", p.features * scale[None])
    return p, lambda p, d: Pencil(p.gamma, jnp.diagonal(p.sigma), 0.5)


def test_every_solver_accepts_a_law_with_another_order(x64):
    p, law = two_moments()
    A0 = problems.gaussian((2, 4), 1e-5)
    times = np.linspace(0, 4, 60)
    theory = closed_form(p, A0, times, law=law)
    run = flow(p, A0, times, law=law, rtol=1e-9, atol=1e-12)
    steps = descent(p, A0, 1e-3, 4000, law=law)
    assert theory.observable == run.observable == steps.observable == "covariance"
    s0 = laws.effective_start(A0, law(p, 2))
    own = np.linalg.qr(A0[:, [1, 0]])[1]
    np.testing.assert_allclose(s0, np.abs(np.diagonal(own)), rtol=1e-12)
    for experiment, error in ((run, 2e-3), (steps, 1e-2)):
        gap = compare(theory, experiment)
        assert gap.n_learned == 2
        assert gap.step_time_error[0] < error
    np.testing.assert_allclose(theory.rest, np.sort(law(p, 2).rest())[::-1][:2])
    report = validity.report(p, 2, A0=A0, law=law, lr=1e-3)
    assert report.stable is None and report.lr_limit is None
    half = float(law(p, 2).rest()[1]) / 2
    first = spectra.step_times(times, run.eigenvalues, half)[0]
    np.testing.assert_allclose(report.step_times[0], first, rtol=2e-3)
    assert "stability" not in " ".join(report.warnings())
    assert "lr_limit" not in steps.stats
    with pytest.raises(ValueError, match="max_stable_lr: expected a law with a known stable"):
        p.max_stable_lr(law=law)
    z = p.predict(2, law=law)
    np.testing.assert_allclose(np.diagonal(z.T @ z) / len(z), theory.rest, rtol=1e-6)


def test_truncating_a_problem_is_rejected_if_the_order_is_not_that_of_gamma(x64):
    p, law = two_moments()
    message = "expected a law whose modes grow in the order of γ"
    with pytest.raises(ValueError, match=f"law: {message}"):
        p.truncate(2, law=law)
    assert p.truncate(2).gamma.size == 2
    with pytest.raises(
        ValueError, match="problem: expected a problem with all of its modes, because Pencil"
    ):
        closed_form(p.truncate(2), np.ones((1, 2)), [1.0], law=law)


@pytest.mark.parametrize(
    ("law", "message"),
    [
        (
            lambda p, d: 3,
            r"law: expected a function \(problem, d\) -> Law, received a value of type int",
        ),
        (5, r"law: expected a function \(problem, d\) -> Law, received a value of type int"),
        (Pencil, r"law: expected a function of \(problem, d\), such as .* received the class"),
        (dict, "law: expected a subclass of Law, received dict"),
        (
            lambda p, d: BarlowTwins([1.0]),
            "law: expected a law of 4 modes, as many as the problem has",
        ),
    ],
)
def test_objects_that_are_not_a_law_of_the_problem_are_rejected(law, message, x64):
    with pytest.raises(ValueError, match=message):
        closed_form(problems.modes(GAMMA), np.ones((1, 4)), [1.0], law=law)


def test_a_class_and_a_law_itself_are_accepted_too(x64):
    p, A0 = problems.modes(GAMMA), problems.gaussian((2, 4), 1e-3)
    times = np.linspace(0, 5, 9)
    plain = closed_form(p, A0, times).eigenvalues
    for law in (BarlowTwins, BarlowTwins(GAMMA), laws.DEFAULT, lambda p, d: BarlowTwins(p.gamma)):
        np.testing.assert_array_equal(closed_form(p, A0, times, law=law).eigenvalues, plain)


def test_properties_that_are_not_known_raise_by_name(x64):
    bare = Law()
    for name, call in {
        "growth": bare.growth,
        "rest": bare.rest,
        "objective": lambda: bare.objective(np.ones((1, 1))),
        "unit": bare.unit,
        "max_stable_lr": bare.max_stable_lr,
    }.items():
        with pytest.raises(NotKnownError, match=f"{name}: expected a law with .* received Law"):
            call()


def test_the_second_moment_of_a_problem_is_that_of_its_views(dtype):
    x, x2, _ = problems.views(GAMMA, 6, mean=1.0)
    x, x2 = x.astype(dtype), x2.astype(dtype)
    for center in ("pooled", "per_view", "none"):
        p = problem.from_views(x, x2, center=center)
        _, sigma = moments.of_pairs(x, x2).centre(center)
        V = np.asarray(p.basis, float)
        atol = 1e-5 if dtype == "float32" else 1e-12
        np.testing.assert_allclose(p.sigma, V.T @ sigma @ V, atol=atol)
