"""Former import paths work, say where the module is now, and give the very same module."""

import importlib
import subprocess
import sys

import pytest

from stepwise import _moved


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
