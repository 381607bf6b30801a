"""fig5 is a test: steps in the rich regime, and the kernel's curves in the lazy one."""

import dataclasses

import numpy as np
import pytest

from experiments.figures import fig5_mlp
from tests.experiments.figures import failed, labelled_panels

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("fig5")]


def test_every_check_of_the_smoke_run_passes(fig5):
    assert failed(fig5_mlp, fig5) == set()


def test_a_network_that_left_its_kernel_fails_the_check(fig5):
    gap = fig5.numbers["lazy_against_own"] | {"eigenvalue_rms": 0.05}
    wrong = dataclasses.replace(fig5, numbers=fig5.numbers | {"lazy_against_own": gap})
    assert failed(fig5_mlp, wrong) == {"lazy: rms eigenvalue error of the network's own kernel"}


def test_two_modes_learned_at_once_fail_the_check(fig5):
    wrong = dataclasses.replace(fig5, numbers=fig5.numbers | {"rich_alone": 0})
    assert failed(fig5_mlp, wrong) == {"rich: modes learned one at a time (next below 1/10)"}


def test_theory_and_experiment_start_from_the_same_outputs(fig5):
    for name in ("lazy_own", "lazy_infinite"):
        np.testing.assert_allclose(
            fig5.arrays[name][0], fig5.arrays["lazy_eigenvalues"][0], rtol=0.2, atol=1e-5
        )


def test_the_figure_has_four_labelled_panels(fig5):
    assert labelled_panels(fig5_mlp, fig5) == 4
