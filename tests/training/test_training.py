"""The training loop: its steps, its measurements and its end."""

import json
import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from stepwise import dynamics, losses, models, spectra, views
from stepwise.methods import Objective
from stepwise.training import loop as training
from stepwise.training import ownership, snapshots
from stepwise.training.plan import Plan
from stepwise.training.step import Step

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (24, 6, 6, 1)).astype(np.uint8)
CROPS = views.crops(4)
STILL = views.Recipe(views.View(), views.View())


def encoder(inputs=16, d=3, scale=None, seed=0, norm=False):
    rngs = nnx.Rngs(seed)
    head = models.Head(8, [5, d] if norm else [d], bias=False, rngs=rngs)
    network = models.Encoder(models.Features(inputs, [8], rngs=rngs), head)
    return network if scale is None else models.scale_start(network, scale)


MOMENTUM = partial(optax.sgd, momentum=0.9)
TWINS = Objective(losses.barlow_twins_unnormalised)


def plan(steps=12, batch_size=8, lr=0.02, optimiser=MOMENTUM, recipe=CROPS, **options):
    return Plan(steps, batch_size, lr, optimiser, recipe, **({"records": 5, "probe": 16} | options))


def train(module, objective=TWINS, pixels=PIXELS, **options):
    arguments = {
        name: options.pop(name) for name in ("folder", "predictor", "metadata") if name in options
    }
    return training.train(module, pixels, objective, plan(**options), **arguments)


def test_a_full_batch_without_views_is_full_batch_descent():
    objective = Objective(partial(losses.barlow_twins_unnormalised, center="none"))
    sgd = plan(steps=20, batch_size=24, recipe=STILL, optimiser=optax.sgd, lr=0.01, probe=24)
    run = training.train(encoder(36), PIXELS, objective, sgd)
    apply, params = models.functional(encoder(36))
    x = PIXELS.astype("float32") / 255
    reference, last = dynamics.full_batch(apply, params, x, x, 0.01, 20)
    np.testing.assert_allclose(run.encoder(x), apply(last, x), rtol=2e-4, atol=1e-6)
    first = objective.loss(apply(params, x), apply(params, x))
    np.testing.assert_allclose(run.trajectory.loss[[0, -1]], [first, reference.loss[-1]], rtol=1e-4)
    np.testing.assert_allclose(run.trajectory.times[-1], 0.2, rtol=1e-12)


def test_measurements_are_those_of_the_probe():
    run = train(encoder())
    trajectory, stats = run.trajectory, run.trajectory.stats
    step = Step(encoder(), PIXELS, TWINS, plan(), None, None)
    z1, z2 = (run.encoder(view) for view in step.probe)
    assert step.probe[0].shape == (16, 4, 4, 1)
    both = np.concatenate([z1, z2])
    np.testing.assert_allclose(
        trajectory.loss[-1], losses.barlow_twins_unnormalised(z1, z2), rtol=1e-4
    )
    np.testing.assert_allclose(
        trajectory.eigenvalues[-1], spectra.eigenvalues(z1, z2, center=True), rtol=1e-3, atol=1e-6
    )
    np.testing.assert_allclose(
        trajectory.covariance_eigenvalues[-1],
        np.linalg.eigvalsh(np.cov(both.T, ddof=0))[::-1],
        rtol=1e-3,
    )
    np.testing.assert_allclose(stats["rankme"][-1], spectra.rankme(both), rtol=1e-4)
    hidden = np.concatenate([run.encoder.backbone((view - 0.5) / 0.25) for view in step.probe])
    np.testing.assert_allclose(
        stats["stages/layer1"][-1],
        spectra.covariance_eigenvalues(hidden)[:64],
        rtol=1e-2,
        atol=1e-6,
    )
    np.testing.assert_array_equal(stats["step"], plan().samples())
    assert str(trajectory.result) == "stopped" and run.finished


def test_an_epoch_has_every_image_at_most_once_and_the_next_another_order():
    step = Step(encoder(), PIXELS, Objective(losses.vicreg), plan(batch_size=5), None, None)
    index = {image.tobytes(): i for i, image in enumerate(PIXELS)}
    key = jax.random.key(0)
    drawn = [
        [
            index[np.asarray(image).tobytes()]
            for image in step._draw_batch(key, jnp.asarray(i), step.pixels)
        ]
        for i in range(8)
    ]
    first, second = (
        np.ravel(drawn[:4]),
        np.ravel(drawn[4:]),
    )  # 24 = 4 · 5 + 4: the partial batch is dropped
    for epoch in (first, second):
        assert len(set(epoch)) == 20
    assert (first != second).any()


def test_rates_follow_the_schedule_and_times_are_their_sum():
    schedule = optax.linear_schedule(0.0, 0.1, 10)
    sampled = plan(steps=10, lr=schedule, record_at=[3, 7])
    assert sampled.samples().tolist() == [0, 3, 7, 10]
    run = train(encoder(), steps=10, lr=schedule, record_at=[3, 7])
    np.testing.assert_allclose(run.trajectory.times, np.array([0, 3, 21, 45]) / 100, rtol=1e-6)


def test_a_sample_before_any_time_has_passed_is_left_out():
    stopping = optax.join_schedules(
        [optax.linear_schedule(0.0, 0.1, 5), optax.constant_schedule(0.0)], [5]
    )
    run = train(encoder(), steps=10, lr=stopping, record_at=[1, 2, 4, 6, 8])
    assert run.finished and run.trajectory.stats["step"].tolist() == [0, 2, 4, 6]
    assert (np.diff(run.trajectory.times) > 0).all()


def test_the_target_is_the_running_mean_of_the_encoder():
    head = models.Head(3, [4, 3], rngs=nnx.Rngs(1))
    step = Step(encoder(norm=True), PIXELS, Objective(losses.byol, True, 0.9), plan(), head, None)
    state = step.start()
    for i in range(3):
        before = jax.tree.map(np.asarray, (state["target"], state["params"]["encoder"]))
        state = step.advance(state, 1)
        decay = 1 - 0.1 * (1 + np.cos(np.pi * i / 12)) / 2
        expected = jax.tree.map(
            lambda t, p, d=decay: d * t + (1 - d) * p, before[0], state["params"]["encoder"]
        )
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), state["target"], expected
        )
    assert any(
        (a != b).any()
        for a, b in zip(
            jax.tree.leaves(before[1]), jax.tree.leaves(state["params"]["encoder"]), strict=True
        )
    )


@pytest.mark.parametrize("loss", [losses.byol, losses.simsiam])
def test_a_predictor_learns_too_and_predicts_the_other_view(loss):
    decay = 0.99 if loss is losses.byol else None
    run = train(
        encoder(norm=True),
        Objective(loss, True, decay),
        steps=30,
        lr=0.05,
        predictor=models.Head(3, [6, 3], rngs=nnx.Rngs(1)),
    )
    assert run.trajectory.stats["train_loss"][-1] < run.trajectory.stats["train_loss"][1]


@pytest.mark.parametrize(
    "loss", [losses.barlow_twins, losses.simclr, losses.vicreg, losses.spectral_contrastive]
)
def test_every_loss_falls(loss):
    run = train(encoder(), Objective(loss), steps=200, lr=0.01, optimiser=optax.adam)
    assert np.isfinite(run.trajectory.loss).all()
    assert run.trajectory.stats["train_loss"][-1] < run.trajectory.stats["train_loss"][1]


def test_a_diverging_run_ends_as_diverged_with_the_last_good_parameters(tmp_path):
    run = train(encoder(), lr=1e4, steps=50, folder=tmp_path, record_at=range(50))
    assert run.finished and run.trajectory.result.name == "diverged"
    assert "the learning rate is too large" in str(run.trajectory.result)
    step = int(run.trajectory.result.step)
    assert 0 < step < 50 and f"diverged by step {step}" in str(run.trajectory.result)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(nnx.state(run.encoder)))
    again = train(encoder(), lr=1e4, steps=50, folder=tmp_path, record_at=range(50))
    assert str(again.trajectory.result) == str(run.trajectory.result)
    np.testing.assert_array_equal(
        again.encoder.head.layers[0].kernel[...], run.encoder.head.layers[0].kernel[...]
    )


def test_the_log_has_a_json_line_for_every_sample_and_events(tmp_path):
    run = train(encoder(), folder=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == run.trajectory.stats["step"].tolist()
    np.testing.assert_allclose([row["eigenvalues"] for row in rows], run.trajectory.eigenvalues)
    assert rows[0]["train_loss"] == 0 and len(rows[1]["stages/layer1"]) == 8
    assert any("events" in path.name for path in (tmp_path / "events").iterdir())


def test_a_finished_run_is_loaded_and_not_trained_again(tmp_path, monkeypatch):
    run = train(encoder(), folder=tmp_path)
    monkeypatch.setattr(Step, "advance", None)
    again = train(encoder(), folder=tmp_path)
    np.testing.assert_array_equal(again.trajectory.eigenvalues, run.trajectory.eigenvalues)
    x = PIXELS[:, :4, :4].astype("float32") / 255
    np.testing.assert_array_equal(again.encoder(x), run.encoder(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pixels": PIXELS[::-1].copy()}, r"it differs in \['images'\]"),
        ({"objective": Objective(losses.vicreg)}, r"it differs in \['objective'\]"),
        (
            {"objective": Objective(partial(losses.barlow_twins_unnormalised, center="none"))},
            r"\['objective'\]",
        ),
        ({"optimiser": partial(optax.sgd, momentum=0.8)}, r"it differs in \['optimiser'\]"),
        ({"probe": 8}, r"it differs in \['probe'\]"),
        ({"metadata": {"what": "else"}}, r"it differs in \['about'\]"),
        ({"module": encoder(seed=5)}, r"expected a run that begins with .*, received one with"),
    ],
)
def test_the_folder_of_another_run_is_refused(options, message, tmp_path):
    train(encoder(), folder=tmp_path, steps=3)
    before = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    with pytest.raises(ValueError, match=message):
        train(**({"module": encoder(), "folder": tmp_path, "steps": 3} | options))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == before


def test_a_snapshot_is_the_network_at_its_step(tmp_path):
    run = train(encoder(), folder=tmp_path, steps=12, snapshot_at=(0, 5, 12))
    x = PIXELS[:, :4, :4].astype("float32") / 255
    np.testing.assert_array_equal(snapshots.load(encoder(seed=1), tmp_path, 0)(x), encoder()(x))
    np.testing.assert_array_equal(snapshots.load(encoder(seed=1), tmp_path, 12)(x), run.encoder(x))
    five = train(encoder(), steps=5)
    np.testing.assert_array_equal(snapshots.load(encoder(seed=1), tmp_path, 5)(x), five.encoder(x))
    with pytest.raises(
        ValueError, match=r"step: expected one of the snapshots \[0, 5, 12\], received 6"
    ):
        snapshots.load(encoder(), tmp_path, 6)
    with pytest.raises(ValueError, match=r"step_5.npz: expected a snapshot of"):
        snapshots.load(encoder(d=2), tmp_path, 5)


def test_snapshots_that_a_run_passed_without_saving_are_missed_aloud(tmp_path):
    train(encoder(), folder=tmp_path, steps=12, snapshot_at=(5,))
    train(encoder(), folder=tmp_path, steps=12, snapshot_at=(5,))
    with pytest.warns(UserWarning, match=r"snapshot_at: the run in .* has passed steps \[3, 7\]"):
        train(encoder(), folder=tmp_path, steps=12, snapshot_at=(3, 5, 7))


def test_a_folder_in_which_another_process_trains_is_refused(tmp_path):
    with ownership.alone(tmp_path), pytest.raises(ValueError, match="no other process trains in"):
        train(encoder(), folder=tmp_path)
    assert train(encoder(), folder=tmp_path).finished


def test_a_run_whose_embeddings_overflow_between_two_steps_has_diverged(tmp_path):
    run = train(encoder(), lr=1e30, steps=5, folder=tmp_path, record_at=range(5))
    assert (
        run.finished
        and run.trajectory.result.name == "diverged"
        and int(run.trajectory.result.step) == 1
    )
    collapsed = train(models.scale_start(encoder(norm=True), 1e-38, "all"), steps=2)
    assert np.isnan(collapsed.trajectory.stats["rankme"][0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pixels": PIXELS / 255}, r"pixels: expected uint8 \[n, h, w, c\], received float64"),
        ({"batch_size": 25}, "pixels: expected at least a batch of 25 images, received uint8"),
        ({"batch_size": 0}, "batch_size: expected a positive whole number, received 0"),
        ({"steps": 0}, "steps: expected a positive whole number, received 0"),
        ({"lr": -1.0}, "lr: expected positive learning rates"),
        ({"lr": np.inf}, "lr: expected positive learning rates"),
        (
            {"objective": Objective(losses.byol)},
            "objective: expected predictor=True for a loss that collapses",
        ),
        (
            {"predictor": models.Head(3, [3], rngs=nnx.Rngs(0))},
            "predictor: expected None, as the objective has none",
        ),
        (
            {"objective": Objective(losses.simsiam, True)},
            "predictor: expected a module, received none",
        ),
    ],
)
def test_bad_arguments_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        train(encoder(), **options)


class Other(nnx.Module):
    """A module with an output of another form."""

    def __init__(self, form):
        self.layer, self.form = nnx.Linear(16, 3, rngs=nnx.Rngs(0)), form

    def __call__(self, x):
        return self.form(self.layer(x.reshape(len(x), -1)))


@pytest.mark.parametrize(
    ("form", "received"),
    [
        (lambda z: z[:, 0], r"float32 \[16\] of 16 images"),
        (lambda z: z[:, None, None], r"float32 \[16, 1, 1, 3\] of 16 images"),
        (lambda z: (z, z), "tuple"),
    ],
    ids=["vector", "map", "tuple"],
)
def test_outputs_that_are_no_embeddings_are_refused(form, received):
    message = f"encoder: expected real embeddings .* received {received}"
    with pytest.raises(ValueError, match=message):
        train(Other(form))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"snapshot_at": [99]}, r"snapshot_at: expected steps in 0 \.\.\. 12, received \[99\]"),
        ({"lr": lambda step: 0.1 if step < 3 else 0.01}, "lr: expected .* that JAX can trace"),
        (
            {"optimiser": lambda lr: optax.lookahead(optax.sgd(lr), 2, 0.5)},
            "Plan.optimiser: .*fast",
        ),
    ],
    ids=["snapshot", "schedule", "lookahead"],
)
def test_plans_that_cannot_be_followed_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        train(encoder(), **options)


def test_folders_that_cannot_hold_a_run_are_refused_before_the_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="folder: expected a folder, received the file"):
        train(encoder(), folder=tmp_path / "file")
    with pytest.raises(ValueError, match="folder: expected a name in UTF-8"):
        train(encoder(), folder=tmp_path / os.fsdecode(b"caf\xe9"))


@pytest.mark.parametrize("opaque", [False, True])
def test_an_optimiser_that_names_its_arguments_trains(opaque):
    sam = lambda lr: optax.contrib.sam(optax.sgd(lr), optax.sgd(0.05), opaque_mode=opaque)  # noqa: E731
    run = train(encoder(), optimiser=sam)
    assert run.finished and np.isfinite(run.trajectory.loss).all()


@pytest.mark.parametrize(
    "value", [(1, 2), np.float32(0.1), float("nan"), {1: 2}], ids=["tuple", "numpy", "nan", "keys"]
)
def test_a_finished_run_is_read_whatever_json_does_to_its_metadata(value, tmp_path):
    first, second = (
        train(encoder(), folder=tmp_path, metadata={"a": value}, steps=2) for _ in range(2)
    )
    np.testing.assert_array_equal(first.trajectory.loss, second.trajectory.loss)


def test_metadata_that_json_cannot_hold_are_refused_before_the_training(tmp_path):
    with pytest.raises(ValueError, match="metadata: expected what JSON can hold, received Object"):
        train(encoder(), folder=tmp_path, metadata={"a": object()})


def test_a_seed_in_place_of_a_key_is_refused_by_name():
    """A separate process is used, because the test session checks argument types first."""
    code = "import numpy as np; from stepwise import views\n"
    code += "views.positive_pairs(np.zeros((2, 8, 8, 3), np.uint8), 0, 'small')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ValueError: key: expected a random key such as jax.random.key(0)" in done.stderr
