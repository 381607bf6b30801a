"""The run of a configuration is trained once and loaded afterwards."""

import json
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import models, probes
from stepwise.training import runs
from stepwise.training.step import Step
from tests.data import layouts

SMALL = runs.Config(
    n_images=16,
    side=16,
    blocks=(1,),
    width=4,
    head=(3,),
    steps=4,
    batch_size=8,
    probe=8,
    records=3,
    lr=0.01,
)


def test_the_same_configuration_is_trained_once(tmp_path, monkeypatch):
    first = runs.train(SMALL, root=tmp_path)
    assert first.finished and first.trajectory.eigenvalues.shape[1] == 3
    (folder,) = tmp_path.iterdir()
    assert folder == runs.folder(SMALL, runs.load(SMALL), tmp_path)
    assert json.loads((folder / "config.json").read_text())["width"] == 4
    monkeypatch.setattr(Step, "advance", None)
    again = runs.train(SMALL, root=tmp_path)
    np.testing.assert_array_equal(again.trajectory.eigenvalues, first.trajectory.eigenvalues)


def test_another_setting_is_another_run_but_another_path_of_the_same_images_is_not():
    images = runs.load(SMALL)
    here = runs.folder(SMALL, images)
    assert runs.folder(replace(SMALL, data="folder:elsewhere"), images) == here
    for other in ({"seed": 1}, {"lr": 0.02}, {"method": "vicreg"}, {"head": (4,)}):
        assert runs.folder(replace(SMALL, **other), images) != here


@pytest.mark.parametrize("optimiser", ["lars", "adamw", "muon"])
def test_warm_up_and_cosine_give_the_schedule(optimiser):
    plan = runs.plan(
        replace(
            SMALL, optimiser=optimiser, warmup=10, cosine=True, steps=110, lr=0.5, weight_decay=1e-4
        )
    )
    rates = plan.rates()
    np.testing.assert_allclose(rates[:11], [*np.arange(0.05, 0.51, 0.05), 0.5], rtol=1e-5)
    np.testing.assert_allclose(rates[60], 0.25025, rtol=1e-5)
    assert 5e-4 < rates[-1] < 7e-4


def test_bad_settings_are_refused_by_name():
    for field, value, message in [
        (
            "temperature",
            0.5,
            "temperature: expected no value, because the loss of this method has no temperature",
        ),
        ("recipe", "nope", "recipe: expected one of crop20, small, .*, clip, received 'nope'"),
        ("head", (), r"head: expected a tuple of positive whole numbers, received \(\)"),
        ("offset", -3.0, r"offset: expected a number in \[0, inf\), received -3.0"),
        ("momentum", 2.0, r"momentum: expected a number in \[0, 1.0\), received 2.0"),
        ("warmup", -5, "warmup: expected a whole number from 0, received -5"),
        ("seed", -1, "seed: expected a whole number from 0, received -1"),
        ("seed", True, "seed: expected a whole number from 0, received True"),
        ("batch_size", 0, "batch_size: expected a positive whole number, received 0"),
        ("recipe", "dino_multicrop", "recipe: expected two views, because the loss .* crops"),
    ]:
        with pytest.raises(ValueError, match=message):
            replace(SMALL, **{field: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"method": "simclr", "temperature": 0.5, "loss_options": {"temperature": 0.1}},
            "loss_options: expected no temperature beside --temperature, received both",
        ),
        (
            {"method": "simclr", "loss_options": {"normalise": 0.3}},
            "loss_options: normalise: expected True or False .*, received 0.3",
        ),
        (
            {"method": "spectral_contrastive", "loss_options": {"mu": math.inf}},
            "loss_options: mu: expected a finite number",
        ),
        ({"backbone": "vit", "width": 25}, "width: expected a number that the 3 heads .* 25"),
        (
            {"backbone": "vit", "norm": "group"},
            "norm: expected 'batch' with a vit, which has none of this, received 'group'",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("lr", "a", "lr: expected a number, received 'a'"),
        ("lr", True, "lr: expected a number, received True"),
        ("temperature", "a", "temperature: expected a number, received 'a'"),
        ("start_of", 3, "start_of: expected a name, received 3"),
        ("center", "no", "center: expected True or False, received 'no'"),
        ("recipe", ["small"], r"recipe: expected a name, received \['small'\]"),
        ("norm", "x", "norm: expected one of batch, group, received 'x'"),
        ("loss_options", None, "loss_options: expected a dict of numbers by name, received None"),
    ],
)
def test_a_value_of_another_type_is_refused_without_a_type_checker(field, value, message):
    config = replace(SMALL)
    object.__setattr__(config, field, value)
    with pytest.raises(ValueError, match=message):
        config.__post_init__()


def test_numbers_of_numpy_and_whole_numbers_describe_the_same_run():
    plain = replace(SMALL, method="dino", loss_options={"warmup_steps": 3.0}, lr=0.5, seed=3)
    given = {"warmup_steps": np.int64(3)}
    other = replace(SMALL, method="dino")
    for name, value in (("lr", np.float32(0.5)), ("seed", np.int64(3)), ("loss_options", given)):
        object.__setattr__(other, name, value)
    other.__post_init__()
    given["warmup_steps"] = 4
    assert plain == other and hash(plain) == hash(other)
    images = runs.load(SMALL)
    assert runs.folder(plain, images) == runs.folder(other, images)


def test_optimisers_know_which_weights_are_matrices():
    """The biases of attention have two axes; its queries, keys and values have heads."""
    config = replace(SMALL, backbone="vit", width=16, patch=4, optimiser="adamw", weight_decay=0.1)
    params = {"encoder": models.stateful(runs.encoder(config))[1]}
    ones = jax.tree.map(jnp.ones_like, params)
    zero = jax.tree.map(jnp.zeros_like, params)
    rule = runs.plan(config).optimiser(0.1)
    decayed = rule.update(zero, rule.init(ones), ones)[0]
    for path, update in jax.tree_util.tree_leaves_with_path(decayed):
        expected = -0.01 if path[-1].key == "kernel" else 0.0
        np.testing.assert_allclose(update, expected, rtol=1e-5, err_msg=str(path))
    rule = runs.plan(replace(config, optimiser="muon")).optimiser(0.1)
    draw = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(0), leaf.shape), params)
    update = rule.update(draw, rule.init(params), params)[0]
    attention = update["encoder"]["backbone"]["stages"][0][0]["attention"]
    for name in ("query", "out"):  # both are square maps of 128 numbers
        values = np.linalg.svd(attention[name]["kernel"].reshape(128, -1), compute_uv=False)
        assert 0.06 < np.quantile(values, 0.1) < values.max() < 0.13


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"side": 1}, "side: expected a whole number from 8, received 1"),
        (
            {"side": 19, "recipe": "crop20"},
            "side: expected a whole number from 20, the side of the crops of the recipe crop20, "
            "received 19",
        ),
        (
            {"blocks": (1,) * 6},
            "side: expected views of at least 32 pixels, by which the network divides their side, "
            "received 16; use a larger --side, fewer --blocks or --stem small",
        ),
        (
            {"side": 64, "recipe": "crop20", "blocks": (1,) * 4, "stem": "imagenet"},
            "side: expected views of at least 32 pixels, .*, received 20; use a larger --side",
        ),
    ],
)
def test_a_side_that_is_too_small_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)
    replace(SMALL, side=8, blocks=(1,) * 4)
    replace(SMALL, side=20, recipe="crop20", stem="imagenet", blocks=(1,) * 3)


def test_fewer_images_than_those_of_the_run_are_refused(tmp_path):
    np.savez(tmp_path / "few.npz", pixels=np.zeros((3, 16, 16, 3), np.uint8))
    message = r"few\.npz: expected at least 16 images, received 3; pass --n-images 3"
    with pytest.raises(ValueError, match=message):
        runs.load(replace(SMALL, data=f"npz:{tmp_path}/few.npz"))


def test_neighbour_accuracy_is_that_of_the_test_split_and_is_cached(tmp_path, monkeypatch):
    root = tmp_path / "data"
    layouts.write(root, layouts.cifar_files(each=8))
    config = replace(SMALL, data="cifar10", data_dir=str(root), n_images=16)
    trained = runs.train(config, root=tmp_path)
    accuracies = runs.knn(config, trained.encoder, root=tmp_path, n_test=8, k=1)
    assert accuracies.keys() == {"pixels", "untrained", "trained"} and all(
        0 <= share <= 1 for share in accuracies.values()
    )
    images, test = runs.load(config), runs.load(replace(config, split="test", n_images=8))
    flat = [pixels.reshape(len(pixels), -1) / 255 for pixels in (images.pixels, test.pixels)]
    assert accuracies["pixels"] == probes.knn_accuracy(
        flat[0], images.labels, flat[1], test.labels, k=1
    )
    monkeypatch.setattr(probes, "knn_accuracy", None)
    assert runs.knn(config, trained.encoder, root=tmp_path, n_test=8, k=1) == accuracies
    np.savez(tmp_path / "bare.npz", pixels=images.pixels)
    assert (
        runs.knn(
            replace(SMALL, data=f"npz:{tmp_path / 'bare.npz'}"),
            trained.encoder,
            root=tmp_path / "other",
        )
        is None
    )


def test_the_same_images_from_elsewhere_are_the_same_run(tmp_path, monkeypatch):
    pixels = runs.load(SMALL).pixels
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", pixels=pixels)
    first = runs.train(replace(SMALL, data=f"npz:{tmp_path / 'a.npz'}"), root=tmp_path / "runs")
    monkeypatch.setattr(Step, "advance", None)
    again = runs.train(replace(SMALL, data=f"npz:{tmp_path / 'b.npz'}"), root=tmp_path / "runs")
    np.testing.assert_array_equal(again.trajectory.loss, first.trajectory.loss)
    (folder,) = (tmp_path / "runs").iterdir()
    assert json.loads((folder / "config.json").read_text())["data"].endswith("a.npz")
    assert len(list((folder / "events").iterdir())) == 1  # loading a run writes nothing


def test_neighbour_accuracy_is_cached_for_each_network(tmp_path):
    root = tmp_path / "data"
    layouts.write(root, layouts.cifar_files(each=8))
    config = replace(SMALL, data="cifar10", data_dir=str(root), n_images=16)
    for _ in range(2):
        runs.knn(config, runs.encoder(config), root=tmp_path, n_test=8, k=1)
    runs.knn(config, runs.encoder(replace(config, seed=3)), root=tmp_path, n_test=8, k=1)
    assert len(list(tmp_path.glob("*/knn-8-1-*.json"))) == 2


def test_a_run_of_another_code_version_is_used_with_a_warning(tmp_path, monkeypatch, caplog):
    runs.train(SMALL, root=tmp_path)
    assert not caplog.messages
    monkeypatch.setattr(runs, "_code", lambda: "another")
    runs.train(SMALL, root=tmp_path)
    assert (
        "trained by another version of the code; delete this folder to train again" in caplog.text
    )
