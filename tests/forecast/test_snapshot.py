"""Forecasts of linear models, whose features do not change, and of features without a mode."""

import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import forecast
from stepwise.forecast.extrapolation import extrapolate

LR, MOMENTUM = 0.004, 0.9


def pairs(n=600, gamma=(1.6, 0.9, 0.5, 0.02, 0.01), seed=0):
    """Return two Gaussian views with moments about diag(γ) and 1.5 diag(γ), rotated."""
    rng = np.random.default_rng(seed)
    gamma = np.array(gamma)
    turn = np.linalg.qr(rng.normal(size=(gamma.size, gamma.size)))[0]
    common = rng.normal(size=(n, gamma.size)) * np.sqrt(gamma)
    noise = rng.normal(size=(2, n, gamma.size)) * np.sqrt(gamma / 2)
    return (common + noise[0]) @ turn, (common + noise[1]) @ turn


def train(x, x2, steps, *, batch=None, d=4, seed=0, scale=1e-4):
    """Train a linear head by heavy ball; return weights [T, d, f], momenta and eigenvalues."""
    rng = np.random.default_rng(seed)
    mean = (x.mean(axis=0) + x2.mean(axis=0)) / 2
    full = (x - mean).T @ (x2 - mean) / len(x)
    full = (full + full.T) / 2
    W, V, weights, momenta, curves = scale * rng.normal(size=(d, x.shape[1])), 0.0, [], [], []
    for _ in range(steps):
        C = W @ full @ W.T
        weights.append(W), momenta.append(np.broadcast_to(V, W.shape))
        curves.append(np.linalg.eigvalsh(C)[::-1])
        G = full
        if batch is not None:
            i = rng.integers(0, len(x), batch)
            m = (x[i].mean(axis=0) + x2[i].mean(axis=0)) / 2
            G = (x[i] - m).T @ (x2[i] - m) / batch
            G = (G + G.T) / 2
        V = MOMENTUM * V - 4 * (np.eye(d) - W @ G @ W.T) @ W @ G
        W = W - LR * V
    return np.array(weights), np.array(momenta), np.array(curves)


@pytest.fixture(scope="module")
def full():
    x, x2 = pairs()
    return x, x2, *train(x, x2, 700)


@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_the_step_of_a_linear_model_is_forecast(full, mode, share):
    x, x2, weights, momenta, curves = full
    actual = int(np.argmax(curves[:, mode] >= 0.5))
    before = 0 if mode == 0 else int(np.argmax(curves[:, mode - 1] >= 0.5)) + 5
    step = int(before + share * (actual - before))
    options = {"step": step, "lr": LR, "momentum": MOMENTUM}
    said = forecast.next_step(x, x2, weights[step], **options, velocity=momenta[step])
    assert said.learned == mode and said.reason == ""
    assert said.amplitude == pytest.approx(curves[step, mode], rel=1e-6)
    # 0.4 stands for 1/2 before the take-off
    late = int(np.argmax(curves[:, mode] >= 0.4))
    assert said.step == pytest.approx((late + actual) / 2, abs=max(3, 0.04 * (actual - step)))
    assert said.low < actual < said.high
    guessed = forecast.next_step(x, x2, weights[step], **options)
    assert guessed.step - step == pytest.approx(said.step - step, rel=0.15, abs=3)


def test_the_direction_is_the_mode_that_is_learned_next(full):
    x, x2, weights, _, curves = full
    step = int(np.argmax(curves[:, 0] >= 0.5)) + 30
    said = forecast.next_step(x, x2, weights[step], step=step, lr=LR, momentum=MOMENTUM)
    later = weights[int(np.argmax(curves[:, 1] >= 0.9))]
    row = later[0] if abs(later[0] @ said.weights) > abs(later[1] @ said.weights) else later[1]
    moment = (x - x.mean(axis=0)).T @ (x2 - x2.mean(axis=0)) / len(x)
    vectors = np.linalg.eigh((moment + moment.T) / 2)[1][:, ::-1]
    assert abs(vectors[:, 1] @ said.weights) > 0.99, row
    assert said.direction.shape == (len(x),)
    assert np.linalg.norm(said.direction) == pytest.approx(1)
    assert abs(said.direction.mean()) < 1e-12


@pytest.mark.parametrize("mode", [0, 1])
def test_batches_slow_a_mode_as_forecast(mode):
    x, x2 = pairs(n=2000, gamma=(1.6, 0.9, 0.5, 0.3, 0.2))
    crossings, said = [], []
    for seed in range(4):
        weights, momenta, curves = train(x, x2, 400, batch=16, seed=seed)
        actual = int(np.argmax(curves[:, mode] >= 0.5))
        before = 0 if mode == 0 else int(np.argmax(curves[:, mode - 1] >= 0.5)) + 5
        step = (before + actual) // 2
        options = {"lr": LR, "momentum": MOMENTUM, "batch_size": 16}
        answer = forecast.next_step(
            x, x2, weights[step], step=step, velocity=momenta[step], **options
        )
        crossings.append(actual - step)
        said.append(answer.step - step)
    assert np.median(np.log(np.array(said) / crossings)) == pytest.approx(0, abs=0.25)


def test_views_that_agree_on_nothing_more_have_no_next_mode():
    rng = np.random.default_rng(0)
    x, x2 = pairs(gamma=(1.6, 0.9))
    opposite = rng.normal(size=(len(x), 3))
    a, b = np.concatenate([x, opposite], axis=1), np.concatenate([x2, -opposite], axis=1)
    weights, _, curves = train(a, b, 500)
    assert (curves[-1] > 0.9).sum() == 2
    said = forecast.next_step(a, b, weights[-1], step=499, lr=LR, momentum=MOMENTUM)
    assert said.learned == 2 and not said.coming and np.isinf(said.step)
    assert said.reason == "the features hold no further mode that these views agree on"
    assert "none is coming" in str(said)


def test_small_batches_can_drown_every_further_mode(full):
    x, x2 = pairs(gamma=(1.6, 0.9))
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(2, len(x), 1))
    common = 0.25 * rng.normal(size=(len(x), 1))
    a = np.concatenate([x, noise[0] + common], axis=1)
    b = np.concatenate([x2, noise[1] + common], axis=1)
    weights, _, _ = train(a, b, 300)
    options = {"step": 299, "lr": LR, "momentum": MOMENTUM}
    assert "batches" in forecast.next_step(a, b, weights[-1], batch_size=4, **options).reason


def test_all_dimensions_learned(full):
    x, x2, weights, _, _ = full
    said = forecast.next_step(x, x2, weights[-1][:3], step=699, lr=LR, momentum=MOMENTUM)
    assert said.learned == 3 and said.reason == "all 3 dimensions are learned"


def test_a_sensitivity_may_be_computed_from_the_direction(full):
    x, x2, weights, _, curves = full
    step = int(np.argmax(curves[:, 0] >= 0.5)) + 30
    options = {"step": step, "lr": LR, "momentum": MOMENTUM}
    seen = []

    def compute(direction, rows):
        seen.append((direction, rows))
        return 5.0

    said = forecast.next_step(x, x2, weights[step], sensitivity=compute, **options)
    plain = forecast.next_step(x, x2, weights[step], **options)
    assert abs(seen[0][0] @ plain.weights) == pytest.approx(1)
    assert seen[0][1].shape == (1, x.shape[1])
    assert said.step == forecast.next_step(x, x2, weights[step], sensitivity=5.0, **options).step
    assert said.step < plain.step


def test_the_kernel_of_the_head_alone_changes_nothing(full):
    x, x2, weights, _, _ = full
    both = np.concatenate([x, x2])
    for step in (20, 60):
        options = {"step": step, "lr": LR, "momentum": MOMENTUM, "batch_size": 32}
        said = forecast.next_step(x, x2, weights[step], **options)
        by_kernel = forecast.next_step(x, x2, weights[step], kernel=both @ both.T, **options)
        assert by_kernel.learned == said.learned
        for name in ("step", "low", "high", "rate", "amplitude"):
            assert getattr(by_kernel, name) == pytest.approx(getattr(said, name), rel=1e-6)
        assert abs(by_kernel.direction @ said.direction) == pytest.approx(1)
        assert by_kernel.weights is None


def test_a_kernel_of_twice_the_size_learns_in_half_the_time(full):
    x, x2, weights, _, _ = full
    both = np.concatenate([x, x2])
    options = {"step": 0, "momentum": 0.0}
    fast = forecast.next_step(x, x2, weights[0], kernel=2 * both @ both.T, lr=1e-4, **options)
    slow = forecast.next_step(x, x2, weights[0], lr=1e-4, **options)
    assert fast.step == pytest.approx(slow.step / 2, rel=0.01)


@pytest.mark.parametrize(
    ("kernel", "changes", "message"),
    [
        (np.eye(5), {}, r"kernel: expected \[1200, 1200\]"),
        (np.triu(np.ones((1200, 1200))), {}, "kernel: expected a symmetric matrix"),
        (np.zeros((1200, 1200)), {}, "kernel: expected a symmetric matrix that is not 0"),
        (np.diag([-1.0] + 1199 * [1.0]), {}, "kernel: expected no negative eigenvalue"),
        (np.eye(1200), {"velocity": np.zeros((4, 5))}, "kernel: expected no probe or velocity"),
    ],
)
def test_kernels_that_do_not_fit_are_refused(full, kernel, changes, message):
    x, x2, weights, _, _ = full
    options = {"step": 10, "lr": LR, "momentum": MOMENTUM} | changes
    with pytest.raises(ValueError, match=message):
        forecast.next_step(x, x2, weights[10], kernel=kernel, **options)


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_the_path_is_that_of_the_eigenvalue(full, mode):
    x, x2, weights, momenta, curves = full
    before = 0 if mode == 0 else int(np.argmax(curves[:, mode - 1] >= 0.5)) + 5
    actual = int(np.argmax(curves[:, mode] >= 0.5))
    step = (before + actual) // 2
    options = {"step": step, "lr": LR, "momentum": MOMENTUM, "velocity": momenta[step]}
    said = forecast.next_step(x, x2, weights[step], **options)
    steps, values = said.path
    assert (np.diff(steps) > 0).all()
    assert (steps[0], steps[-1]) == (step, pytest.approx(said.step))
    assert values[0] == pytest.approx(said.amplitude) and values[-1] == pytest.approx(0.5)
    early = (values < 0.1) & (values > 1e-5)
    real = np.interp(steps[early], np.arange(len(curves)), np.log(curves[:, mode]))
    assert early.sum() > 3
    np.testing.assert_allclose(np.log(values[early]), real, atol=0.05)


def test_a_mode_that_noise_undoes_is_none(full, monkeypatch):
    x, x2, weights, _, _ = full
    from stepwise.forecast import course

    monkeypatch.setattr(course, "simulate", lambda *a, **k: np.full(16, np.inf))
    said = forecast.next_step(x, x2, weights[10], step=10, lr=LR, momentum=MOMENTUM)
    assert not said.coming and "the noise of the batches undoes it" in said.reason
    assert said.path is None


def test_a_schedule_is_that_of_the_coming_steps(full):
    x, x2, weights, momenta, _ = full
    options = {"step": 20, "momentum": MOMENTUM, "velocity": momenta[20]}
    slow = forecast.next_step(x, x2, weights[20], lr=lambda step: LR / (1 + 0 * step), **options)
    assert slow.step == forecast.next_step(x, x2, weights[20], lr=LR, **options).step
    falling = forecast.next_step(x, x2, weights[20], lr=lambda step: LR * 0.98**step, **options)
    assert falling.step > slow.step


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"momentum": 1.0}, "momentum: expected a number in 0 ≤ x < 1"),
        ({"lr": 0.0}, "lr: expected a positive number"),
        ({"lr": np.nan}, "lr: expected a positive number"),
        ({"step": -1}, "step: expected a whole number from 0"),
        ({"batch_size": 1}, "batch_size: expected a whole number from 2"),
        ({"method": "byol"}, "method: expected one whose loss depends on the embeddings"),
        ({"sensitivity": -1.0}, "sensitivity: expected a number of at least 0"),
        ({"sensitivity": np.nan}, "sensitivity: expected a number of at least 0"),
        ({"velocity": np.zeros((2, 2))}, "velocity: expected"),
        ({"history": ([1, 0], [1.0, 2.0])}, "history: expected increasing steps"),
        ({"probe": (np.zeros((9, 2)), np.zeros((9, 2)))}, "probe: expected 5 features"),
    ],
)
def test_bad_arguments_are_refused(full, changes, message):
    x, x2, weights, _, _ = full
    options = {"step": 10, "lr": LR, "momentum": MOMENTUM} | changes
    with pytest.raises(ValueError, match=message):
        forecast.next_step(x, x2, weights[10], **options)


def test_features_that_do_not_fit_are_refused(full):
    x, x2, weights, _, _ = full
    options = {"step": 10, "lr": LR, "momentum": MOMENTUM}
    with pytest.raises(ValueError, match="head: expected 5 columns"):
        forecast.next_step(x, x2, weights[10].T, **options)
    with pytest.raises(ValueError, match="features2: expected shape"):
        forecast.next_step(x, x2[:-1], weights[10], **options)
    with pytest.raises(ValueError, match="features1: expected finite entries"):
        forecast.next_step(np.where(x > 2, np.nan, x), x2, weights[10], **options)


def test_an_exponential_is_extrapolated_exactly():
    steps = np.array([3, 10, 30, 50])
    assert extrapolate(steps, 1e-6 * np.exp(0.1 * steps)) == pytest.approx(10 * np.log(0.5e6))
    assert np.isinf(extrapolate(steps, np.exp(-0.1 * steps)))
    assert np.isinf(extrapolate([3], [0.1]))
    assert np.isinf(extrapolate(steps, [1, -1, 1, 1]))


def test_a_late_step_of_training_changes_the_forecast_little(full):
    x, x2, weights, momenta, _ = full
    options = {"lr": LR, "momentum": MOMENTUM, "velocity": momenta[20], "batch_size": 64}
    early, late = (forecast.next_step(x, x2, weights[20], step=s, **options) for s in (0, 10**6))
    assert late.step - 10**6 == pytest.approx(early.step, abs=64)


def test_a_negative_eigenvalue_does_not_hide_a_mode_that_grows(full):
    x, x2, _, _, _ = full
    b = np.concatenate([x2, -x[:, :1]], axis=1)
    a = np.concatenate([x, x[:, :1]], axis=1)
    head = np.array([[0.01, 0.01, 0.01, 0.01, 0.01, 0.1]])
    said = forecast.next_step(a, b, head, step=0, lr=LR, momentum=MOMENTUM)
    assert said.amplitude < 0 and said.coming and said.step > 0


def test_a_learning_rate_that_falls_to_zero_learns_nothing_more(full):
    x, x2, weights, momenta, curves = full
    options = {"step": 10, "momentum": MOMENTUM, "velocity": momenta[10]}
    taken = int(np.argmax(curves[:, 0] >= 0.1)) + 1
    said = forecast.next_step(
        x, x2, weights[10], lr=lambda s: jnp.where(s < taken, LR, 0.0), **options
    )
    assert not said.coming and "learning rate falls" in said.reason


def test_a_rate_at_which_descent_diverges_says_so(full):
    x, x2, weights, _, _ = full
    said = forecast.next_step(x, x2, weights[100], step=100, lr=50.0, momentum=MOMENTUM)
    assert not said.coming and "descent of the head diverges" in said.reason


def test_a_zero_head_has_no_component():
    x, x2 = pairs(n=50)
    for method in ("", "simclr"):
        said = forecast.next_step(x, x2, np.zeros((2, 5)), step=0, lr=0.1, method=method)
        assert not said.coming and "no component" in said.reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sensitivity": lambda w, r: np.nan}, "sensitivity: expected a number"),
        ({"bias": np.zeros(5)}, r"bias: expected shape \[4\]"),
        ({"history": ([9, 99], [0.1, 0.2])}, "history: expected steps up to 10"),
        ({"level": [0.5, 0.5]}, "level: expected one number, or one for each of 4 rows"),
    ],
)
def test_arguments_that_do_not_fit_the_others_are_refused(full, changes, message):
    x, x2, weights, _, _ = full
    options = {"step": 10, "lr": LR, "momentum": MOMENTUM} | changes
    with pytest.raises(ValueError, match=message):
        forecast.next_step(x, x2, weights[10], **options)
