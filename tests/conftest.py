"""Settings of every test: array shapes are checked, and precision is chosen by a fixture."""

import os
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# The workers of pytest, and the processes that tests start, share compiled programs.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "jax")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
# Most of the suite's time would be spent in LLVM's optimiser. The smoke figures and
# `make test-latest` use it.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_dtype_promotion", "standard")
jax.config.update(
    "jax_numpy_rank_promotion", os.environ.get("STEPWISE_TEST_RANK_PROMOTION", "allow")
)
settings.register_profile(
    "suite", deadline=None, max_examples=20, derandomize=True, print_blob=True
)
settings.load_profile("suite")

install_import_hook("stepwise", "beartype.beartype")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Start slow tests first, so that the last worker does not run one alone."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@contextmanager
def optimised():
    """Compile with XLA's optimisations, for code that runs long enough to benefit."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
        # optimised programs round differently from the same programs in other processes
        jax.clear_caches()


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Run the test in both precisions, in float64 with jax_enable_x64 on."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.fixture
def x64():
    """Run the test with jax_enable_x64 on."""
    with jax.enable_x64(True):
        yield
