"""Fewer modes for the flow: what cannot matter within the time asked for is left out, and the bound
kept is said.

All of it is for laws of one form, da_j/dt = κ γ_j (I − C) a_j for column j of A, with C = A diag(γ)
Aᵀ their observable; κ is `Law.contraction()`. A law of another form is left whole.

While 0 ⪯ C ⪯ I, |a_j(t)| ≤ |a_j(0)| e^{κ γ_j⁺ t}. A set of modes S adds at most ε_S(t) = Σ_S |γ_j|
|a_j(0)|² e^{2κ γ_j⁺ t} to C, which moves λ_i, to first order, by at most ε_S(T) + (κ/2) γ_i ∫ ε_S
dt, the integral up to where mode i has been learned.

The slow modes that are too many to drop are compressed: A_S = L Qᵀ with Q a basis of the block
Krylov space span{A_Sᵀ, D A_Sᵀ, ... D^{N−1} A_Sᵀ}. The flow never leaves the infinite one, and N
blocks reproduce the moments A_S Dᵖ A_Sᵀ, p < 2N (block Gauss quadrature). Along the flow a_j(t) =
F(γ_j) a_j(0), where F is entire and ‖F(γ)‖² ≤ e^{2κ t max(0, Re γ)} for complex γ too; so by
Bernstein's theorem the best polynomial of degree 2N − 2 misses F ⊗ F on the set's spectrum [c − h,
c + h] by at most 2 M ρ^{2−2N}/(ρ − 1) for every ρ > 1, with M = exp(2κ T max(0, c + h (ρ +
1/ρ)/2)), and C's error is at most twice that times the weight of the set.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from stepwise import laws
from stepwise.laws import LawOf, Modes

SAFETY = 4.0
"""On the bounds below, which hold to first order and take a mode as learned by twice its predicted
step time.

Without it, over 5,974 starts with rows and columns of uneven size, they were exceeded by factors of
up to 2.4.
"""


class Reduction(NamedTuple):
    """A smaller problem with the same flow.

    Attributes:
        gamma: its modes [k].
        A0: its start [d, k].
        expansion: A_full = A_reduced @ expansion, [k, r]; zero on dropped modes.
        bound: by how much any eigenvalue of C can differ, to first order.
    """

    gamma: Float[np.ndarray, " k"]
    A0: Float[np.ndarray, "d k"]
    expansion: Float[np.ndarray, "k r"]
    bound: float


def reduce(
    gamma: np.ndarray, A0: np.ndarray, until: float, tol: float, *, law: LawOf = None
) -> Reduction:
    """Drop and compress modes so that the eigenvalues of C until time `until` are within `tol` of
    the whole flow's.

    Where C(0) has an eigenvalue above 1, or the law has another form, nothing is left out: the
    bound does not hold there.
    """
    gamma, A0 = np.asarray(gamma, np.float64), np.asarray(A0, np.float64)
    r, pull = gamma.size, _pull(law, gamma, len(A0))
    spread = np.linalg.eigvalsh((A0 * gamma) @ A0.T)
    if pull is None or spread[-1] > 1 or not tol > 0:
        return Reduction(gamma, A0, np.eye(r), 0.0)
    stretch = 1 + max(0.0, -spread[0])  # I − C is at most this
    weight, growth = _influence(gamma, A0, until * stretch, pull)
    with np.errstate(over="ignore", divide="ignore"):
        order = np.argsort(np.log(weight) + growth, kind="stable")
        total = np.cumsum(weight[order] * np.exp(np.minimum(growth[order], 700)))
    dropped = int(np.searchsorted(total, tol / 2, side="right"))
    kept = np.sort(order[dropped:])
    bound = float(total[dropped - 1]) if dropped else 0.0
    first, last, blocks, extra = _window(
        gamma[kept], A0[:, kept], weight[kept], until * stretch, tol / 2, pull
    )
    fast, slow, after = kept[:first], kept[first:last], kept[last:]
    if not blocks:
        fast, slow = kept, kept[:0]
    small, rotation = (
        _compress(gamma[slow], A0[:, slow], blocks) if blocks else (gamma[slow], np.zeros((0, 0)))
    )
    end = len(fast) + small.size
    back = np.zeros((end + len(after), r))
    back[np.arange(len(fast)), fast] = 1
    back[len(fast) : end, slow] = rotation.T
    back[np.arange(end, len(back)), after] = 1
    start = np.concatenate([A0[:, fast], A0[:, slow] @ rotation, A0[:, after]], axis=1)
    return Reduction(np.concatenate([gamma[fast], small, gamma[after]]), start, back, bound + extra)


def leading(
    gamma: np.ndarray, A0: np.ndarray, until: float, tol: float, *, law: LawOf = None
) -> tuple[int, float]:
    """The fewest leading modes k that matter until then, and by how much leaving the rest out can
    move an eigenvalue.

    For gradient descent too: below its stability limit no mode outgrows the flow's e^{κ γ⁺ t}. All
    of them where C(0) has an eigenvalue above 1, or the law has another form.
    """
    gamma, A0 = np.asarray(gamma, np.float64), np.asarray(A0, np.float64)
    pull, start = _pull(law, gamma, len(A0)), np.linalg.eigvalsh((A0 * gamma) @ A0.T)
    if pull is None or start[-1] > 1:
        return gamma.size, 0.0
    weight, growth = _influence(gamma, A0, until * (1 + max(0.0, -start[0])), pull)
    beyond = np.cumsum((weight * np.exp(np.minimum(growth, 700)))[::-1])[::-1]
    k = max(1, int(np.sum(beyond > tol)))
    return k, float(beyond[k]) if k < gamma.size else 0.0


def _pull(law: LawOf, gamma: np.ndarray, d: int) -> float | None:
    """κ of the law, None where it has another form."""
    return laws.law_of(law, Modes(gamma), d).contraction()


def _influence(
    gamma: np.ndarray, A0: np.ndarray, until: float, pull: float
) -> tuple[np.ndarray, np.ndarray]:
    """Weight w_j and exponent x_j: leaving mode j out moves an eigenvalue by at most w_j e^{x_j},
    to first order.
    """
    rate = 2 * pull * np.maximum(gamma, 0)
    k = min(A0.shape)
    s0 = np.abs(np.diagonal(np.linalg.qr(A0[:, :k])[1]))
    lam0 = np.clip(gamma[:k] * s0**2, 1e-300, 0.5)
    positive = gamma[:k] > 0
    learned = np.full(k, until)
    learned[positive] = np.minimum(
        until, 2 * np.log(1 / lam0[positive] - 1) / (2 * pull * gamma[:k][positive])
    )
    # κ/2 γ_i ∫_0^{t_i} e^{rate s} ds, as a factor on e^{rate T}
    slow = rate[None] * learned[:, None] < 1e-6
    safe = np.where(slow, 1, rate[None])
    shape = np.exp(np.minimum(rate[None] * (learned[:, None] - until), 0))
    integral = np.where(slow, learned[:, None] * shape, (shape - np.exp(-rate * until)) / safe)
    later = np.max(pull / 2 * np.maximum(gamma[:k], 0)[:, None] * integral, axis=0)
    return SAFETY * np.abs(gamma) * np.sum(A0**2, axis=0) * (1 + later), rate * until


def _window(
    gamma: np.ndarray, A0: np.ndarray, weight: np.ndarray, until: float, tol: float, pull: float
) -> tuple[int, int, int, float]:
    """Which modes first ... last − 1 to compress, into how many Krylov blocks, and its bound: the
    smallest state.
    """
    d, k = A0.shape
    nothing = (k, k, 0, 0.0)
    if k <= d:
        return nothing
    firsts = np.unique(
        np.concatenate(
            [np.arange(0, k, max(1, d // 4))[:64], np.geomspace(1, k - 1, 64).astype(int)]
        )
    )
    # the strongly negative modes too may stay apart: as far below zero as the fastest slow mode is
    # above, times these
    depths = np.array([0.0, 0.5, 1.0, 2.0, 4.0, np.inf])
    edges = np.abs(gamma[firsts])[:, None] * depths
    lasts = np.maximum(np.searchsorted(-gamma, edges, side="right"), firsts[:, None] + 1)
    top, low = gamma[firsts][:, None], gamma[lasts - 1]
    center, half = (top + low) / 2, (top - low) / 2

    def total(values: np.ndarray) -> np.ndarray:
        sums = np.concatenate([[0.0], np.cumsum(values)])
        return sums[lasts] - sums[firsts][:, None]

    # Cauchy-Schwarz: the compressed modes' weight is known by their moments only; and what `weight`
    # adds for later
    square = np.sum(A0**2, axis=0)
    later = np.max(weight / np.maximum(np.abs(gamma) * square, 1e-300), initial=1)
    mass = later * np.sqrt(total(gamma**2 * square) * total(square))
    rho = np.geomspace(1.05, 200, 48)[:, None, None]
    growth = 2 * pull * until * np.maximum(0, center + half * (rho + 1 / rho) / 2)
    best, smallest = nothing, k
    for blocks in range(1, 13):
        state = firsts[:, None] + (k - lasts) + blocks * d
        with np.errstate(divide="ignore"):
            log = np.log(4 * mass) + np.min(
                growth - (2 * blocks - 2) * np.log(rho) - np.log(rho - 1), axis=0
            )
        state = np.where(log <= np.log(tol), state, k)
        i, j = np.unravel_index(np.argmin(state), state.shape)
        if state[i, j] < smallest:
            best, smallest = (
                (int(firsts[i]), int(lasts[i, j]), blocks, float(np.exp(log[i, j]))),
                int(state[i, j]),
            )
    return best


def _compress(gamma: np.ndarray, A: np.ndarray, blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """Modes θ [k] and rotation [r, k] of D on the block Krylov space of Aᵀ: the modes act as these
    few.
    """
    space = np.linalg.qr(A.T)[0]
    block = space
    for _ in range(blocks - 1):
        block = (gamma - gamma.mean())[:, None] * block
        for _ in range(2):
            block -= space @ (space.T @ block)
            block = np.linalg.qr(block)[0]
        space = np.concatenate([space, block], axis=1)
    theta, mix = np.linalg.eigh(space.T @ (gamma[:, None] * space))
    return theta[::-1], (space @ mix)[:, ::-1]
