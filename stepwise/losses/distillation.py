"""Losses of self-distillation: BYOL, SimSiam, DINO and IsoLoss. No gradient reaches the targets."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

from stepwise import _check
from stepwise.losses._pairs import (
    Scalar,
    check_all,
    check_embeddings,
    check_pair,
    check_targets,
    require_positive,
    unit,
)
from stepwise.types import Numbers, Real, Whole

CENTER_DECAY = 0.9
"""Decay rate of DINO's running centre, a step."""


def byol(
    p1: Numbers,
    p2: Numbers,
    z1: Numbers | None = None,
    z2: Numbers | None = None,
    *,
    normalise: bool = True,
    eps: Real = 1e-12,
) -> Scalar:
    """Compute mean_i ‖u(p1_i) − u(z2_i)‖² + ‖u(p2_i) − u(z1_i)‖², u(z) = z/max(‖z‖, √eps).

    Grill et al. (2020), eq. 2, with both directions added. No gradient flows through z1 and z2.
    The loss is 0, its minimum, at full collapse.

    Args:
        p1, p2: the online network's predictions for the two views [n, d].
        z1, z2: the target network's projections of the two views [n, d]; by default p1 and p2, with
            their gradients stopped.
        normalise: whether to divide embeddings by their norms. If not, u(z) = z. The gradient flow
            of a linear model with p = P W x and z = W_z x is then exactly W' = 4 Pᵀ E and
            P' = 4 E Wᵀ, with E = W_z Γ − P W Σ and uncentred moments Γ and Σ.
        eps: square of the smallest norm.

    Raises:
        ValueError: if the embeddings are not matrices of the same shape.
    """
    return _squared_distance(p1, p2, z1, z2, eps if normalise else None)


def simsiam(
    p1: Numbers,
    p2: Numbers,
    z1: Numbers | None = None,
    z2: Numbers | None = None,
    *,
    normalise: bool = True,
    eps: Real = 1e-16,
) -> Scalar:
    """Compute −½ mean_i [cos(p1_i, z2_i) + cos(p2_i, z1_i)], with no gradient through z1 and z2.

    Chen & He (2021), eq. 2. Norms are at least √eps. The loss is −1, its minimum, at full collapse.

    Args:
        p1, p2: the predictor's outputs for the two views [n, d].
        z1, z2: the projections of the two views [n, d]; by default p1 and p2, with their gradients
            stopped.
        normalise: whether to divide embeddings by their norms. If not, the loss is
            ¼ mean_i [‖p1_i − z2_i‖² + ‖p2_i − z1_i‖²], because −cos = ½ ‖p − z‖² − 1 for vectors of
            norm 1, whereas −p · z would have no minimum. The gradient flow of a linear model with
            p = P W x and z = W_z x is then exactly W' = Pᵀ E and P' = E Wᵀ, with
            E = W_z Γ − P W Σ and uncentred moments Γ and Σ.
        eps: square of the smallest norm.

    Raises:
        ValueError: if the embeddings are not matrices of the same shape.
    """
    if not normalise:
        return _squared_distance(p1, p2, z1, z2, None) / 4
    p1, p2 = check_all(("p1", "p2"), (p1, p2))
    z1, z2 = check_targets((p1, p2), (z1, z2), ("z1", "z2", "p1"))
    cosines = unit(p1, eps) * unit(z2, eps) + unit(p2, eps) * unit(z1, eps)
    return -jnp.mean(jnp.sum(cosines, axis=1)) / 2


def dino(
    student1: Numbers,
    student2: Numbers,
    teacher1: Numbers,
    teacher2: Numbers,
    center: Numbers,
    *,
    local: Sequence[Numbers] = (),
    student_temperature: Real = 0.1,
    teacher_temperature: Real = 0.04,
) -> Scalar:
    """Compute the mean cross entropy −Σ_k q_k ln p_k of the student's p and the teacher's q.

    Caron et al. (2021), eq. 1 to 3. With logits s of the student and t of the teacher,
    p = softmax(s/student_temperature) and q = softmax((t − center)/teacher_temperature). The mean
    is over the rows and over the pairs of two different views: the teacher of each of the two views
    with the student of the other, and, if there are local crops, with the student of each crop. No
    gradient flows through teacher and centre. The loss is ln K if the student is uniform, whatever
    the teacher. With a linear student W x and teacher V x, small weights follow
    W' = (I − 11ᵀ/K) (V Γ/teacher_temperature − W Σ/student_temperature)/(K student_temperature).

    Args:
        student1, student2: the student's logits of the two views [n, K].
        teacher1, teacher2: the teacher's logits of the two views [n, K].
        center: centre of the teacher's logits [K]; `dino_with_running_center` updates it.
        local: the student's logits of local crops, each [n, K].
        student_temperature, teacher_temperature: divisors of the logits.

    Raises:
        ValueError: if the logits are not matrices of the same shape, the centre has another length,
            or a temperature is not positive.
    """
    crops = [f"local[{i}]" for i in range(len(local))]
    names = ("student1", "student2", *crops, "teacher1", "teacher2")
    logits = check_all(names, (student1, student2, *local, teacher1, teacher2))
    K = logits[0].shape[1]
    center = jnp.asarray(center)
    _check.require(center.shape == (K,), "center", f"a centre [{K}] of the logits", center)
    require_positive("student_temperature", student_temperature)
    require_positive("teacher_temperature", teacher_temperature)
    scores = [jax.nn.log_softmax(z / student_temperature) for z in logits[:-2]]
    targets = [
        jax.lax.stop_gradient(jax.nn.softmax((z - center[None]) / teacher_temperature))
        for z in logits[-2:]
    ]
    pairs = [(targets[1], scores[0]), (targets[0], scores[1])]
    pairs += [(target, score) for score in scores[2:] for target in targets]
    entropies = [-jnp.mean(jnp.sum(target * score, axis=1)) for target, score in pairs]
    return jnp.mean(jnp.stack(entropies))


def dino_with_running_center(
    student1: Numbers,
    student2: Numbers,
    teacher1: Numbers,
    teacher2: Numbers,
    *,
    state: dict[str, Array],
    local: Sequence[Numbers] = (),
    student_temperature: Real = 0.1,
    teacher_temperature: Real = 0.04,
    warmup_teacher_temperature: Real = 0.04,
    warmup_steps: Real = 0,
) -> tuple[Scalar, dict[str, Array]]:
    """Compute `dino` with a running centre, and the next centre 0.9 c + 0.1 mean(teacher's logits).

    Caron et al. (2021), eq. 4. As in the official code, the loss uses the centre before its update,
    and the teacher's temperature rises linearly during a warm-up. (The official recipe for small
    transformers goes from 0.04 to 0.07; a mode grows if the agreement of its views exceeds the
    ratio of both temperatures, so a warm-up can end the growth of modes that it first allowed.)

    Args:
        student1, student2, teacher1, teacher2: logits [n, K], as in `dino`.
        state: {"center": the running centre [K], "step": the number of steps so far}, at first
            `dino_center`.
        local, student_temperature: as in `dino`.
        teacher_temperature: of the teacher after the warm-up.
        warmup_teacher_temperature: of the teacher at the first step of the warm-up.
        warmup_steps: number of steps of the warm-up; 0 for none.

    Returns:
        The loss and the next state.

    Raises:
        ValueError: as in `dino`, or if `warmup_steps` is negative.
    """
    for name, value in (
        ("teacher_temperature", teacher_temperature),
        ("warmup_teacher_temperature", warmup_teacher_temperature),
    ):
        require_positive(name, value)
    if not _check.is_traced(warmup_steps):
        fits = warmup_steps >= 0
        _check.require(fits, "warmup_steps", "a number of steps, or 0 for none", warmup_steps)
    center, step = state["center"], state["step"]
    share = jnp.clip(jnp.asarray(step, float) / jnp.maximum(warmup_steps, 1), 0, 1)
    share = jnp.where(jnp.asarray(warmup_steps) > 0, share, 1)
    warm = warmup_teacher_temperature * (1 - share) + teacher_temperature * share
    loss = dino(
        student1,
        student2,
        teacher1,
        teacher2,
        center,
        local=local,
        student_temperature=student_temperature,
        teacher_temperature=warm,
    )
    logits = jnp.stack(check_pair(teacher1, teacher2))
    moved = CENTER_DECAY * center + (1 - CENTER_DECAY) * jnp.mean(logits, axis=(0, 1))
    moved = jax.lax.stop_gradient(moved).astype(center.dtype)
    return loss, {"center": moved, "step": step + 1}


def dino_center(d: Whole) -> dict[str, Array]:
    """Return the first state of `dino_with_running_center`: a centre of d zeros, and no step."""
    return {"center": jnp.zeros(d, jnp.float32), "step": jnp.zeros((), jnp.int32)}


def isoloss(
    z1: Numbers,
    z2: Numbers,
    t1: Numbers | None = None,
    t2: Numbers | None = None,
    *,
    moment: Numbers | None = None,
    alpha: Real = 1.0,
    eps: Real = 0.0,
    relative: bool = False,
) -> Scalar:
    """Compute ¼ mean_i ‖z1_i − sg(t2_i + z1_i − P z1_i)‖² + ‖z2_i − sg(t1_i + z2_i − P z2_i)‖².

    Halvagal et al. (2023), the Euclidean form of IsoLoss; sg stops the gradient. The predictor
    P = U diag((s + eps)^alpha) Uᵀ of DirectPred (Tian et al. 2021) has the eigenvectors U and
    eigenvalues s of a second moment of the embeddings, and is not differentiated. The factor makes
    the loss half the mean over pairs and directions; the official code adds the two directions,
    which is four times this loss. The loss is 0 at full collapse to a vector of norm 0 or 1.

    By default, the gradient flow of a linear model z = W x is exactly W' = W Γ − W Σ Wᵀ W Σ, with
    uncentred moments Γ and Σ. If these commute, with eigenvalues γ and σ, the eigenvalues s of
    W Σ Wᵀ follow s' = 2 s (γ − σ s) from an aligned start: a logistic curve that grows at rate 2γ
    and rests at γ/σ. Any other `alpha` replaces σ s by σ s^alpha.

    Args:
        z1, z2: embeddings of the two views [n, d].
        t1, t2: a target network's embeddings of the two views [n, d]; by default z1 and z2, with
            their gradients stopped.
        moment: the second moment whose eigenvectors and eigenvalues the predictor has [d, d],
            symmetric, for instance a running mean; by default that of the batch,
            (z1ᵀ z1 + z2ᵀ z2)/(2n).
        alpha: power of the eigenvalues.
        eps: added to the eigenvalues.
        relative: whether to divide the eigenvalues by the largest before adding `eps`, as the
            authors do for their cosine loss. In the Euclidean form the first mode then decays,
            because its views agree less than perfectly and its predictor is at least 1.

    Raises:
        ValueError: if the embeddings are not matrices of the same shape, `moment` is not [d, d], or
            `alpha` is not positive.
    """
    z1, z2 = check_pair(z1, z2)
    t1, t2 = check_targets((z1, z2), (t1, t2), ("t1", "t2", "z1"))
    require_positive("alpha", alpha)
    d = z1.shape[1]
    if moment is None:
        moment = (z1.T @ z1 + z2.T @ z2) / (2 * len(z1))
    _check.require(jnp.shape(moment) == (d, d), "moment", f"a moment [{d}, {d}]", moment)
    moment = jax.lax.stop_gradient(check_embeddings("moment", moment))
    P = _direct_predictor(moment, alpha, eps, relative)
    gap1 = z1 - jax.lax.stop_gradient(t2 + z1 - z1 @ P)
    gap2 = z2 - jax.lax.stop_gradient(t1 + z2 - z2 @ P)
    return jnp.mean(jnp.sum(gap1**2 + gap2**2, axis=1)) / 4


def isoloss_with_running_moment(
    z1: Numbers,
    z2: Numbers,
    t1: Numbers | None = None,
    t2: Numbers | None = None,
    *,
    state: dict[str, Array],
    alpha: Real = 1.0,
    eps: Real = 0.0,
    relative: bool = False,
    decay: Real = 0.9,
) -> tuple[Scalar, dict[str, Array]]:
    """Compute `isoloss` with a running second moment F of the embeddings, and the next state.

    At each step F becomes decay · F + (1 − decay) (z1ᵀ z1 + z2ᵀ z2)/(2n), and then the predictor
    has its eigenvectors and eigenvalues, as in DirectPred (Tian et al. 2021). At the first step F
    is the moment of the batch. While a variance grows, its running value lags behind.

    Args:
        z1, z2, t1, t2, alpha, eps, relative: as in `isoloss`.
        state: {"moment": F [d, d], "step": the number of steps so far}, at first `isoloss_moment`.
        decay: weight of the former F in each step, in [0, 1).

    Returns:
        The loss and the next state.

    Raises:
        ValueError: as in `isoloss`, if the moment has another size, or if `decay` is not in [0, 1).
    """
    z1, z2 = check_pair(z1, z2)
    if not _check.is_traced(decay):
        _check.require(0 <= decay < 1, "decay", "a number in [0, 1)", decay)
    former, step = state["moment"], state["step"]
    d = z1.shape[1]
    fits = jnp.shape(former) == (d, d)
    _check.require(fits, "state", f"a moment [{d}, {d}], as of isoloss_moment({d})", former)
    batch = jax.lax.stop_gradient((z1.T @ z1 + z2.T @ z2) / (2 * len(z1)))
    moment = batch + jnp.where(step > 0, decay, 0) * (former - batch)
    loss = isoloss(z1, z2, t1, t2, moment=moment, alpha=alpha, eps=eps, relative=relative)
    return loss, {"moment": moment.astype(former.dtype), "step": step + 1}


def isoloss_moment(d: Whole) -> dict[str, Array]:
    """Return the first state of `isoloss_with_running_moment`, in d dimensions."""
    return {"moment": jnp.zeros((d, d), jnp.float32), "step": jnp.zeros((), jnp.int32)}


def _direct_predictor(moment: Array, alpha: Real, eps: Real, relative: bool) -> Array:
    s, U = jnp.linalg.eigh(moment)
    s = jnp.maximum(s, 0)
    if relative:
        s = s / jnp.maximum(s.max(), jnp.finfo(s.dtype).tiny)
    return (U * ((s + eps) ** alpha)[None]) @ U.T


def _squared_distance(
    p1: Numbers, p2: Numbers, z1: Numbers | None, z2: Numbers | None, eps: Real | None
) -> Scalar:
    """Return the mean squared distance, added over both directions; eps=None for raw embeddings."""
    p1, p2 = check_all(("p1", "p2"), (p1, p2))
    z1, z2 = check_targets((p1, p2), (z1, z2), ("z1", "z2", "p1"))
    if eps is not None:
        p1, p2, z1, z2 = (unit(z, eps) for z in (p1, p2, z1, z2))
    return jnp.mean(jnp.sum((p1 - z2) ** 2 + (p2 - z1) ** 2, axis=1))
