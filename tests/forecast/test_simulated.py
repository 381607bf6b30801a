"""Forecasts of any loss and any head, of features that do not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stepwise import forecast, methods, models
from stepwise.forecast import answer, extrapolation, saved, simulated, simulation
from stepwise.training import runs
from tests.forecast.test_snapshot import pairs

MOMENTUM = 0.9


def eigenvalues(z1, z2):
    mean = (z1.mean(axis=0) + z2.mean(axis=0)) / 2
    C = (z1 - mean).T @ (z2 - mean) / len(z1)
    return np.linalg.eigvalsh((C + C.T) / 2)[::-1]


def train(forward, params, loss, views, steps, lr, batch, seed=0):
    """Train a head by heavy ball on random batches; return parameters [T] and eigenvalues."""
    a, b = (jnp.asarray(view, jnp.float32) for view in views)

    def value(params, first, second):
        both = jnp.stack([first, second], axis=1).reshape(-1, first.shape[1])
        z = forward(params, both)
        return loss(z[0::2], z[1::2])

    def step(state, key):
        params, velocity = state
        rows = jax.random.randint(key, (batch,), 0, len(a))
        slope = jax.grad(value)(params, a[rows], b[rows])
        velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, slope)
        new = jax.tree.map(lambda p, v: p - lr * v, params, velocity)
        return (new, velocity), params

    state = jax.tree.map(jnp.float32, params)
    keys = jax.random.split(jax.random.key(seed), steps)
    _, history = jax.jit(lambda s: jax.lax.scan(step, s, keys))(
        (state, jax.tree.map(jnp.zeros_like, state))
    )
    embed = jax.jit(jax.vmap(forward, in_axes=(0, None)))
    embedded = (np.asarray(embed(history, view)) for view in (a, b))
    curves = [eigenvalues(*pair) for pair in zip(*embedded, strict=True)]
    return history, np.array(curves)


def linear(params, x):
    return x @ params["rows"].T + params["bias"]


@pytest.fixture(scope="module")
def spectral():
    x, x2 = pairs(n=800, gamma=(1.0, 0.5, 0.02))
    rng = np.random.default_rng(0)
    params = {"rows": 1e-3 * rng.normal(size=(3, 3)), "bias": np.zeros(3)}
    loss = methods.find("spectral_contrastive").objective.loss
    return x, x2, *train(linear, params, loss, (x, x2), 400, 0.01, 64)


@pytest.mark.parametrize("mode", [0, 1])
def test_the_step_of_another_loss_is_forecast(spectral, mode):
    x, x2, history, curves = spectral
    level = 0.2
    actual = int(np.argmax(curves[:, mode] >= level))
    before = 0 if mode == 0 else int(np.argmax(curves[:, mode - 1] >= level)) + 5
    step = (before + actual) // 2
    said = forecast.next_step(
        x,
        x2,
        np.asarray(history["rows"][step]),
        bias=np.asarray(history["bias"][step]),
        step=step,
        lr=0.01,
        momentum=MOMENTUM,
        batch_size=64,
        method="spectral_contrastive",
        level=level,
    )
    assert said.learned == mode and said.reason == ""
    assert said.step - step == pytest.approx(actual - step, rel=0.15, abs=3)
    assert said.low < actual < said.high
    steps, values = said.path
    early = (values < 0.1) & (steps < 400)
    real = np.interp(steps[early], np.arange(400), np.log(curves[:, mode]))
    np.testing.assert_allclose(np.log(values[early]), real, atol=0.5)
    assert np.linalg.norm(said.direction) == pytest.approx(1)


def test_a_level_above_the_rest_is_extrapolated(spectral):
    x, x2, history, curves = spectral
    step = 40
    options = {"step": step, "lr": 0.01, "momentum": MOMENTUM, "batch_size": 64, "level": 30.0}
    options |= {"method": "spectral_contrastive"}
    past = np.arange(step - 9, step + 1), curves[step - 9 : step + 1, 0]
    head = np.asarray(history["rows"][step])
    said = forecast.next_step(x, x2, head, history=past, **options)
    assert said.coming and np.isnan(said.low) and said.step == said.extrapolated
    assert said.reason.startswith("extrapolated, because on the present features")
    without = forecast.next_step(x, x2, head, **options)
    assert not without.coming and "rests at" in without.reason


def test_a_stronger_backbone_is_sooner(spectral):
    x, x2, history, _ = spectral
    options = {"step": 20, "lr": 0.01, "momentum": MOMENTUM, "batch_size": 64, "level": 0.2}
    options |= {"method": "spectral_contrastive"}
    head = np.asarray(history["rows"][20])
    weak = forecast.next_step(x, x2, head, **options)
    strong = forecast.next_step(x, x2, head, sensitivity=lambda w, rows: 20.0, **options)
    assert strong.step < weak.step


def test_a_projector_is_forecast():
    """A head of two layers on fixed features, under Barlow Twins in the theory's form."""
    x, x2 = pairs(n=800, gamma=(1.6, 0.9, 0.1))
    module = models.Head(3, (16, 2), rngs=nnx.Rngs(0))
    layer = module.layers[-1]
    layer.kernel[...] = 1e-3 * layer.kernel[...]
    apply, params, stats = models.stateful(module)
    forward = lambda params, x: apply(params, stats, x, True)[0]  # noqa: E731
    row = methods.find("")
    history, curves = train(forward, params, row.objective.loss, (x, x2), 300, 0.004, 64)
    actual = int(np.argmax(curves[:, 0] >= 0.5))
    step = actual // 2
    here = jax.tree.map(lambda leaf: np.asarray(leaf[step]), history)
    head = simulation.Head(
        forward, here, jax.tree.map(np.zeros_like, here), jax.tree.map(np.ones_like, here)
    )
    said = simulated.forecast(
        head,
        row,
        (x, x2),
        (x, x2),
        step=step,
        rates=np.full(2000, 0.004),
        momentum=MOMENTUM,
        batch_size=64,
        learned=0,
        level=0.5,
        past=([step], [curves[step, 0]]),
    )
    assert said.step - step == pytest.approx(actual - step, rel=0.2, abs=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "isoloss"}, "method: expected one whose loss depends on the embeddings"),
        ({"method": "simclr", "prototypes": 4, "start_scale": 1.0}, "prototypes: expected none"),
        ({"loss_options": {"off_diagonal": 0.1}}, "loss_options: expected none for this method"),
        ({"optimiser": "adam"}, "optimiser: expected sgd"),
    ],
)
def test_a_run_whose_steps_the_forecast_does_not_know_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        saved.require_supported(runs.Config(**changes))


def test_the_form_of_the_loss_decides_whether_a_run_has_a_forecast():
    saved.require_supported(runs.Config(method="simclr", loss_options={"temperature": 0.2}))
    saved.require_supported(runs.Config(method="isoloss", loss="law"))


def test_a_refusal_says_whether_it_is_too_early_to_tell():
    early = extrapolation.extrapolated(([0.0], [1e-6]), 0, 0.5, "no features")
    flat = extrapolation.extrapolated(([0.0, 1.0], [1e-6, 1e-6]), 0, 0.5, "no features")
    assert "not known yet: one sample is too few for a line" in str(early)
    assert "none is coming: the next eigenvalue does not grow" in str(flat)
    later = answer.none_coming(0, "none within the next 10,000 steps")
    assert str(later) == "0 modes learned; none within the next 10,000 steps"


@pytest.mark.parametrize("method", ["byol", "simsiam", "dino"])
def test_methods_with_more_state_are_refused(method):
    x, x2 = pairs(n=50)
    with pytest.raises(ValueError, match="method: expected one whose loss depends on"):
        forecast.next_step(x, x2, np.ones((2, 5)), step=0, lr=0.1, method=method)


def test_a_kernel_and_other_levels_are_for_their_own_laws():
    x, x2 = pairs(n=50)
    options = {"step": 0, "lr": 0.1}
    with pytest.raises(ValueError, match="level: expected 1/2"):
        forecast.next_step(x, x2, np.ones((2, 5)), level=0.3, **options)
    with pytest.raises(ValueError, match="kernel: expected None"):
        forecast.next_step(
            x, x2, 0.1 * np.ones((2, 5)), kernel=np.eye(100), method="vicreg", **options
        )


def test_a_mode_that_still_grows_at_the_end_of_the_simulation_is_continued():
    x, x2 = pairs(n=200, gamma=(1.0, 0.5, 0.02))
    head = 1e-3 * np.random.default_rng(0).normal(size=(3, 3))
    options = {"step": 0, "momentum": MOMENTUM, "batch_size": None, "level": 0.1}
    options |= {"method": "spectral_contrastive"}
    slow = forecast.next_step(x, x2, head, lr=2e-4, **options)
    fast = forecast.next_step(x, x2, head, lr=2e-3, **options)
    assert slow.reason == "" and slow.step == pytest.approx(10 * fast.step, rel=0.25)


def test_an_extrapolation_is_not_before_the_snapshot():
    x, x2 = pairs(n=50)
    said = forecast.next_step(
        x, x2, 0.01 * np.ones((2, 5)), step=500, lr=1e-9, method="spectral_contrastive",
        level=0.1, history=([0, 1, 2], [1e-3, 1e-2, 5e-2]),
    )  # fmt: skip
    assert said.step >= 500 and "nan" not in str(said)


def test_the_forecast_works_where_implicit_broadcasting_is_an_error():
    x, x2 = pairs(n=50)
    with jax.numpy_rank_promotion("raise"):
        said = forecast.next_step(
            x, x2, 0.01 * np.ones((2, 5)), bias=np.ones(2), method="simclr",
            step=0, lr=0.01, level=0.1,
        )  # fmt: skip
    assert said.learned == 0
