"""Every loss against an independent NumPy loop, and its value at collapse."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from stepwise import losses, spectra

RNG = np.random.default_rng(0)
AXES = RNG.normal(size=(5, 20))
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


def raw_simclr(z1, z2, temperature=0.1):
    z, n = [*z1, *z2], len(z1)
    total = 0.0
    for i in range(2 * n):
        logits = [z[i] @ z[k] / temperature for k in range(2 * n) if k != i]
        total += scipy.special.logsumexp(logits) / n
        total -= z[i] @ z[(i + n) % (2 * n)] / temperature / n
    return total


def raw_distance(p1, p2, z1=None, z2=None):
    z1, z2 = p1 if z1 is None else z1, p2 if z2 is None else z2
    rows = zip(p1, p2, z1, z2, strict=True)
    return sum(((a - d) ** 2).sum() + ((b - c) ** 2).sum() for a, b, c, d in rows) / len(p1)


def clip(z1, z2, scale=7.0, normalise=True):
    if normalise:
        z1, z2 = ([z / np.linalg.norm(z) for z in view] for view in (z1, z2))
    n = len(z1)
    total = 0.0
    for i in range(n):
        for logits in ([z1[i] @ z for z in z2], [z2[i] @ z for z in z1]):
            logits = scale * np.array(logits)
            total += (scipy.special.logsumexp(logits) - logits[i]) / (2 * n)
    return total


def dino(s1, s2, t1=None, t2=None, center=0.0, local=(), sharp=0.04, soft=0.1):
    t1, t2 = s1 if t1 is None else t1, s2 if t2 is None else t2
    pairs = [(t1, s2), (t2, s1), *((t, s) for s in local for t in (t1, t2))]
    total = 0.0
    for teacher, student in pairs:
        for t, s in zip(teacher, student, strict=True):
            q = scipy.special.softmax((t - center) / sharp)
            total -= q @ scipy.special.log_softmax(s / soft) / (len(s1) * len(pairs))
    return total


def lejepa(*views, weight=0.02, axes=None):
    n, d = views[0].shape
    axes = AXES[:, :d] if axes is None else axes
    total = 0.0
    for z in views:
        for axis in axes:
            along = z @ (axis / np.linalg.norm(axis))
            for k in range(17):
                t = 3 * k / 16
                phi, step = np.exp(-(t**2) / 2), 3 / 16 * (1 if k in (0, 16) else 2)
                gap = (np.cos(t * along).mean() - phi) ** 2 + np.sin(t * along).mean() ** 2
                total += weight * n * step * phi * gap / (len(views) * len(axes))
    mean = sum(views) / len(views)
    return total + (1 - weight) * np.mean([(mean - z) ** 2 for z in views])


def isoloss(z1, z2, moment=None, predictor=lambda moment: moment):
    n = len(z1)
    if moment is None:
        moment = sum(np.outer(z, z) for z in [*z1, *z2]) / (2 * n)
    P = predictor(moment)
    rows = zip(z1, z2, strict=True)
    return sum(((b - P @ a) ** 2).sum() + ((a - P @ b) ** 2).sum() for a, b in rows) / (4 * n)


def a_dino(z1, z2):
    """Compute DINO's loss with students that are their own teachers, and no centre."""
    return losses.dino(z1, z2, z1, z2, np.zeros(z1.shape[1], np.float32))


def a_lejepa(z1, z2):
    return losses.lejepa(z1, z2, slices=AXES[:, : z1.shape[1]])


CASES = {
    "barlow_twins": (losses.barlow_twins, barlow_twins),
    "barlow_twins_unnormalised": (losses.barlow_twins_unnormalised, unnormalised),
    "simclr": (losses.simclr, simclr),
    "simclr, raw": (partial(losses.simclr, normalise=False), raw_simclr),
    "vicreg": (losses.vicreg, vicreg),
    "spectral_contrastive": (losses.spectral_contrastive, spectral),
    "clip": (partial(losses.clip, scale=7.0), clip),
    "clip, raw": (partial(losses.clip, scale=7.0, normalise=False), partial(clip, normalise=False)),
    "byol": (losses.byol, byol),
    "byol, raw": (partial(losses.byol, normalise=False), raw_distance),
    "simsiam": (losses.simsiam, simsiam),
    "simsiam, raw": (
        partial(losses.simsiam, normalise=False),
        lambda *z: raw_distance(*z) / 4,
    ),
    "dino": (a_dino, dino),
    "lejepa": (a_lejepa, lejepa),
    "isoloss": (losses.isoloss, isoloss),
}
PAIRS, names = list(CASES.values()), list(CASES)
STOPPED = ("byol", "simsiam", "dino", "isoloss")
"""Losses whose gradient does not flow through the targets, unlike a finite difference."""


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("loss", "reference"), PAIRS, ids=names)
def test_a_loss_equals_an_independent_computation(loss, reference, shape, x64):
    for scale in (1e-3, 1.0, 30.0):
        z1, z2 = pair(shape, scale)
        np.testing.assert_allclose(float(loss(z1, z2)), reference(z1, z2), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["byol", "byol, raw", "simsiam", "simsiam, raw"])
def test_targets_of_another_network_receive_no_gradient(name, x64):
    loss, reference = CASES[name]
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


def test_the_learned_scale_of_clip_begins_as_published_and_ends_at_a_hundred(x64):
    z1, z2 = pair((7, 4))
    first = losses.clip_scale(4)
    value = losses.clip_with_learned_scale(z1, z2, parameters=first)
    np.testing.assert_allclose(value, clip(z1, z2, 1 / 0.07), rtol=1e-6)
    value = losses.clip_with_learned_scale(z1, z2, parameters={"log_scale": jnp.asarray(9.0)})
    np.testing.assert_allclose(value, clip(z1, z2, 100.0), rtol=1e-9, atol=1e-12)


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


def test_the_loss_of_words_is_the_distance_from_its_target(x64):
    W, M = RNG.normal(size=(6, 2)), RNG.normal(size=(6, 6))
    M = M + M.T
    total = sum((M[i, j] - W[i] @ W[j]) ** 2 for i in range(6) for j in range(6)) / 8
    np.testing.assert_allclose(losses.qwem(W, M), total, rtol=1e-12)
    np.testing.assert_allclose(losses.qwem(0 * W, M), np.sum(M**2) / 8, rtol=1e-12)
    half = losses.qwem(jnp.asarray(W, jnp.float16), jnp.asarray(M, jnp.bfloat16))
    assert half.dtype == jnp.float32


def test_the_name_of_a_loss_does_not_depend_on_its_file():
    for name in losses.__all__:
        assert getattr(losses, name).__module__ == "stepwise.losses"


def test_eps_leaves_a_tiny_embedding_unnormalised(x64):
    z1, z2 = pair((20, 3), 1e-6)
    bare = losses.barlow_twins_unnormalised(
        z1 / np.sqrt(1e-5), z2 / np.sqrt(1e-5), center="per_view", off_diagonal=0.0051
    )
    np.testing.assert_allclose(losses.barlow_twins(z1, z2), bare, rtol=1e-6)


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
        (lambda z: losses.byol(z[0], z), r"p1: expected embeddings \[n, d\].*float32 \[3\]"),
        (lambda z: losses.clip(z, z, scale=0.0), "scale: expected a positive number, received 0.0"),
        (
            lambda z: losses.dino(z, z, z, z[:, :2], z[0]),
            r"teacher2: expected shape \[4, 3\] as student1, received float32 \[4, 2\]",
        ),
        (
            lambda z: losses.dino(z, z, z, z, z[0], local=[z, z[:2]]),
            r"local\[1\]: expected shape \[4, 3\] as student1, received float32 \[2, 3\]",
        ),
        (
            lambda z: losses.dino(z, z, z, z, z),
            r"center: expected a centre \[3\] of the logits, received float32 \[4, 3\]",
        ),
        (
            lambda z: losses.dino(z, z, z, z, z[0], teacher_temperature=0.0),
            "teacher_temperature: expected a positive number, received 0.0",
        ),
        (lambda z: losses.lejepa(z), "views: expected embeddings of two or more views, received 1"),
        (
            lambda z: losses.lejepa(z, z, z[:2], slices=z),
            r"z3: expected shape \[4, 3\] as z1, received float32 \[2, 3\]",
        ),
        (
            lambda z: losses.lejepa(z, z),
            "key: expected a random key, because slices is a number, received None",
        ),
        (
            lambda z: losses.lejepa(z, z, slices=0, key=jax.random.key(0)),
            "slices: expected a positive whole number, received 0",
        ),
        (
            lambda z: losses.lejepa(z, z, slices=z[:, :2]),
            r"slices: expected a number, or directions \[k, 3\], received float32 \[4, 2\]",
        ),
        (lambda z: losses.lejepa(z, z, slices=0 * z), "slices: expected rows that are not zero"),
        (
            lambda z: losses.lejepa(z, z, slices=z, weight=2),
            r"weight: expected a number in \[0, 1\], received 2",
        ),
        (
            lambda z: losses.isoloss(z, z, moment=z),
            r"moment: expected a moment \[3, 3\], received float32 \[4, 3\]",
        ),
        (lambda z: losses.isoloss(z, z, alpha=0), "alpha: expected a positive number, received 0"),
        (lambda z: losses.isoloss(z, z, z[:2]), r"t1: expected shape \[4, 3\] as z1"),
        (
            lambda z: losses.qwem(z, z),
            r"M: expected a matrix \[4, 4\], received float32 \[4, 3\]",
        ),
        (
            lambda z: losses.qwem(z, np.arange(16.0).reshape(4, 4)),
            "M: expected a symmetric matrix, received one that differs from its transpose",
        ),
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
