"""A centred loss is the loss of centred embeddings, and ignores their mean."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import losses
from tests.losses.references import pair


def centre(z):
    return z - z.mean(axis=0)


def test_a_centred_loss_is_that_of_centred_embeddings_and_ignores_their_mean(x64):
    z1, z2 = pair((7, 3))
    shift = np.array([5.0, -3.0, 1.0])
    value = losses.centred(losses.isoloss, z1, z2, alpha=0.5)
    expected = losses.isoloss(centre(z1), centre(z2), alpha=0.5)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(
        losses.centred(losses.isoloss, z1 + shift, z2 - shift, alpha=0.5), expected, rtol=1e-10
    )
    along = partial(losses.centred, losses.isoloss, alpha=0.5)
    slope = jax.grad(lambda c: along(z1 + c[None], z2 + c[None]))(jnp.zeros(3))
    np.testing.assert_allclose(slope, 0, atol=1e-12)


def test_a_constant_is_learned_first_unless_the_loss_is_centred(x64):
    """The mean of the features is a mode of agreement 1, which IsoLoss learns."""
    rng = np.random.default_rng(0)
    same, other = rng.normal(size=(60, 2)), 0.3 * rng.normal(size=(60, 2))
    x, x2 = same + other + [3, 0], same - other + [3, 0]

    def growth(loss):
        """Return the largest growth rate near W = 0, past the gradients that the loss stops."""
        slope = jax.grad(lambda W: loss(x @ W.T, x2 @ W.T))
        near = [-slope(1e-5 * row[None])[0] / 1e-5 for row in np.eye(2)]
        return np.linalg.eigvalsh(np.asarray(near))[-1]

    centred = partial(losses.centred, losses.isoloss)
    cross = (x.T @ x2 + x2.T @ x) / (2 * len(x))
    np.testing.assert_allclose(growth(losses.isoloss), np.linalg.eigvalsh(cross)[-1], rtol=1e-6)
    assert growth(centred) < growth(losses.isoloss) / 5


def test_local_crops_and_a_state_are_passed_on(x64):
    (s1, s2), (t1, t2), (a, b) = pair((6, 4)), pair((6, 4)), pair((6, 4))
    state = losses.dino_center(4)
    loss, after = losses.centred(
        losses.dino_with_running_center, s1, s2, t1, t2, state=state, local=[a, b]
    )
    arrays = [centre(z) for z in (s1, s2, t1, t2)]
    expected, _ = losses.dino_with_running_center(
        *arrays, state=state, local=[centre(a), centre(b)]
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    assert int(after["step"]) == 1


def test_what_is_not_a_matrix_is_refused_by_name():
    with pytest.raises(ValueError, match=r"embeddings\[1\]: expected embeddings \[n, d\]"):
        losses.centred(losses.isoloss, np.ones((3, 2), "float32"), np.ones(3, "float32"))
