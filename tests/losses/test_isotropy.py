"""LeJEPA: several views, special embeddings, and the directions that it draws."""

from functools import partial

import jax
import numpy as np
import pytest

from stepwise import losses
from tests.losses.references import AXES, RNG, lejepa, pair


@pytest.mark.parametrize("views", [2, 3])
def test_lejepa_accepts_any_number_of_views(views, x64):
    z = [RNG.normal(size=(7, 4)) for _ in range(views)]
    value = losses.lejepa(*z, weight=0.3, slices=AXES[:, :4])
    np.testing.assert_allclose(value, lejepa(*z, weight=0.3), rtol=1e-12)


def test_lejepa_of_zeros_and_of_a_normal_sample(x64):
    z = np.zeros((50, 3))
    value = losses.lejepa(z, z, key=jax.random.key(0))
    np.testing.assert_allclose(value, 0.40205 * 0.02 * 50, rtol=1e-5)
    # the sample's characteristic function has variance (1 − φ²)/n, and n is a factor of the loss
    knots = np.linspace(0, 3, 17)
    phi, steps = np.exp(-(knots**2) / 2), 3 / 16 * np.array([1, *[2] * 15, 1])
    samples = np.random.default_rng(0).normal(size=(400, 2, 30, 3))
    loss = partial(losses.lejepa, weight=1.0, slices=AXES[:, :3])
    values = jax.vmap(lambda z: loss(z[0], z[1]))(samples)
    np.testing.assert_allclose(np.mean(values), steps @ (phi * (1 - phi**2)), rtol=0.03)


def test_the_directions_of_lejepa_depend_on_the_key_alone(x64):
    z1, z2 = pair((7, 4))
    with jax.enable_x64(False):
        single = losses.lejepa(z1, z2, key=jax.random.key(3))
    double = losses.lejepa(z1, z2, key=jax.random.key(3))
    np.testing.assert_allclose(single, double, rtol=1e-5)
    assert abs(losses.lejepa(z1, z2, key=jax.random.key(4)) - double) > 1e-6


def test_lejepa_draws_other_slices_at_every_step(x64):
    z1, z2 = pair((7, 4))
    first, state = losses.lejepa_with_drawn_slices(z1, z2, state=losses.lejepa_step(4))
    second, state = losses.lejepa_with_drawn_slices(z1, z2, state=state)
    again, _ = losses.lejepa_with_drawn_slices(z1, z2, state=losses.lejepa_step(4))
    assert first == again != second and state["step"] == 2
