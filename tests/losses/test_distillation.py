"""BYOL, SimSiam, DINO and IsoLoss: targets, centres, predictors, and special embeddings."""

from functools import partial

import jax
import numpy as np
import pytest
import scipy.linalg

from stepwise import losses
from tests.losses.references import CASES, RNG, SHAPES, dino, isoloss, pair


@pytest.mark.parametrize("name", ["byol", "byol, raw", "simsiam", "simsiam, raw"])
def test_targets_of_another_network_receive_no_gradient(name, x64):
    loss, reference = CASES[name]
    (p1, p2), (z1, z2) = pair((6, 4)), pair((6, 4))
    np.testing.assert_allclose(float(loss(p1, p2, z1, z2)), reference(p1, p2, z1, z2), rtol=1e-12)
    gradients = jax.grad(loss, argnums=(2, 3))(p1, p2, z1, z2)
    assert not np.any(gradients[0]) and not np.any(gradients[1])


def test_both_forms_of_simsiam_agree_for_vectors_of_norm_one(x64):
    z = [view / np.linalg.norm(view, axis=1, keepdims=True) for view in pair((6, 4))]
    raw = losses.simsiam(*z, normalise=False)
    np.testing.assert_allclose(losses.simsiam(*z), raw - 1, rtol=1e-12)


def test_dino_compares_views_with_each_other_and_local_crops_with_both(x64):
    (s1, s2), (t1, t2), local = pair((6, 4)), pair((6, 4)), pair((6, 4))
    center = RNG.normal(size=4)
    options = {"student_temperature": 0.3, "teacher_temperature": 0.2}
    arguments = (s1, s2, t1, t2, center)
    for crops in ((), local[:1], local):
        expected = dino(*arguments, local=crops, sharp=0.2, soft=0.3)
        value = losses.dino(*arguments, local=crops, **options)
        np.testing.assert_allclose(value, expected, rtol=1e-12)
    slopes = jax.grad(losses.dino, argnums=(0, 1, 2, 3, 4))(*arguments)
    assert np.any(slopes[0]) and np.any(slopes[1]) and not any(map(np.any, slopes[2:]))


def test_dino_is_the_logarithm_of_the_prototypes_if_nothing_is_told_apart(x64):
    for n, K in SHAPES:
        t = np.broadcast_to(RNG.normal(size=K), (n, K))
        s = np.full((n, K), 3.0)
        np.testing.assert_allclose(losses.dino(s, s, t, t, t[0]), np.log(K), atol=1e-12)


def test_the_running_centre_of_dino_moves_a_tenth_of_the_way_after_the_loss(x64):
    (s1, s2), (t1, t2) = pair((6, 4)), pair((6, 4))
    first = losses.dino_center(4)
    loss, after = losses.dino_with_running_center(s1, s2, t1, t2, state=first)
    np.testing.assert_allclose(loss, losses.dino(s1, s2, t1, t2, np.zeros(4)), rtol=1e-12)
    np.testing.assert_allclose(after["center"], 0.1 * np.concatenate([t1, t2]).mean(0), rtol=1e-6)
    _, last = losses.dino_with_running_center(s1, s2, s1, s2, state=after)
    moved = 0.9 * after["center"] + 0.1 * np.concatenate([s1, s2]).mean(0)
    np.testing.assert_allclose(last["center"], moved, rtol=1e-6)


def test_the_temperature_of_the_teacher_rises_linearly_and_then_stays(x64):
    (s1, s2), (t1, t2) = pair((6, 4)), pair((6, 4))
    options = {"teacher_temperature": 0.07, "warmup_steps": 4, "warmup_teacher_temperature": 0.03}
    for step, temperature in ((0, 0.03), (1, 0.04), (3, 0.06), (4, 0.07), (90, 0.07)):
        state = losses.dino_center(4) | {"step": np.asarray(step, np.int32)}
        loss, after = losses.dino_with_running_center(s1, s2, t1, t2, state=state, **options)
        expected = losses.dino(s1, s2, t1, t2, np.zeros(4), teacher_temperature=temperature)
        np.testing.assert_allclose(loss, expected, rtol=1e-9)
        assert int(after["step"]) == step + 1
    state = losses.dino_center(4)
    loss, _ = losses.dino_with_running_center(s1, s2, t1, t2, state=state, teacher_temperature=0.07)
    expected = losses.dino(s1, s2, t1, t2, np.zeros(4), teacher_temperature=0.07)
    np.testing.assert_allclose(loss, expected, rtol=1e-9)
    for name in ("teacher_temperature", "warmup_teacher_temperature"):
        with pytest.raises(ValueError, match=f"{name}: expected a positive number, received 0"):
            losses.dino_with_running_center(s1, s2, t1, t2, state=state, **{name: 0})
    with pytest.raises(ValueError, match="warmup_steps: expected a number of steps, or 0 for none"):
        losses.dino_with_running_center(s1, s2, t1, t2, state=state, warmup_steps=-1)


def test_the_running_moment_of_isoloss_is_that_of_the_first_batch_and_then_moves(x64):
    first, second = pair((8, 3)), pair((8, 3))
    moments = [(a.T @ a + b.T @ b) / 16 for a, b in (first, second)]
    state = losses.isoloss_moment(3)
    loss, state = losses.isoloss_with_running_moment(*first, state=state, alpha=0.5)
    np.testing.assert_allclose(loss, losses.isoloss(*first, alpha=0.5), rtol=1e-12)
    np.testing.assert_allclose(state["moment"], moments[0], rtol=1e-5)
    mixed = 0.7 * np.asarray(state["moment"], float) + 0.3 * moments[1]
    loss, state = losses.isoloss_with_running_moment(*second, state=state, alpha=0.5, decay=0.7)
    expected = losses.isoloss(*second, alpha=0.5, moment=mixed)
    np.testing.assert_allclose(loss, expected, rtol=1e-10)
    np.testing.assert_allclose(state["moment"], mixed, rtol=1e-5)
    assert int(state["step"]) == 2
    with pytest.raises(ValueError, match=r"decay: expected a number in \[0, 1\), received 1"):
        losses.isoloss_with_running_moment(*second, state=state, decay=1)


def test_the_predictor_of_isoloss(x64):
    (z1, z2), (t1, t2) = pair((8, 3)), pair((8, 3))
    root = scipy.linalg.sqrtm
    value = losses.isoloss(z1, z2, alpha=0.5)
    np.testing.assert_allclose(value, isoloss(z1, z2, predictor=root), rtol=1e-10)
    moment = np.cov(RNG.normal(size=(9, 3)), rowvar=False)
    top = np.linalg.eigvalsh(moment)[-1]
    value = losses.isoloss(z1, z2, moment=moment, relative=True, eps=0.1)
    expected = isoloss(z1, z2, predictor=lambda _: moment / top + 0.1 * np.eye(3))
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    P = (z1.T @ z1 + z2.T @ z2) / 16
    far = sum(np.sum((t - z @ P) ** 2) for z, t in ((z1, t2), (z2, t1))) / 32
    np.testing.assert_allclose(losses.isoloss(z1, z2, t1, t2), far, rtol=1e-10)


def test_isoloss_is_zero_at_collapse_to_a_vector_of_norm_zero_or_one(x64):
    z = RNG.normal(size=4)
    for vector in (0 * z, z / np.linalg.norm(z)):
        same = np.tile(vector, (6, 1))
        for alpha in (0.5, 1.0):
            np.testing.assert_allclose(losses.isoloss(same, same, alpha=alpha), 0, atol=1e-12)
    slopes = jax.grad(partial(losses.isoloss, relative=True, alpha=0.5))(0 * same, 0 * same)
    assert np.isfinite(slopes).all()
