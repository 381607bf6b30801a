"""fig5 is a test: steps in the rich regime, the kernel's curves in the lazy one."""

import dataclasses

import numpy as np
import pytest

from experiments import fig5_mlp
from stepwise import plotting

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("fig5")]


def _failed(result):
    return {check.name for check in fig5_mlp.check(result) if not check.passed}


def test_every_check_of_the_smoke_run_passes(fig5):
    assert _failed(fig5) == set()


def test_a_network_that_left_its_kernel_fails_the_check(fig5):
    gap = fig5.numbers["lazy_against_own"] | {"eigenvalue_rms": 0.05}
    wrong = dataclasses.replace(fig5, numbers=fig5.numbers | {"lazy_against_own": gap})
    assert _failed(wrong) == {"lazy: eigenvalue rms against its own kernel"}


def test_two_modes_learned_at_once_fail_the_check(fig5):
    wrong = dataclasses.replace(fig5, numbers=fig5.numbers | {"rich_alone": 0})
    assert _failed(wrong) == {"rich: of these alone, the next below a tenth"}


def test_theory_and_experiment_start_from_the_same_outputs(fig5):
    for name in ("lazy_own", "lazy_infinite"):
        np.testing.assert_allclose(fig5.arrays[name][0], fig5.arrays["lazy_eigenvalues"][0], rtol=0.2, atol=1e-5)


def test_the_figure_has_four_labelled_panels(fig5):
    with plotting.style():
        figure = fig5_mlp.plot(fig5)
    axes = figure.get_axes()
    assert len(axes) == 4
    assert all(axis.get_xlabel() and axis.get_ylabel() and axis.get_title(loc="left") for axis in axes)
    plotting.plt.close(figure)
