"""The state of every method trains, resumes to the same bits, and enters the identity of a run."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stepwise import losses, models, training, views
from stepwise.methods import METHODS, Objective
from stepwise.training import ownership, runs
from stepwise.training.step import Step
from tests.training import small
from tests.training.test_runs import SMALL

TINY = replace(SMALL, start_scale=1.0)


def predictor(objective):
    return models.Head(4, [6, 4], rngs=nnx.Rngs(1)) if objective.predictor else None


def train(objective, folder=None, until=None, recipe=None):
    plan = small.plan(steps=6, checkpoint_every=4, lr=0.01)
    plan = plan if recipe is None else replace(plan, recipe=recipe)
    parts = {"predictor": predictor(objective), "folder": folder, "until": until}
    return training.train(small.encoder(), small.PIXELS, objective, plan, **parts)


OBJECTIVES = {name: (row.objective, None) for name, row in METHODS.items()}
OBJECTIVES |= {"multi-crop": (small.DINO, small.LOCAL)}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_run_stopped_on_its_way_resumes_to_the_same_bits(name, tmp_path):
    objective, recipe = OBJECTIVES[name]
    whole = small.numbers(train(objective, tmp_path / "whole", recipe=recipe))
    part = train(objective, tmp_path / "part", until=3, recipe=recipe)
    assert not part.finished and part.trajectory.stats["step"][-1] == 3
    rest = train(objective, tmp_path / "part", recipe=recipe)
    assert rest.finished
    for key, values in small.numbers(rest).items():
        np.testing.assert_array_equal(values, whole[key], err_msg=key)


def test_the_online_network_alone_sees_the_local_crops():
    """The loss of a step is that of its views and crops, computed here one call at a time."""
    plan = replace(small.plan(), recipe=small.LOCAL)
    step = Step(small.encoder(), small.PIXELS, small.DINO, plan, None, None)
    state = step.start()
    state["target"] = jax.tree.map(lambda leaf: 1.5 * leaf, state["target"])
    loss, stats, _ = step.gradient(state)
    forward, params, first = models.stateful(small.encoder())
    key, order = jax.random.split(jax.random.wrap_key_data(state["key"]))[::-1]
    batch = step._draw_batch(order, state["step"], step.pixels)
    key = jax.random.fold_in(key, 0)
    pair, crops = (
        views.positive_pairs(batch, key, small.LOCAL),
        views.local_crops(batch, key, small.LOCAL),
    )

    def apply(params, stats, images):
        images = jnp.stack(images, axis=1).reshape(-1, *images[0].shape[1:])
        z, _, after = forward(params, stats, images, True)
        return z, after

    student, after = apply(params, first, pair)
    teacher, _ = apply(state["target"], first, pair)
    local, after = apply(params, after, crops)
    logits = (student[0::2], student[1::2], teacher[0::2], teacher[1::2])
    expected, _ = small.DINO.loss(
        *logits, state=losses.dino_center(4), local=[local[i::3] for i in range(3)]
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for got, wanted in zip(jax.tree.leaves(stats["encoder"]), jax.tree.leaves(after), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


def test_local_crops_need_a_loss_that_takes_them():
    plan = replace(small.plan(), recipe=small.LOCAL)
    with pytest.raises(ValueError, match="recipe: expected two views, as the loss takes no local"):
        Step(small.encoder(), small.PIXELS, Objective(losses.simclr), plan, None, None)


def test_the_parameters_of_a_loss_stay_within_their_bounds():
    def loss(z1, z2, *, parameters):
        return jnp.mean(z1 * z2) - 100 * parameters["scale"]

    bounded = {"parameters": lambda d: {"scale": 1.0}, "project": _at_most_two}
    step = Step(
        small.encoder(), small.PIXELS, Objective(loss, **bounded), small.plan(lr=1.0), None, None
    )
    state = step.advance(step.start(), 3)
    assert float(state["params"]["loss"]["scale"]) == 2.0
    with pytest.raises(ValueError, match=r"Objective.project: expected None without parameters"):
        Objective(losses.simclr, project=_at_most_two)
    described = ownership._describe_objective(Objective(loss, **bounded))
    assert "_at_most_two" in str(described)


def _at_most_two(parameters):
    return jax.tree.map(lambda leaf: jnp.minimum(leaf, 2.0), parameters)


def test_runs_of_earlier_versions_keep_their_folders():
    """The folder of fig3's first network, since before these settings existed."""
    config = runs.Config(snapshots=29)
    assert runs.folder(config, runs.load(config)).name == "533c2ce11a7747c2"


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "byol", "loss": "law"},
        {"method": "dino", "loss_options": {"teacher_temperature": 0.06}},
        {"method": "byol", "decay": 0.9},
        {"method": "isoloss", "center": True},
        {"method": "byol", "predictor": (), "predictor_start": 0.5},
        {"method": "dino", "prototypes": 6},
        {"backbone": "vit"},
        {"backbone": "vit", "patch": 8},
        {"recipe": "dino_multicrop", "method": "dino"},
    ],
)
def test_every_setting_is_part_of_the_identity_of_a_run_and_trains(changes, tmp_path):
    images = runs.load(TINY)
    names = [name for name in changes if name not in ("method", "predictor")]
    config = replace(TINY, **changes)
    for name in names:
        plain = {each: value for each, value in changes.items() if each != name}
        plain = {} if name == "backbone" else plain
        assert runs.folder(config, images) != runs.folder(replace(TINY, **plain), images)
    trained = runs.train(config, root=tmp_path)
    assert trained.finished and np.isfinite(trained.trajectory.loss).all()
    d = config.prototypes or 3
    assert trained.trajectory.eigenvalues.shape[1] == d


def test_the_settings_make_the_objective():
    own = METHODS["byol"]
    form = runs.objective(replace(TINY, method="byol", loss="law", decay=0.5))
    assert form.loss is own.law_loss and form.decay == 0.5 and form.predictor
    options = {"teacher_temperature": 0.06, "warmup_steps": 9.0}
    warm = runs.objective(replace(TINY, method="dino", loss_options=options, center=True))
    assert warm.loss.func is losses.centred and warm.loss.args[0].keywords == options
    linear = runs._predictor(replace(TINY, method="byol", predictor=(), predictor_start=0.3))
    np.testing.assert_allclose(linear.layers[0].kernel[...], 0.3 * np.eye(3), rtol=1e-6)
    assert linear.layers[0].bias is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "law"}, "loss: expected published, because the law of this method"),
        (
            {"loss_options": {"mu": 1.0}},
            "loss_options: expected arguments of the loss, center, off_diagonal, received 'mu'",
        ),
        (
            {"method": "isoloss", "loss_options": {"state": 1.0}},
            "expected arguments of the loss, alpha, decay, eps, relative, received 'state'",
        ),
        (
            {"method": "isoloss", "loss_options": {"alpha": float("nan")}},
            "loss_options: alpha: expected a finite number, received nan",
        ),
        ({"decay": 0.9}, "decay: expected no value, because this method has no target network"),
        ({"method": "byol", "decay": 1.5}, r"decay: expected a number in \[0, 1\], received 1.5"),
        (
            {"predictor_start": 0.5},
            "predictor_start: expected 0, unless the method has a predictor",
        ),
        (
            {"method": "dino", "prototypes": 4, "start_scale": 0.1},
            "prototypes: expected start_scale=1 and offset=0",
        ),
        ({"backbone": "vit", "patch": 5}, "side: expected views whose side is a multiple of the 5"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)
