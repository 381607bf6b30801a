"""fig2 is a test: both models end at the fixed points of their laws."""

import dataclasses

import numpy as np
import pytest

from experiments.figures import fig2_symmetry
from tests.experiments.figures import failed, labelled_panels

pytestmark = pytest.mark.xdist_group("fig2")


def test_every_check_of_the_smoke_run_passes(fig2):
    assert failed(fig2_symmetry, fig2) == set()


def test_self_supervision_ends_at_both_signs_and_supervision_at_one(fig2):
    assert set(np.sign(fig2.arrays["self_path"][:, -1].ravel())) == {-1.0, 1.0}
    assert set(np.sign(fig2.arrays["told_path"][:, -1].ravel())) == {1.0}
    assert set(np.sign(fig2.arrays["told_path"][:, 0].ravel())) == {-1.0, 1.0}


def test_a_run_that_ended_at_the_other_sign_fails_the_check(fig2):
    flipped = fig2.arrays | {"self_path": -fig2.arrays["self_path"]}
    missed = failed(fig2_symmetry, dataclasses.replace(fig2, arrays=flipped))
    assert "self-supervised: final distance from s* of the initial sign" in missed


def test_the_figure_has_four_labelled_panels(fig2):
    assert labelled_panels(fig2_symmetry, fig2) == 4
