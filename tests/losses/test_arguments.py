"""Every loss rejects bad arguments with a message that names the argument."""

import jax
import numpy as np
import pytest

from stepwise import losses


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
