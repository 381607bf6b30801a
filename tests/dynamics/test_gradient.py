import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stepwise import laws, losses, problem, spectra, updates
from stepwise.dynamics import closed_form, descent, flow
from tests import problems

GAMMA = np.array([1.0, 0.7, 0.45, 0.3, 0.1, -0.4])


def test_it_equals_gradient_descent_on_the_weights_in_pixel_space(x64):
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


def test_the_limit_includes_a_negative_mode_that_was_left_out(x64):
    cut = problems.modes([1.0, 0.5, -5.0]).truncate(2)
    assert float(descent(cut, np.full((1, 2), 0.1), 0.01, 1).stats["lr_limit"]) == pytest.approx(
        0.1
    )


def test_a_start_that_is_too_large_diverges_and_names_the_cause(dtype):
    p = problems.modes(GAMMA, dtype)
    out = descent(p, np.full((1, 6), 30, dtype), 0.1, 50, record_every=1)
    assert (
        str(out.result)
        == f"diverged by step {int(out.result.step)}: the learning rate, or the start, is too large"
    )


def test_the_requested_steps_and_the_last_are_recorded(x64):
    p, A0 = problems.modes(GAMMA), problems.gaussian((2, 6), 0.1)
    every = descent(p, A0, 0.05, 20, record_every=1, snapshots=True)
    np.testing.assert_allclose(every.times, 0.05 * np.arange(21), rtol=1e-14)
    requests = {
        "record_every": [(5, [0, 5, 10, 15, 20]), (7, [0, 7, 14, 20]), (50, [0, 20])],
        "record_at": [([0, 20], [0, 20]), ([3, 4, 17], [3, 4, 17, 20]), ([20], [20])],
    }
    for name, cases in requests.items():
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
            "record_every: expected None if record_at is given",
        ),
        ({"record_at": [1, 1]}, "record_at: expected increasing whole numbers in 0 ... 10"),
        ({"record_at": [0.5]}, "record_at: expected increasing whole numbers in 0 ... 10"),
        ({"record_at": [11]}, "record_at: expected increasing whole numbers in 0 ... 10"),
        ({"record_at": []}, "record_at: expected increasing whole numbers in 0 ... 10"),
    ],
)
def test_bad_arguments_are_rejected_by_name(options, message, x64):
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


def test_precision_follows_the_widest_array_and_ignores_python_numbers(x64):
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


def test_descent_of_the_same_loss_as_a_function_of_embeddings_is_plain_descent(x64):
    x, x2, _ = problems.views(GAMMA, 9, mean=1.0)
    p = problem.from_views(x, x2)
    A0 = problems.gaussian((3, 6), 0.1)
    plain = descent(p, A0, 0.02, 200, snapshots=True)
    for law in (None, laws.DEFAULT):
        explicit = descent(
            p, A0, 0.02, 200, law=law, loss=losses.barlow_twins_unnormalised, snapshots=True
        )
        np.testing.assert_allclose(explicit.eigenvalues, plain.eigenvalues, rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(explicit.loss, plain.loss, rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(explicit.snapshots, plain.snapshots, atol=1e-11)
        z = p.features @ explicit.snapshots[-1].T
        np.testing.assert_allclose(
            explicit.covariance_eigenvalues[-1], spectra.covariance_eigenvalues(z), rtol=1e-9
        )
    assert explicit.result.name == plain.result.name
    assert (
        descent(p, A0, 0.02, 2000, loss=losses.barlow_twins_unnormalised).result.name == "stopped"
    )


def test_any_other_loss_descends_the_gradient_of_that_loss(x64):
    x, x2, _ = problems.views(GAMMA, 9)
    p = problem.from_views(x, x2)
    A = jnp.asarray(problems.gaussian((2, 6), 0.3))
    run = descent(p, A, 0.05, 5, loss=losses.vicreg, record_every=1)

    def value(A):
        z = p.features @ A.T
        return losses.vicreg(z[: len(x)], z[len(x) :])

    for k in range(6):
        assert float(run.loss[k]) == pytest.approx(float(value(A)), rel=1e-10)
        A = A - 0.05 * jax.grad(value)(A)


class Doubled:
    """A rule with a method that returns its optax transformation."""

    def optax(self):
        return optax.sgd(0.04)


def test_an_update_replaces_the_plain_step(x64):
    p, A0 = problems.modes(GAMMA), problems.gaussian((3, 6), 0.1)
    plain = descent(p, A0, 0.02, 100, record_every=10)
    same = descent(p, A0, 0.02, 100, record_every=10, update=optax.sgd(0.02))
    np.testing.assert_allclose(same.eigenvalues, plain.eigenvalues, rtol=1e-12)
    twice = descent(p, A0, 0.02, 100, record_every=10, update=Doubled())
    np.testing.assert_allclose(
        twice.eigenvalues, descent(p, A0, 0.04, 100, record_every=10).eigenvalues, rtol=1e-12
    )
    np.testing.assert_array_equal(twice.times, plain.times)
    assert "lr_limit" not in twice.stats
    with pytest.raises(ValueError, match="update: expected an optax transformation"):
        descent(p, A0, 0.02, 10, update=0.9)


def test_a_rule_that_needs_the_modes_receives_those_of_the_problem(x64):
    p, A0 = problems.modes(GAMMA), problems.gaussian((3, 6), 0.1)
    rule = updates.InputPower(0.02, power=0.5)
    given = descent(p, A0, 0.02, 50, update=rule.optax(gamma=p.gamma))
    np.testing.assert_array_equal(descent(p, A0, 0.02, 50, update=rule).loss, given.loss)


def test_momentum_is_a_heavy_ball(x64):
    x, x2, _ = problems.views(GAMMA, 9)
    p = problem.from_views(x, x2)
    A, velocity = problems.gaussian((3, 6), 0.1), np.zeros((3, 6))
    options = {"update": optax.sgd(0.01, momentum=0.9), "record_every": 1}
    runs = [
        descent(p, A, 0.01, 60, **options),
        descent(p, A, 0.01, 60, loss=losses.barlow_twins_unnormalised, **options),
    ]
    for k in range(61):
        C = (A * GAMMA) @ A.T
        for run in runs:
            np.testing.assert_allclose(
                run.eigenvalues[k], np.linalg.eigvalsh(C)[::-1], rtol=1e-8, atol=1e-12
            )
        velocity = 0.9 * velocity + 4 * (C - np.eye(3)) @ A * GAMMA
        A = A - 0.01 * velocity


def byol(tree, x, x2):
    """Return the loss of BYOL without normalisation, with the online network as a fixed target."""
    W, P = tree["W"], tree["P"]
    one, two = x @ W.T, x2 @ W.T
    target, target2 = jax.lax.stop_gradient(one), jax.lax.stop_gradient(two)
    first, second = one @ P.T - target2, two @ P.T - target
    return jnp.mean(jnp.sum(first**2 + second**2, axis=1))


def test_a_model_with_a_predictor_descends_byol(x64, tmp_path):
    x, x2, _ = problems.views([1.0, 0.6, -0.2], 3)
    p = problem.from_views(x, x2)
    features, n = np.asarray(p.features), len(x)
    W, P = problems.gaussian((2, 3), 0.3), problems.gaussian((2, 2), 0.5, seed=1)
    run = descent(p, {"W": W, "P": P}, 0.02, 50, loss=byol, record_every=10, snapshots=True)
    for k in range(51):
        if k % 10 == 0:
            np.testing.assert_allclose(run.snapshots["W"][k // 10], W, atol=1e-12)
            np.testing.assert_allclose(run.snapshots["P"][k // 10], P, atol=1e-12)
            C = (W * np.asarray(p.gamma)) @ W.T
            np.testing.assert_allclose(run.eigenvalues[k // 10], np.linalg.eigvalsh(C)[::-1])
        slope_W, slope_P = np.zeros_like(W), np.zeros_like(P)
        for i in range(n):
            for a, b in ((features[i], features[n + i]), (features[n + i], features[i])):
                error = P @ W @ a - W @ b
                slope_W += 2 * np.outer(P.T @ error, a) / n
                slope_P += 2 * np.outer(error, W @ a) / n
        W, P = W - 0.02 * slope_W, P - 0.02 * slope_P
    assert run.result.name == "stopped" and run.loss[-1] < run.loss[0]
    run.save(tmp_path / "run.npz")
    again = type(run).load(tmp_path / "run.npz")
    np.testing.assert_array_equal(again.snapshots["P"], run.snapshots["P"])


def test_a_tree_needs_a_loss_and_embeddings(x64):
    p = problems.modes(GAMMA)
    layers = [np.ones((3, 6)), np.ones((2, 3))]
    with pytest.raises(
        ValueError, match="loss: expected a function loss\\(tree, x, x2\\) for a pytree A0"
    ):
        descent(p, layers, 0.1, 5)

    def embed(layers, x):
        return x @ layers[0].T @ layers[1].T

    def loss(layers, x, x2):
        return losses.barlow_twins_unnormalised(embed(layers, x), embed(layers, x2))

    with pytest.raises(ValueError, match=r"embed: expected a function \(tree, x\) -> embeddings"):
        descent(p, layers, 0.1, 5, loss=loss)
    run = descent(p, layers, 1e-3, 5, loss=loss, embed=embed)
    assert run.eigenvalues.shape == (6, 2) and run.snapshots[1].shape == (1, 2, 3)
    with pytest.raises(ValueError, match=r"embed: .* no entry W among"):
        descent(p, {"V": np.ones((2, 6))}, 0.1, 5, loss=loss)
