"""The law of CLIP: two linear towers, each for its own kind of input."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stepwise import _check
from stepwise.laws import numeric
from stepwise.laws.base import Law
from stepwise.laws.frame import diagonal_moment
from stepwise.types import Numbers, Real, Whole


@dataclass(frozen=True)
class CLIP(Law):
    r"""Growth of the whitened cross product of two linear towers under the loss of CLIP.

    The towers are z1 = W1 x1 and z2 = W2 x2, with moments Σ1, Σ2 and G = E[x1 x2ᵀ] of centred
    inputs. For many pairs of Gaussian inputs, up to the constant ln n,

        L = −k tr(W1 G W2ᵀ) + (k²/2) tr(W1 Σ1 W1ᵀ W2 Σ2 W2ᵀ).

    Radford et al. (2021), arXiv 2103.00020, fig. 3, without the normalisation of embeddings and
    with a constant scale k: it is the law of `losses.clip(z1, z2, scale=k, normalise=False)`. Near
    zero W1' = k W2 Gᵀ and W2' = k W1 G, which holds for any inputs and any number of pairs, because
    the softmax contains the positive pair.

    Modes are pairs of singular vectors of G with singular value g. If Σ1 and Σ2 are diagonal in
    them, a mode has amplitudes a and b in the two towers, and κ = a² − b² is conserved. The
    singular value c = k √(σ1 σ2) a b of k Σ1^{1/2} W1ᵀ W2 Σ2^{1/2} follows

        c' = 2k √(σ1 σ2) (r − c) √(c² + h²),    r = g/√(σ1 σ2),    h = k √(σ1 σ2) |κ|/2.

    For balanced towers, κ = 0, this is a logistic curve with the rate 2kg. It rests at the
    canonical correlation r. Modes grow in the order of g, and those with the largest r stay
    (`takeover`). Time is learning rate × step, where each tower has its own gradient. One encoder
    in the place of both towers grows twice as fast.

    The rest of a finite sample differs by its sampling noise; in tests it was 0.6% to 5% off at
    n = 256, and half times at most 0.1%.

    Mode coordinates are {"W1": [d, r], "W2": [d, r]}, or one matrix A [d, r] for two equal towers.
    A small start of two towers acts as the aligned start `effective_start((W1 + W2)/2, law)`.

    Args:
        g: singular values of G [r], none negative.
        sigma1, sigma2: second moments of the two inputs in the left and the right singular vectors
            of G, as σ [r] or as a diagonal matrix [r, r].
        scale: the factor k on the products of embeddings, an inverse temperature.
        d: dimension of the embedding, for `max_stable_lr`; by default r.

    Raises:
        ValueError: if g is not a vector of finite non-negative numbers; if a moment has another
            shape, is not diagonal or not positive; if scale is not positive.
    """

    g: Numbers
    sigma1: Numbers
    sigma2: Numbers
    scale: Real
    d: int | None = None

    domain = (
        "two linear towers without normalisation, a constant scale, many pairs of Gaussian inputs, "
        "moments diagonal in the singular vectors of G"
    )
    observable = "whitened cross product"
    formula = "−k tr(W1 G W2ᵀ) + (k²/2) tr(W1 Σ1 W1ᵀ W2 Σ2 W2ᵀ)"
    title = "CLIP, not normalised, two towers"
    call = "losses.clip(z1, z2, scale=k, normalise=False)"
    mode = (
        r"c' = 2 k \sqrt{\sigma_1 \sigma_2} \, (r - c) \sqrt{c^2 + h^2}, \quad "
        r"r = \frac{g}{\sqrt{\sigma_1 \sigma_2}}, \quad h = 0 \text{ for balanced towers}"
    )
    behaviour = (
        "In balanced towers a logistic curve that grows at the rate 2kg and rests at the canonical "
        "correlation r. Modes with the largest singular value g of the cross moment come first, "
        "and those with the largest r stay."
    )
    prediction = (
        "The modes are those of the cross moment of two kinds of input, each tower with its own. "
        "The difference of a mode's squared amplitudes in the two towers is conserved, and modes "
        "of unbalanced towers start to grow linearly."
    )
    curves = "closed form"
    second_moment = "must be diagonal in the modes"

    def __post_init__(self) -> None:
        g = jnp.asarray(_check.real_array("g", self.g, ndim=1))
        if not _check.is_traced(g):
            least = float(jnp.min(g, initial=0))
            _check.require(least >= 0, "g", "singular values, none negative", f"{least}")
        if not _check.is_traced(self.scale):
            _check.require(self.scale > 0, "scale", "a positive number", self.scale)
        if self.d is not None:
            _check.whole("d", self.d)
        object.__setattr__(self, "g", g)
        for name in ("sigma1", "sigma2"):
            object.__setattr__(self, name, diagonal_moment(name, getattr(self, name), g))

    def growth(self) -> Float[Array, " r"]:
        """Return the rates 2kg at which c grows while it is small [r]."""
        return 2 * self.scale * self.g

    def rest(self) -> Float[Array, " r"]:
        """Return the canonical correlations r = g/√(σ1 σ2) [r]."""
        return self.g / self._spread()

    def unit(self) -> Float[Array, " r"]:
        """Return k √(σ1 σ2) [r], which is c for two unit rows along a mode."""
        return self.scale * self._spread()

    def objective(self, A: Any) -> Float[Array, ""]:
        """Return L − ln n of two towers {"W1", "W2"}, or of two equal towers A [d, r]."""
        W1, W2 = _towers(A)
        k, S1, S2 = self.scale, _moment(W1, self.sigma1), _moment(W2, self.sigma2)
        return -k * jnp.sum(W1 * self.g[None] * W2) + k**2 / 2 * jnp.sum(S1 * S2)

    def rhs(self, A: Any) -> Any:
        """Return the flow of both towers as a tree like A.

        W1' = k W2 G − k² S2 W1 Σ1 and W2' = k W1 G − k² S1 W2 Σ2, with S = W Σ Wᵀ. For one matrix A
        the mean of both, which is exact if A is aligned or Σ1 and Σ2 are proportional, because
        equal towers remain equal then.
        """
        W1, W2 = _towers(A)
        k, S1, S2 = self.scale, _moment(W1, self.sigma1), _moment(W2, self.sigma2)
        flow1 = k * W2 * self.g[None] - k**2 * S2 @ W1 * self.sigma1[None]
        flow2 = k * W1 * self.g[None] - k**2 * S1 @ W2 * self.sigma2[None]
        return {"W1": flow1, "W2": flow2} if isinstance(A, dict) else (flow1 + flow2) / 2

    def measure(self, A: Any) -> Float[Array, "d d"]:
        """Return k (S1^{1/2} S2 S1^{1/2})^{1/2} [d, d].

        Its eigenvalues are the singular values of k Σ1^{1/2} W1ᵀ W2 Σ2^{1/2}.
        """
        W1, W2 = _towers(A)
        root = _square_root(_moment(W1, self.sigma1))
        return self.scale * _square_root(root @ _moment(W2, self.sigma2) @ root)

    def eigenvalues(
        self, times: Numbers, lam0: Numbers, kappa: Numbers = 0.0
    ) -> Float[Array, "T d"]:
        """Return c(t) from an aligned start.

        X = c + √(c² + h²) follows X' = k √(σ1 σ2) (X₊ − X)(X − X₋) with X₊, X₋ = r ± √(r² + h²), so
        (X − X₋)/(X₊ − X₋) is a logistic curve with the rate 2k √(σ1 σ2) √(r² + h²).

        Args:
            times: t [T], learning rate × step.
            lam0: c(0) [d], d ≤ r, none negative.
            kappa: a² − b² of each mode, one number or [d]; 0 for balanced towers. Modes of
                unbalanced towers start to grow linearly, also from c(0) = 0.

        Raises:
            ValueError: if lam0 is not a vector of at most r non-negative numbers, or kappa does not
                fit it.
        """
        times, lam0, modes = self._check_start(times, lam0)
        low, high, begin, offset = self._logistic_form(lam0, modes, kappa)
        beta, rate = self.unit()[modes], self._rate(modes, offset)
        moving = rate > 0
        curve = numeric.logistic(times[:, None] * rate[None], 1.0, jnp.where(moving, begin, 0))
        X = low[None] + (high - low)[None] * curve
        c = (X - offset[None] ** 2 / jnp.where(X == 0, 1, X)) / 2
        # g = 0 and κ = 0: c' = −2k √(σ1 σ2) c²
        falling = lam0[None] / (1 + 2 * (beta * lam0)[None] * times[:, None])
        return jnp.where(moving[None], jnp.where(times[:, None] == 0, lam0[None], c), falling)

    def step_times(
        self, lam0: Numbers, level: Real = 0.5, kappa: Numbers = 0.0
    ) -> Float[Array, " d"]:
        """Return when each c rises through level · r [d], or infinity if it never does.

        The arguments are those of `eigenvalues`.
        """
        _check.require(0 < level < 1, "level", "a number between 0 and 1", level)
        _, lam0, modes = self._check_start(jnp.zeros(1), lam0)
        low, high, begin, offset = self._logistic_form(lam0, modes, kappa)
        goal = level * self.rest()[modes]
        crosses = (goal > 0) & (lam0 <= goal) & ((lam0 > 0) | (offset > 0))
        X = goal + jnp.sqrt(goal**2 + offset**2)
        end = jnp.where(crosses, (X - low) / jnp.where(crosses, high - low, 1), 0.5)
        begin = jnp.where(crosses, begin, 0.5)
        odds = jnp.log(end) - jnp.log1p(-end) - jnp.log(begin) + jnp.log1p(-begin)
        return jnp.where(crosses, odds / jnp.where(crosses, self._rate(modes, offset), 1), jnp.inf)

    def takeover(self, j: Whole, k: Whole) -> Float[Array, ""]:
        """Return the rate at which mode k grows in a row that holds mode j in balanced towers.

        Twice the larger eigenvalue of k [[−g_j σ1_k/σ1_j, g_k], [g_k, −g_j σ2_k/σ2_j]]. It is
        positive if and only if r_k > r_j, and is 2k √(σ1_k σ2_k) (r_k − r_j) if σ1 and σ2 are
        proportional.
        """
        held1 = self.g[j] * self.sigma1[k] / self.sigma1[j]
        held2 = self.g[j] * self.sigma2[k] / self.sigma2[j]
        split = jnp.sqrt((held1 - held2) ** 2 / 4 + self.g[k] ** 2)
        return 2 * self.scale * (split - (held1 + held2) / 2)

    def next_growth(self, learned: Sequence[int] | Numbers) -> Float[Array, ""]:
        """Return the growth rate 2k g of the fastest mode that is not yet learned.

        Args:
            learned: the modes at rest, as indices [k].
        """
        modes = np.asarray(learned)
        _check.require(modes.ndim == 1, "learned", "indices of modes [k]", modes)
        left = self.growth().at[modes.astype(int)].set(0)
        return jnp.max(left, initial=0)

    def max_stable_lr(self) -> Float[Array, ""]:
        """Return 2 over the largest curvature where balanced towers of d modes rest.

        With a² = g/(k σ1 σ2), the curvatures are k² σ1_j σ2_i (a_i² + a_j²) of learned modes i and
        j, which is 2kg for i = j; k [(p + q)/2 + √((p − q)²/4 + g_j²)] of an unlearned mode j, with
        p = g_i σ1_j/σ1_i and q = g_i σ2_j/σ2_i; and k g_j of an unlearned mode j in a spare row.
        The Hessian is the one of L, so the limit is that of Gaussian inputs.
        """
        g, one, two = self.g, self.sigma1, self.sigma2
        d = g.shape[0] if self.d is None else int(self.d)
        final = self.final_modes(min(d, g.shape[0]))
        learned = jnp.zeros(g.shape[0], bool).at[final].set(g[final] > 0)
        square = g / (one * two)
        both = learned[:, None] & learned[None]
        pairs = one[None] * two[:, None] * (square[:, None] + square[None])
        held1, held2 = (
            g[:, None] * (one[None] / one[:, None]),
            g[:, None] * two[None] / two[:, None],
        )
        aside = (held1 + held2) / 2 + jnp.sqrt((held1 - held2) ** 2 / 4 + g[None] ** 2)
        mixed = learned[:, None] & ~learned[None]
        spare = jnp.where((jnp.sum(learned) < d) & ~learned, g, 0)
        largest = jnp.max(jnp.where(both, pairs, jnp.where(mixed, aside, spare[None])))
        return 2 / (self.scale * largest)

    def _spread(self) -> Array:
        """Return √(σ1 σ2) [r]."""
        return jnp.sqrt(self.sigma1 * self.sigma2)

    def _check_start(self, times: Numbers, lam0: Numbers) -> tuple[Array, Array, Array]:
        times, lam0, modes = self.check_arguments(times, lam0)
        if not _check.is_traced(lam0):
            least = float(jnp.min(lam0, initial=0))
            _check.require(least >= 0, "lam0", "singular values, none negative", f"{least}")
        return times, lam0, modes

    def _logistic_form(self, lam0: Array, modes: Array, kappa: Numbers) -> tuple[Array, ...]:
        """Return X₋, X₊, the start of the logistic curve, and h, each [d]."""
        kappa = jnp.asarray(_check.real_array("kappa", kappa, ndim=(0, 1)))
        fits = kappa.ndim == 0 or kappa.shape == lam0.shape
        _check.require(fits, "kappa", f"one number, or {lam0.shape[0]} as in lam0", kappa)
        offset = self.unit()[modes] * jnp.abs(jnp.broadcast_to(kappa, lam0.shape)) / 2
        rest = self.rest()[modes]
        high = rest + _hypotenuse(rest, offset)
        low = -(offset**2) / jnp.where(high > 0, high, 1)  # without cancellation
        X = lam0 + _hypotenuse(lam0, offset)
        return low, high, (X - low) / jnp.where(high > 0, high - low, 1), offset

    def _rate(self, modes: Array, offset: Array) -> Array:
        """Return the rate 2k √(σ1 σ2) √(r² + h²) of the logistic curves [d]."""
        return 2 * self.unit()[modes] * _hypotenuse(self.rest()[modes], offset)


def _towers(A: Any) -> tuple[Array, Array]:
    """Return W1 and W2."""
    if isinstance(A, dict):
        return jnp.asarray(A["W1"]), jnp.asarray(A["W2"])
    return jnp.asarray(A), jnp.asarray(A)


def _moment(W: Array, sigma: Array) -> Array:
    """Return W diag(σ) Wᵀ."""
    return (W * sigma[None]) @ W.T


def _hypotenuse(x: Array, y: Array) -> Array:
    """Return √(x² + y²), whose derivative at x = y = 0 is 1 in x."""
    zero = (x == 0) & (y == 0)
    return jnp.where(y == 0, x, jnp.sqrt(jnp.where(zero, 1, x**2 + y**2)))


def _square_root(matrix: Array) -> Array:
    """Return the square root of a symmetric matrix without negative eigenvalues."""
    values, vectors = jnp.linalg.eigh(matrix)
    return (vectors * jnp.sqrt(jnp.maximum(values, 0))[None]) @ vectors.T
