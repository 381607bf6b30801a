"""A run read back from its folder: its views, its embedding along training, its kernels."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from stepwise import spectra, staircase, subject
from stepwise.training import runs

pytestmark = pytest.mark.slow
CONFIG = runs.Config(
    n_images=48,
    side=8,
    blocks=(1,),
    width=4,
    head=(2,),
    steps=40,
    batch_size=16,
    probe=16,
    lr=0.02,
    records=20,
    snapshots=3,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def of(root):
    return subject.from_run(CONFIG, runs.train(CONFIG, root=root), 12, root=root)


def test_a_folder_gives_the_configuration_back(of):
    assert subject.configuration(of.folder) == CONFIG


def test_views_are_pairs_of_the_chosen_images_and_the_same_again(of, root):
    again = subject.from_run(CONFIG, of.run, 12, root=root)
    assert of.x.shape == (24, 8, 8, 3)
    np.testing.assert_array_equal(again.x, of.x)
    assert len(of.indices) == 12
    everything = subject.from_run(CONFIG, of.run, 10_000, root=root)
    assert len(everything.indices) == 48


def test_the_embedding_along_training_ends_where_the_curves_end(of):
    z = of.embeddings_along
    z = z - z.mean(axis=1, keepdims=True)
    assert z.shape == (len(of.steps), 24, 2)
    assert of.steps[0] == 0 and of.steps[-1] == 40
    ends = [np.asarray(spectra.eigenvalues(each[:12], each[12:]))[0] for each in (z[0], z[-1])]
    measured = np.asarray(of.run.trajectory.eigenvalues)[[0, -1], 0]
    # other views of other images: the same size, not the same number
    np.testing.assert_allclose(np.log(ends), np.log(measured), atol=1.0)


def test_kernels_are_kept_and_read(of):
    K = of.kernel(40)
    assert K.shape == (24, 24)
    np.testing.assert_allclose(K, K.T)
    kept = list((of.folder / "entk").glob("step_40_*.npz"))
    assert len(kept) == 1
    before = kept[0].read_bytes()
    np.testing.assert_array_equal(of.kernel(40), K)
    assert kept[0].read_bytes() == before
    assert np.abs(of.kernel(0) - K).max() > 0


def test_a_step_that_was_not_kept_is_refused(of):
    with pytest.raises(ValueError, match=r"step: expected one of the snapshots"):
        of.kernel(17)


def test_d_is_what_was_learned(of):
    assert of.d == max(1, staircase.numbers(of.run.trajectory)["crossed"])
    assert of.embedding.shape == (24, of.d)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found | {"steps": -1}, "steps"),
        (
            lambda found: {name: found[name] for name in found if name != "width"},
            "difference in width",
        ),
        (lambda found: found | {"colour": 1}, "difference in colour"),
        (lambda found: [1, 2], "expected a run's configuration"),
        (None, "expected a run's configuration"),
    ],
)
def test_a_foreign_or_damaged_configuration_is_refused_by_name(of, change, message, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(of.folder, folder)
    path = folder / "config.json"
    path.write_text(
        '{"data": ' if change is None else json.dumps(change(json.loads(path.read_text())))
    )
    with pytest.raises(ValueError, match=message):
        runs.plan(subject.configuration(folder))
    with pytest.raises(ValueError, match="expected the folder of a run"):
        subject.configuration(tmp_path)


def test_no_pairs_are_refused(of, root):
    with pytest.raises(ValueError, match="n_pairs: expected a positive number"):
        subject.from_run(dataclasses.replace(CONFIG), of.run, 0, root=root)
