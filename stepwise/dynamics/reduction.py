"""Reduction of the flow to fewer modes, with a bound on the error.

The reduction applies to laws of one form: da_j/dt = κ γ_j (I − C) a_j for column j of A, with the
observable C = A diag(γ) Aᵀ. κ is `Law.contraction()`. For any other law all modes are kept.

Dropped modes. While 0 ⪯ C ⪯ I, |a_j(t)| ≤ |a_j(0)| e^{κ γ_j⁺ t}. A set of modes S adds at most
ε_S(t) = Σ_S |γ_j| |a_j(0)|² e^{2κ γ_j⁺ t} to C. To first order, this moves λ_i by at most
ε_S(T) + (κ/2) γ_i ∫ ε_S dt, where the integral runs until mode i has been learned.

Compressed modes. If a set of slow modes is too large to drop, it is compressed: A_S = L Qᵀ, where Q
is a basis of the block Krylov space span{A_Sᵀ, D A_Sᵀ, ... D^{N−1} A_Sᵀ}. The flow never leaves the
infinite Krylov space, and N blocks reproduce the moments A_S Dᵖ A_Sᵀ with p < 2N (block Gauss
quadrature). Along the flow a_j(t) = F(γ_j) a_j(0), where F is entire and
‖F(γ)‖² ≤ e^{2κ t max(0, Re γ)}, also for complex γ. By Bernstein's theorem, the best polynomial of
degree 2N − 2 approximates F ⊗ F on the set's spectrum [c − h, c + h] to within
2 M ρ^{2−2N}/(ρ − 1) for every ρ > 1, with M = exp(2κ T max(0, c + h (ρ + 1/ρ)/2)). The error of C
is at most twice that times the weight of the set.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from stepwise import laws
from stepwise.laws import LawOf, Modes

SAFETY = 4.0
"""Safety factor on the bounds of this module.

The bounds hold to first order, and assume that a mode has been learned at twice its predicted step
time. Without the factor, errors exceeded them by factors of up to 2.4 over 5,974 starts with rows
and columns of uneven size.
"""


class Reduction(NamedTuple):
    """A smaller problem with the same flow.

    Attributes:
        gamma: eigenvalues γ of its modes [k].
        A0: its start [d, k].
        expansion: matrix [k, r] such that A_full = A_reduced @ expansion; zero on dropped modes.
        bound: bound on the difference of any eigenvalue of C, to first order.
    """

    gamma: Float[np.ndarray, " k"]
    A0: Float[np.ndarray, "d k"]
    expansion: Float[np.ndarray, "k r"]
    bound: float


def reduce(
    gamma: np.ndarray, A0: np.ndarray, until: float, tol: float, *, law: LawOf = None
) -> Reduction:
    """Drop and compress modes while the eigenvalues of C change by at most `tol` until `until`.

    All modes are kept if C(0) has an eigenvalue above 1, or if the law has another form, because
    the bound does not hold then.
    """
    gamma, A0 = np.asarray(gamma, np.float64), np.asarray(A0, np.float64)
    r, pull = gamma.size, _pull(law, gamma, len(A0))
    spread = np.linalg.eigvalsh((A0 * gamma) @ A0.T)
    if pull is None or spread[-1] > 1 or not tol > 0:
        return Reduction(gamma, A0, np.eye(r), 0.0)
    stretch = 1 + max(0.0, -spread[0])  # an upper bound on I − C
    weight, growth = _influence(gamma, A0, until * stretch, pull)
    with np.errstate(over="ignore", divide="ignore"):
        order = np.argsort(np.log(weight) + growth, kind="stable")
        total = np.cumsum(weight[order] * np.exp(np.minimum(growth[order], 700)))
    n_dropped = int(np.searchsorted(total, tol / 2, side="right"))
    modes = np.sort(order[n_dropped:])
    bound = float(total[n_dropped - 1]) if n_dropped else 0.0
    first, last, blocks, extra = _window(
        gamma[modes], A0[:, modes], weight[modes], until * stretch, tol / 2, pull
    )
    fast, slow, after = modes[:first], modes[first:last], modes[last:]
    if not blocks:
        fast, slow = modes, modes[:0]
    small, rotation = (
        _compress(gamma[slow], A0[:, slow], blocks) if blocks else (gamma[slow], np.zeros((0, 0)))
    )
    end = len(fast) + small.size
    expansion = np.zeros((end + len(after), r))
    expansion[np.arange(len(fast)), fast] = 1
    expansion[len(fast) : end, slow] = rotation.T
    expansion[np.arange(end, len(expansion)), after] = 1
    start = np.concatenate([A0[:, fast], A0[:, slow] @ rotation, A0[:, after]], axis=1)
    reduced = np.concatenate([gamma[fast], small, gamma[after]])
    return Reduction(reduced, start, expansion, bound + extra)


def leading(
    gamma: np.ndarray, A0: np.ndarray, until: float, tol: float, *, law: LawOf = None
) -> tuple[int, float]:
    """Return the smallest number k of leading modes that matter until `until`, and the error bound.

    Leaving out the other modes moves no eigenvalue by more than the bound, which is at most `tol`.
    This holds for gradient descent too, because below its stability limit no mode grows faster than
    the flow's e^{κ γ⁺ t}. All modes are kept if C(0) has an eigenvalue above 1, or if the law has
    another form.
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
    """Return κ of the law, or None if its flow has another form."""
    return laws.law_of(law, Modes(gamma), d).contraction()


def _influence(
    gamma: np.ndarray, A0: np.ndarray, until: float, pull: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight w_j and the exponent x_j of each mode.

    To first order, leaving mode j out moves an eigenvalue by at most w_j e^{x_j}.
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
    # `later` is κ/2 γ_i ∫_0^{t_i} e^{rate s} ds as a factor on e^{rate T}.
    slow = rate[None] * learned[:, None] < 1e-6
    safe = np.where(slow, 1, rate[None])
    shape = np.exp(np.minimum(rate[None] * (learned[:, None] - until), 0))
    integral = np.where(slow, learned[:, None] * shape, (shape - np.exp(-rate * until)) / safe)
    later = np.max(pull / 2 * np.maximum(gamma[:k], 0)[:, None] * integral, axis=0)
    return SAFETY * np.abs(gamma) * np.sum(A0**2, axis=0) * (1 + later), rate * until


def _window(
    gamma: np.ndarray, A0: np.ndarray, weight: np.ndarray, until: float, tol: float, pull: float
) -> tuple[int, int, int, float]:
    """Choose the modes first ... last − 1 to compress and the number of Krylov blocks.

    The choice minimises the size of the state. Returns (first, last, blocks, bound).
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
    # Strongly negative modes may also stay uncompressed. The limit below zero is tried at these
    # multiples of the fastest slow mode.
    depths = np.array([0.0, 0.5, 1.0, 2.0, 4.0, np.inf])
    edges = np.abs(gamma[firsts])[:, None] * depths
    lasts = np.maximum(np.searchsorted(-gamma, edges, side="right"), firsts[:, None] + 1)
    top, low = gamma[firsts][:, None], gamma[lasts - 1]
    center, half = (top + low) / 2, (top - low) / 2

    def total(values: np.ndarray) -> np.ndarray:
        sums = np.concatenate([[0.0], np.cumsum(values)])
        return sums[lasts] - sums[firsts][:, None]

    # By Cauchy-Schwarz, because only the moments of the compressed modes are reproduced. `later` is
    # the largest ratio of `weight` to |γ_j| |a_j(0)|².
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
    """Return modes θ [k] that replace γ, and their rotation [r, k].

    They diagonalise D on the block Krylov space of Aᵀ.
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
