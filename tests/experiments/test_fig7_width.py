"""fig7 is a test: the two slopes in width, measured on trained networks."""

import dataclasses

import numpy as np
import pytest

from experiments.figures import fig7_width
from tests.experiments.figures import failed, labelled_panels

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("fig7")]


def test_every_check_of_the_smoke_run_passes(fig7):
    assert failed(fig7_width, fig7) == set()


def test_another_power_of_the_width_fails_the_check(fig7):
    slopes = fig7.numbers["slopes"]
    for name, wrong in (("infinite", -1.2), ("own", -0.3)):
        moved = slopes | {name: slopes[name] | {"mean": wrong}}
        missed = failed(
            fig7_width, dataclasses.replace(fig7, numbers=fig7.numbers | {"slopes": moved})
        )
        assert missed and all(
            each.startswith(f"{fig7_width.KERNELS[name]}: distance of the slope") for each in missed
        )


def test_the_interval_of_a_slope_is_that_of_one_line_through_all_errors():
    widths, rng = np.array([64, 256, 1024, 4096]), np.random.default_rng(0)
    errors = widths[:, None] ** -0.5 * np.exp(0.01 * rng.normal(size=(4, 6)))
    slope = fig7_width._slope(widths, errors)
    assert slope["low"] < -0.5 < slope["high"] and slope["half_width"] < 0.02


def test_the_spectra_of_all_kernels_decrease_and_have_one_scale(fig7):
    for name in fig7_width.NAMES:
        gamma = fig7.arrays[f"spectrum_{name}"]
        assert (np.diff(gamma) <= 0).all() and 0 < gamma[0] < 1
        assert (np.diff(fig7.arrays[f"steps_{name}"]) > 0).all()


def test_the_figure_has_six_labelled_panels(fig7):
    assert labelled_panels(fig7_width, fig7) == 6
