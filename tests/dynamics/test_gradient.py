import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import problem, spectra
from stepwise.dynamics import closed_form, descent, flow
from tests import problems

GAMMA = np.array([1.0, 0.7, 0.45, 0.3, 0.1, -0.4])


def test_it_is_gradient_descent_on_the_weights_in_pixel_space(x64):
    x, x2, _ = problems.views(GAMMA, 9, mean=1.0)
    p = problem.from_views(x, x2)
    W = jnp.asarray(problems.gaussian((3, 9), 0.1))
    mean = (x + x2).mean(0) / 2

    def loss(W):
        z, z2 = (x - mean) @ W.T, (x2 - mean) @ W.T
        C = (z.T @ z2 + z2.T @ z) / (2 * len(x))
        return jnp.sum((C - jnp.eye(3)) ** 2), C

    out = descent(p, p.coordinates(W), 0.02, 60, record_every=1, snapshots=True)
    slope = jax.jit(jax.value_and_grad(loss, has_aux=True))
    for k in range(61):
        (value, C), gradient = slope(W)
        assert float(out.loss[k]) == pytest.approx(float(value), abs=1e-10)
        np.testing.assert_allclose(out.eigenvalues[k], np.linalg.eigvalsh(C)[::-1], atol=1e-10)
        np.testing.assert_allclose(out.snapshots[k], p.coordinates(W), atol=1e-10)
        W = W - 0.02 * gradient
    z = p.embed(out.snapshots[-1], np.concatenate([x, x2]))
    np.testing.assert_allclose(
        spectra.eigenvalues(z[: len(x)], z[len(x) :]), out.eigenvalues[-1], atol=1e-10
    )


def test_it_tends_to_the_flow_with_the_learning_rate_to_first_order(x64):
    p, A0 = problems.modes(GAMMA), problems.gaussian((3, 6), 0.1)
    exact = flow(p, A0, np.linspace(0, 4, 9), rtol=1e-11, atol=1e-14, reduce=False).eigenvalues
    errors = []
    for steps in (800, 1600, 3200):
        out = descent(p, A0, 4 / steps, steps, record_every=steps // 8)
        errors.append(float(np.abs(out.eigenvalues - exact).max()))
    np.testing.assert_allclose(np.log2(errors[:-1]) - np.log2(errors[1:]), 1, atol=0.02)


def test_a_negative_mode_sets_the_limit_of_the_learning_rate(x64):
    p = problems.modes([1.0, 0.5, -5.0])
    A0 = problems.gaussian((2, 3), 1e-3)
    beyond = descent(p, A0, 0.9 / 4, 300, record_every=1)
    assert beyond.result.name == "diverged"
    first = int(beyond.result.step)
    assert 5 < first < 25
    assert np.isfinite(beyond.loss[:first]).all()
    assert not np.isfinite(beyond.loss[first])
    assert str(beyond.result).startswith(f"diverged by step {first}: lr = 0.225 is above the limit")
    assert float(beyond.stats["lr_limit"]) == pytest.approx(0.1)
    below = descent(p, A0, 0.09, 300)
    assert below.result.name == "converged"
    assert float(below.loss[-1]) < 1e-9


def test_the_limit_counts_a_negative_mode_that_was_cut_off(x64):
    cut = problems.modes([1.0, 0.5, -5.0]).truncated(2)
    assert float(descent(cut, np.full((1, 2), 0.1), 0.01, 1).stats["lr_limit"]) == pytest.approx(
        0.1
    )


def test_a_start_that_is_too_large_diverges_with_that_as_its_cause(dtype):
    p = problems.modes(GAMMA, dtype)
    out = descent(p, np.full((1, 6), 30, dtype), 0.1, 50, record_every=1)
    assert (
        str(out.result)
        == f"diverged by step {int(out.result.step)}: the learning rate, or the start, is too large"
    )


def test_what_is_recorded_is_what_was_asked_for_and_the_last_step(x64):
    p, A0 = problems.modes(GAMMA), problems.gaussian((2, 6), 0.1)
    every = descent(p, A0, 0.05, 20, record_every=1, snapshots=True)
    np.testing.assert_allclose(every.times, 0.05 * np.arange(21), rtol=1e-14)
    asked = {
        "record_every": [(5, [0, 5, 10, 15, 20]), (7, [0, 7, 14, 20]), (50, [0, 20])],
        "record_at": [([0, 20], [0, 20]), ([3, 4, 17], [3, 4, 17, 20]), ([20], [20])],
    }
    for name, cases in asked.items():
        for value, steps in cases:
            out = descent(p, A0, 0.05, 20, snapshots=True, **{name: value})
            np.testing.assert_allclose(out.times, 0.05 * np.array(steps), rtol=1e-14)
            np.testing.assert_allclose(
                out.eigenvalues, every.eigenvalues[np.array(steps)], rtol=1e-12, atol=1e-15
            )
            np.testing.assert_array_equal(out.snapshot_times, out.times)
            np.testing.assert_allclose(
                out.snapshots, every.snapshots[np.array(steps)], rtol=1e-12, atol=1e-15
            )
    assert len(descent(p, A0, 0.05, 2500).times) == 1251
    last = descent(p, A0, 0.05, 20)
    np.testing.assert_array_equal(last.snapshot_times, last.times[-1:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr: expected a positive learning rate"),
        ({"lr": -0.1}, "lr: expected a positive learning rate"),
        ({"lr": np.nan}, "lr: expected finite"),
        ({"steps": 0}, "steps: expected a positive whole number, received 0"),
        (
            {"record_every": 0},
            "record_every: expected a positive whole number of steps, received 0",
        ),
        (
            {"record_every": 2, "record_at": [1]},
            "record_every: expected None where record_at is given",
        ),
        ({"record_at": [1, 1]}, "record_at: expected increasing whole numbers in 0 ... 10"),
        ({"record_at": [0.5]}, "record_at: expected increasing whole numbers in 0 ... 10"),
        ({"record_at": [11]}, "record_at: expected increasing whole numbers in 0 ... 10"),
        ({"record_at": []}, "record_at: expected increasing whole numbers in 0 ... 10"),
    ],
)
def test_bad_arguments_are_refused_by_name(options, message, x64):
    with pytest.raises(ValueError, match=message):
        descent(problems.modes(GAMMA), np.ones((1, 6)), **({"lr": 0.1, "steps": 10} | options))


def test_it_maps_over_starts_and_learning_rates(x64):
    p, starts, rates = (
        problems.modes(GAMMA),
        problems.gaussian((3, 2, 6), 0.1),
        np.array([0.01, 0.05, 0.1]),
    )
    run = jax.jit(jax.vmap(lambda A, lr: descent(p, A, lr, 40, record_every=10)))
    mapped = run(starts, rates)
    for i in range(3):
        alone = descent(p, starts[i], rates[i], 40, record_every=10)
        np.testing.assert_allclose(mapped.eigenvalues[i], alone.eigenvalues, rtol=1e-11, atol=1e-16)
        np.testing.assert_allclose(mapped.times[i], alone.times)
        assert int(mapped.result.code[i]) == int(alone.result.code)


def test_derivatives_in_the_start_and_the_learning_rate_equal_differences(x64):
    p, A0, h = problems.modes(GAMMA), problems.gaussian((2, 6), 0.3), 1e-6

    def total(A, lr):
        return jnp.sum(descent(p, A, lr, 30, record_every=10).eigenvalues[:, 0])

    slope, rate = jax.jit(jax.grad(total, argnums=(0, 1)))(A0, 0.05)
    direction = problems.gaussian((2, 6), 1.0, seed=3)
    difference = (total(A0 + h * direction, 0.05) - total(A0 - h * direction, 0.05)) / (2 * h)
    assert float(jnp.sum(slope * direction)) == pytest.approx(float(difference), rel=1e-7)
    assert float(rate) == pytest.approx(
        float((total(A0, 0.05 + h) - total(A0, 0.05 - h)) / (2 * h)), rel=1e-7
    )


def test_precision_follows_the_widest_array_and_a_python_number_widens_nothing(x64):
    narrow = problems.modes(GAMMA, "float32")
    A0 = problems.gaussian((2, 6), 0.1).astype("float32")
    out = descent(narrow, A0, 0.05, 10)
    assert {leaf.dtype.name for leaf in (out.times, out.eigenvalues, out.loss, out.snapshots)} == {
        "float32"
    }
    assert descent(narrow, A0, np.array(0.05), 10).eigenvalues.dtype == "float64"
    assert descent(narrow, A0.astype(float), 0.05, 10).eigenvalues.dtype == "float64"


def test_single_precision_stays_close_to_double(x64):
    A0 = problems.gaussian((3, 6), 1e-3)
    double = descent(problems.modes(GAMMA), A0, 0.02, 600)
    single = descent(problems.modes(GAMMA, "float32"), A0.astype("float32"), 0.02, 600)
    np.testing.assert_allclose(single.eigenvalues, double.eigenvalues, atol=2e-4)


def test_small_steps_from_a_small_start_follow_the_closed_form(x64):
    p = problems.modes(GAMMA[:4])
    A0 = problems.gaussian((2, 4), 1e-6)
    out = descent(p, A0, 0.002, 4000)
    theory = closed_form(p, A0, out.times)
    late = (
        spectra.step_times(out.times, out.eigenvalues)
        / spectra.step_times(out.times, theory.eigenvalues)
        - 1
    )
    np.testing.assert_allclose(late, 2 * 0.002 * GAMMA[:2], rtol=0.25)
