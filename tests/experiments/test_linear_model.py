"""fig1 is a test: its checks pass, and they fail with a theory that is wrong on purpose."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.shared import linear_model
from stepwise import laws, plotting, problem

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("fig3")]


def _failed(result):
    return {check.name for check in linear_model.check(result) if not check.passed}


def test_every_check_of_the_smoke_run_passes(linear):
    assert _failed(linear) == set()


def test_each_claim_and_each_premise_is_checked(linear):
    checks = linear_model.check(linear)
    assert sum(check.premise for check in checks) >= 4
    assert sum(not check.premise for check in checks) >= 8


@pytest.fixture
def fresh_compilation():
    """Clear compiled programs before and after, so that a patched law is traced again."""
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.parametrize("wrong", ["a rate of 7", "no QR", "no centring"])
def test_a_wrong_theory_fails_the_check(wrong, monkeypatch, request):
    config = dataclasses.replace(
        linear_model.Config.smoke(), scales=(1e-2, 1e-3, 1e-4), scale_starts=1
    )
    if wrong != "no centring":
        request.getfixturevalue("fresh_compilation")
    if wrong == "a rate of 7":
        monkeypatch.setattr(laws.BarlowTwins, "RATE", 7.0)
    elif wrong == "no QR":
        monkeypatch.setattr(laws, "effective_start", lambda A: jnp.abs(jnp.diagonal(A)))
        monkeypatch.setattr(
            laws.Law, "generic_start", lambda law, A: law.unit()[: len(A)] * jnp.diagonal(A) ** 2
        )
    else:
        uncentred = partial(problem.from_views, center="none")
        monkeypatch.setattr(linear_model, "theory_problem", lambda x, x2, _: uncentred(x, x2))
    with jax.enable_x64(True):
        failed = _failed(linear_model.run(config))
    assert "rms eigenvalue error, median over starts" in failed
    assert failed & {
        "modes within tolerance, median over starts",
        "modes beyond tolerance without a warning",
    }


def test_the_checks_fail_on_nan(linear):
    broken = dataclasses.replace(
        linear, arrays=linear.arrays | {"delays": linear.arrays["delays"] * np.nan}
    )
    assert len(_failed(broken)) == 2


def test_an_exception_without_a_warning_fails_the_check(linear):
    missed = {"start": 0, "mode": 1, "error": 0.5, "expected": 0.0, "predicted": False}
    broken = dataclasses.replace(linear, numbers=linear.numbers | {"exceptions": [missed]})
    assert _failed(broken) == {"modes beyond tolerance without a warning"}


def test_the_figure_shows_both_panels_with_labels(linear):
    with plotting.style():
        figure = linear_model.plot(linear)
    axes = figure.get_axes()
    titles = [axis.get_title(loc="left") for axis in axes]
    assert any(title.startswith("A ") for title in titles)
    assert any(title.startswith("B ") for title in titles)
    graphs = [axis for axis in axes if axis.get_title(loc="left")]
    assert all(axis.get_xlabel() and axis.get_ylabel() for axis in graphs)
    plotting.plt.close(figure)


def test_too_few_images_are_rejected_with_their_number(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "few.npz", pixels=pixels)
    config = dataclasses.replace(linear_model.Config.smoke(), data=f"npz:{tmp_path / 'few.npz'}")
    with pytest.raises(ValueError, match=r"at least n_pairs = 100 images, received npz:.* with 5"):
        linear_model.run(config)
