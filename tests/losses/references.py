"""Independent NumPy loops of the losses, pairs of random embeddings, and all losses by name."""

from functools import partial

import numpy as np
import scipy.special

from stepwise import losses

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
