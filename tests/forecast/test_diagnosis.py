"""Diagnosis by number: known losses of embeddings with a known state are recognised."""

import numpy as np
import pytest

from stepwise import losses, spectra
from stepwise.forecast import diagnose, diagnosis
from stepwise.methods import METHODS

ROWS = [row for row in METHODS.values() if row.collapse is not None]
N, D = 32, 6


def pair(variances, n=N, d=D):
    """Two equal views whose C about zero has these eigenvalues exactly, in a random frame."""
    rng = np.random.default_rng(0)
    white = np.linalg.qr(np.concatenate([np.ones((n, 1)), rng.normal(size=(n, d))], 1))[0][:, 1:]
    sizes = np.sqrt(np.pad(np.asarray(variances, float), (0, d - len(variances))))
    z = np.sqrt(n) * white * sizes @ np.linalg.qr(rng.normal(size=(d, d)))[0]
    return z, z


def collapsed(row):
    """The loss of a row for embeddings that are all the same."""
    z = np.tile(np.random.default_rng(0).normal(size=D), (N, 1))
    z *= row.collapse_norm / np.linalg.norm(z[0])
    objective = row.objective
    options = {
        name: function(D)
        for name in ("state", "parameters")
        if (function := getattr(objective, name)) is not None
    }
    networks = 1 if objective.decay is None else 2
    value = objective.loss(*[z] * (networks * objective.views), **options)
    return float(value if objective.state is None else value[0])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_loss_of_a_collapsed_embedding_is_recognised(row, x64):
    said = diagnose(row.name, collapsed(row), n=N, d=D, learned=0)
    level = diagnosis.nearest(
        diagnosis.levels(row.name, N, D), collapsed(row), learned=0, tolerance=1e-5
    )
    assert level.name == "total collapse"
    assert level.meaning in said and level.advice in said


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_no_embedding_has_a_smaller_loss_than_collapse_only_where_the_row_says_so(row, x64):
    """For the other rows a good embedding does; for these, perfect predictions reach it."""
    if row.collapse_is_least:
        rng = np.random.default_rng(1)
        views = [rng.normal(size=(N, D)) for _ in range(4 if row.objective.predictor else 2)]
        first = {} if row.objective.state is None else {"state": row.objective.state(D)}
        value = row.objective.loss(*views, **first)
        assert float(value[0] if first else value) > row.collapse(N, D)
        assert "will not recover" in diagnose(row.name, row.collapse(N, D), n=N, d=D)
    else:
        assert "will not recover" not in diagnose(row.name, row.collapse(N, D), n=N, d=D)


@pytest.mark.parametrize("k", range(1, D + 1))
def test_the_plateau_after_k_white_modes_is_recognised(k, x64):
    z1, z2 = pair([1.0] * k)
    loss = float(losses.barlow_twins_unnormalised(z1, z2))
    expected = f"{k} of {D} modes are learned" if k < D else "every dimension is learned"
    assert expected in diagnose("", loss, n=N, d=D)
    assert expected in diagnose("", loss, n=N, d=D, learned=k)
    assert "a mode is crossing" in diagnose("", loss, n=N, d=D, learned=k - 1)


def test_the_plateaus_of_the_spectral_contrastive_loss_are_squared_agreements(x64):
    """At the rest of k modes λ_j = ρ_j², and the loss of many pairs is −Σ ρ_j²."""
    agreements = np.array([0.9, 0.7, 0.5])
    n, d = 40_000, 4
    rng = np.random.default_rng(2)
    x, noise, noise2 = rng.normal(size=(3, n, 3))
    parts = [np.sqrt(agreements) * x + np.sqrt(1 - agreements) * each for each in (noise, noise2)]
    z1, z2 = (np.pad(np.sqrt(agreements) * part, ((0, 0), (0, 1))) for part in parts)
    values = np.asarray(spectra.eigenvalues(z1, z2))
    np.testing.assert_allclose(values[:3], agreements**2, atol=0.02)
    # the mean over other pairs of (z1_i·z2_j)² is the product of the moments of single views
    loss = -2 * np.mean(np.sum(z1 * z2, 1)) + np.sum((z1.T @ z1 / n) * (z2.T @ z2 / n))
    np.testing.assert_allclose(loss, -np.sum(agreements**2), atol=0.03)
    said = diagnose("spectral_contrastive", loss, n=n, d=d, eigenvalues=values)
    assert "3 of 4 modes rest" in said
    assert "no known level" in diagnose("spectral_contrastive", loss, n=n, d=d)


def test_famous_flat_losses_of_issue_trackers_are_recognised():
    """8.3178 is ln 4096 prototypes, 11.0903 is ln 65536, and 4.852 is ln 128 pairs."""
    for K, loss in ((4096, 8.3178), (65536, 11.0903)):
        assert "assignments are uniform" in diagnose("dino", loss, n=64, d=K)
    assert "collapsed" in diagnose("clip_one_tower", 4.852, n=128, d=512)
    half = diagnose("simclr", np.log(2 * 256 - 1), n=256, d=128)
    assert "averages over all 2n anchors" in half


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), np.float32("nan")])
def test_a_loss_that_is_not_finite_has_diverged(loss):
    assert "the run has diverged" in diagnose("", loss, n=N, d=D)


def test_a_loss_between_levels_is_at_none_and_the_known_ones_are_listed():
    said = diagnose("", D - 1.5, n=N, d=D)
    assert said.startswith("loss 4.5 is at no known level of Barlow Twins")
    assert "total collapse 6" in said
    assert "is at" in diagnose("", D - 1 + 0.05, n=N, d=D)
    assert "no known level" in diagnose("", D - 1 + 0.05, n=N, d=D, tolerance=1e-3)


def test_a_chance_hit_among_thousands_of_levels_is_refused_if_the_modes_are_known():
    d = 8192
    assert "no known level" in diagnose("", d - 100.5, n=N, d=d, learned=3)
    assert "3 of 8192 modes" in diagnose("", d - 3.1, n=N, d=d, learned=3)


def test_a_method_without_a_level_says_so(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from stepwise import losses\nfrom stepwise.methods import Method, Objective\n"
        "row = Method('mine', 'Mine', 'me', Objective(losses.vicreg))\n"
    )
    assert diagnose(f"{file}:row", 3.0, n=N, d=D) == "loss 3: no level of Mine is known."
    assert diagnosis.levels(f"{file}:row", N, D) == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0, "d": 3}, "n: expected a positive whole number, received 0"),
        ({"n": 3, "d": 0}, "d: expected a positive whole number, received 0"),
        ({"n": 3, "d": 3, "learned": 4}, r"learned: expected a whole number in 0 \.\.\. 3"),
        ({"n": 3, "d": 3, "tolerance": 0.0}, "tolerance: expected a positive number"),
    ],
)
def test_bad_arguments_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        diagnose("", 1.0, **options)
