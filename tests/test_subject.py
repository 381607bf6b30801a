"""Analysis of a stored run: its views, its embedding along training, its kernels."""

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
def analysis(root):
    return subject.from_run(CONFIG, runs.train(CONFIG, root=root), 12, root=root)


def test_the_configuration_is_read_from_the_folder(analysis):
    assert subject.configuration(analysis.folder) == CONFIG


def test_views_are_pairs_of_the_chosen_images_and_reproducible(analysis, root):
    again = subject.from_run(CONFIG, analysis.run, 12, root=root)
    assert analysis.x.shape == (24, 8, 8, 3)
    np.testing.assert_array_equal(again.x, analysis.x)
    assert len(analysis.indices) == 12
    everything = subject.from_run(CONFIG, analysis.run, 10_000, root=root)
    assert len(everything.indices) == 48


def test_the_embedding_along_training_ends_where_the_curves_end(analysis):
    z = analysis.embeddings_along
    z = z - z.mean(axis=1, keepdims=True)
    assert z.shape == (len(analysis.steps), 24, 2)
    assert analysis.steps[0] == 0 and analysis.steps[-1] == 40
    ends = [np.asarray(spectra.eigenvalues(each[:12], each[12:]))[0] for each in (z[0], z[-1])]
    measured = np.asarray(analysis.run.trajectory.eigenvalues)[[0, -1], 0]
    # other views of other images: the same size, not the same number
    np.testing.assert_allclose(np.log(ends), np.log(measured), atol=1.0)


def test_kernels_are_stored_and_read(analysis):
    K = analysis.kernel(40)
    assert K.shape == (24, 24)
    np.testing.assert_allclose(K, K.T)
    (stored,) = (analysis.folder / "entk").glob("step_40_*.npz")
    before = stored.read_bytes()
    np.testing.assert_array_equal(analysis.kernel(40), K)
    assert stored.read_bytes() == before
    assert np.abs(analysis.kernel(0) - K).max() > 0


def test_a_step_without_a_network_is_rejected(analysis):
    with pytest.raises(ValueError, match=r"step: expected one of the snapshots"):
        analysis.kernel(17)


def test_d_is_the_number_of_modes_learned(analysis):
    assert analysis.d == max(1, staircase.numbers(analysis.run.trajectory)["crossed"])
    assert analysis.embedding.shape == (24, analysis.d)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda settings: settings | {"steps": -1}, "steps"),
        (
            lambda settings: {name: settings[name] for name in settings if name != "width"},
            "difference in width",
        ),
        (lambda settings: settings | {"colour": 1}, "difference in colour"),
        (lambda settings: [1, 2], "expected a run's configuration"),
        (None, "expected a run's configuration"),
    ],
)
def test_a_foreign_or_damaged_configuration_is_rejected_by_name(
    analysis, change, message, tmp_path
):
    folder = tmp_path / "run"
    shutil.copytree(analysis.folder, folder)
    path = folder / "config.json"
    path.write_text(
        '{"data": ' if change is None else json.dumps(change(json.loads(path.read_text())))
    )
    with pytest.raises(ValueError, match=message):
        runs.plan(subject.configuration(folder))
    with pytest.raises(ValueError, match="expected the folder of a run"):
        subject.configuration(tmp_path)


def test_a_number_of_pairs_below_one_is_rejected(analysis, root):
    with pytest.raises(ValueError, match="n_pairs: expected a positive number"):
        subject.from_run(dataclasses.replace(CONFIG), analysis.run, 0, root=root)
