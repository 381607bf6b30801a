"""The smoke runs of the figures, computed once a session."""

import jax
import pytest

from experiments import fig1_linear, fig2_symmetry, fig5_mlp, fig7_width


@pytest.fixture(scope="session")
def fig1():
    with jax.enable_x64(True):
        return fig1_linear.run(fig1_linear.Config.smoke())


@pytest.fixture(scope="session")
def fig2():
    with jax.enable_x64(True):
        return fig2_symmetry.run(fig2_symmetry.Config.smoke())


@pytest.fixture(scope="session")
def fig5():
    with jax.enable_x64(False):
        return fig5_mlp.run(fig5_mlp.Config.smoke())


@pytest.fixture(scope="session")
def fig7():
    with jax.enable_x64(False):
        return fig7_width.run(fig7_width.Config.smoke())
