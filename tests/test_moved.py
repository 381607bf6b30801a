"""Former import paths work, say where the module is now, and give the very same module."""

import importlib
import subprocess
import sys

import numpy as np
import pytest

from stepwise import _moved, entk, methods, models, subject, training
from stepwise.compare import Comparison
from stepwise.moments import Moments
from stepwise.problem.problem import Problem
from stepwise.trajectory import Trajectory
from tests.training import small


@pytest.mark.parametrize(("old", "new"), _moved.MOVED.items())
def test_a_former_path_gives_the_present_module_and_a_warning(old, new):
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} is now {new}"):
        module = importlib.import_module(old)
    assert module is importlib.import_module(new)
    assert module.__name__ == new and module.__spec__.name == new


def test_names_can_be_imported_from_a_former_path_in_a_fresh_process():
    code = (
        "from stepwise import runs; from stepwise.runs import Config; print(runs.Config is Config)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_an_unknown_module_is_still_unknown():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("stepwise.nowhere")


@pytest.mark.parametrize(
    ("owner", "old", "new"),
    [
        (Comparison, "learned", "n_learned"),
        (Comparison, "within", "count_within"),
        (Moments, "centred", "centre"),
        (Moments, "merged", "merge"),
        (Problem, "truncated", "truncate"),
        (Trajectory, "unbatched", "unbatch"),
        (models, "doubled", "antisymmetric"),
        (models, "doubled_start", "antisymmetric_start"),
        (models, "restored", "restore"),
        (subject, "of", "from_run"),
    ],
)
def test_a_former_name_gives_the_present_function_and_a_warning(owner, old, new):
    with pytest.warns(DeprecationWarning, match=f"{old} is now {new}"):
        assert getattr(owner, old) is getattr(owner, new)


def test_former_attributes_of_a_score_and_an_estimate_have_the_present_values():
    K = np.diag([3.0, 2, 1, 3, 2, 1])
    score = entk.score(K, np.eye(6)[:, :2], resamples=0)
    with pytest.warns(DeprecationWarning, match="captured is now captured_share"):
        assert score.captured is score.captured_share
    estimate = entk.Estimate(K, np.stack([K, K]), 0.25)
    with pytest.warns(DeprecationWarning, match="left is now unsampled_share"):
        assert estimate.left == 0.25


def test_a_former_argument_is_taken_with_a_warning():
    objective = methods.METHODS[methods.DEFAULT].objective
    with (
        pytest.warns(DeprecationWarning, match=r"train\(about=\) is now train\(metadata=\)"),
        pytest.raises(ValueError, match="pixels"),
    ):
        training.train(small.encoder(), small.PIXELS[0], objective, small.plan(), about={})


def test_an_unknown_name_is_still_unknown():
    with pytest.raises(AttributeError, match=r"'stepwise\.models' has no attribute 'nothing'"):
        _ = models.nothing
