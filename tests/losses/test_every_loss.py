"""Every loss against an independent NumPy loop, and its value at collapse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwise import losses
from tests.losses.references import (
    CASES,
    PAIRS,
    RNG,
    SHAPES,
    STOPPED,
    barlow_twins,
    names,
    pair,
    simclr,
    spectral,
)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("loss", "reference"), PAIRS, ids=names)
def test_a_loss_equals_an_independent_computation(loss, reference, shape, x64):
    for scale in (1e-3, 1.0, 30.0):
        z1, z2 = pair(shape, scale)
        np.testing.assert_allclose(float(loss(z1, z2)), reference(z1, z2), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("loss", "value"),
    [
        (losses.barlow_twins, lambda n, d: d),
        (losses.barlow_twins_unnormalised, lambda n, d: d),
        (losses.simclr, lambda n, d: 2 * np.log(2 * n - 1)),
        (losses.vicreg, lambda n, d: 24.75),
        (losses.spectral_contrastive, lambda n, d: -1),
        (losses.byol, lambda n, d: 0),
        (losses.simsiam, lambda n, d: -1),
        (CASES["simclr, raw"][0], lambda n, d: 2 * np.log(2 * n - 1)),
        (CASES["clip"][0], lambda n, d: np.log(n)),
        (CASES["clip, raw"][0], lambda n, d: np.log(n)),
        (CASES["byol, raw"][0], lambda n, d: 0),
        (CASES["simsiam, raw"][0], lambda n, d: 0),
    ],
)
def test_a_loss_has_its_documented_value_at_full_collapse(loss, value, x64):
    for n, d in SHAPES:
        z = np.broadcast_to(2 * RNG.normal(size=d) + 2, (n, d))
        z = z / max(1, np.linalg.norm(z[0]) if loss is losses.spectral_contrastive else 1)
        z = z / np.linalg.norm(z[0]) if loss is losses.spectral_contrastive else z
        np.testing.assert_allclose(float(loss(z, z)), value(n, d), atol=1e-10)


def test_constants_other_than_the_defaults(x64):
    z1, z2 = pair((8, 5))
    np.testing.assert_allclose(
        losses.barlow_twins(z1, z2, off_diagonal=1, eps=0.1), barlow_twins(z1, z2, 1, 0.1)
    )
    np.testing.assert_allclose(
        losses.simclr(z1, z2, temperature=0.5), simclr(z1, z2, 0.5), rtol=1e-12
    )
    np.testing.assert_allclose(
        losses.spectral_contrastive(z1, z2, mu=10.0), spectral(z1, z2, 10.0), rtol=1e-12
    )


def test_the_name_of_a_loss_does_not_depend_on_its_file():
    for name in losses.__all__:
        assert getattr(losses, name).__module__ == "stepwise.losses"


@pytest.mark.parametrize("name", names)
def test_gradients_are_finite_at_zero_and_agree_with_differences(name, x64):
    loss, zero = CASES[name][0], jnp.zeros((4, 3))
    for slope in jax.grad(loss, argnums=(0, 1))(zero, zero):
        assert np.isfinite(slope).all()
    if name.startswith(STOPPED):
        return
    z1, z2 = pair((6, 3))
    direction = RNG.normal(size=z1.shape)
    step = 1e-5
    difference = (loss(z1 + step * direction, z2) - loss(z1 - step * direction, z2)) / (2 * step)
    np.testing.assert_allclose(
        np.sum(jax.grad(loss)(z1, z2) * direction), difference, rtol=1e-6, atol=1e-8
    )


@given(st.integers(0, 1000))
def test_views_and_samples_may_be_swapped(seed):
    rng = np.random.default_rng(seed)
    z1, z2 = rng.normal(size=(2, 7, 4)).astype("float32")
    order = rng.permutation(7)
    for loss, _ in PAIRS:
        np.testing.assert_allclose(loss(z1[order], z2[order]), loss(z2, z1), rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("loss", [loss for loss, _ in PAIRS], ids=names)
def test_half_precision_is_computed_in_single(loss):
    z1, z2 = (jnp.asarray(z, jnp.bfloat16) for z in pair((6, 3)))
    value = loss(z1, z2)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(
        value, loss(z1.astype(jnp.float32), z2.astype(jnp.float32)), rtol=1e-6
    )
