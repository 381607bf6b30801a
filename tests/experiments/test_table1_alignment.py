"""table1 is a test: a trained eNTK predicts the embedding better than the initial one or pixels."""

import dataclasses

import numpy as np
import pytest

from experiments.figures import table1_alignment
from tests.experiments.figures import failed, labelled_panels

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("fig3")]


def test_the_smoke_run_is_far_from_chance(table1):
    names = failed(table1_alignment, table1)
    assert not [name for name in names if "p-value" in name or "modes learned" in name]
    methods = table1.numbers["methods"]
    assert set(methods) == {"barlow_twins_unnormalised", "simclr", "vicreg"}
    for scores in methods.values():
        for kernel in table1_alignment.KERNELS:
            score = scores[kernel]
            assert 0 < score["interval"][0] <= score["alignment"] <= score["interval"][1] <= 1
            np.testing.assert_allclose(score["random"], scores["d"] / 63)


def test_an_alignment_below_those_of_other_kernels_fails_the_check(table1):
    methods = table1.numbers["methods"]
    worse = methods["simclr"] | {
        "trained": methods["simclr"]["trained"] | {"alignment": 0.01, "p_value": 0.5}
    }
    result = dataclasses.replace(
        table1, numbers=table1.numbers | {"methods": methods | {"simclr": worse}}
    )
    assert {name for name in failed(table1_alignment, result) if name.startswith("SimCLR")} == {
        "SimCLR: p-value against random subspaces",
        "SimCLR: alignment, trained eNTK / initial eNTK",
        "SimCLR: alignment, trained eNTK / pixel kernel",
    }


def test_every_panel_is_labelled(table1):
    assert labelled_panels(table1_alignment, table1) == 1
