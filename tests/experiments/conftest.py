"""Smoke runs of the figures, computed once per session."""

from dataclasses import replace

import jax
import pytest

from experiments.contract import finished
from experiments.figures import (
    fig1_steps,
    fig2_symmetry,
    fig3_small_start,
    fig5_mlp,
    fig6_hidden,
    fig7_width,
    fig8_kernels,
    table1_alignment,
)
from tests.conftest import optimised


@pytest.fixture(scope="session")
def runs_dir(tmp_path_factory):
    """Folder of the training runs that the figures share."""
    return str(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
@optimised()
def fig1(runs_dir):
    """Results in the order of computation: the linear model's, then the complete one."""
    parts = []
    with jax.enable_x64(True):
        parts.append(
            finished(
                fig1_steps.run(replace(fig1_steps.Config.smoke(), runs_dir=runs_dir)), parts.append
            )
        )
    return parts


@pytest.fixture(scope="session")
def linear(fig1):
    """Result of the linear model alone."""
    return fig1[0]


@pytest.fixture(scope="session")
@optimised()
def fig2():
    with jax.enable_x64(True):
        return fig2_symmetry.run(fig2_symmetry.Config.smoke())


@pytest.fixture(scope="session")
@optimised()
def fig3(runs_dir):
    """Results in the order in which they are computed; the last one is complete."""
    parts = []
    parts.append(
        finished(
            fig3_small_start.run(replace(fig3_small_start.Config.smoke(), runs_dir=runs_dir)),
            parts.append,
        )
    )
    return parts


@pytest.fixture(scope="session")
@optimised()
def fig5():
    with jax.enable_x64(False):
        return fig5_mlp.run(fig5_mlp.Config.smoke())


@pytest.fixture(scope="session")
@optimised()
def fig6(fig3, runs_dir):
    """Result from the runs that fig3 trained."""
    return fig6_hidden.run(replace(fig6_hidden.Config.smoke(), runs_dir=runs_dir))


@pytest.fixture(scope="session")
@optimised()
def table1(fig3, runs_dir):
    """Result from the runs that fig3 trained, with their kernels."""
    with jax.enable_x64(False):
        return table1_alignment.run(replace(table1_alignment.Config.smoke(), runs_dir=runs_dir))


@pytest.fixture(scope="session")
@optimised()
def fig7():
    with jax.enable_x64(False):
        return fig7_width.run(fig7_width.Config.smoke())


@pytest.fixture(scope="session")
@optimised()
def fig8(table1, runs_dir):
    """Result from table1's kernels, and those of the steps between."""
    with jax.enable_x64(False):
        return fig8_kernels.run(replace(fig8_kernels.Config.smoke(), runs_dir=runs_dir))
