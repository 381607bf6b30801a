"""Strictness for every test: shapes are checked, warnings are errors, and both precisions are asked
for by name.
"""

import os
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# Compiled once: pytest's workers and the processes that tests start share what XLA made of the same
# function.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "jax")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
# Most of its time is XLA's, and most of that LLVM's optimiser. The smoke figures and `make
# test-latest` have it.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_dtype_promotion", "standard")
jax.config.update("jax_numpy_rank_promotion", "allow")
settings.register_profile(
    "suite", deadline=None, max_examples=20, derandomize=True, print_blob=True
)
settings.load_profile("suite")

install_import_hook("stepwise", "beartype.beartype")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """What takes long begins first, so that no worker ends alone with it."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@contextmanager
def optimised():
    """What is compiled within runs long enough for XLA's optimisations to pay."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
        # what was compiled here rounds otherwise than the same program in another process
        jax.clear_caches()


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """The test runs in both precisions; float64 with jax_enable_x64 switched on around it."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.fixture
def x64():
    """The test runs with jax_enable_x64 on."""
    with jax.enable_x64(True):
        yield
