"""fig8 is a test: a kernel changes towards one that predicts what its network learns."""

import dataclasses

import numpy as np
import pytest

from experiments.contract import silent
from experiments.figures import fig8_kernels
from experiments.shared import inspected, resnets
from stepwise.entk.kernel import Kernel
from tests.experiments.figures import failed, labelled_panels

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("fig3")]


def test_kernels_of_the_smoke_run_change_and_embeddings_are_more_similar_than_chance(fig8):
    names = failed(fig8_kernels, fig8)
    assert not [
        name for name in names if "direction" in name or "modes learned" in name or "chance" in name
    ]
    for method in resnets.Config.smoke().methods:
        steps = fig8.arrays[f"{method}_steps"]
        last = resnets.Config.smoke().training(method).steps
        assert steps.tolist() == [0, last // 100, last]
        for kind in ("drift", "turned"):
            assert fig8.arrays[f"{method}_{kind}"][0] < 1e-6
        assert (fig8.arrays[f"{method}_turned"] <= fig8.arrays[f"{method}_drift"] + 1e-12).all()


def test_the_first_and_last_alignments_are_those_of_table1(fig8, table1):
    for i, method in enumerate(resnets.Config.smoke().methods):
        scores, alignment = table1.numbers["methods"][method], fig8.arrays[f"{method}_alignment"]
        np.testing.assert_allclose(
            alignment[[0, -1]], [scores["start"]["alignment"], scores["trained"]["alignment"]]
        )
        np.testing.assert_allclose(
            fig8.arrays["predicted"][[i, -1], i], [alignment[-1], scores["pixels"]["alignment"]]
        )
        np.testing.assert_allclose(fig8.arrays["between"][i, i], 1)


def test_a_stored_kernel_is_read_and_a_damaged_one_is_computed_again(fig3, runs_dir, monkeypatch):
    config = dataclasses.replace(fig8_kernels.Config.smoke(), runs_dir=runs_dir, n_pairs=4)
    subject = inspected.subject(config, "simclr", silent)
    K = subject.kernel(300)
    files = (subject.folder / "entk").glob("step_300_*.npz")
    path = max(files, key=lambda path: path.stat().st_mtime)
    path.write_bytes(b"something else")
    np.testing.assert_array_equal(subject.kernel(300), K)
    monkeypatch.setattr(Kernel, "_start_unit", None)  # so no kernel can be computed
    np.testing.assert_array_equal(subject.kernel(300), K)


def test_each_claim_can_fail(fig8):
    worse = {name: array.copy() for name, array in fig8.arrays.items()}
    worse["simclr_alignment"] = worse["simclr_alignment"][::-1] * [1, 1, 0.01]
    worse["simclr_turned"][-1] = 0.01
    worse["between"][1] = 0.001
    result = dataclasses.replace(fig8, arrays=worse)
    assert {
        "SimCLR: relative change of the kernel's direction",
        "SimCLR: alignment, final kernel / initial kernel",
        "SimCLR: alignment, own kernel / best other method's kernel",
        "SimCLR: alignment with the least similar embedding / chance",
    } <= failed(fig8_kernels, result)


def test_every_panel_is_labelled(fig8):
    assert labelled_panels(fig8_kernels, fig8) == 5
