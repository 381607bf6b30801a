"""Every loss against an independent NumPy loop, and its value at collapse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from stepwise import losses, spectra

RNG = np.random.default_rng(0)
SHAPES = [(2, 1), (5, 3), (16, 7), (9, 20)]


def pair(shape, scale=1.0):
    z = scale * RNG.normal(size=shape)
    return z + 0.3, z + 0.3 * scale * RNG.normal(size=shape)


def barlow_twins(z1, z2, off_diagonal=0.0051, eps=1e-5):
    n, d = z1.shape
    a = [
        [(z1[i, j] - z1[:, j].mean()) / np.sqrt(z1[:, j].var() + eps) for j in range(d)]
        for i in range(n)
    ]
    b = [
        [(z2[i, j] - z2[:, j].mean()) / np.sqrt(z2[:, j].var() + eps) for j in range(d)]
        for i in range(n)
    ]
    total = 0.0
    for j in range(d):
        for k in range(d):
            c = sum(a[i][j] * b[i][k] for i in range(n)) / n
            total += (c - 1) ** 2 if j == k else off_diagonal * c**2
    return total


def unnormalised(z1, z2):
    n, d = z1.shape
    mean = np.concatenate([z1, z2]).mean(0)
    C = sum(
        np.outer(p - mean, q - mean) + np.outer(q - mean, p - mean)
        for p, q in zip(z1, z2, strict=True)
    ) / (2 * n)
    return np.linalg.norm(C - np.eye(d)) ** 2


def simclr(z1, z2, temperature=0.1):
    n = len(z1)
    u = [z / np.linalg.norm(z) for z in [*z1, *z2]]
    total = 0.0
    for i in range(2 * n):
        others = [np.exp(u[i] @ u[k] / temperature) for k in range(2 * n) if k != i]
        total -= np.log(np.exp(u[i] @ u[(i + n) % (2 * n)] / temperature) / sum(others)) / n
    return total


def vicreg(z1, z2):
    n, d = z1.shape
    total = 25 * ((z1 - z2) ** 2).sum() / (n * d)
    for z in (z1, z2):
        cov = np.cov(z, rowvar=False).reshape(d, d)
        total += 25 * np.mean([max(0, 1 - np.sqrt(cov[j, j] + 1e-4)) for j in range(d)]) / 2
        total += sum(cov[j, k] ** 2 for j in range(d) for k in range(d) if j != k) / d
    return total


def spectral(z1, z2, mu=1.0):
    n = len(z1)
    z1, z2 = ([z * min(1, np.sqrt(mu) / np.linalg.norm(z)) for z in view] for view in (z1, z2))
    total = -2 * np.mean([p @ q for p, q in zip(z1, z2, strict=True)])
    total += sum((z1[i] @ z2[j]) ** 2 for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return total / mu


def byol(p1, p2, z1=None, z2=None):
    z1, z2 = p1 if z1 is None else z1, p2 if z2 is None else z2
    total = 0.0
    for p, z in ((p1, z2), (p2, z1)):
        for a, b in zip(p, z, strict=True):
            total += ((a / np.linalg.norm(a) - b / np.linalg.norm(b)) ** 2).sum() / len(p)
    return total


def simsiam(p1, p2, z1=None, z2=None):
    return byol(p1, p2, z1, z2) / 4 - 1  # ‖u − v‖² = 2 − 2 cos, two directions, halved


PAIRS = [
    (losses.barlow_twins, barlow_twins),
    (losses.barlow_twins_unnormalised, unnormalised),
    (losses.simclr, simclr),
    (losses.vicreg, vicreg),
    (losses.spectral_contrastive, spectral),
    (losses.byol, byol),
    (losses.simsiam, simsiam),
]
names = [loss.__name__ for loss, _ in PAIRS]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("loss", "reference"), PAIRS, ids=names)
def test_a_loss_equals_an_independent_computation(loss, reference, shape, x64):
    for scale in (1e-3, 1.0, 30.0):
        z1, z2 = pair(shape, scale)
        np.testing.assert_allclose(float(loss(z1, z2)), reference(z1, z2), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("loss", "reference"), [(losses.byol, byol), (losses.simsiam, simsiam)])
def test_targets_of_another_network_receive_no_gradient(loss, reference, x64):
    (p1, p2), (z1, z2) = pair((6, 4)), pair((6, 4))
    np.testing.assert_allclose(float(loss(p1, p2, z1, z2)), reference(p1, p2, z1, z2), rtol=1e-12)
    gradients = jax.grad(loss, argnums=(2, 3))(p1, p2, z1, z2)
    assert not np.any(gradients[0]) and not np.any(gradients[1])


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


def test_the_loss_of_the_theory_is_the_distance_of_the_eigenvalues_from_one(x64):
    z1, z2 = pair((30, 4))
    values = spectra.eigenvalues(z1, z2, center=True)
    np.testing.assert_allclose(
        losses.barlow_twins_unnormalised(z1, z2), np.sum((values - 1) ** 2), rtol=1e-12
    )
    means = [z - z.mean(0) for z in (z1, z2)]
    each = losses.barlow_twins_unnormalised(z1, z2, center="per_view")
    np.testing.assert_allclose(
        each, losses.barlow_twins_unnormalised(*means, center="none"), rtol=1e-12
    )


def test_eps_leaves_a_tiny_embedding_unnormalised(x64):
    z1, z2 = pair((20, 3), 1e-6)
    bare = losses.barlow_twins_unnormalised(
        z1 / np.sqrt(1e-5), z2 / np.sqrt(1e-5), center="per_view", off_diagonal=0.0051
    )
    np.testing.assert_allclose(losses.barlow_twins(z1, z2), bare, rtol=1e-6)


@pytest.mark.parametrize("loss", [loss for loss, _ in PAIRS], ids=names)
def test_gradients_are_finite_at_zero_and_agree_with_differences(loss, x64):
    zero = jnp.zeros((4, 3))
    for slope in jax.grad(loss, argnums=(0, 1))(zero, zero):
        assert np.isfinite(slope).all()
    if loss in (losses.byol, losses.simsiam):
        return  # a finite difference includes the targets, but the gradient stops there
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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda z: losses.simclr(z, z[:2]),
            r"z2: expected shape \[4, 3\] as z1, received float32 \[2, 3\]",
        ),
        (
            lambda z: losses.barlow_twins(z[0], z[0]),
            r"z1: expected embeddings \[n, d\].*received float32 \[3\]",
        ),
        (lambda z: losses.vicreg(z[:1], z[:1]), "z1: expected embeddings .* n at least 2"),
        (
            lambda z: losses.vicreg(z.astype(int), z),
            "z1: expected real floating embeddings, received int",
        ),
        (
            lambda z: losses.simclr(z, z, temperature=0),
            "temperature: expected a positive number, received 0",
        ),
        (
            lambda z: losses.spectral_contrastive(z, z, mu=-1),
            "mu: expected a positive number, received -1",
        ),
        (lambda z: losses.byol(z, z, z[:2], z[:2]), r"z1: expected shape \[4, 3\] as p1"),
        (lambda z: losses.barlow_twins_unnormalised(z, z, center="both"), "center: "),
    ],
)
def test_bad_arguments_are_refused_by_name(call, message):
    z = np.ones((4, 3), np.float32)
    with pytest.raises(Exception, match=message):
        call(z)


def test_a_vicreg_mode_grows_beside_a_learned_one_if_the_views_agree_enough(x64):
    # one mode on all outputs at its fixed point; the second is small, in an orthogonal output
    # direction
    d, n, sigma, rho = 10, 600, np.array([2.0, 0.7]), np.array([0.95, 0.8])
    parts = np.linalg.qr(np.random.default_rng(0).normal(size=(n, 4)))[0]
    parts = np.linalg.qr(parts - parts.mean(0))[0] * np.sqrt(n - 1)
    same, other = (
        np.sqrt(sigma * (1 + rho) / 2) * parts[:, :2],
        np.sqrt(sigma * (1 - rho) / 2) * parts[:, 2:],
    )
    slope = jax.grad(lambda W: losses.vicreg((same + other) @ W.T, (same - other) @ W.T))

    def learned(variance):
        return np.outer(np.ones(d), [np.sqrt(variance / sigma[0]), 0])

    variance = scipy.optimize.brentq(lambda v: float(np.sum(slope(learned(v))[:, 0])), 0.05, 0.99)
    direction = np.zeros(d)
    direction[:2] = 0.5**0.5, -(0.5**0.5)
    tiny = 1e-5 * np.outer(direction, [0, 1])
    rate = -float(direction @ np.asarray(slope(learned(variance) + tiny))[:, 1]) / 1e-5
    expected = sigma[1] * (8 * variance * d - 100 * (rho[0] - rho[1])) / d
    assert rate == pytest.approx(expected, rel=3 / n)  # n against n - 1 in means and variances
