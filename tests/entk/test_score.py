"""Scores of predicted and real subspaces: exact for known ones, at chance for unrelated ones."""

import numpy as np
import pytest

from stepwise import entk, problem, spectra

RNG = np.random.default_rng(0)
PAIRS, D = 30, 3
BASE = RNG.normal(size=(PAIRS, 8)) * np.geomspace(3, 0.5, 8)
X = np.concatenate([BASE + 0.3 * RNG.normal(size=BASE.shape) for _ in range(2)])
K = X @ X.T
PREDICTED = np.asarray(problem.from_gram(K, center="pooled").predict(D))


def test_the_prediction_scores_one_under_any_rotation_scale_and_shift():
    rotation = np.linalg.qr(RNG.normal(size=(D, D)))[0]
    result = entk.score(K, 7 * PREDICTED @ rotation + 2)
    np.testing.assert_allclose([result.alignment, *result.captured_share], 1, atol=1e-6)
    assert np.isnan(result.interval).all()
    np.testing.assert_allclose(result.random, D / (2 * PAIRS - 1))
    assert result.p_value == 1 / 1000


def test_leading_directions_are_compared_in_their_order():
    result = entk.score(K, PREDICTED * [3.0, 2.0, 1.0])
    np.testing.assert_allclose(result.leading, 1, atol=1e-5)
    swapped = entk.score(K, PREDICTED * [1.0, 2.0, 3.0])
    np.testing.assert_allclose(swapped.leading, [0, 0.5, 1], atol=1e-5)
    np.testing.assert_allclose(swapped.captured_share, 1, atol=1e-5)


def test_half_of_the_subspace_scores_half():
    other = np.linalg.svd(np.hstack([np.ones((len(X), 1)), PREDICTED]))[0][:, 4:]
    z = np.hstack([PREDICTED[:, :1], other[:, :1]])
    result = entk.score(K, z)
    np.testing.assert_allclose(result.alignment, 0.5, atol=1e-5)
    np.testing.assert_allclose(result.captured_share, [1, 0.5], atol=1e-5)


@pytest.mark.parametrize("center", ["pooled", "per_view", "none"])
def test_unrelated_embeddings_score_as_random_subspaces_do(center):
    rng = np.random.default_rng(1)
    scores = [
        entk.score(K, rng.normal(size=(len(X), D)), center=center, draws=99) for _ in range(150)
    ]
    values = np.array([each.alignment for each in scores])
    assert abs(values.mean() - scores[0].random) < 4 * values.std() / np.sqrt(len(values))
    below = np.mean([each.p_value <= 0.2 for each in scores])
    assert abs(below - 0.2) < 0.12


def test_the_interval_is_about_the_scatter_over_independent_pairs():
    rng = np.random.default_rng(2)

    def drawn():
        base = rng.normal(size=(60, 8)) * np.geomspace(3, 0.5, 8)
        x = np.concatenate([base + 0.8 * rng.normal(size=base.shape) for _ in range(2)])
        return x @ x.T, x[:, [0, 1, 2]] + 0.2 * rng.normal(size=(120, 3))

    values = [entk.score(*drawn(), draws=1).alignment for _ in range(60)]
    widths = [np.diff(entk.score(*drawn(), draws=1, resamples=100).interval)[0] for _ in range(6)]
    assert 0.5 < np.mean(widths) / (3.92 * np.std(values)) < 2


def test_the_alignment_agrees_with_spectra():
    z = RNG.normal(size=(len(X), D)) + PREDICTED
    centred = z - z.mean(axis=0)
    np.testing.assert_allclose(
        entk.score(K, z).alignment, spectra.subspace_alignment(PREDICTED, centred), rtol=1e-6
    )


def test_bad_arguments_are_refused_by_name():
    with pytest.raises(
        ValueError, match=r"K: expected \[58, 58\], a row and a column per embedding"
    ):
        entk.score(K, PREDICTED[:58])
    with pytest.raises(ValueError, match="z: expected embeddings of rank 2, received rank 1"):
        entk.score(K, PREDICTED[:, [0, 0]])
    with pytest.raises(ValueError, match=r"modes: expected a whole number in 1 \.\.\. 8"):
        entk.score(K, RNG.normal(size=(len(X), 40)))


def test_drift_is_relative_to_the_first_kernel_and_may_ignore_scale():
    K = np.diag([3.0, 4.0])
    assert entk.drift(K, K) == 0
    np.testing.assert_allclose(entk.drift(K, K + np.array([[0, 5], [0, 0]])), 1)
    np.testing.assert_allclose(entk.drift(K, 3 * K), 2)
    np.testing.assert_allclose(entk.drift(K, 3 * K, scaled=True), 0, atol=1e-15)
    np.testing.assert_allclose(entk.drift(K, np.array([[0.0, 1], [1, 0]]), scaled=True), 1)
    turned = entk.drift(K, 7 * np.diag([4.0, 3.0]), scaled=True)
    np.testing.assert_allclose(turned, np.sqrt(1 - (24 / 25) ** 2))
    with pytest.raises(ValueError, match="before: expected a kernel that is not zero"):
        entk.drift(np.zeros((2, 2)), np.ones((2, 2)))
    with pytest.raises(ValueError, match="after: expected a kernel that is not zero"):
        entk.drift(K, np.zeros((2, 2)), scaled=True)
