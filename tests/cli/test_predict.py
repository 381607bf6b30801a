"""`stepwise predict` with the law of every method."""

import json

import numpy as np
import pytest

from stepwise.cli import main
from stepwise.methods import METHODS

QUICK = ("vicreg",)
NAMES = [
    pytest.param(name, marks=[] if name in QUICK else [pytest.mark.long])
    for name, row in METHODS.items()
    if row.law is not None
]


@pytest.mark.parametrize("name", NAMES)
def test_a_method_is_predicted_by_its_law(name, tmp_path, capsys):
    flags = ["--n-pairs", "40", "--side", "20", "--d", "3", "--start-scale", "1e-8"]
    assert main(["predict", "--method", name, *flags, "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert METHODS[name].title in text and "mode  step time" in text
    summary = json.loads((tmp_path / "summary.json").read_text())
    report = summary["numbers"]["validity"]
    known = report["n_known"]
    steps = np.array([np.inf if t is None else t for t in report["step_times"]])
    with np.load(tmp_path / "arrays.npz") as stored:
        arrays = dict(stored)
    first = arrays["eigenvalues"][:, 0]
    assert np.isfinite(steps[0]) and (np.diff(steps[:known]) > 0).all()
    # at its step, the first mode is at half of its final value, which it approaches afterwards
    half = np.interp(steps[0], arrays["times"], first)
    assert 0.45 * first[-1] < half < 0.95 * first[-1]
    assert np.isfinite(arrays["loss"]).all()


def test_a_law_that_needs_centred_views_refuses_others(tmp_path, capsys):
    flags = ["--n-pairs", "20", "--side", "20", "--d", "2", "--center", "none"]
    assert main(["predict", "--method", "vicreg", *flags, "--out", str(tmp_path)]) == 2
    text = capsys.readouterr().err
    assert "expected views without a mean, as VICReg assumes" in text
    assert "--center pooled" in text
